//! What operators see: failures by reason, traffic counters, the access log, traces, the Prometheus text.
//!
//! Requests write counters to their own core's shard and hand finished log lines and spans to bounded queues; when a
//! queue is full the line is dropped and counted, because a request never waits for somebody who watches it.
//!
//! `Reporting` is the sink that the data path gets: it feeds the access log (`access_log`, its lines in `access_line`)
//! and the traces, and takes their reloads; `recent` keeps the last lines. `spans` makes spans of finished requests,
//! `semconv` puts them into OpenTelemetry's words, and `collector` is whom they are sent to. `traffic` counts requests,
//! `durations` by what they were and `routes` by route. `metrics` turns counters into families, `exposition` those into
//! text; `log` sets up the proxy's own log.

mod access;
mod access_line;
mod access_log;
mod arms;
mod collector;
mod durations;
mod exposition;
pub mod log;
pub mod metrics;
mod reason;
mod recent;
mod reporting;
mod routes;
mod semconv;
mod spans;
mod traces;
mod traffic;
mod wall;

pub use access::{AccessRecord, AccessSink, AttemptRecord};
pub use access_log::{AccessLog, OpenError};
pub use arms::{Arm, ArmSeen, Arms, Came};
pub use durations::{DurationKind, DurationSeen, DurationsSeen, Exemplar, Side};
pub use reason::{Reason, none_left};
pub use reporting::{Reporting, ReportingError};
pub use routes::{RouteLabel, RouteLabels, RoutesSeen};
pub use spans::{AttemptFacts, FinishedSpan, RequestFacts};
pub use traces::{Traces, TracesError};
pub use traffic::{Copied, Hedged, LATENCY_BUCKETS_S, Pair, Traffic, TrafficRegistry, TrafficSnapshot};
pub use wall::{rfc3339, stamp};
