//! One node's part: it tells what it saw and takes in what others tell, over whatever carries it.

use super::counters::Counters;
use super::exchange::{Exchange, Room, To};
use super::interest::Interest;
use super::ledger::Ledger;
use super::teller::Teller;
use super::wire::{self, Head, Report};
use super::{Parts, wall_ms};
use crate::links::{MEMORY_S, NodeAccount, NodeKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

/// How often there may be something to tell.
const TELL: Duration = Duration::from_millis(500);
/// How often what was heard is shown.
const SHOW: Duration = Duration::from_millis(100);
/// Of a large mesh it takes longer to show than of a small one: it is shown so much less often.
const SHOWING_SHARE: u32 = 20;
/// How often it is looked at what this node wants to hear of.
const WANT: Duration = Duration::from_secs(2);
/// What an instance reported of itself longer ago than this, in seconds, is not told.
const MAX_REPORT_AGE_S: f32 = 6.0 * MEMORY_S;

/// One node.
pub struct Node {
    parts: Arc<Parts>,
    counters: Arc<Counters>,
    name: Arc<str>,
    zone: Arc<str>,
    incarnation: u64,
    sequence: u64,
    hops: usize,
    /// How far it can hear now.
    reach: usize,
    teller: Teller,
    ledger: Ledger,
}

/// Who a node is, and what it wants.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub name: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// When its process started, in milliseconds since 1970.
    pub incarnation: u64,
    /// How many calls away it wants to hear of links; 0 is of all.
    pub hops: usize,
}

impl Node {
    /// A node that has told and heard nothing.
    #[must_use]
    pub fn new(parts: Arc<Parts>, counters: Arc<Counters>, identity: Identity) -> Self {
        let Identity { name, zone, incarnation, hops } = identity;
        let ledger = Ledger::new(name.clone());
        let (teller, reach) = (Teller::default(), hops);
        Self { parts, counters, name, zone, incarnation, sequence: 0, hops, reach, teller, ledger }
    }

    /// Tells and hears until `stop` says so or is gone; then nothing of others is known any more.
    pub async fn share(mut self, mut exchange: impl Exchange, mut stop: oneshot::Receiver<()>) {
        let mut tell = tokio::time::interval(TELL);
        let mut want = tokio::time::interval(WANT);
        for interval in [&mut tell, &mut want] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut show = Instant::now();
        loop {
            tokio::select! {
                _ = &mut stop => break,
                report = exchange.receive() => self.hear(&report),
                _ = tell.tick() => self.tell(&mut exchange).await,
                _ = want.tick() => {
                    self.reach = exchange.reach(self.hops);
                    exchange.want(&self.interest()).await;
                }
                () = tokio::time::sleep_until(show) => {
                    let began = Instant::now();
                    self.show(exchange.peers());
                    show = Instant::now() + SHOW.max(began.elapsed() * SHOWING_SHARE);
                }
            }
        }
        self.parts.links.tell(None);
    }

    /// Takes in a report.
    pub fn hear(&mut self, report: &[u8]) {
        let now = (self.parts.clock)();
        let links = &self.parts.links;
        let taken =
            Report::read(report).and_then(|report| self.ledger.take(report, now, wall_ms(), |key| links.owns(key)));
        match taken {
            Ok(taken) => self.counters.taken(taken),
            Err(refused) => self.counters.refused(refused, || teller(report)),
        }
    }

    /// Shows the slow loop what was heard.
    pub fn show(&mut self, peers: usize) {
        self.ledger.forget((self.parts.clock)());
        self.counters.set(peers, self.ledger.links());
        if self.ledger.has_news()
            && let Some(told) = self.ledger.told(&self.parts.links.keys(), self.hops)
        {
            self.parts.links.tell(Some(told));
        }
    }

    /// What this node wants to hear of.
    #[must_use]
    pub fn interest(&self) -> Interest {
        let service = |node: &NodeKey| Some((self.parts.described)(node)?.service);
        self.ledger.interest(&self.parts.links.keys(), self.reach, &service)
    }

    /// Tells what is worth telling now, as far as there is room for it.
    pub async fn tell(&mut self, exchange: &mut impl Exchange) {
        let room = exchange.room().await;
        for (to, report) in self.reports(&room) {
            exchange.send(to, &report).await;
        }
    }

    /// The reports that are worth sending now, each with whom it goes to.
    pub fn reports(&mut self, room: &Room) -> Vec<(To, Vec<u8>)> {
        if room.is_empty() {
            return Vec::new();
        }
        let Parts { links, clock, described } = &*self.parts;
        let now = clock();
        let (mut urgent, teller) = (Vec::new(), &self.teller);
        let accounts = links.accounts(now, |key, brief| {
            let urgency = teller.urgency(key, brief, now);
            urgent.extend(urgency.map(|urgency| (urgency, *brief)));
            urgency.is_some()
        });
        let urgent = urgent.into_iter().zip(accounts);
        let urgent = urgent.map(|((urgency, brief), (key, account))| (urgency, key, brief, account)).collect();
        let (name, zone, incarnation, sequence) = (&self.name, &self.zone, self.incarnation, &mut self.sequence);
        let mut head = || {
            *sequence += 1;
            Head { node: name.clone(), zone: zone.clone(), incarnation, sequence: *sequence, made_ms: wall_ms() }
        };
        let mut known = |key: &NodeKey| {
            let described = described(key);
            let report = links.report(key, now).filter(|(_, age_s)| *age_s <= MAX_REPORT_AGE_S);
            (described.is_some() || report.is_some())
                .then(|| NodeAccount { described: described.unwrap_or_default(), report })
        };
        self.teller.forget(now);
        self.teller.write(urgent, now, room, &mut head, &mut known)
    }
}

/// Who made a report that was refused, for the log. It was sealed by a member of the mesh.
fn teller(report: &[u8]) -> String {
    wire::node_of(report).map_or_else(|| "a member whose name cannot be read".to_owned(), |node| format!("node {node}"))
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
