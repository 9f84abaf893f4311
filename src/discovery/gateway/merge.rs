//! All routes together: each with what it becomes, the oldest first, as far as there is room; and the last version of each
//! that could be followed, which stays in force where the one after it cannot.

use super::backend::{self, Backend};
use super::rules::Refusal;
use super::translate::{Age, Made, Outcome, Rank, TOO_MANY, World, accepted, age, resolved};
use super::types::{Key, ParentRef, RouteObject, Spec};
use crate::config::{Cluster, Config, Route, UNRESOLVED};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A version of a route that was followed.
#[derive(Debug)]
pub struct Good {
    uid: String,
    generation: i64,
    spec: Spec,
}

impl Good {
    /// Whose version it was: another object of the same name is another one.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

/// What all routes together become.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Translation {
    /// The rules, first match first.
    pub routes: Vec<Route>,
    /// The clusters that they lead to.
    pub clusters: BTreeMap<String, Cluster>,
    /// What became of each route.
    pub outcomes: Vec<Outcome>,
}

impl Translation {
    /// Whether requests go the same ways by both.
    pub fn leads_as(&self, other: &Self) -> bool {
        self.routes == other.routes && self.clusters == other.clusters
    }
}

/// A route that may be followed, with what it becomes.
pub struct Candidate {
    pub key: Key,
    age: Age,
    generation: i64,
    pub parents: Vec<(ParentRef, Option<Refusal>)>,
    made: Made,
    kept: Option<i64>,
}

/// A route with what it becomes. None where it is not this proxy's business.
pub fn candidate(
    world: &World<'_>,
    key: &Key,
    object: &RouteObject,
    good: &mut BTreeMap<Key, Good>,
) -> Option<Candidate> {
    let made = |spec: &Spec| {
        let parents = world.parents(key, spec);
        let hosts: BTreeSet<Option<String>> =
            parents.iter().filter_map(|(_, hosts)| hosts.as_ref().ok()).flatten().cloned().collect();
        let made = world.made(key, &object.meta, spec, &hosts);
        let parents = parents.into_iter().map(|(parent, hosts)| (parent, hosts.err())).collect::<Vec<_>>();
        (parents, made)
    };
    let (parents, now) = match &object.spec {
        Ok(spec) => made(spec),
        Err((why, parents)) => {
            let spec = Spec { parents: parents.clone(), hostnames: Vec::new(), rules: Vec::new() };
            (made(&spec).0, super::rules::unsupported(format!("the route cannot be read: {why}")))
        }
    };
    if parents.is_empty() {
        return None;
    }
    let (age, generation) = (age(&object.meta), object.meta.generation);
    let candidate =
        |parents, made, kept| Some(Candidate { key: key.clone(), age: age.clone(), generation, parents, made, kept });
    match (now, &object.spec) {
        (Ok(made), Ok(spec)) => {
            let (uid, spec) = (object.meta.uid.clone(), spec.clone());
            good.insert(key.clone(), Good { uid, generation, spec });
            candidate(parents, made, None)
        }
        (Err(mut refusal), _) => {
            let before = good.get(key).map(|good| (good.generation, made(&good.spec)));
            let (kept, made) = match before {
                Some((generation, (_, Ok(made)))) => {
                    refusal.message = format!("{}; the rules of generation {generation} stay", refusal.message);
                    (Some(generation), made)
                }
                _ => (None, Made::default()),
            };
            let parents =
                parents.into_iter().map(|(p, why)| (p, Some(why.unwrap_or_else(|| refusal.clone())))).collect();
            candidate(parents, made, kept)
        }
        (Ok(_), Err(_)) => None,
    }
}

/// How many different regular expressions all routes may have: 64 MiB if each compiles to the most that one may.
const MOST_PATTERNS: usize = 500;

/// All of them, the oldest first, as far as there is room.
pub fn together(config: &Config, mut candidates: Vec<Candidate>) -> Translation {
    candidates.sort_by(|a, b| (&a.age, a.key.kind).cmp(&(&b.age, b.key.kind)));
    let settings = &config.gateway_api;
    let template = settings.template.as_ref().and_then(|name| config.clusters.get(name));
    let template = template.cloned().unwrap_or_default();
    let mut rules: Vec<(Rank, Route)> = Vec::new();
    let mut backends: BTreeSet<Backend> = BTreeSet::new();
    let mut patterns: HashSet<String> = HashSet::new();
    let mut outcomes = Vec::new();
    for mut candidate in candidates {
        let more = candidate.made.backends.difference(&backends).count();
        let written = || candidate.made.rules.iter().flat_map(|(_, route)| route.matches.patterns());
        let new: HashSet<&str> = written().filter(|pattern| !patterns.contains(*pattern)).collect();
        let full = if rules.len() + candidate.made.rules.len() > settings.most_rules {
            Some("rules than `gateway_api.most_rules`".to_owned())
        } else if backends.len() + more > settings.most_clusters {
            Some("clusters than `gateway_api.most_clusters`".to_owned())
        } else if patterns.len() + new.len() > MOST_PATTERNS {
            Some(format!("different regular expressions than {MOST_PATTERNS}"))
        } else {
            None
        };
        if let Some(what) = full {
            let message = format!("there are more {what}, and older routes go first");
            for (_, refusal) in &mut candidate.parents {
                refusal.get_or_insert_with(|| Refusal::new(TOO_MANY, message.clone()));
            }
            (candidate.made, candidate.kept) = (Made::default(), None);
        }
        let Candidate { key, generation, parents, made, kept, .. } = candidate;
        patterns.extend(made.rules.iter().flat_map(|(_, route)| route.matches.patterns().map(str::to_owned)));
        let missing = made.missing.clone();
        let condition =
            |(parent, refusal): (ParentRef, Option<Refusal>)| (parent, accepted(refusal), resolved(missing.clone()));
        let outcome = Outcome {
            key,
            generation,
            parents: parents.into_iter().map(condition).collect(),
            rules: made.rules.len(),
            kept,
        };
        backends.extend(made.backends);
        rules.extend(made.rules);
        outcomes.push(outcome);
    }
    rules.sort_by(|(a, _), (b, _)| a.cmp(b));
    let routes: Vec<Route> = rules.into_iter().map(|(_, route)| route).collect();
    let mut clusters: BTreeMap<String, Cluster> =
        backends.iter().map(|backend| (backend.cluster(), backend.made(&template))).collect();
    let leads = |route: &Route| route.cluster.as_deref() == Some(UNRESOLVED) || route.split.contains_key(UNRESOLVED);
    if routes.iter().any(leads) {
        clusters.insert(UNRESOLVED.to_owned(), backend::unresolved(&template));
    }
    Translation { routes, clusters, outcomes }
}
