//! Open Request Cost Aggregation: what an instance reports of its own load in its answers' headers or trailers.
//!
//! Forms (xDS `orca_load_report.proto`, and Envoy's and gRPC's conventions for the header):
//! - `endpoint-load-metrics: TEXT cpu_utilization=0.3,mem_utilization=0.8,rps_fractional=10`
//! - `endpoint-load-metrics: JSON {"cpu_utilization": 0.3}`
//! - `endpoint-load-metrics: BIN <base64>` and `endpoint-load-metrics-bin: <base64>` (a serialised `OrcaLoadReport`)
//!
//! A value that is not finite, is negative, or is beyond what its kind can be is refused: the whole report then counts as absent,
//! because half a report from a confused sender is no better than none. Unknown names are ignored, as the
//! protocol asks.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use prost::Message;

/// The header with the text, JSON and `BIN` forms.
pub const HEADER: &str = "endpoint-load-metrics";
/// The header, or gRPC trailer, with the binary form.
pub const HEADER_BIN: &str = "endpoint-load-metrics-bin";
/// The longest report that is read, in bytes.
const MAX_BYTES: usize = 4096;

/// What an instance said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Report {
    /// CPU in use, 1 being all it has; more than 1 where it may burst.
    pub cpu_utilization: Option<f64>,
    /// Memory in use, 0 to 1.
    pub mem_utilization: Option<f64>,
    /// What the application itself calls its utilisation; more than 1 when overloaded.
    pub application_utilization: Option<f64>,
    /// Requests a second, from all callers.
    pub requests_per_second: Option<f64>,
    /// Errors a second, from all callers.
    pub errors_per_second: Option<f64>,
}

/// Why a report was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Longer than `MAX_BYTES`.
    #[error("the load report is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// None of the forms.
    #[error("the load report is not of a known form (TEXT, JSON or BIN)")]
    Form,
    /// A value that cannot be.
    #[error("the load report's {0} is out of range")]
    Range(&'static str),
}

impl Report {
    /// How many values a report has.
    pub const FIELDS: usize = 5;
    const NAMES: [&'static str; Self::FIELDS] =
        ["cpu_utilization", "mem_utilization", "application_utilization", "rps_fractional", "eps"];
    /// What each may be at most: utilisations of a machine with 1,000 times its share, a billion events a second.
    const MAX: [f64; Self::FIELDS] = [1e3, 1.0, 1e3, 1e9, 1e9];

    /// The values in the order of the protocol's names.
    #[must_use]
    pub fn values(&self) -> [Option<f64>; Self::FIELDS] {
        [
            self.cpu_utilization,
            self.mem_utilization,
            self.application_utilization,
            self.requests_per_second,
            self.errors_per_second,
        ]
    }

    /// A report of these values.
    #[must_use]
    pub fn from_values([cpu, mem, app, rps, eps]: [Option<f64>; Self::FIELDS]) -> Self {
        Self {
            cpu_utilization: cpu,
            mem_utilization: mem,
            application_utilization: app,
            requests_per_second: rps,
            errors_per_second: eps,
        }
    }

    /// Reads the value of `endpoint-load-metrics`.
    ///
    /// # Errors
    /// When the report is too long, of no known form, or holds a value that cannot be.
    pub fn parse(value: &[u8]) -> Result<Self, ReportError> {
        let text = bounded(value)?;
        let (form, body) = text.trim().split_once(' ').ok_or(ReportError::Form)?;
        match form {
            "TEXT" => Self::parse_text(body),
            "JSON" => Self::parse_json(body),
            "BIN" => Self::parse_binary(body.as_bytes()),
            _ => Err(ReportError::Form),
        }
    }

    /// Reads the value of `endpoint-load-metrics-bin`: base64, with or without padding.
    ///
    /// # Errors
    /// As `parse`.
    pub fn parse_binary(value: &[u8]) -> Result<Self, ReportError> {
        let text = bounded(value)?.trim();
        let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| ReportError::Form)?;
        let wire = WireReport::decode(bytes.as_slice()).map_err(|_| ReportError::Form)?;
        // Protobuf cannot tell zero from absent: a zero utilisation of an instance that just answered is an absent one.
        let rps = if wire.rps_fractional == 0.0 { wire.rps as f64 } else { wire.rps_fractional };
        let known = |v: f64| (v != 0.0).then_some(v);
        Self::checked([
            known(wire.cpu_utilization),
            known(wire.mem_utilization),
            known(wire.application_utilization),
            known(rps),
            (known(rps).is_some()).then_some(wire.eps),
        ])
    }

