//! How reports travel: the seam between what is told (`teller`, `ledger`) and what carries it.
//!
//! Gossip is one way: each member is an audience of its own. A server that nodes publish to is another: there a report is
//! sent once to all who hear a subject, which is one audience.

use super::interest::Interest;
use async_trait::async_trait;

/// Who hears a report that is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audience {
    /// What it wants to hear of.
    pub interest: Interest,
}

/// What can be sent now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// So many bytes in all, each audience's own counted.
    pub budget: usize,
    /// The largest report, in bytes.
    pub limit: usize,
    /// What each costs besides, in bytes.
    pub overhead: usize,
    /// Who is there.
    pub audiences: Vec<Audience>,
}

/// Carries reports.
#[async_trait]
pub trait Exchange: Send {
    /// What can be sent now, and to whom.
    async fn room(&mut self) -> Room;

    /// Sends a report to an audience, by its place in the last `room`. What cannot be sent is lost.
    async fn send(&mut self, to: usize, report: &[u8]);

    /// Lets others know what this node wants to hear of.
    async fn want(&mut self, interest: &Interest);

    /// The next report of another node. May be given up at any time without losing one.
    async fn receive(&mut self) -> Vec<u8>;

    /// How many other nodes there are.
    fn peers(&self) -> usize;
}
