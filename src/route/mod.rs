//! Where a request goes: host, path, method, header, cookie and query matching, splits; and who sent it.
//!
//! A `RouteTable` is compiled from a configuration once and never changes. The first rule that matches wins, so rules
//! are kept in order; they are found by host and path through an index, in a time that hardly depends on how many there
//! are. Ids are positions in the configuration's maps and mean something only
//! together with the table that they came from.

mod actions;
mod affinity;
mod connections;
mod index;
mod matcher;
mod pairs;
mod table;
mod trie;

pub use actions::{Actions, Mirror};
pub use affinity::{Affinity, scattered, stable_hash};
pub use connections::{Connections, Door};
pub use table::{ClusterId, RequestHead, RouteTable, Rule, Workload, WorkloadId};
