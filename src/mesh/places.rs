//! Which reports a link goes into: one for each member that wants to hear of it, or the one of its two services.

use super::exchange::{Hearers, Room, To};
use std::collections::HashMap;

/// The reports that are being written, by place.
pub struct Places<'r> {
    hearers: &'r Hearers,
    /// Members in the order in which they are served.
    order: Vec<usize>,
    /// Who wants to hear of a service, found once for all links there.
    wanting: HashMap<u32, Vec<usize>>,
    /// The reports of pairs of services, and the pairs by place.
    pairs: HashMap<(u32, u32), usize>,
    by_place: Vec<(u32, u32)>,
}

impl<'r> Places<'r> {
    /// Of those who are there; of members the `first` comes first.
    pub fn new(room: &'r Room, first: usize) -> Self {
        let count = match &room.hearers {
            Hearers::Members(members) => members.len(),
            Hearers::Services => 0,
        };
        let order = (0..count).map(|n| (n + first % count.max(1)) % count.max(1)).collect();
        Self { hearers: &room.hearers, order, wanting: HashMap::new(), pairs: HashMap::new(), by_place: Vec::new() }
    }

    /// Puts into `places` those of a link between instances of these services.
    pub fn of(&mut self, caller: u32, called: u32, places: &mut Vec<usize>) {
        places.clear();
        let Hearers::Members(members) = self.hearers else {
            let place = *self.pairs.entry((caller, called)).or_insert_with(|| {
                self.by_place.push((caller, called));
                self.by_place.len() - 1
            });
            return places.push(place);
        };
        let holds = |place: usize, service: u32| members.get(place).is_some_and(|m| m.interest.holds(service));
        for service in [caller, called] {
            let all = || self.order.iter().copied().filter(|place| holds(*place, service)).collect();
            self.wanting.entry(service).or_insert_with(all);
        }
        let of = |service: u32| self.wanting.get(&service).into_iter().flatten().copied();
        places.extend(of(caller));
        places.extend(of(called).filter(|place| caller != called && !holds(*place, caller)));
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.order.len() + self.by_place.len()
    }

    /// Whom the report at a place goes to.
    pub fn to(&self, place: usize) -> To {
        match self.by_place.get(place) {
            Some((caller, called)) => To::Services { caller: *caller, called: *called },
            None => To::Member(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::Audience;
    use super::super::interest::{Interest, hash};
    use super::*;

    fn places(places: &mut Places, caller: &str, called: &str) -> Vec<To> {
        let mut found = vec![7];
        places.of(hash(caller), hash(called), &mut found);
        found.into_iter().map(|place| places.to(place)).collect()
    }

    #[test]
    fn each_member_hears_once_of_a_link_whichever_of_its_ends_it_wants() {
        let wants = |names: &[&str]| Audience { interest: Interest::in_services(names.iter().copied()) };
        let members = vec![wants(&["a"]), wants(&["a", "b"]), wants(&["c"])];
        let room = Room { hearers: Hearers::Members(members), ..Room::default() };
        let mut first = Places::new(&room, 0);
        assert_eq!(places(&mut first, "a", "b"), [To::Member(0), To::Member(1)]);
        assert_eq!(places(&mut first, "b", "c"), [To::Member(1), To::Member(2)]);
        assert_eq!((places(&mut first, "a", "a").len(), places(&mut first, "d", "e").len(), first.count()), (2, 0, 3));
        assert_eq!(places(&mut Places::new(&room, 4), "a", "b"), [To::Member(1), To::Member(0)]);
        assert!(!room.is_empty() && Room::default().is_empty());
    }

    #[test]
    fn a_pair_of_services_has_one_report_whoever_hears_it() {
        let room = Room { hearers: Hearers::Services, ..Room::default() };
        let mut all = Places::new(&room, 3);
        let pair = |caller: &str, called: &str| [To::Services { caller: hash(caller), called: hash(called) }];
        for (caller, called) in [("a", "b"), ("b", "a"), ("a", "b"), ("a", "c")] {
            assert_eq!(places(&mut all, caller, called), pair(caller, called));
        }
        assert!(all.count() == 3 && !room.is_empty());
    }
}
