//! Maglev hashing: which endpoint the requests stay with that belong together (Eisenbud and others, "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Each endpoint has an order of its own in which it would like the places of a table; they take turns, as often as their
//! configured weights say, and each takes the first free place of its order. A request's number is a place.
//!
//! The table is of all endpoints that are configured with a weight, whether they are well or not, so it is made again only
//! when the configuration changes them, and the same as before is used again. Where a place belongs to an endpoint that
//! may get no requests (or got this one already), the request's number is scattered to another place, and so on. So
//! while one of N endpoints is away only its own requests move, one in N, to all the others alike, and come back with it.
//! Where one is added or removed for good, about one in N moves, and a few of the others with it (`moved` in the tests).
//!
//! Endpoints take their turns in the order of their addresses: proxies with the same endpoints agree on the table.

use super::Endpoint;
use crate::route::{scattered, stable_hash};
use std::net::SocketAddr;
use std::sync::Arc;

/// How many places: a prime, so that every step size visits all of them. It is 65,537 as Maglev's small table and
/// Envoy's: at 100 endpoints shares differ by about a hundredth.
const PLACES: usize = 65_537;
const FREE: u32 = u32::MAX;

/// Which endpoint has which place.
#[derive(Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Addresses with their weights, by address.
    members: Box<[(SocketAddr, u32)]>,
    /// Positions among the members.
    places: Box<[u32]>,
    /// By position: how many places.
    counts: Box<[u32]>,
}

impl Maglev {
    /// The table of these endpoints: the one before where that is of the same.
    #[must_use]
    pub fn of(endpoints: &[Arc<Endpoint>], before: Option<&Arc<Self>>) -> Arc<Self> {
        let mut members: Vec<(SocketAddr, u32)> =
            endpoints.iter().filter(|e| e.weight > 0).map(|e| (e.address, e.weight)).collect();
        if members.is_empty() {
            // All weights are zero: better equal shares than no answer, as the tables have it.
            members = endpoints.iter().map(|e| (e.address, 1)).collect();
        }
        members.sort_unstable();
        members.dedup_by_key(|(address, _)| *address);
        match before.filter(|before| *before.members == *members) {
            Some(before) => before.clone(),
            None => Arc::new(Self::new(members)),
        }
    }

    fn new(members: Vec<(SocketAddr, u32)>) -> Self {
        let places = filled(&members);
        let mut counts = vec![0u32; members.len()];
        for position in &places {
            counts.get_mut(*position as usize).into_iter().for_each(|count| *count += 1);
        }
        Self { members: members.into(), places, counts: counts.into() }
    }

    /// The endpoints, by their positions.
    pub fn members(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.members.iter().map(|(address, _)| *address)
    }

    /// The position of the endpoint that a number belongs to.
    #[inline]
    #[must_use]
    pub fn at(&self, number: u64) -> Option<usize> {
        let place = (u128::from(number) * PLACES as u128) >> 64;
        self.places.get(place as usize).map(|position| *position as usize)
    }

    /// What part of all numbers belongs to an endpoint, by its position.
    #[must_use]
    pub fn share(&self, position: usize) -> Option<f32> {
        self.counts.get(position).map(|count| *count as f32 / PLACES as f32)
    }
}

/// An endpoint's order, and how far it is.
struct Turn {
    next: usize,
    step: usize,
    weight: u64,
    credit: u64,
}

