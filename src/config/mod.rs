//! The YAML schema, its validation with line and column, and live reload.

mod decode;
pub mod diagnostic;
mod diff;
mod environment;
mod load;
pub mod reference;
pub mod schema;
mod suggest;
mod tree;
pub mod units;
pub mod validate;
mod watch;
mod words;

pub use diagnostic::{Diagnostic, Errors, Severity};
pub use diff::{keep_started, restart_needed};
pub use load::{Loaded, MAX_BYTES, digest, load_bytes, load_file, load_str, load_with};
pub use reference::{json_schema, key_table_markdown, reference_yaml};
pub use schema::*;
pub use units::{ByteSize, Share, SourceNet, Timespan};
pub use validate::{Finding, validate};
pub use watch::{Reload, Watcher};
