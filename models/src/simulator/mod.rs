//! A discrete-event simulator of a mesh, and what a sidecar would see of it.
//!
//! `mesh` says what is simulated, `faults` what goes wrong, `load` how much enters, `balancer` who picks; `engine` plays
//! it. `simple` has the plain policies. `truth` says what only a simulator knows: what a call would take unqueued.
//! `topology` makes meshes of applications; `telemetry` turns what happens into a sidecar's features; `family` draws
//! scenarios, and `sample` plays them into samples.

pub mod balancer;
pub mod draw;
pub mod engine;
pub mod family;
pub mod faults;
pub mod host;
pub mod load;
pub mod mesh;
pub mod network;
pub mod nezha;
pub mod recorder;
pub mod sample;
pub mod simple;
pub mod telemetry;
pub mod topology;
pub mod truth;
pub mod windows;
pub mod work;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod theory_tests;
#[cfg(test)]
mod truth_tests;
