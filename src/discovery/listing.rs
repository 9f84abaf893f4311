//! What a source finds: endpoints with their states, and what among them is nonsense.
//!
//! Sources hand over what they were told, whoever told it. It is looked at here, once for all of them: what cannot be an
//! endpoint is left out and counted by its reason, a fact that cannot be shown is left out of its endpoint, and an address
//! that is named twice is one endpoint. What is left is in the order of addresses, so that the same endpoints make the same
//! listing in whatever order they were told.

use crate::config::{Endpoint, is_fact};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

/// How many of those that were left out are named.
const MAX_NAMED: usize = 3;
/// The longest text that is kept of what somebody else wrote, in characters.
const MAX_TOLD: usize = 200;

/// What an instance may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Requests.
    Ready,
    /// It is leaving and serves what it has; new requests only where nobody else is ready.
    Terminating,
    /// Nothing.
    NotReady,
}

impl Readiness {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Terminating, Self::NotReady];

    /// Its word in metrics and `/routing`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
            Self::NotReady => "not_ready",
        }
    }
}

/// One instance, as a source found it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The instance.
    pub endpoint: Endpoint,
    /// What it may be sent.
    pub readiness: Readiness,
}

/// Why something that a source was told is no endpoint, or not all of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// It has no address, or one that is not of one machine.
    BadAddress,
    /// It has no port that can be connected to.
    BadPort,
    /// Its zone, machine or metadata cannot be shown; the endpoint itself is used.
    BadFact,
    /// It cannot be read at all.
    Unreadable,
    /// There are more than `discover[].most`.
    TooMany,
    /// It is an address on which this proxy listens: requests would go round for ever.
    OwnListener,
}

impl Ignored {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::BadAddress, Self::BadPort, Self::BadFact, Self::Unreadable, Self::TooMany, Self::OwnListener];

    /// Its word in metrics and `/routing`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadAddress => "bad_address",
            Self::BadPort => "bad_port",
            Self::BadFact => "bad_fact",
            Self::Unreadable => "unreadable",
            Self::TooMany => "too_many",
            Self::OwnListener => "own_listener",
        }
    }
}

/// What was left out: how many for each reason, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    counts: BTreeMap<Ignored, usize>,
    named: Vec<String>,
}

impl LeftOut {
    /// Leaves one out.
    pub fn add(&mut self, reason: Ignored, what: impl Display) {
        *self.counts.entry(reason).or_default() += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(format!("{} ({})", told(what), reason.code()));
        }
    }

    /// How many were left out for a reason.
    #[must_use]
    pub fn count(&self, reason: Ignored) -> usize {
        self.counts.get(&reason).copied().unwrap_or_default()
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The first of them, each with its reason.
    #[must_use]
    pub fn named(&self) -> String {
        self.named.join(", ")
    }
}

/// What somebody else wrote, as it may be shown: short, and without control characters.
pub(super) fn told(what: impl Display) -> String {
    up_to(MAX_TOLD, what)
}

/// The same with room for what is wrong with it, and what to do.
pub(super) fn told_in_full(what: impl Display) -> String {
    up_to(5 * MAX_TOLD, what)
}

fn up_to(most: usize, what: impl Display) -> String {
    let text = what.to_string();
    let mut shown: String = text.chars().take(most).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// Everything that a source found at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    found: Vec<Found>,
    left_out: LeftOut,
}

impl Listing {
    /// What was found.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// What was left out of it.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// How many are in a state.
    #[must_use]
    pub fn count(&self, readiness: Readiness) -> usize {
        self.found.iter().filter(|found| found.readiness == readiness).count()
    }
}

/// A listing that is being made.
#[derive(Debug, Default)]
pub struct Gathering {
    found: BTreeMap<std::net::SocketAddr, Found>,
    left_out: LeftOut,
}

impl Gathering {
    /// Takes an instance in, if it can be one.
    pub fn add(&mut self, mut endpoint: Endpoint, readiness: Readiness) {
        endpoint.address.set_ip(endpoint.address.ip().to_canonical());
        let address = endpoint.address;
        if !is_of_one_machine(address.ip()) {
            return self.left_out.add(Ignored::BadAddress, address);
        }
        if address.port() == 0 {
            return self.left_out.add(Ignored::BadPort, address);
        }
        for fact in [&mut endpoint.zone, &mut endpoint.host] {
            if !is_fact(fact) {
                self.left_out.add(Ignored::BadFact, format!("{address}: {fact}"));
                fact.clear();
            }
        }
        let (left_out, before) = (&mut self.left_out, endpoint.metadata.len());
        endpoint.metadata.retain(|key, value| is_fact(key) && is_fact(value));
        if endpoint.metadata.len() < before {
            left_out.add(Ignored::BadFact, format!("{address}: its metadata"));
        }
        let found = Found { endpoint, readiness };
        self.found
            .entry(address)
            // Where two say different things of one instance, the one to whom it is readier knows more.
            .and_modify(|known| {
                if found.readiness < known.readiness {
                    *known = found.clone();
                }
            })
            .or_insert(found);
    }

