//! A discrete-event simulator of a mesh.
//!
//! `mesh` says what is simulated, `faults` what goes wrong, `load` how much enters, `balancer` who picks; `engine` plays
//! it. `simple` has the plain policies. `truth` says what only a simulator knows: what a call would take unqueued.

pub mod balancer;
pub mod engine;
pub mod faults;
pub mod host;
pub mod load;
pub mod mesh;
pub mod network;
pub mod simple;
pub mod truth;
pub mod work;

#[cfg(test)]
mod theory_tests;
