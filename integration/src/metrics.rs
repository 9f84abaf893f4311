//! The Prometheus text, read back.

use std::collections::BTreeMap;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A whole scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub Vec<Sample>);

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Panics
    /// On a line that is none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "a scrape that breaks off: {text}");
        Self(text.lines().filter(|l| !l.starts_with('#')).map(sample).collect())
    }

    /// The sum of all samples of this name that have these labels; 0 of none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|s| s.value).sum()
    }

    /// The one sample of this name with these labels.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels).map(|s| s.value).next()
    }

    /// How many requests failed for this reason, routed or not.
    #[must_use]
    pub fn failures(&self, reason: &str) -> f64 {
        let labels = [("reason", reason)];
        self.sum("pathloom_request_failures_total", &labels) + self.sum("pathloom_unrouted_requests_total", &labels)
    }

    /// All reasons that were counted, with their counts.
    #[must_use]
    pub fn all_failures(&self) -> BTreeMap<String, f64> {
        let names = ["pathloom_request_failures_total", "pathloom_unrouted_requests_total"];
        let mut all = BTreeMap::new();
        for s in self.0.iter().filter(|s| names.contains(&s.name.as_str()) && s.value > 0.0) {
            *all.entry(s.labels.get("reason").cloned().unwrap_or_default()).or_default() += s.value;
        }
        all
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |s: &Sample| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|value| value == v));
        self.0.iter().filter(move |s| s.name == name && has(s))
    }
}

fn sample(line: &str) -> Sample {
    // What comes behind is an exemplar.
    let (line, _) = line.split_once(" # ").unwrap_or((line, ""));
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    let (name, labels) = head.split_once('{').map_or((head, ""), |(n, l)| (n, l.trim_end_matches('}')));
    let mut out = BTreeMap::new();
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        // No label of ours holds a quote.
        let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("an open quote: {line}"));
        out.insert(key.to_owned(), value.to_owned());
        rest = after.trim_start_matches(',');
    }
    Sample { name: name.to_owned(), labels: out, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read_back() {
        let text = "# TYPE a gauge\na{x=\"1\",y=\"z\"} 2\na{x=\"2\",y=\"z\"} 0.5\nb 1e3\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(
            (metrics.sum("a", &[("y", "z")]), metrics.get("b", &[]), metrics.get("c", &[])),
            (2.5, Some(1000.0), None)
        );
    }
}
