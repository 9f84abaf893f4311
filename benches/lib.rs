//! Microbenchmarks (`make bench`, one file a room) and the guard against getting slower (`make guard`, `guard/`).
//!
//! They stand apart from the workspace's default members, so that tests need not build criterion. What both need lives
//! here: `mesh` makes a slow loop with traffic on its links, `fast` what a request touches. Everything is seeded, and
//! time is a number that the caller moves. `host` says where and of what something was measured.

pub mod fast;
#[cfg(any(feature = "peers", feature = "gpu", feature = "sharing", feature = "tls"))]
pub mod host;
pub mod mesh;
