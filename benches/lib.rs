//! Microbenchmarks (`make bench`, one file a room) and the guard against getting slower (`make guard`, `guard/`).
//!
//! They stand apart from the workspace's default members, so that a plain `cargo test` builds no criterion. What both need lives
//! here: `mesh` makes a slow loop with traffic on its links, `fast` what a request touches. Everything is seeded, and
//! time is a number that the caller moves. `host` says where and of what something was measured.

pub mod fast;
#[cfg(any(feature = "peers", feature = "gpu", feature = "sharing", feature = "tls"))]
pub mod host;
pub mod mesh;

/// The end of a sidecar's configuration in which nothing works by the clock, so that only requests are counted.
pub const STILL: &str = "model:
  engine: embedded
  tick: 1h
  guards: { expire_after: 2h }
  triggers: { min_interval: 1h }
telemetry:
  access_log: { to: 'off' }
  log: warn
";
