//! Where a request goes: host, path, header and method matching, splits; and who sent it.
//!
//! A `RouteTable` is compiled from a configuration once and never changes. The first rule that matches wins, so rules
//! are kept in order; those with an exact host are found through an index, which a table of more than a few rules
//! consults before it looks at the rest. Ids are positions in the configuration's maps and mean something only
//! together with the table that they came from.

mod matcher;
mod table;

pub use table::{ClusterId, RequestHead, RouteTable, Rule, Workload, WorkloadId};
