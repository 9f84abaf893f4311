//! The configuration: its YAML schema, its validation with line and column, and live reload.
//!
//! ```text
//! bytes --load--> text --tree--> nodes with places --decode--> Config --validate--> Loaded, or Errors
//!                          ^                                      |
//!                     environment                         watch: again, when the file changes
//! ```
//!
//! `schema` and `units` are what the rest of the house reads; everything else here serves the one who writes the file.
//! All errors of a file are found in one go, each with its place, the line itself and a remedy (`diagnostic`). A file
//! is never half in effect: it is a [`Loaded`] configuration or a list of [`Errors`]. What a reload cannot change is
//! named by [`restart_needed`]. The sentences in `schema` are the JSON schema, the reference file and the README's
//! table (`reference`). What a regular expression may be says `pattern`.
//!
//! This room knows no other, opens no socket, and looks at nothing but the file and the environment.

mod admission;
mod decode;
pub mod diagnostic;
mod diff;
mod endpoints;
mod environment;
mod load;
mod pattern;
pub mod reference;
pub mod schema;
mod secret;
pub mod spiffe;
mod suggest;
pub mod touch;
mod tree;
pub mod units;
pub mod validate;
mod watch;
mod words;

pub use admission::*;
pub use diagnostic::{Diagnostic, Errors, Severity};
pub use diff::{keep_started, restart_needed};
pub use endpoints::load_endpoints;
pub use load::{Loaded, MAX_BYTES, digest, load_bytes, load_file, load_str, load_with};
pub use pattern::{BadPattern, MAX_PATTERN, Pattern};
pub(crate) use reference::wrapped;
pub use reference::{json_schema, key_table_markdown, reference_yaml};
pub use schema::*;
pub use secret::{Secret, is_free, names_a_secret, without_secret_facts, without_secrets};
pub use spiffe::{ExpectedPeer, SpiffeId, SpiffePattern, TrustDomain, WorkloadApi};
pub use suggest::nearest;
pub use units::{ByteSize, Rate, Share, SourceNet, Timespan};
pub use validate::{Finding, is_fact, plain_path, validate};
pub use watch::{Reading, Reload, Watcher};
