//! The test fleet: what stands around a sidecar in a test, so that the sidecar itself can be a real process.
//!
//! ```text
//! client (raw TCP, hyper, gRPC, WebSocket, curl, h2load) -> the sidecar, a process of its own -> fleet (in the test)
//! ```
//! - [`sidecar`] starts the product's binary on free ports, reloads it, stops it, and reads its admin port.
//! - [`fleet`] is the other side: scripted endpoints that write every request into one [`fleet::Journal`], so that each
//!   request sent can be accounted for.
//! - [`dns`] is a DNS server and [`kube_api`] a Kubernetes API server, both of which do what a test says.
//! - [`otlp`] receives traces as a collector does.
//! - [`agent`] hands identities out over a SPIFFE Workload API, [`nats`] is a NATS server.
//! - [`lan`] is a network of several hosts, for what one host cannot show; [`hosts`] one in which a program puts itself.
//! - [`client`] is who calls, [`load`] many of them at once, [`overload`] more than can be served.
//!
//! The tests are in `tests/e2e`, one binary for all of them: each further one would cost a minute of linking. They wait
//! for conditions ([`wait`]) and never for time to pass; limits on waiting are there so that a hang fails, and are far
//! beyond what is expected. Every process has loopback addresses of its own ([`ports`]), so tests may run side by side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "support of tests: a surprise must fail the test where it happens"
)]

pub mod agent;
pub mod body;
pub mod client;
pub mod dns;
pub mod fleet;
pub mod hosts;
pub mod kube_api;
pub mod lan;
pub mod load;
pub mod metrics;
pub mod nats;
pub mod otlp;
pub mod overload;
pub mod ports;
pub mod process;
pub mod random;
pub mod sidecar;
pub mod wait;

/// What any of this may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
