//! The subjects under which nodes tell each other what they see, and those that a node wants to hear of.
//!
//! ```text
//! pathloom.v1.ZONE.alive              that a node is there
//! pathloom.v1.ZONE.CALLER.CALLED      its links between instances of two services, by the hashes of their names
//! ```
//! The zone is the teller's. So a leaf node or a gateway can let through some zones and not others (`pathloom.v1.eu-1a.>`), and
//! the servers send a report to those alone who want to hear of one of its services: what a node gets does not grow with
//! the mesh but with its neighbourhood.

use super::super::interest::Interest;
use std::collections::BTreeSet;

/// What the subjects' form is called; a reader of another one does not hear us.
const VERSION: &str = "v1";
/// Who wants to hear of more subjects than this hears everything in the zones that it hears.
const MOST: usize = 8_192;
/// Where no zone is said.
const NO_ZONE: &str = "-";

/// A mesh's subjects, as one node sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    root: String,
    zone: String,
    /// Those to hear of.
    zones: Vec<String>,
}

/// Why a node hears what came under a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// It wants to know who is there.
    Alive,
    /// It wants to hear of the calling service, or of all.
    Caller,
    /// It wants to hear of the called one.
    Called,
}

impl Subjects {
    /// Those of a node in a zone which wants to hear of these zones; of all where none is named.
    #[must_use]
    pub fn new(prefix: &str, zone: &str, zones: &[String]) -> Self {
        let zones = match zones {
            [] => vec!["*".to_owned()],
            some => some.iter().map(|zone| token(zone)).collect(),
        };
        Self { root: format!("{prefix}.{VERSION}"), zone: token(zone), zones }
    }

    /// Under this one the node says that it is there.
    #[must_use]
    pub fn alive(&self) -> String {
        format!("{}.{}.alive", self.root, self.zone)
    }

    /// Under this one it tells of links between two services.
    #[must_use]
    pub fn report(&self, caller: u32, called: u32) -> String {
        format!("{}.{}.{caller:08x}.{called:08x}", self.root, self.zone)
    }

    /// How long the longest of them is, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.report(0, 0).len()
    }

    /// What the node wants to hear of, and why.
    #[must_use]
    pub fn wanted(&self, interest: &Interest) -> BTreeSet<(String, Because)> {
        let root = &self.root;
        let alive = self.zones.iter().map(|zone| (format!("{root}.{zone}.alive"), Because::Alive));
        let services = interest.services().filter(|services| 2 * services.len() * self.zones.len() <= MOST);
        let Some(services) = services else {
            let all = self.zones.iter().map(|zone| (format!("{root}.{zone}.*.*"), Because::Caller));
            return alive.chain(all).collect();
        };
        let of = |zone: &String, service: u32| {
            let caller = (format!("{root}.{zone}.{service:08x}.*"), Because::Caller);
            [caller, (format!("{root}.{zone}.*.{service:08x}"), Because::Called)]
        };
        let all = self.zones.iter().flat_map(|zone| services.iter().flat_map(move |service| of(zone, *service)));
        alive.chain(all).collect()
    }
}

/// Whose calls a subject is about.
#[must_use]
pub fn caller(subject: &str) -> Option<u32> {
    u32::from_str_radix(subject.rsplit('.').nth(1)?, 16).ok()
}

/// A zone as a part of a subject: what has a meaning there, and all that is not plain, is written as `_` and two digits.
fn token(zone: &str) -> String {
    if zone.is_empty() {
        return NO_ZONE.to_owned();
    }
    let mut token = String::with_capacity(zone.len());
    for byte in zone.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => token.push(char::from(byte)),
            b'-' if zone.len() > 1 => token.push('-'),
            other => token.push_str(&format!("_{other:02x}")),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::super::super::interest::hash;
    use super::*;
    use proptest::prelude::*;

    /// Whether a server would deliver what comes under a subject to who wants to hear of another.
    fn matches(wanted: &str, subject: &str) -> bool {
        let (wanted, subject): (Vec<_>, Vec<_>) = (wanted.split('.').collect(), subject.split('.').collect());
        wanted.len() == subject.len() && wanted.iter().zip(subject).all(|(w, s)| *w == "*" || *w == s)
    }

    fn heard(of: &Subjects, interest: &Interest, subject: &str) -> Vec<Because> {
        let wanted = of.wanted(interest);
        wanted.into_iter().filter(|(wanted, _)| matches(wanted, subject)).map(|(_, because)| because).collect()
    }

    #[test]
    fn a_node_hears_of_calls_from_and_to_the_services_that_it_wants_and_of_who_is_there() {
        let subjects = |zone: &str, zones: &[&str]| {
            Subjects::new("pathloom", zone, &zones.iter().map(|zone| (*zone).to_owned()).collect::<Vec<_>>())
        };
        let (a, b) = (subjects("eu-1a", &[]), subjects("eu-1b", &["eu-1b"]));
        assert_eq!(a.alive(), "pathloom.v1.eu-1a.alive");
        let report = |from: &str, to: &str| a.report(hash(from), hash(to));
        assert_eq!((report("", "catalog").len(), caller(&report("a", "b"))), (a.longest(), Some(hash("a"))));
        let some = Interest::in_services(["catalog", "storage"]);
        assert_eq!(heard(&a, &some, &report("catalog", "payment")), [Because::Caller]);
        assert_eq!(heard(&a, &some, &report("frontend", "catalog")), [Because::Called]);
        let mut both = heard(&a, &some, &report("catalog", "storage"));
        both.sort_unstable();
        assert_eq!(both, [Because::Caller, Because::Called]);
        assert_eq!(heard(&a, &some, &report("frontend", "payment")), []);
        assert_eq!(heard(&a, &some, &a.alive()), [Because::Alive]);
        assert_eq!((heard(&b, &some, &report("frontend", "catalog")), heard(&b, &some, &a.alive())), (vec![], vec![]));
        for (from, to) in [("frontend", "payment"), ("catalog", "storage")] {
            assert_eq!(heard(&a, &Interest::default(), &report(from, to)), [Because::Caller], "everything, once");
        }
        let names: Vec<String> = (0..4_096).map(|n| format!("service-{n}")).collect();
        let many = Interest::in_services(names.iter().map(String::as_str));
        assert_eq!((a.wanted(&many).len(), subjects("x", &["x", "y"]).wanted(&many).len()), (8_193, 4));
    }

    #[test]
    fn a_zone_is_one_plain_part_of_a_subject_whatever_it_is_called() {
        for (zone, part) in [("", "-"), ("-", "_2d"), ("eu-1a", "eu-1a"), ("a.b", "a_2eb"), ("*", "_2a"), ("_", "_5f")]
        {
            assert_eq!(token(zone), part);
        }
    }

    proptest! {
        #[test]
        fn no_two_zones_share_a_part_and_none_has_a_meaning_there(one in ".{0,8}", other in ".{0,8}") {
            prop_assert_eq!(token(&one) == token(&other), one == other);
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            prop_assert!(!token(&one).is_empty() && token(&one).chars().all(plain));
        }
    }
}
