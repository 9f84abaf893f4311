//! What is reported, and where to: logs that go somewhere, a collector that can be reached, headers that it can be sent.

use super::settings::{above_zero, share};
use super::{Findings, Path, files, syntax};
use crate::config::schema::{CollectorTls, Otlp, Record, Telemetry, Traces};
use crate::config::units::{ByteSize, Timespan};
use std::net::IpAddr;
use std::time::Duration;

/// A recording's windows are whole seconds and hold a few calls each.
pub const MIN_WINDOW: Timespan = Timespan(Duration::from_secs(1));
/// A longer window says nothing of a mesh that changes.
pub const MAX_WINDOW: Timespan = Timespan(Duration::from_secs(3_600));
/// A smaller file would be a new one for each window.
pub const MIN_ROTATE: ByteSize = ByteSize(1024);
/// How many files of full size must have room: one for nodes and one for links that are written, and as many before.
const PARTS_KEPT: u64 = 4;
/// How many headers a collector is sent at most.
pub const MAX_HEADERS: usize = 32;
/// The longest value of one, in bytes: of tokens, JWTs are the longest.
pub const MAX_HEADER_VALUE: usize = 8_192;
/// Headers that the exporter writes by itself, or that belong to the connection.
const OF_THE_EXPORTER: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

pub fn check(telemetry: &Telemetry, findings: &mut Findings) {
    let path = Path::of(&["telemetry"]);
    let to = path.key("access_log").key("to");
    if telemetry.access_log.to.trim().is_empty() {
        findings.error(to, "the access log goes nowhere", "write `stdout`, `stderr`, `off`, or a file's path");
    } else {
        findings.check(to, syntax::text(&telemetry.access_log.to, 4_096));
    }
    findings.check(path.key("log"), syntax::log_filter(&telemetry.log));
    above_zero(&path, &[("idle_links", telemetry.idle_links)], findings);
    record(&telemetry.record, &path.key("record"), findings);
    traces(&telemetry.traces, &path.key("traces"), findings);
}

fn traces(traces: &Traces, path: &Path, findings: &mut Findings) {
    if !traces.otlp.is_empty() {
        match syntax::otlp(&traces.otlp, traces.protocol) {
            Ok(None) => {}
            Ok(Some(doubt)) => findings.warning(path.key("otlp"), doubt.message, doubt.remedy),
            Err(wrong) => findings.error(path.key("otlp"), wrong.message, wrong.remedy),
        }
    }
    let CollectorTls { authorities, certificate, key } = &traces.tls;
    files::tls([authorities, certificate, key], &path.key("tls"), findings);
    let secured = traces.otlp.starts_with("https://");
    if traces.tls != CollectorTls::default() && !secured && !traces.otlp.is_empty() {
        let message = "no TLS is spoken with a collector at `http://`";
        findings.error(path.key("tls").name(), message, "write `https://` in `otlp`, or remove it");
        findings.resting_on(path.key("otlp"));
    }
    headers(traces, path, findings);
    let propagators = &traces.propagators;
    if propagators.is_empty() {
        let remedy = "write `[tracecontext]`, or `[tracecontext, b3]` to be understood by both";
        findings.error(path.key("propagators"), "no header carries a trace", remedy);
    }
    if (1..propagators.len()).any(|n| propagators.iter().take(n).any(|p| Some(p) == propagators.get(n))) {
        findings.error(path.key("propagators"), "a propagator is there twice", "write each once");
    }
    share(traces.sample, path.key("sample"), findings);
}

/// Findings name a header and never its value, and stand at the section's name, whose line shows none.
fn headers(traces: &Traces, path: &Path, findings: &mut Findings) {
    let place = || path.key("headers").name();
    if traces.headers.len() > MAX_HEADERS {
        let message = format!("{} headers are more than a collector asks for", traces.headers.len());
        findings.error(place(), message, format!("write at most {MAX_HEADERS}"));
    }
    for (i, (name, value)) in traces.headers.iter().enumerate() {
        let value = value.reveal();
        let lower = name.to_ascii_lowercase();
        let wrong = |message: String, remedy: &str| Err(syntax::Wrong { message, remedy: remedy.to_owned() });
        let fit = syntax::header_name(name).and_then(|()| {
            if OF_THE_EXPORTER.contains(&lower.as_str()) || lower.starts_with("grpc-") {
                wrong(format!("the exporter writes `{name}` by itself"), "remove it")
            } else if traces.protocol == Otlp::Grpc && lower.ends_with("-bin") {
                wrong(format!("gRPC holds the value of `{name}` for bytes, and it is text"), "use another name")
            } else if traces.headers.keys().take(i).any(|other| other.eq_ignore_ascii_case(name)) {
                wrong(format!("the header `{name}` is there twice"), "write it once")
            } else if value.is_empty() {
                wrong(format!("the header `{name}` is empty"), "write its value, or remove it")
            } else if value.len() > MAX_HEADER_VALUE {
                let remedy = format!("use at most {MAX_HEADER_VALUE}");
                wrong(format!("{} bytes are too many for the header `{name}`", value.len()), &remedy)
            } else if value.trim() != value || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                let message = format!("the header `{name}` holds what cannot be sent: it is visible ASCII");
                wrong(message, "remove white space around it, line ends, and whatever else is none")
            } else {
                Ok(())
            }
        });
        findings.check(place(), fit);
    }
    let authority = traces.otlp.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let Some(host) = authority.map(syntax::without_port).filter(|_| !traces.headers.is_empty()) else { return };
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !here {
        let message = format!("whoever is on the way to `{host}` can read the headers");
        findings.warning(place(), message, "write `https://` in `otlp`");
        findings.resting_on(path.key("otlp"));
    }
}

fn record(record: &Record, path: &Path, findings: &mut Findings) {
    if record.to.trim().is_empty() {
        findings.error(path.key("to"), "the recording goes nowhere", "write a folder's path, or `off`");
    } else {
        findings.check(path.key("to"), syntax::text(&record.to, 4_096));
    }
    if !(MIN_WINDOW..=MAX_WINDOW).contains(&record.window) {
        let message = format!("a window of {} is out of range", record.window);
        findings.error(path.key("window"), message, format!("write `{MIN_WINDOW}` to `{MAX_WINDOW}`"));
    }
    if record.rotate < MIN_ROTATE {
        let message = format!("files of {} hold next to nothing", record.rotate);
        findings.error(path.key("rotate"), message, format!("write `{MIN_ROTATE}` or more"));
    }
    let least = ByteSize(record.rotate.0.saturating_mul(PARTS_KEPT));
    if record.keep < least {
        let message =
            format!("{} cannot be kept in files of {}: two are always being written", record.keep, record.rotate);
        findings.error(path.key("keep"), message, format!("write `{least}` or more"));
        findings.resting_on(path.key("rotate"));
    }
}
