//! What others told, kept until it is repeated or too old: from reports to what a tick reads (`links::Told`).
//!
//! By link and by teller the last account, whatever order reports came in. A node that was started anew has forgotten
//! what it saw before, and so does everybody of it, with the first report of its new process. What a node tells of links
//! that are this proxy's own is not kept: nobody else has them.
//!
//! Times are this node's own. A report says when it was made, by its maker's clock, and each statistic how old it was then;
//! what it was on its way adds to that. Clocks that differ by less than `MOST_AHEAD_MS` make statistics seem younger or older
//! by as much; what differs by more is refused.
//!
//! **Bounded.** So many links a node, and so many in all: of who tells more the rest is not kept, and counted.

use super::interest::{Interest, near};
use super::refused::{Refused, timely};
use super::wire::{Head, Report};
use crate::links::{Described, LinkKey, NodeAccount, NodeKey, TOLD_FOR, Time, Told, ToldLink, ToldNode};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The most links that are kept of one node.
const MAX_LINKS_A_NODE: usize = 4_096;
/// The most links that are kept.
const MAX_LINKS: usize = 65_536;
/// The most nodes whose words are kept.
const MAX_TELLERS: usize = 16_384;

/// How much later than a report its process may have started, in milliseconds: clocks are set back at times.
const LATEST_START_MS: u64 = 24 * 3_600 * 1_000;

/// One node's word on a link.
#[derive(Debug, Clone)]
struct Word {
    sequence: u64,
    link: Arc<ToldLink>,
}

/// One node's word on an instance.
#[derive(Debug, Clone)]
struct Description {
    described: Described,
    report: Option<(crate::links::orca::Report, Time)>,
    at: Time,
}

/// A node that tells.
#[derive(Debug)]
struct Teller {
    zone: Arc<str>,
    incarnation: u64,
    heard: Time,
    links: HashMap<LinkKey, Word>,
}

/// What a report brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Accounts that are newer than what was known.
    pub links: usize,
    /// Accounts of links that are this proxy's own, which are not kept.
    pub own: usize,
    /// Accounts for which there is no room.
    pub left_out: usize,
}

/// A node that is heard, as others may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its name.
    pub node: Arc<str>,
    /// Its zone; empty when unknown.
    pub zone: Arc<str>,
    /// When it was last heard.
    pub heard: Time,
    /// How many links it tells of.
    pub links: usize,
}

/// All that was told.
#[derive(Debug)]
pub struct Ledger {
    own: Arc<str>,
    tellers: BTreeMap<Arc<str>, Teller>,
    described: HashMap<NodeKey, Description>,
    links: usize,
    /// Whether there is something that the last `Told` has not.
    news: bool,
    told: Arc<Told>,
}

impl Ledger {
    /// An empty one, of the node of this name.
    #[must_use]
    pub fn new(own: Arc<str>) -> Self {
        Self { own, tellers: BTreeMap::new(), described: HashMap::new(), links: 0, news: false, told: Arc::default() }
    }

    /// Takes in a report that came now; `now_ms` is the same moment in milliseconds since 1970. `owns` says which links
    /// are this proxy's own.
    ///
    /// # Errors
    /// When nothing of it is to be believed.
    pub fn take(
        &mut self,
        report: Report,
        now: Time,
        now_ms: u64,
        owns: impl Fn(&LinkKey) -> bool,
    ) -> Result<Taken, Refused> {
        let Report { head, links, nodes } = report;
        timely(head.made_ms, now_ms)?;
        if head.node == self.own {
            return Err(Refused::OwnName);
        }
        // Nobody could follow a process from next year.
        if head.incarnation > head.made_ms.saturating_add(LATEST_START_MS) {
            return Err(Refused::Absurd);
        }
        let under_way_s = now_ms.saturating_sub(head.made_ms) as f32 / 1e3;
        let room = MAX_LINKS.saturating_sub(self.links);
        let teller = self.teller(&head, now)?;
        let (before, mut taken) = (teller.links.len(), Taken::default());
        for (key, mut account) in links {
            if owns(&key) {
                taken.own += 1;
                continue;
            }
            let known = teller.links.get(&key);
            if known.is_some_and(|word| word.sequence >= head.sequence) {
                continue;
            }
            let most = MAX_LINKS_A_NODE.min(before + room);
            if known.is_none() && teller.links.len() >= most {
                taken.left_out += 1;
                continue;
            }
            account.age_s = account.age_s.map(|age_s| age_s + under_way_s);
            let link = Arc::new(ToldLink::new(key.clone(), head.node.clone(), now, account));
            teller.links.insert(key, Word { sequence: head.sequence, link });
            taken.links += 1;
        }
        let added = teller.links.len() - before;
        self.links += added;
        for (key, account) in nodes {
            self.describe(key, account, under_way_s, now);
        }
        self.news = true;
        Ok(taken)
    }

    /// Who makes a report, known from before or from now on.
    fn teller(&mut self, head: &Head, now: Time) -> Result<&mut Teller, Refused> {
        let known = self.tellers.get(&head.node).map(|teller| (teller.incarnation, teller.links.len()));
        match known {
            Some((incarnation, _)) if head.incarnation < incarnation => return Err(Refused::Superseded),
            // What its process saw before is gone with it.
            Some((incarnation, links)) if head.incarnation > incarnation => {
                self.links -= links;
                self.tellers.remove(&head.node);
            }
            Some(_) => {}
            None if self.tellers.len() >= MAX_TELLERS => return Err(Refused::Full),
            None => {}
        }
        let teller = self.tellers.entry(head.node.clone()).or_insert_with(|| Teller {
            zone: head.zone.clone(),
            incarnation: head.incarnation,
            heard: now,
            links: HashMap::new(),
        });
        (teller.heard, teller.zone) = (now, head.zone.clone());
        Ok(teller)
    }

