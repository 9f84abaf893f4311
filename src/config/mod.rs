//! The YAML schema, its validation with line and column, and live reload.

pub mod schema;
pub mod units;

pub use schema::*;
