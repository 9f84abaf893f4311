//! The slow loop: features, scores, softmax, guards, triggers, publishing.

mod status;
mod weights;

pub use status::{GraphView, GuardCounters, Status};
