//! The YAML schema, its validation with line and column, and live reload.

pub mod diagnostic;
mod load;
pub mod schema;
pub mod units;
mod words;

pub use diagnostic::{Diagnostic, Errors, Severity};
pub use load::load_str;
pub use schema::*;
pub use units::{ByteSize, Share, SourceNet, Timespan};
