//! Values with their unit: `250ms`, `64KiB`, `20%`, `10.1.2.0/24`.
//!
//! A bare number where a unit belongs is an error that shows the right form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// A length of time, written `250ms`, `1s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub struct Timespan(pub Duration);

/// A share of a whole, 0 to 1, written `20%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize, JsonSchema)]
pub struct Share(pub f64);

/// A number of bytes, written `64KiB`, `1MiB`, `512B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub struct ByteSize(pub u64);

/// A network of source addresses, written `10.1.2.16/28`; a lone address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SourceNet {
    /// The network's address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

/// The word `auto` and nothing else.
pub mod auto_word {}
