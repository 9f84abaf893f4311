//! Whose links matter to whom: the neighbourhood that the model's depth needs.
//!
//! A network of L layers hears of trouble L calls behind a candidate, so of the whole mesh a node needs what is at most
//! `hops` = L + 1 calls away from its own workloads, and who else calls that. A link is near where one of its ends is less
//! than `hops` calls away: the calling one, whatever it calls; or the called one, whoever calls it.
//!
//! What is near is found link by link: each report tells of some more of what lies behind. So a node tells the others which
//! **services** it is interested in (there are fewer of them than instances, and they come and go less often), and they send
//! it only what touches one of them. A service is told by a hash of its name; one that happens to hash alike is sent
//! for nothing. An instance of unknown service stands for itself.

use crate::links::{LinkKey, NodeKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Who is interested in more than this is interested in everything.
const MOST: usize = 4_096;

/// What somebody wants to hear of; everything where it is not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest(Option<Arc<BTreeSet<u32>>>);

impl Interest {
    /// In all links at these services.
    #[must_use]
    pub fn in_services<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let all: BTreeSet<u32> = names.into_iter().map(hash).collect();
        Self(Some(all).filter(|all| all.len() <= MOST).map(Arc::new))
    }

    /// Whether a service is among them.
    #[must_use]
    pub fn holds(&self, hash: u32) -> bool {
        self.0.as_ref().is_none_or(|all| all.contains(&hash))
    }

    /// Whether both are in some service.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(mine), Some(theirs)) => !mine.is_disjoint(theirs),
            (Some(some), None) | (None, Some(some)) => !some.is_empty(),
            (None, None) => true,
        }
    }

    /// The hashes of these services; none where it is everything.
    #[must_use]
    pub fn services(&self) -> Option<&BTreeSet<u32>> {
        self.0.as_deref()
    }

    /// In a form that travels as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Some(all) = &self.0 else { return String::new() };
        // The version of the form comes first: a reader of another one takes it for everything.
        let bytes: Vec<u8> = all.iter().flat_map(|hash| hash.to_be_bytes()).collect();
        format!("1:{}", STANDARD_NO_PAD.encode(bytes))
    }

    /// What `to_text` gave; of anything else everything.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let bytes = text.strip_prefix("1:").and_then(|rest| STANDARD_NO_PAD.decode(rest).ok());
        let Some(bytes) = bytes.filter(|bytes| bytes.len() <= 4 * MOST) else { return Self(None) };
        let (hashes, rest) = bytes.as_chunks::<4>();
        let all: BTreeSet<u32> = hashes.iter().map(|hash| u32::from_be_bytes(*hash)).collect();
        Self(Some(all).filter(|_| rest.is_empty()).map(Arc::new))
    }
}

/// FNV-1a of 32 bits: the same on all nodes, of whatever version.
#[must_use]
pub fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The nodes that are less than `hops` calls away from the sources of the own links, those themselves included.
pub fn near<'l>(own: &'l [LinkKey], others: impl Iterator<Item = &'l LinkKey>, hops: usize) -> HashSet<&'l NodeKey> {
    let mut calls: HashMap<&NodeKey, Vec<&NodeKey>> = HashMap::new();
    for key in own.iter().chain(others) {
        calls.entry(&key.source).or_default().push(&key.destination);
    }
    let mut edge: Vec<&NodeKey> = own.iter().map(|key| &key.source).collect();
    let mut found: HashSet<&NodeKey> = edge.iter().copied().collect();
    for _ in 1..hops {
        let called = edge.iter().filter_map(|node| calls.get(node)).flatten().copied();
        edge = called.filter(|node| found.insert(node)).collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &str, destination: &str) -> LinkKey {
        LinkKey::new(&NodeKey::new(source), &NodeKey::new(destination))
    }

    #[test]
    fn what_is_near_grows_by_one_call_a_hop_and_ends_in_a_circle() {
        let own = [key("a", "b"), key("a", "c")];
        let others = [key("b", "d"), key("d", "e"), key("e", "b"), key("x", "b"), key("x", "y")];
        let names = |hops| {
            let mut names: Vec<&str> = near(&own, others.iter(), hops).into_iter().map(|n| &*n.0).collect();
            names.sort_unstable();
            names.join("")
        };
        assert_eq!([1, 2, 3, 4, 50].map(names), ["a", "abc", "abcd", "abcde", "abcde"]);
    }

    #[test]
    fn interests_survive_their_journey_and_what_is_none_is_everything() {
        let some = Interest::in_services(["catalog", "storage"]);
        assert_eq!(Interest::of_text(&some.to_text()), some);
        assert!(some.holds(hash("catalog")) && !some.holds(hash("payment")));
        let nothing = Interest::in_services([]);
        assert_eq!(Interest::of_text(&nothing.to_text()), nothing);
        assert!(!nothing.holds(hash("catalog")));
        let names: Vec<String> = (0..5_000).map(|n| format!("service-{n}")).collect();
        let everything = Interest::in_services(names.iter().map(String::as_str));
        assert_eq!((everything.to_text().as_str(), &everything), ("", &Interest::default()));
        for odd in ["", "2:AAAA", "1:????", "1:AAAA"] {
            assert!(Interest::of_text(odd).holds(hash("catalog")), "{odd}");
        }
    }
}