    fn describe(&mut self, key: NodeKey, account: NodeAccount, under_way_s: f32, now: Time) {
        let at = |age_s: f32| Time(now.0.saturating_sub((f64::from(age_s + under_way_s) * 1e9) as u64));
        let report = account.report.map(|(report, age_s)| (report, at(age_s)));
        if let Some(known) = self.described.get_mut(&key) {
            // Who knows less does not make others forget.
            let fill = |mine: &mut Arc<str>, theirs: &Arc<str>| {
                if !theirs.is_empty() {
                    mine.clone_from(theirs);
                }
            };
            fill(&mut known.described.service, &account.described.service);
            fill(&mut known.described.zone, &account.described.zone);
            fill(&mut known.described.host, &account.described.host);
            if report.as_ref().map(|(_, at)| *at) > known.report.as_ref().map(|(_, at)| *at) {
                known.report = report;
            }
            known.at = now;
        } else if self.described.len() < 2 * MAX_LINKS {
            self.described.insert(key, Description { described: account.described, report, at: now });
        }
    }

    /// Forgets what nobody has repeated.
    pub fn forget(&mut self, now: Time) {
        let fresh = |at: Time| now.since(at) <= TOLD_FOR;
        let before = (self.links, self.tellers.len());
        for teller in self.tellers.values_mut() {
            teller.links.retain(|_, word| fresh(word.link.at));
        }
        self.tellers.retain(|_, teller| fresh(teller.heard));
        self.links = self.tellers.values().map(|teller| teller.links.len()).sum();
        if before != (self.links, self.tellers.len()) {
            self.news = true;
        }
        self.described.retain(|_, description| fresh(description.at));
    }

    /// Whether there is anything that the last `told` did not have.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// Everything that is known, where that is news: of the links those that are near to the own ones, `hops` calls away at
    /// most; all of them where that is 0.
    pub fn told(&mut self, own: &[LinkKey], hops: usize) -> Option<Arc<Told>> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        let keys = self.tellers.values().flat_map(|teller| teller.links.keys());
        let near = (hops > 0).then(|| near(own, keys, hops));
        let is_near = |key: &LinkKey| {
            near.as_ref().is_none_or(|near| near.contains(&key.source) || near.contains(&key.destination))
        };
        let mut words: BTreeMap<&LinkKey, Vec<&Arc<ToldLink>>> = BTreeMap::new();
        for (key, word) in self.tellers.values().flat_map(|teller| &teller.links).filter(|(key, _)| is_near(key)) {
            words.entry(key).or_default().push(&word.link);
        }
        let links: Vec<Arc<ToldLink>> = words.into_values().filter_map(|words| together(&words)).collect();
        let ends: HashSet<&NodeKey> = links.iter().flat_map(|l| [&l.key.source, &l.key.destination]).collect();
        let mut nodes: Vec<Arc<ToldNode>> = ends
            .into_iter()
            .filter_map(|key| {
                let Description { described, report, .. } = self.described.get(key)?.clone();
                Some(Arc::new(ToldNode { key: key.clone(), described, report }))
            })
            .collect();
        nodes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let last = &self.told;
        let same = last.links.iter().map(|l| &l.key).eq(links.iter().map(|l| &l.key))
            && last.nodes.iter().map(|n| (&n.key, &n.described)).eq(nodes.iter().map(|n| (&n.key, &n.described)));
        let shape = if same { last.shape } else { last.shape + 1 };
        self.told = Arc::new(Told { shape, links, nodes });
        Some(self.told.clone())
    }

    /// What others should tell this node of: the services of what is near to its own links. `service` knows of instances
    /// that nobody told of.
    pub fn interest(&self, own: &[LinkKey], hops: usize, service: &dyn Fn(&NodeKey) -> Option<Arc<str>>) -> Interest {
        if hops == 0 {
            return Interest::default();
        }
        let keys = self.tellers.values().flat_map(|teller| teller.links.keys());
        let named = |node: &NodeKey| {
            let told = || Some(self.described.get(node)?.described.service.clone());
            service(node).or_else(told).filter(|name| !name.is_empty()).unwrap_or_else(|| node.0.clone())
        };
        let names: Vec<Arc<str>> = near(own, keys, hops).into_iter().map(named).collect();
        Interest::in_services(names.iter().map(|name| &**name))
    }

    /// How many links are known.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links
    }

    /// Who tells, by name.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.tellers.iter().map(|(node, teller)| Peer {
            node: node.clone(),
            zone: teller.zone.clone(),
            heard: teller.heard,
            links: teller.links.len(),
        })
    }
}

/// What all who tell of a link say together.
fn together(words: &[&Arc<ToldLink>]) -> Option<Arc<ToldLink>> {
    let (first, others) = words.split_first()?;
    if others.is_empty() {
        return Some(Arc::clone(first));
    }
    let (mut by, mut at, mut account) = (String::from(&*first.by), first.at, first.account().clone());
    for word in others {
        by.push_str(", ");
        by.push_str(&word.by);
        // The youngest would make others seem fresh that nobody repeats any more.
        at = at.min(word.at);
        account.merge(word.account());
    }
    Some(Arc::new(ToldLink::new(first.key.clone(), by.into(), at, account)))
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
