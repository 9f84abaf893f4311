//! Endpoints by DNS: the A and AAAA records of a name, or the SRV records of a service.
//!
//! ```text
//! ask --records--> tell, sleep for their TTL (1 s to 5 min) --------------------------> ask
//!  |----no such name, no records--> keep, say it, sleep for the negative TTL (1 s to 30 s) ^
//!  \----timeout, SERVFAIL, ...----> keep, say it, sleep 1 s, 2 s, 4 s ... 30 s ------------/
//! ```
//! An answer is the whole truth about what it answers, and about nothing else: where A records are told and AAAA records
//! are not, the addresses that the latter gave before stay. A name that has no records any more keeps its last ones too, for
//! as long as it takes: an empty answer is much more often a mistake in somebody's zone than a service that is meant to be
//! gone, and who means it removes the source.
//!
//! **That there is nothing** is an answer to one question (RFC 2308), and is kept for its own TTL, the SOA's: an empty AAAA
//! is not asked for again whenever the A beside it is, nor a target of SRV records that does not exist whenever the others
//! are. It is kept for 5 minutes at most, and for 30 s where the name has no address at all; one that came without a TTL is
//! not kept.
//!
//! **SRV.** Of the priorities the lowest number with an address counts, the others are not used. Weights are relative; 0 is
//! next to nothing where others are above, and as good as any where all are 0 (RFC 2782).
//!
//! What is not believed: hickory drops answers to other questions, with another id, or that cannot be parsed, and asks again
//! by TCP where an answer was cut. What remains is looked at as that of any source is (`listing`).

mod ask;
#[cfg(test)]
mod tests;

use super::Source;
use super::finds::{Fault, Finds};
use super::listing::{Gathering, Ignored, Readiness, bare};
use crate::config::{Discover, Port};
use ask::{Asked, Family, Hickory, Srv};
use async_trait::async_trait;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A name is asked for again no sooner, whatever its TTL: 0 would be a storm.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// A name is asked for again no later: who changes a record with a TTL of a day should not wait for a day.
const MAX_REFRESH: Duration = Duration::from_secs(300);
/// After an answer that there is nothing, or none, a name is asked for again no later.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How many names SRV records may lead to.
const MAX_TARGETS: usize = 256;

/// A name.
pub struct Dns {
    name: String,
    /// The port of addresses; SRV records bring their own.
    port: Option<u16>,
    most: usize,
    asked: Arc<dyn Asked>,
}

/// What one round of questions came to.
enum Round {
    /// All endpoints that there are, for how long, and why some may be missing.
    Found(Gathering, Duration, Option<Lacking>),
    /// Nothing, for how long at most.
    Nothing(Trouble, Option<Duration>),
}

type Trouble = (Fault, String);

/// Why something is missing, and for how long where that is known.
type Lacking = (Trouble, Option<Duration>);

/// What each name had last, by family: what is not told anew stays.
type Memory = HashMap<(String, Family), Known>;

/// What is known of one question.
#[derive(Default)]
struct Known {
    addresses: Vec<IpAddr>,
    /// That there are none, and until when that need not be asked again.
    none: Option<(Fault, Instant)>,
}

impl Dns {
    pub fn new(name: &str, discover: &Discover) -> Self {
        let port = match &discover.port {
            Some(Port::Number(port)) => Some(*port),
            _ => None,
        };
        let asked = Arc::new(Hickory::new(discover.nameservers.clone()));
        Self { name: name.to_owned(), port, most: discover.most, asked }
    }

    async fn round(&self, memory: &mut Memory) -> Round {
        match self.port {
            Some(port) => self.addresses(port, memory).await,
            None => self.services(memory).await,
        }
    }

    async fn addresses(&self, port: u16, memory: &mut Memory) -> Round {
        match addresses_of(&self.asked, &self.name, memory, false).await {
            Addresses { found: Some((addresses, ttl)), trouble } => {
                let mut gathering = Gathering::default();
                for address in addresses {
                    gathering.add(bare(SocketAddr::new(address, port)), Readiness::Ready);
                }
                Round::Found(gathering, ttl, trouble)
            }
            Addresses { found: None, trouble } => {
                let none = || ((Fault::NoRecords, "no addresses".to_owned()), None);
                let (trouble, ttl) = trouble.unwrap_or_else(none);
                Round::Nothing(trouble, ttl)
            }
        }
    }

