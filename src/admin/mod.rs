//! The operators' port: health, metrics, the configuration in force, and why each request goes where it goes.
//!
//! It reads everything and changes nothing. All of its answers come from what the two loops publish anyway (the
//! generation, the last graph, counters), so a request to this port takes no lock that a request to the mesh waits
//! for. `server` serves and lists the endpoints, on what `socket` opened; `routing`, `admission`, `canary`, `graph`, `config`
//! and `metrics` make their bodies, `narrow` gives parts of them, `past` tables of generations that are over, `history` and `events` what changed, `requests` what was asked; `assets` is the page;
//! `explain` is the command that asks `/routing` and prints it for a person (`request`: of one request, with the access log),
//! `top` the one that shows it live, `probe` the one that asks `/live` and `/ready`; `client` asks for all of them, `columns` fits what
//! they print into a terminal.

mod admission;
mod assets;
mod canary;
mod client;
mod columns;
mod config;
mod discovery;
mod events;
mod explain;
#[cfg(test)]
mod fixture;
mod gateway;
mod graph;
mod guard;
mod history;
mod json;
mod metrics;
mod narrow;
mod past;
mod probe;
mod request;
mod requests;
mod routing;
mod server;
mod socket;
mod stall;
mod state;
mod top;

pub use client::AskError;
pub use explain::{ExplainArgs, ExplainError, explain, meanings};
pub use probe::{ProbeArgs, ProbeError, Probed, probe};
pub use request::RequestError;
pub use server::{Pages, serve};
pub use socket::{AdminListener, BindError};
pub use state::{AdminState, Asked, Clock, ConfigState, LoadError, ScorerStatus};
pub use top::{TopArgs, TopError, top};
