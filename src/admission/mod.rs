//! Overload: who is served when not everybody can be, decided before an endpoint is chosen.
//!
//! Three questions, asked in this order, each with one short answer on the request's way:
//!
//! | question | room | a refusal |
//! | --- | --- | --- |
//! | is the caller within its rate? | `bucket`: one token bucket a route or workload | 429 |
//! | is it important enough at the moment? | `shedder`: a threshold on P | 503 |
//! | is there a place in the cluster? | `limiter`: how many may be under way | 503, after a short wait at most |
//!
//! **Priority.** `P = alpha R + beta T + gamma D` (`priority`): resource need, time criticality, dependency depth, each a
//! share. P is brought to 128 levels; within a level requests are told apart by the last digits of their trace's id, so that a
//! share of a class can be refused, and it is the same requests at every proxy that they pass. Level and digits are the
//! *rank*. Everything here is monotone in it: whoever is admitted, nobody of a higher rank is refused at that moment.
//!
//! **The limit** (`limiter`) is a number or is learnt: it grows while latency stays what it was, and shrinks while
//! requests find it reached and latency is well above its minimum. Then the `shedder` puts the threshold where the
//! requests above it are about as many as come to their end. The limit decides about the rest, moment by moment: those
//! above the threshold's level may go beyond it a little, so that a burst costs the least important class.
//!
//! **A queue** is what an overloaded service has already. So only a burst waits here, for tens of milliseconds, and never
//! a request of the class that is being refused.
//!
//! **Cores** share one atomic a cluster, the number under way, which must be exact where limits are small; all else is
//! counted a core apart and read ten times a second by whoever calls `Gate::adjust`. Nothing here knows sockets, and
//! time is an argument.
//!
//! **The adaptive limit is off by default.** It can only guess what is too slow: where no deadline is known a slow answer
//! is worth more than none, and a mix of requests that changes looks like overload for a moment. Whoever turns it on
//! (`concurrency: auto`) gets it without anything to tune.

mod bucket;
mod gate;
mod limiter;
mod priority;
mod shedder;
mod table;

pub use bucket::Bucket;
pub use gate::{Entry, Gate, GateView, Refusal, Served};
pub use priority::{ClassId, Classes, Rank};
pub use table::Table;

#[cfg(test)]
mod tests;