    async fn services(&self, memory: &mut Memory) -> Round {
        let (records, mut ttl) = match self.asked.services(&self.name).await {
            ask::Answer::Records(records, ttl) => (records, ttl),
            ask::Answer::Nothing(fault, ttl) => {
                return Round::Nothing((fault, format!("{} has no SRV records", self.name)), ttl);
            }
            ask::Answer::Failed(fault, text) => return Round::Nothing((fault, text), None),
        };
        let mut trouble: Option<Lacking> = None;
        let mut next = Memory::new();
        let mut tiers: BTreeMap<u16, Vec<Srv>> = BTreeMap::new();
        let mut gathering = Gathering::default();
        for record in records {
            // A root as the target says that there is no such service.
            if record.target.trim_end_matches('.').is_empty() {
                gathering.ignore(Ignored::BadAddress, "an SRV record without a target");
            } else {
                tiers.entry(record.priority).or_default().push(record);
            }
        }
        for tier in tiers.into_values() {
            let names: BTreeSet<String> = tier.iter().map(|srv| srv.target.clone()).collect();
            for beyond in names.iter().skip(MAX_TARGETS) {
                gathering.ignore(Ignored::TooMany, beyond);
            }
            let resolved = self.resolve(names.into_iter().take(MAX_TARGETS), memory, &mut next).await;
            let equal = tier.iter().all(|srv| srv.weight == 0);
            let mut any = false;
            for srv in tier {
                let Some(addresses) = resolved.get(&srv.target) else { continue };
                if let Some((known, its_ttl)) = &addresses.found {
                    ttl = ttl.min(*its_ttl);
                    for address in known {
                        any = true;
                        let mut endpoint = bare(SocketAddr::new(*address, srv.port));
                        endpoint.weight = if equal { 1 } else { u32::from(srv.weight).max(1) };
                        gathering.add(endpoint, Readiness::Ready);
                    }
                }
                trouble = match (trouble, addresses.trouble.clone()) {
                    // The first is told; what ends soonest, or nobody knows when, is asked for again first.
                    (Some((first, ends)), Some((_, further))) => {
                        Some((first, ends.zip(further).map(|(a, b)| a.min(b))))
                    }
                    (first, further) => first.or(further),
                };
            }
            if any {
                *memory = next;
                return Round::Found(gathering, ttl, trouble);
            }
        }
        // What is no longer a target is forgotten with this.
        *memory = next;
        let none = || (Fault::NoRecords, format!("no target of {} has an address", self.name));
        Round::Nothing(trouble.map_or_else(none, |(trouble, _)| trouble), Some(ttl))
    }

    /// The addresses of several names, all asked for at once. What is known of them moves from `memory` to `next`.
    async fn resolve(
        &self,
        names: impl Iterator<Item = String>,
        memory: &mut Memory,
        next: &mut Memory,
    ) -> HashMap<String, Addresses> {
        let mut asking = JoinSet::new();
        for name in names {
            let asked = self.asked.clone();
            let of_name = [Family::V4, Family::V6].map(|family| (name.clone(), family));
            let known = |key| memory.remove_entry(key).or_else(|| next.remove_entry(key));
            let mut own: Memory = of_name.iter().filter_map(known).collect();
            asking.spawn(async move {
                let addresses = addresses_of(&asked, &name, &mut own, true).await;
                (name, addresses, own)
            });
        }
        let mut resolved = HashMap::new();
        while let Some(done) = asking.join_next().await {
            if let Ok((name, addresses, own)) = done {
                next.extend(own);
                resolved.insert(name, addresses);
            }
        }
        resolved
    }
}

/// The addresses of a name.
struct Addresses {
    /// All that there are, and for how long.
    found: Option<(Vec<IpAddr>, Duration)>,
    /// Why there are none, or perhaps not all; and for how long there are none.
    trouble: Option<Lacking>,
}

