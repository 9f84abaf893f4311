//! Recordings: what links and nodes did, window by window, as files that people and programs can read.
//!
//! A recording is a folder:
//! - `meta.json`: its `name` and `window_seconds`;
//! - `nodes.csv.gz`: a row for each node and window ([`NodeRow`]);
//! - `links.csv.gz`: a row for each link and window ([`LinkRow`]).
//!
//! An empty field is unknown, never zero. Rows may come in any order and windows may be missing. A recording may lie in
//! several parts, `nodes-0001.csv.gz`, `nodes-0002.csv.gz` and so on, each with the header; who reads takes all that
//! begin with `nodes` or `links`. Each window is compressed as a gzip member of its own, so a process that is killed
//! leaves files that can be read up to the window that it was writing.
//!
//! `pathloom run` writes what its own links saw (`telemetry.record`): [`Recorder`] asks the links for each window
//! (`links::Windows`) on a thread of its own, so that no request and no tick ever waits for a disk. When the disk is
//! full or gone the windows at hand are lost and counted, the failure is logged once, and the next is tried in a new
//! part. The simulator writes its recordings through the same [`Writer`].

mod parts;
mod recorder;
mod rows;
mod writer;

pub use recorder::{Described, Parts, RecordError, Recorder, Whereabouts};
pub use rows::{LINK_COLUMNS, LinkRow, META_FILE, Meta, NODE_COLUMNS, NodeRow};
pub use writer::{Bounds, Writer, WriterError};
