//! What is reported, and where to: the access log, the proxy's own log, recordings, traces.

use super::secs;
use crate::config::secret::Secret;
use crate::config::units::{ByteSize, Share, Timespan};
use crate::config::words::or_text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is reported, and where to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// One line for each request.
    pub access_log: AccessLog,
    /// The proxy's own log: `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `pathloom=debug,info`.
    pub log: String,
    /// A link that nobody used for this long is forgotten.
    pub idle_links: Timespan,
    /// What the links saw, window by window, as files that a model can be measured on and adapted to; a folder, or a section.
    pub record: Record,
    /// Traces.
    pub traces: Traces,
}

/// One line for each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// How a line is written.
    pub format: LogFormat,
    /// Where to: `stdout`, `stderr`, `off`, or a file's path.
    pub to: String,
}

/// A recording of what the links saw. A folder alone (`record: DIR`) means `to`. Read once, at start: a reload that changes it says so.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = or_text)]
pub struct Record {
    /// The folder to write to, which is made where it is missing; `off` records nothing.
    pub to: String,
    /// How long a window is.
    pub window: Timespan,
    /// A file that is as large as this is followed by another.
    pub rotate: ByteSize,
    /// The oldest files are deleted when all together are larger than this.
    pub keep: ByteSize,
}

/// How an access log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Words, for people.
    Text,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// The OTLP collector (`http://127.0.0.1:4318/v1/traces`, or `http://127.0.0.1:4317` where `protocol` is `grpc`), with TLS where it begins with `https://`; empty exports nothing, and a trace is passed on all the same.
    pub otlp: String,
    /// What the collector is spoken to.
    pub protocol: Otlp,
    /// How TLS is spoken with the collector, where `otlp` begins with `https://`.
    pub tls: CollectorTls,
    /// Headers that the collector is sent with each batch, as a token that it asks for; their values are never shown or logged, and best come from the environment (`"${TOKEN}"`).
    pub headers: BTreeMap<String, Secret>,
    /// Which headers carry a trace: the first of them that can be read says where a request stands, and requests go on with all of them.
    pub propagators: Vec<Propagator>,
    /// The share of requests that start a trace here when the caller brought none.
    pub sample: Share,
}

/// TLS towards the collector; files that are replaced are read again before the next batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CollectorTls {
    /// The PEM file with the authorities that the collector's certificate is checked against; the system's when it is not said.
    pub authorities: Option<PathBuf>,
    /// The PEM file with the certificate that this node shows, for a collector that asks for one.
    pub certificate: Option<PathBuf>,
    /// The PEM file with that certificate's private key.
    pub key: Option<PathBuf>,
}

/// What a collector of traces is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Otlp {
    /// OTLP over HTTP, in protobuf.
    #[default]
    Http,
    /// OTLP over gRPC.
    Grpc,
}

/// A way in which headers carry a trace, by the name that `OTEL_PROPAGATORS` has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagator {
    /// W3C Trace Context: `traceparent`.
    TraceContext,
    /// B3 in one header: `b3`.
    B3,
    /// B3 in several headers: `x-b3-traceid` and the like.
    B3Multi,
}

impl Propagator {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TraceContext, Self::B3, Self::B3Multi];
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            access_log: AccessLog::default(),
            log: "info".into(),
            idle_links: secs(600),
            record: Record::default(),
            traces: Traces::default(),
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { to: "off".into(), window: secs(10), rotate: ByteSize(64 << 20), keep: ByteSize(1 << 30) }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { format: LogFormat::Json, to: "stdout".into() }
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            otlp: String::new(),
            protocol: Otlp::Http,
            tls: CollectorTls::default(),
            headers: BTreeMap::new(),
            propagators: vec![Propagator::TraceContext],
            sample: Share(0.01),
        }
    }
}
