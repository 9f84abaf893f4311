//! How reports travel: the seam between what is told (`teller`, `ledger`) and what carries it.
//!
//! There are two ways, and they differ in who hears a report. By gossip each member is an audience of its own, which says
//! what it wants to hear of, and is sent just that. A server that nodes publish to (NATS) sends a report on to all who want to
//! hear of its services, however many those are: there a report speaks of one pair of services, the calling one and the
//! called one, and is sent once.

use super::interest::Interest;
use async_trait::async_trait;

/// Who hears a report that is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audience {
    /// What it wants to hear of.
    pub interest: Interest,
}

/// Who is there to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hearers {
    /// Each of these by itself.
    Members(Vec<Audience>),
    /// Whoever wants to hear of a pair of services, known or not.
    Services,
}

impl Default for Hearers {
    fn default() -> Self {
        Self::Members(Vec::new())
    }
}

/// Whom a report goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum To {
    /// A member, by its place in the last [`Room`].
    Member(usize),
    /// Whoever wants to hear of calls between these services, by their hashes (`interest::hash`).
    Services {
        /// Whose calls they are.
        caller: u32,
        /// Who is called.
        called: u32,
    },
}

/// What can be sent now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// So many bytes in all; each member's own are counted.
    pub budget: usize,
    /// The largest report, in bytes.
    pub limit: usize,
    /// What each costs besides, in bytes.
    pub overhead: usize,
    /// Who is there.
    pub hearers: Hearers,
}

impl Room {
    /// Whether nobody is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.hearers, Hearers::Members(members) if members.is_empty())
    }
}

/// Carries reports.
#[async_trait]
pub trait Exchange: Send {
    /// What can be sent now, and to whom.
    async fn room(&mut self) -> Room;

    /// Sends a report to somebody of the last `room`. What cannot be sent is lost.
    async fn send(&mut self, to: To, report: &[u8]);

    /// Lets others know what this node wants to hear of.
    async fn want(&mut self, interest: &Interest);

    /// Of so many calls away how far this node can hear now: fewer where more comes in than it should. 0 is everything.
    fn reach(&mut self, hops: usize) -> usize {
        hops
    }

    /// The next report of another node. May be given up at any time without losing one.
    async fn receive(&mut self) -> Vec<u8>;

    /// How many other nodes there are.
    fn peers(&self) -> usize;
}
