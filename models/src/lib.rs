//! The laboratory: makes, measures and checks the models that Pathloom's sidecar runs.
//!
//! - `simulator`: a discrete-event simulation of a mesh, topologies, and samples of them. It writes to the sidecar's own
//!   `links` and reads the sidecar's own `graph`, so what a model is trained on is made by the code that serves it.
//! - `data`: samples, their file, batches of several graphs.
//! - `net`: the network, written once over a handful of operations (`ops`). `tensors` runs them with candle, to train;
//!   `onnx` writes them down as an ONNX file, to serve.
//! - `variant`: the network with parts left out, and the learned rivals (`learned`), all trained by the same code.
//! - `train`, `evaluate`: fit the weights; measure them beside persistence on seeds that training never saw.
//! - `recording`: recordings of real meshes and of the simulator's, read and replayed.
//! - `closed_loop`: policies against each other in the simulator, the sidecar's own pick among them.
//! - `tuning`: plots of what the configuration's keys do, from the sidecar's own code and from the closed loop.
//! - `engines`, `check`: the same file in candle, rten and ONNX Runtime, and how far they are apart.
//!
//! Training code depends on the sidecar's library, never the other way round.

pub mod check;
pub mod cli;
// Positions are the simulation's own, as in `simulator`.
#[allow(clippy::indexing_slicing)]
pub mod closed_loop;
pub mod data;
pub mod engines;
pub mod error;
pub mod evaluate;
pub mod learned;
pub mod net;
pub mod onnx;
pub mod ops;
pub mod plot;
pub mod predict;
pub mod recording;
pub mod results;
pub mod rivals;
// The simulation's indices are its own: all tables are made for one mesh and have its sizes.
#[allow(clippy::indexing_slicing)]
pub mod simulator;
pub mod tensors;
pub mod train;
// As in `simulator`: places are those that a plot has made up.
#[allow(clippy::indexing_slicing)]
pub mod tuning;
pub mod variant;
pub mod weights;

/// The length of the window that a model predicts, in seconds.
pub const WINDOW_S: u32 = 10;

pub use error::{Error, Result};

#[cfg(test)]
mod tests;
