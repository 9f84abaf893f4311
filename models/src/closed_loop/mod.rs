//! The closed loop: policies against each other in the simulator, under the same arrivals and faults.
//!
//! `scenarios` says what is played (small meshes made by `blueprint`, and whole ones), `policies` who picks, `ejection` what
//! is the same for all of them, `scores` who scores for the product's own pick, `run` plays one run, `eye` watches it,
//! `arms` names the policies with their tuned parameters, `compare` plays all of them and compares, `stats` has quantiles and
//! bootstrap intervals.

pub mod arms;
pub mod blueprint;
pub mod compare;
pub mod ejection;
pub mod eye;
pub mod policies;
pub mod run;
pub mod scenarios;
pub mod scores;
pub mod stats;

#[cfg(test)]
mod tests;