/// Asks for both families at once, but for what is known to be nothing still. What one of them does not answer stays as it
/// was; where `keep` says so, all of it.
async fn addresses_of(asked: &Arc<dyn Asked>, name: &str, memory: &mut Memory, keep: bool) -> Addresses {
    let now = Instant::now();
    let of = |family| (name.to_owned(), family);
    let ask = async |family| match memory.get(&of(family)).and_then(|known| known.none) {
        Some((fault, until)) if until > now => ask::Answer::Nothing(fault, Some(until - now)),
        _ => asked.addresses(name, family).await,
    };
    let (v4, v6) = tokio::join!(ask(Family::V4), ask(Family::V6));
    let (mut trouble, mut nothing, mut ttl) = (None, None, None::<Duration>);
    let mut told = Vec::new();
    for (family, answer) in [(Family::V4, v4), (Family::V6, v6)] {
        match answer {
            ask::Answer::Records(addresses, its_ttl) => {
                ttl = Some(ttl.map_or(its_ttl, |ttl| ttl.min(its_ttl)));
                told.push((family, addresses, None));
            }
            ask::Answer::Nothing(fault, its_ttl) => {
                told.push((family, Vec::new(), its_ttl.map(|its_ttl| (fault, its_ttl))));
                // That the name does not exist says more than that it lacks records of a kind.
                if nothing.is_none() || fault == Fault::NoSuchName {
                    nothing = Some(((fault, format!("{name} has no addresses")), its_ttl));
                }
            }
            ask::Answer::Failed(fault, text) => trouble = Some(((fault, text), None)),
        }
    }
    // A service that is made meanwhile should be found soon; where there is one, a further family of it may take longer.
    let longest = if ttl.is_some() { MAX_REFRESH } else { MAX_RETRY };
    for (family, addresses, none) in told {
        let known = memory.entry(of(family)).or_default();
        known.none = none.map(|(fault, its_ttl)| (fault, now + its_ttl.clamp(MIN_REFRESH, longest)));
        if ttl.is_some() {
            known.addresses = addresses;
        }
    }
    if ttl.is_none() && !(keep && trouble.is_some()) {
        return Addresses { found: None, trouble: trouble.or(nothing) };
    }
    let known = [Family::V4, Family::V6].map(|family| memory.get(&of(family)).map(|known| &known.addresses));
    let known: Vec<IpAddr> = known.into_iter().flatten().flatten().copied().collect();
    Addresses { found: Some((known, ttl.unwrap_or(MAX_REFRESH))).filter(|(known, _)| !known.is_empty()), trouble }
}

#[async_trait]
impl Source for Dns {
    async fn run(self: Box<Self>, finds: Finds) {
        let mut memory = Memory::new();
        let mut failures = 0;
        loop {
            let wait = match self.round(&mut memory).await {
                Round::Found(gathering, ttl, trouble) => {
                    let listing = gathering.finish(self.most);
                    match trouble {
                        None => {
                            failures = 0;
                            finds.good(listing);
                            ttl.clamp(MIN_REFRESH, MAX_REFRESH)
                        }
                        Some(((fault, text), ends)) => {
                            finds.partly(listing, fault, text);
                            failures += 1;
                            ttl.clamp(MIN_REFRESH, MAX_REFRESH).min(again(ends, failures))
                        }
                    }
                }
                Round::Nothing((fault, text), ttl) => {
                    finds.failed(fault, text);
                    failures += 1;
                    again(ttl, failures)
                }
            };
            // Proxies that started together drift apart.
            let wait = wait.mul_f64(rand::rng().random_range(1.0..1.1));
            tokio::time::sleep(wait).await;
        }
    }

    fn is_watched(&self) -> bool {
        false
    }
}

/// How long until what was missing is asked for again: that there is nothing is an answer, which says for how long.
fn again(ends: Option<Duration>, failures: u32) -> Duration {
    ends.map_or_else(|| after(failures), |ends| ends.clamp(MIN_REFRESH, MAX_RETRY))
}

/// How long after so many failures in a row the next question is asked.
fn after(failures: u32) -> Duration {
    MIN_REFRESH.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(MAX_RETRY)
}