    /// Leaves something out.
    pub fn ignore(&mut self, reason: Ignored, what: impl Display) {
        self.left_out.add(reason, what);
    }

    /// The listing, with at most so many endpoints: those with the lowest addresses, which are the same at every proxy.
    #[must_use]
    pub fn finish(mut self, most: usize) -> Listing {
        let mut found: Vec<Found> = self.found.into_values().collect();
        for beyond in found.drain(most.min(found.len())..) {
            self.left_out.add(Ignored::TooMany, beyond.endpoint.address);
        }
        Listing { found, left_out: self.left_out }
    }
}

fn is_of_one_machine(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// An endpoint of which only the address is known.
#[must_use]
pub fn bare(address: std::net::SocketAddr) -> Endpoint {
    let (zone, host) = (String::new(), String::new());
    Endpoint { address, zone, host, weight: 1, metadata: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(addresses: &[&str]) -> Listing {
        let mut gathering = Gathering::default();
        addresses.iter().for_each(|a| gathering.add(bare(a.parse().unwrap()), Readiness::Ready));
        gathering.finish(3)
    }

    fn addresses(listing: &Listing) -> Vec<String> {
        listing.found().iter().map(|f| f.endpoint.address.to_string()).collect()
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_left_out_and_counted_by_its_reason() {
        let listing = listing(&[
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "10.0.0.1:0",
            "10.0.0.2:80",
        ]);
        assert_eq!(addresses(&listing), ["10.0.0.2:80"]);
        let left_out = listing.left_out();
        assert_eq!((left_out.count(Ignored::BadAddress), left_out.count(Ignored::BadPort)), (5, 1));
        assert_eq!(left_out.named(), "0.0.0.0:80 (bad_address), [::]:80 (bad_address), 224.0.0.1:80 (bad_address)");
    }

    #[test]
    fn the_same_endpoints_make_the_same_listing_in_any_order() {
        let (one, other) = (
            listing(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]),
            listing(&["10.0.0.1:80", "[::ffff:10.0.0.2]:80"]),
        );
        assert_eq!(one, other);
        assert_eq!(addresses(&one), ["10.0.0.1:80", "10.0.0.2:80"]);
    }

    #[test]
    fn no_more_are_taken_than_may_be_and_always_the_same() {
        let listing = listing(&["10.0.0.5:80", "10.0.0.4:80", "10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"]);
        assert_eq!(addresses(&listing), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        assert_eq!(listing.left_out().count(Ignored::TooMany), 2);
    }

    #[test]
    fn an_instance_that_is_told_of_twice_is_as_ready_as_it_is_to_anybody() {
        for order in [[Readiness::NotReady, Readiness::Ready], [Readiness::Ready, Readiness::NotReady]] {
            let mut gathering = Gathering::default();
            order.iter().for_each(|r| gathering.add(bare("10.0.0.1:80".parse().unwrap()), *r));
            assert_eq!(gathering.finish(9).count(Readiness::Ready), 1);
        }
    }

    #[test]
    fn a_fact_that_cannot_be_shown_costs_the_fact_and_not_the_endpoint() {
        let mut gathering = Gathering::default();
        let mut endpoint = bare("10.0.0.1:80".parse().unwrap());
        (endpoint.zone, endpoint.host) = ("eu\n1a".into(), "h".repeat(5_000));
        endpoint.metadata = [("a".to_owned(), "\u{1b}[2J".to_owned()), ("b".to_owned(), "fine".to_owned())].into();
        gathering.add(endpoint, Readiness::Ready);
        let listing = gathering.finish(9);
        let endpoint = &listing.found()[0].endpoint;
        assert_eq!((endpoint.zone.as_str(), endpoint.host.as_str(), endpoint.metadata.len()), ("", "", 1));
        assert_eq!(listing.left_out().count(Ignored::BadFact), 3);
        assert!(!listing.left_out().named().contains('\n') && listing.left_out().named().len() < 1_000);
    }
}
