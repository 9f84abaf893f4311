//! The data path: clients' requests in, endpoints' answers out.
//!
//! Pingora's `Server` and `Service` are the chassis (threads' life, signals); requests run on connections of our own: by
//! counted instructions those of hyper and h2 take from a third more to more than the double. One thread a core, each with
//! one current-thread runtime, its own sockets, pools, random numbers and ids. On a request's way there is no lock, no
//! task and no channel of ours, no hashing of strings, and two readings of the clock: at its start and at its answer's
//! head (a third at the end of a body).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `service` | the Pingora service: threads, listeners that follow the configuration, drain |
//! | `core` | one thread: accepting, commands, the generation at hand |
//! | `conn` | a client's connection: protocol, limits in time, farewell; `server1` for HTTP/1.1 |
//! | `door`, `tcp` | listeners that do more than serve HTTP; connections passed on as they are |
//! | `http2` | a client's HTTP/2 connection, and what both sides of HTTP/2 share |
//! | `forward` | a request's way: route, tries, answer |
//! | `admission` | a request at its cluster's gate: its wait for a place |
//! | `attempts` | tries: pick, send, and once more elsewhere where that is safe |
//! | `hedge` | a second endpoint that is asked because the first one has not answered |
//! | `trial` | a request's arm, while the model is on trial, and what the arm is held to |
//! | `shaping` | what a rule does to a request beyond choosing its cluster |
//! | `mirror` | copies of requests for another cluster |
//! | `flight` | what a request holds and how its end is counted, whatever that end is |
//! | `headers`, `seen`, `added`, `names` | what happens to headers |
//! | `ids`, `propagation`, `spans` | request ids; traces, the headers that carry them, and the spans of tries |
//! | `body`, `upload`, `taken`, `inbound`, `expect`, `early`, `upgrade` | bodies, 100-continue, other 1xx, WebSocket |
//! | `upstream`, `dialing` | connections to endpoints, pooled, and how they are opened; `client1` for HTTP/1.1, `shared` for HTTP/2 |
//! | `wire1`, `wire2` | what HTTP/1.1 and HTTP/2 are on the wire, for both sides |
//! | `watch`, `deadlines`, `deadline`, `clock` | time; gRPC's deadlines |
//! | `places` | memory for requests under way |
//! | `failure` | the answer when there is none |
//! | `transport`, `ahead` | what is read from and written to: plain or secured |
//! | `room` | what gives way when file descriptors run out |
//! | `sockets`, `handover` | listening sockets, and how the next process gets them |
//! | `io`, `gauges` | what it says |
//!
//! What it deliberately does not do: repeat a request that may not be repeated, collect a body (but for the part that is
//! kept to be sent again), serve CONNECT, or answer from a cache.

mod added;
mod admission;
mod ahead;
mod attempts;
mod body;
mod client1;
mod clock;
mod conn;
mod core;
mod deadline;
mod deadlines;
mod dialing;
mod door;
mod early;
mod expect;
mod failure;
mod flight;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gauges;
mod handover;
mod headers;
mod hedge;
mod http2;
mod ids;
mod inbound;
mod io;
mod meant;
mod mirror;
mod names;
mod own;
mod places;
mod propagation;
mod proxy_header;
mod room;
mod seen;
mod server1;
mod service;
mod shaping;
mod shared;
mod sniff;
mod sockets;
mod spans;
mod taken;
mod tcp;
mod transport;
mod trial;
mod upgrade;
mod upload;
mod upstream;
mod watch;
mod wire1;
mod wire2;

pub use clock::Clock;
pub use gauges::{GaugesSnapshot, ProxyGauges};
pub use handover::{HandoverError, Offer, Sockets, Taken, take};
pub use service::{Drain, DrainOnSignal, Proxy, ProxyOptions, chassis, run};
pub use sockets::{BindError, Listening};

use crate::links::NodeCell;
use crate::observe::Reason;
use std::sync::Arc;

/// Is told when an endpoint fails.
pub trait Alarm: Send + Sync {
    /// An endpoint failed as often in a row as ejects it. Called on a serving thread: it must not block, and may be
    /// called many times for one trouble.
    fn endpoint_failed(&self, node: &Arc<NodeCell>, failures: u32, reason: Reason);
}

#[cfg(test)]
mod tests;