    fn parse_text(body: &str) -> Result<Self, ReportError> {
        let mut values = [None; Self::FIELDS];
        for pair in body.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').or_else(|| pair.split_once(':')).ok_or(ReportError::Form)?;
            if let Some((slot, _)) = slot_of(&mut values, name.trim()) {
                *slot = Some(value.trim().parse::<f64>().map_err(|_| ReportError::Form)?);
            }
        }
        Self::checked(values)
    }

    fn parse_json(body: &str) -> Result<Self, ReportError> {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(body).map_err(|_| ReportError::Form)?;
        let mut values = [None; Self::FIELDS];
        for (name, value) in &object {
            if let Some((slot, name)) = slot_of(&mut values, name) {
                *slot = Some(value.as_f64().ok_or(ReportError::Range(name))?);
            }
        }
        Self::checked(values)
    }

    /// A report of these values, where they can be.
    ///
    /// # Errors
    /// When one of them cannot.
    pub fn checked(values: [Option<f64>; Self::FIELDS]) -> Result<Self, ReportError> {
        for ((value, max), name) in values.iter().zip(Self::MAX).zip(Self::NAMES) {
            if value.is_some_and(|v| !(0.0..=max).contains(&v)) {
                return Err(ReportError::Range(name));
            }
        }
        Ok(Self::from_values(values))
    }
}

fn bounded(value: &[u8]) -> Result<&str, ReportError> {
    if value.len() > MAX_BYTES {
        return Err(ReportError::TooLong);
    }
    std::str::from_utf8(value).map_err(|_| ReportError::Form)
}

/// The slot of a value by its name in the protocol, in snake case or, as JSON of protobuf has it, in camel case.
fn slot_of<'a>(
    values: &'a mut [Option<f64>; Report::FIELDS],
    name: &str,
) -> Option<(&'a mut Option<f64>, &'static str)> {
    let snake = match name {
        "cpuUtilization" => "cpu_utilization",
        "memUtilization" => "mem_utilization",
        "applicationUtilization" => "application_utilization",
        "rpsFractional" | "rps" => "rps_fractional",
        other => other,
    };
    values.iter_mut().zip(Report::NAMES).find(|(_, known)| *known == snake)
}

/// `xds.data.orca.v3.OrcaLoadReport`, the fields that are read.
#[derive(Clone, PartialEq, Message)]
struct WireReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(uint64, tag = "3")]
    rps: u64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms_say_the_same() {
        let expected = Report {
            cpu_utilization: Some(0.3),
            requests_per_second: Some(12.5),
            errors_per_second: Some(0.5),
            ..Report::default()
        };
        let wire = WireReport { cpu_utilization: 0.3, rps_fractional: 12.5, eps: 0.5, ..WireReport::default() };
        let binary = STANDARD.encode(wire.encode_to_vec());
        for form in [
            "TEXT cpu_utilization=0.3, rps_fractional=12.5,eps=0.5,named_metrics.x=7".to_owned(),
            r#"JSON {"cpu_utilization": 0.3, "rpsFractional": 12.5, "eps": 0.5, "utilization": {"disk": 1}}"#
                .to_owned(),
            format!("BIN {binary}"),
        ] {
            assert_eq!(Report::parse(form.as_bytes()), Ok(expected), "{form}");
        }
        assert_eq!(Report::parse_binary(binary.trim_end_matches('=').as_bytes()), Ok(expected));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in ["TEXT cpu_utilization=-1", "TEXT cpu_utilization=NaN", "TEXT mem_utilization=1.5", "TEXT eps=1e308"]
        {
            assert!(matches!(Report::parse(bad.as_bytes()), Err(ReportError::Range(_))), "{bad}");
        }
        assert_eq!(Report::parse(&vec![b'x'; MAX_BYTES + 1]), Err(ReportError::TooLong));
        assert_eq!(Report::parse(b"YAML a: 1"), Err(ReportError::Form));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), form in "(TEXT|JSON|BIN) ") {
            let _ = Report::parse(&bytes);
            let _ = Report::parse(&[form.as_bytes(), &bytes].concat());
            let _ = Report::parse_binary(&bytes);
        }
    }
}