fn filled(members: &[(SocketAddr, u32)]) -> Box<[u32]> {
    let mut turns: Vec<Turn> = members
        .iter()
        .map(|(address, weight)| {
            let hash = stable_hash(address.to_string().as_bytes());
            let below = |number: u64, count: usize| ((u128::from(number) * count as u128) >> 64) as usize;
            let step = 1 + below(scattered(hash), PLACES - 1);
            Turn { next: below(hash, PLACES), step, weight: u64::from(*weight), credit: 0 }
        })
        .collect();
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else { return Box::default() };
    let mut places = vec![FREE; PLACES];
    let mut left = PLACES;
    while left > 0 {
        for (turn, position) in turns.iter_mut().zip(0u32..) {
            turn.credit += turn.weight;
            if turn.credit < heaviest || left == 0 {
                continue;
            }
            turn.credit -= heaviest;
            // One is free, and a prime many places are all visited.
            loop {
                let place = turn.next;
                turn.next = (place + turn.step) % PLACES;
                if let Some(free) = places.get_mut(place).filter(|place| **place == FREE) {
                    *free = position;
                    left -= 1;
                    break;
                }
            }
        }
    }
    places.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::EndpointId;
    use crate::links::NodeKey;
    use std::collections::BTreeMap;

    pub fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(weight, i): (&u32, u16)| {
            let address = SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80));
            Arc::new(Endpoint {
                id: EndpointId(u64::from(i)),
                key: NodeKey::new(&address.to_string()),
                address,
                zone: "".into(),
                host: "".into(),
                weight: *weight,
                metadata: BTreeMap::new(),
                tls: None,
            })
        };
        weights.iter().zip(1..).map(endpoint).collect()
    }

    fn owner(table: &Maglev, number: u64) -> SocketAddr {
        table.members[table.at(number).unwrap()].0
    }

    fn numbers() -> impl Iterator<Item = u64> {
        (0..20_000).map(scattered)
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [vec![1; 3], vec![1; 100], vec![1, 2, 3, 4], vec![1000, 1]] {
            let table = Maglev::of(&endpoints(&weights), None);
            let sum: u32 = weights.iter().sum();
            for (position, weight) in weights.iter().enumerate() {
                let share = table.share(position).unwrap();
                let wanted = *weight as f32 / sum as f32;
                assert!(
                    (share - wanted).abs() <= 0.03 * wanted + 2.0 / PLACES as f32,
                    "{share} for {wanted}: {weights:?}"
                );
            }
        }
    }

    /// Of those numbers that did not belong to what went or came, so many moved all the same.
    fn moved(before: &Maglev, after: &Maglev, changed: SocketAddr) -> f64 {
        let others = || numbers().filter(|n| owner(before, *n) != changed && owner(after, *n) != changed);
        others().filter(|n| owner(before, *n) != owner(after, *n)).count() as f64 / others().count() as f64
    }

    #[test]
    fn one_that_goes_or_comes_for_good_moves_its_own_and_hardly_any_other() {
        for count in [3, 10, 50] {
            let all = endpoints(&vec![1; count]);
            let (whole, less) = (Maglev::of(&all, None), Maglev::of(&all[1..], None));
            for moved in [moved(&whole, &less, all[0].address), moved(&less, &whole, all[0].address)] {
                assert!(moved < 0.05, "{moved} of the others' numbers moved, with {count} endpoints");
            }
        }
    }

    #[test]
    fn the_table_is_made_again_only_when_addresses_or_weights_change() {
        let all = endpoints(&[1, 2, 3]);
        let first = Maglev::of(&all, None);
        let mut turned = all.clone();
        turned.reverse();
        assert!(Arc::ptr_eq(&first, &Maglev::of(&turned, Some(&first))), "their order means nothing");
        assert!(!Arc::ptr_eq(&first, &Maglev::of(&endpoints(&[1, 2, 4]), Some(&first))));
        assert!(!Arc::ptr_eq(&first, &Maglev::of(&all[1..], Some(&first))));
        assert_eq!(*first, *Maglev::of(&turned, None), "every proxy makes the same");
    }

    #[test]
    fn weightless_endpoints_have_no_place_unless_all_are() {
        let some = Maglev::of(&endpoints(&[0, 1]), None);
        assert_eq!(some.members().count(), 1);
        assert_eq!(Maglev::of(&endpoints(&[0, 0]), None).members().count(), 2);
        assert_eq!(Maglev::of(&[], None).at(7), None);
    }
}
