//! The slow loop: features, scores, softmax, guards, triggers, publishing.

mod status;

pub use status::{GraphView, GuardCounters, Status};
