//! What operators see: failures by reason, traffic counters, the access log, traces, the Prometheus text.
//!
//! Requests write counters to their own core's shard and hand finished log lines and spans to bounded queues; when a
//! queue is full the line is dropped and counted, because a request never waits for somebody who watches it.

mod access;
mod reason;
mod traffic;

pub use access::{AccessRecord, AccessSink};
pub use reason::Reason;
pub use traffic::{LATENCY_BUCKETS_S, Traffic, TrafficRegistry, TrafficSnapshot};
