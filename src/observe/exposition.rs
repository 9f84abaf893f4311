//! Families as text: OpenMetrics 1.0 for whoever takes that, and Prometheus' classic format 0.0.4 for whoever asks for
//! that (`Accept`, RFC 9110, section 12.5.1).
//!
//! OpenMetrics alone has units and exemplars. In the classic format a counter's family is named as its samples are
//! (`_total`), and an info's is a gauge.
//!
//! Written by hand: the crate `prometheus-client` knows no classic format, and makes exemplars of values alone that it
//! counted itself.

use super::durations::Exemplar;
use super::metrics::{Family, Kind, Measure, Value};
use std::fmt::{self, Write};
use std::time::UNIX_EPOCH;

/// A form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Classic,
}

impl Format {
    /// What a scraper takes: OpenMetrics, unless it says that it likes the classic format better.
    #[must_use]
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut classic) = (None::<f32>, None::<f32>);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
            let quality = parts.filter_map(weight).next().unwrap_or(1.0);
            let best = match kind {
                "application/openmetrics-text" => &mut open,
                "text/plain" => &mut classic,
                _ => continue,
            };
            *best = Some(best.unwrap_or(0.0).max(quality));
        }
        match (open, classic) {
            (open, Some(classic)) if classic > open.unwrap_or(0.0) => Self::Classic,
            _ => Self::OpenMetrics,
        }
    }

    /// Its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Families in this form.
    #[must_use]
    pub fn encode(self, families: &[Family]) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = families.iter().try_for_each(|family| self.family(&mut out, family));
        if self == Self::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    fn family(self, out: &mut String, family: &Family) -> fmt::Result {
        let unit = match family.measure {
            Measure::Number => "",
            Measure::Seconds => "seconds",
            Measure::Bytes => "bytes",
            Measure::Ratio => "ratio",
        };
        let name = match unit {
            "" => family.full_name(),
            unit => format!("{}_{unit}", family.full_name()),
        };
        let (end, kind) = match family.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
            Kind::Info => ("_info", "info"),
        };
        let (named, kind) = match (self, kind) {
            (Self::OpenMetrics, kind) => (name.clone(), kind),
            (Self::Classic, "info") => (format!("{name}{end}"), "gauge"),
            (Self::Classic, kind) => (format!("{name}{end}"), kind),
        };
        writeln!(out, "# HELP {named} {}\n# TYPE {named} {kind}", Escaped(&family.help))?;
        if self == Self::OpenMetrics && !unit.is_empty() {
            writeln!(out, "# UNIT {named} {unit}")?;
        }
        for (labels, value) in &family.samples {
            let mut line = |end: &str, bound: Option<f64>, value: &dyn fmt::Display, exemplar: Option<&Exemplar>| {
                write!(out, "{name}{end}")?;
                let mut before = '{';
                if let Some(bound) = bound {
                    write!(out, "{{le=\"{}\"", Number(bound))?;
                    before = ',';
                }
                for (label, value) in labels {
                    write!(out, "{before}{label}=\"{}\"", Escaped(value))?;
                    before = ',';
                }
                write!(out, "{} {value}", if before == ',' { "}" } else { "" })?;
                if let Some(exemplar) = exemplar.filter(|_| self == Self::OpenMetrics) {
                    write_exemplar(out, exemplar)?;
                }
                out.write_char('\n')
            };
            match value {
                Value::Count(count) => line(end, None, count, None)?,
                Value::Number(number) => line(end, None, &Number(*number), None)?,
                Value::Histogram { sum, buckets, exemplars } => {
                    let count: u64 = buckets.iter().map(|(_, n)| n).sum();
                    line("_sum", None, &Number(*sum), None)?;
                    line("_count", None, &count, None)?;
                    let mut below = 0;
                    for (at, (bound, count)) in buckets.iter().enumerate() {
                        below += count;
                        line("_bucket", Some(*bound), &below, exemplars.get(&at))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_exemplar(out: &mut String, e: &Exemplar) -> fmt::Result {
    let text = |id| std::str::from_utf8(id).unwrap_or_default();
    let at_s = e.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (trace_id, span_id) = (text(&e.trace_id[..]), text(&e.span_id[..]));
    write!(out, " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {} {at_s:.3}", Number(e.seconds))
}

/// A number as both formats write it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        if number.is_infinite() {
            return f.write_str(if number > 0.0 { "+Inf" } else { "-Inf" });
        }
        write!(f, "{number:?}")
    }
}

/// A label's value, or a help text.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn a_scraper_gets_what_it_likes_best() {
        for (accept, format) in [
            (&[][..], Format::OpenMetrics),
            (&["*/*"], Format::OpenMetrics),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Format::OpenMetrics),
            (&["text/plain"], Format::Classic),
            (&["text/plain;version=0.0.4;q=1,*/*;q=0.1"], Format::Classic),
            // As Prometheus asks.
            (
                &["application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                Format::OpenMetrics,
            ),
            (&["application/openmetrics-text; q=0.2", "text/plain; q=0.9"], Format::Classic),
            (&["application/openmetrics-text, text/plain"], Format::OpenMetrics),
            (&["text/plain;q=0"], Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept.iter().copied()), format, "{accept:?}");
        }
    }

    #[test]
    fn each_format_is_written_as_its_specification_has_it() {
        let exemplar = Exemplar {
            trace_id: [b'a'; 32],
            span_id: [b'b'; 16],
            seconds: 0.25,
            at: UNIX_EPOCH + Duration::from_millis(1_500),
        };
        let buckets = vec![(0.1, 2), (1.0, 0), (f64::INFINITY, 1)];
        let histogram = Value::Histogram { sum: 3.5, buckets, exemplars: BTreeMap::from([(1, exemplar)]) };
        let families = [
            Family::new("things", Kind::Counter, Measure::Bytes, "Things.").count(3),
            Family::new("build", Kind::Info, Measure::Number, "A build.")
                .with(vec![("v", "1".into())], Value::Count(1)),
            Family::of_conventions("took", Kind::Histogram, Measure::Seconds, "A \\ \"time\".")
                .with(vec![("l", "a\"b\\c\nd".into())], histogram),
        ];
        assert_eq!(
            Format::OpenMetrics.encode(&families),
            "# HELP pathloom_things_bytes Things.\n# TYPE pathloom_things_bytes counter\n# UNIT pathloom_things_bytes bytes\n\
             pathloom_things_bytes_total 3\n\
             # HELP pathloom_build A build.\n# TYPE pathloom_build info\npathloom_build_info{v=\"1\"} 1\n\
             # HELP took_seconds A \\\\ \\\"time\\\".\n# TYPE took_seconds histogram\n# UNIT took_seconds seconds\n\
             took_seconds_sum{l=\"a\\\"b\\\\c\\nd\"} 3.5\ntook_seconds_count{l=\"a\\\"b\\\\c\\nd\"} 3\n\
             took_seconds_bucket{le=\"0.1\",l=\"a\\\"b\\\\c\\nd\"} 2\n\
             took_seconds_bucket{le=\"1.0\",l=\"a\\\"b\\\\c\\nd\"} 2 # {trace_id=\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",span_id=\"bbbbbbbbbbbbbbbb\"} 0.25 1.500\n\
             took_seconds_bucket{le=\"+Inf\",l=\"a\\\"b\\\\c\\nd\"} 3\n# EOF\n"
        );
        let classic = Format::Classic.encode(&families);
        for line in [
            "# TYPE pathloom_things_bytes_total counter\npathloom_things_bytes_total 3\n",
            "# TYPE pathloom_build_info gauge\npathloom_build_info{v=\"1\"} 1\n",
            "# TYPE took_seconds histogram\n",
            "took_seconds_bucket{le=\"1.0\",l=\"a\\\"b\\\\c\\nd\"} 2\n",
        ] {
            assert!(classic.contains(line), "{line} is not in\n{classic}");
        }
        assert!(
            !classic.contains("# UNIT") && !classic.contains("# EOF") && !classic.contains("trace_id"),
            "{classic}"
        );
    }
}
