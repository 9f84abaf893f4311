//! Who is there: each node says so from time to time, and who has not for three times as long as it promised is gone.
//!
//! Everybody hears everybody here, so what all say together must not grow with their number: as in RTCP (RFC 3550, section 6.2)
//! each speaks so much less often as there are more, and says how often that is. Of 10,000 nodes a hundred greet each
//! other in a second, as of 200; only that one of them has gone is noticed later. (Its statistics are forgotten
//! after seven seconds all the same.)

use super::super::refused::Refused;
use super::super::wire::named;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What old fields mean; a reader refuses others.
const VERSION: u32 = 1;
/// How often a node of a small mesh speaks.
const FASTEST: Duration = Duration::from_secs(2);
/// How seldom one of a large mesh does.
const SLOWEST: Duration = Duration::from_secs(200);
/// So long for each other node.
const FOR_EACH: Duration = Duration::from_millis(10);
/// After so many times its promise a node is gone.
const MISSED: u32 = 3;
/// The most nodes that are remembered.
const MAX_PEERS: usize = 16_384;

#[derive(Clone, PartialEq, Message)]
struct WireHello {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    node: String,
    /// When the node's process started, in milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    /// When it speaks next at the latest, in milliseconds.
    #[prost(uint32, tag = "4")]
    next_ms: u32,
}

/// Those who are there.
#[derive(Debug)]
pub struct Peers {
    own: Arc<str>,
    incarnation: u64,
    /// By name, until when they are there.
    known: HashMap<String, Instant>,
}

impl Peers {
    /// Nobody yet, as seen by the node of this name, whose process started then.
    #[must_use]
    pub fn new(own: Arc<str>, incarnation: u64) -> Self {
        Self { own, incarnation, known: HashMap::new() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// How long this node waits until it speaks again.
    #[must_use]
    pub fn pause(&self) -> Duration {
        (FOR_EACH * u32::try_from(self.known.len()).unwrap_or(u32::MAX)).clamp(FASTEST, SLOWEST)
    }

    /// What it says.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let next_ms = self.pause().as_millis() as u32;
        let node = self.own.as_ref().to_owned();
        WireHello { version: VERSION, node, incarnation: self.incarnation, next_ms }.encode_to_vec()
    }

    /// Takes in what another one says now.
    ///
    /// # Errors
    /// When it is not what we say, or says what cannot be.
    pub fn hear(&mut self, hello: &[u8], now: Instant) -> Result<(), Refused> {
        let hello = WireHello::decode(hello).map_err(|_| Refused::Malformed)?;
        if hello.version != VERSION {
            return Err(Refused::Version);
        }
        if !named(&hello.node) {
            return Err(Refused::Absurd);
        }
        if hello.node == *self.own {
            return Err(Refused::OwnName);
        }
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&hello.node) {
            return Err(Refused::Full);
        }
        let next = Duration::from_millis(u64::from(hello.next_ms)).clamp(FASTEST, SLOWEST);
        self.known.insert(hello.node, now + next * MISSED);
        Ok(())
    }

    /// Forgets those who are gone.
    pub fn forget(&mut self, now: Instant) {
        self.known.retain(|_, until| *until > now);
    }
}

/// Who says hello, whatever else is wrong with it; none where that cannot be read, or would do harm in a log.
#[must_use]
pub fn node_of(hello: &[u8]) -> Option<String> {
    WireHello::decode(hello).ok().map(|hello| hello.node).filter(|node| named(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(node: &str, version: u32, next_ms: u32) -> Vec<u8> {
        WireHello { version, node: node.to_owned(), incarnation: 1, next_ms }.encode_to_vec()
    }

    #[test]
    fn a_node_is_there_until_it_has_missed_three_of_its_own_promises() {
        let (mut a, b) = (Peers::new("a".into(), 1), Peers::new("b".into(), 1));
        let now = Instant::now();
        assert_eq!(a.hear(&b.hello(), now), Ok(()));
        assert_eq!(a.hear(&said("slow", 1, 100_000), now), Ok(()));
        let at = |a: &mut Peers, seconds| {
            a.forget(now + Duration::from_secs(seconds));
            a.count()
        };
        assert_eq!([5, 6, 299, 300].map(|seconds| at(&mut a, seconds)), [2, 1, 1, 0]);
        // Nobody is believed to be there for ever.
        assert_eq!(a.hear(&said("c", 1, u32::MAX), now), Ok(()));
        assert_eq!([599, 600].map(|seconds| at(&mut a, seconds)), [1, 0]);
    }

    #[test]
    fn the_more_there_are_the_less_often_each_speaks() {
        let mut peers = Peers::new("a".into(), 1);
        let mut pauses = Vec::new();
        for n in 0..MAX_PEERS {
            if [0, 100, 1_000, 10_000].contains(&n) {
                pauses.push(peers.pause().as_secs());
            }
            assert_eq!(peers.hear(&said(&format!("node-{n}"), 1, 0), Instant::now()), Ok(()));
        }
        assert_eq!(pauses, [2, 2, 10, 100]);
        assert_eq!(peers.hear(&said("one more", 1, 0), Instant::now()), Err(Refused::Full));
        assert_eq!(peers.hear(&said("node-7", 1, 0), Instant::now()), Ok(()));
    }

    #[test]
    fn what_nobody_of_ours_says_is_refused() {
        let mut peers = Peers::new("a".into(), 1);
        let long = "x".repeat(257);
        for (hello, refused) in [
            (said("a", 1, 0), Refused::OwnName),
            (said("b", 2, 0), Refused::Version),
            (said("", 1, 0), Refused::Absurd),
            (said("b\n", 1, 0), Refused::Absurd),
            (said(&long, 1, 0), Refused::Absurd),
            (vec![0xff; 9], Refused::Malformed),
        ] {
            assert_eq!(peers.hear(&hello, Instant::now()), Err(refused));
        }
        assert_eq!(peers.count(), 0);
    }
}
