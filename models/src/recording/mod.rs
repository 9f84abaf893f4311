//! Recordings of real meshes, of the simulator's, and of others' data: read, turned into samples, replayed.
//!
//! The format is `pathloom::record`'s. `read` takes a folder and says all that is wrong with it; `sample` makes of each
//! window that has a following one what a sidecar would have known at its end, through the sidecar's own `graph`, and what
//! came then; `replay` measures predictors on them; `nezha` turns the public data set of that name into recordings.

pub mod findings;
pub mod nezha;
pub mod read;
pub mod replay;
pub mod sample;

mod table;

pub use findings::{Finding, Findings};
pub use read::{LinkWindow, NodeInfo, NodeWindow, Recording, Window, read};
pub use sample::{Options, Scored, Stream};
