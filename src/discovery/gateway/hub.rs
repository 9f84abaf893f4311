//! What is known of routes and Services, and what is made of all of it together.
//!
//! Watches write here, each for one kind in one namespace or in all; the merge reads. What was told stays until it is told
//! otherwise. There is a bound to everything: objects ([`MAX_OBJECTS`]), rules and clusters (the configuration's).

use super::rules::Refusal;
use super::translate::{self, Age, Backend, Made, Outcome, Rank, TOO_MANY, UNRESOLVED, World, accepted, age, resolved};
use super::types::{Key, Kind, Meta, ParentRef, RouteObject, ServiceObject, Spec};
use crate::config::{Cluster, Config, Route};
use crate::discovery::finds::{Fault, Trouble};
use crate::discovery::listing::told;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The most routes that are kept, and the most Services.
pub const MAX_OBJECTS: usize = 20_000;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Routes.
    Routes(Kind),
    /// Services, for their ports.
    Services,
}

impl Resource {
    /// All that is needed.
    pub const ALL: [Self; 3] = [Self::Routes(Kind::Http), Self::Routes(Kind::Grpc), Self::Services];

    /// What the API server calls it.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Routes(kind) => kind.plural(),
            Self::Services => "services",
        }
    }
}

/// A watch: what, and in which namespace; in all without.
pub type Watch = (Resource, Option<String>);

/// How a watch is.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Whether it told of all that there is, once.
    pub listed: bool,
    /// Why it does not work now.
    pub trouble: Option<Trouble>,
    /// Failures so far.
    pub failures: u64,
}

/// A version of a route that was followed.
#[derive(Debug)]
struct Good {
    uid: String,
    generation: i64,
    spec: Spec,
}

#[derive(Debug, Default)]
struct Known {
    routes: BTreeMap<Key, RouteObject>,
    services: BTreeMap<(String, String), ServiceObject>,
    watches: BTreeMap<Watch, Watched>,
    /// The last version of each route that could be followed.
    good: BTreeMap<Key, Good>,
    /// How many objects had no room.
    beyond: usize,
}

/// What is known, and who is to be told.
#[derive(Debug)]
pub struct Hub {
    known: Mutex<Known>,
    /// Rung when the merge should look.
    news: Arc<Notify>,
    /// What is to be written into the routes' status; none where nothing is.
    outcomes: Mutex<Option<Vec<Outcome>>>,
    /// Rung when there is another.
    written: Notify,
    /// Writes of a status, and those that failed.
    writes: Mutex<(u64, u64)>,
    /// Whether each watch has said something.
    spoken: watch::Sender<bool>,
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
struct Candidate {
    key: Key,
    age: Age,
    generation: i64,
    parents: Vec<(ParentRef, Option<Refusal>)>,
    made: Made,
    kept: Option<i64>,
}

impl Hub {
    /// Knows nothing; `news` is rung each time that something changed.
    #[must_use]
    pub fn new(news: Arc<Notify>) -> Self {
        Self {
            known: Mutex::default(),
            news,
            outcomes: Mutex::default(),
            written: Notify::new(),
            writes: Mutex::default(),
            spoken: watch::Sender::new(false),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These watches there are; what others told is forgotten.
    pub fn expect(&self, watches: &[Watch]) {
        let mut known = self.known();
        *known =
            Known { watches: watches.iter().map(|w| (w.clone(), Watched::default())).collect(), ..Known::default() };
    }

    /// There is nobody to ask.
    #[cfg(not(feature = "kubernetes"))]
    pub fn unavailable(&self, why: &str) {
        let watches = Resource::ALL.map(|resource| (resource, None));
        self.expect(&watches);
        watches.iter().for_each(|watch| self.fails(watch, Fault::Unavailable, why.to_owned()));
    }

    /// These are all objects that a watch sees.
    pub fn replace(&self, (resource, namespace): &Watch, objects: &[Value]) {
        let mut known = self.known();
        let here = |of: &str| namespace.as_deref().is_none_or(|namespace| namespace == of);
        match resource {
            Resource::Routes(kind) => {
                let named: HashSet<Key> =
                    objects.iter().filter_map(|object| Some(RouteObject::read(*kind, object)?.0)).collect();
                known.routes.retain(|key, _| key.kind != *kind || !here(&key.namespace) || named.contains(key));
            }
            Resource::Services => {
                let named: HashSet<(String, String)> =
                    objects.iter().filter_map(|object| Some(ServiceObject::read(object)?.0)).collect();
                known.services.retain(|id, _| !here(&id.0) || named.contains(id));
            }
        }
        known.beyond = 0;
        objects.iter().for_each(|object| known.set(*resource, object));
    }

    /// This object is new, or another than it was.
    pub fn set(&self, resource: Resource, object: &Value) {
        self.known().set(resource, object);
    }

    /// This one is gone.
    pub fn remove(&self, resource: Resource, object: &Value) {
        let mut known = self.known();
        match resource {
            Resource::Routes(kind) => {
                if let Some((key, _)) = RouteObject::read(kind, object) {
                    known.routes.remove(&key);
                    known.good.remove(&key);
                }
            }
            Resource::Services => {
                if let Some((id, _)) = ServiceObject::read(object) {
                    known.services.remove(&id);
                }
            }
        }
    }

    /// A watch works, and what it told is right.
    pub fn works(&self, watch: &Watch) {
        let mut known = self.known();
        if let Some(watched) = known.watches.get_mut(watch) {
            watched.listed = true;
            if let Some(was) = watched.trouble.take() {
                let after_s = was.since.elapsed().as_secs();
                tracing::info!(source = name(watch), after_s, "discovery of routes works again");
            }
        }
        self.news(&known);
    }

    /// A watch does not work.
    pub fn fails(&self, watch: &Watch, fault: Fault, text: String) {
        let mut known = self.known();
        if let Some(watched) = known.watches.get_mut(watch) {
            watched.failures += 1;
            let text = told(text);
            if watched.trouble.is_none() {
                let (source, reason) = (name(watch), fault.code());
                tracing::warn!(source, reason, "discovery of routes fails, what it told last stays: {text}");
            }
            let since = watched.trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
            watched.trouble = Some(Trouble { fault, text, since });
        }
        self.news(&known);
    }

    /// Waits until each watch has said something, good or bad.
    pub async fn spoken(&self) {
        let mut spoken = self.spoken.subscribe();
        // Its sender is here.
        let _ = spoken.wait_for(|spoken| *spoken).await;
    }

    fn news(&self, known: &Known) {
        let all = known.watches.values().all(|watched| watched.listed || watched.trouble.is_some());
        self.spoken.send_if_modified(|spoken| std::mem::replace(spoken, all) != all);
        self.news.notify_one();
    }

    /// The watches and how they are.
    pub fn watches(&self) -> Vec<(Watch, Watched)> {
        self.known().watches.iter().map(|(watch, watched)| (watch.clone(), watched.clone())).collect()
    }

    /// How many objects had no room.
    pub fn beyond(&self) -> usize {
        self.known().beyond
    }

    /// What all routes together become, by this configuration. None before enough is known to say.
    pub fn translation(&self, config: &Config) -> Option<Translation> {
        self.known().translation(config)
    }

    /// This is to be written into the routes' status.
    pub fn tell(&self, outcomes: Vec<Outcome>) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcomes);
        // Also where nothing changed here: somebody else may have written something into an object.
        self.written.notify_one();
    }

    /// Waits until there may be something to be written.
    pub async fn to_write(&self) {
        self.written.notified().await;
    }

    /// Each route of which something is to be said, or was, with what its object says.
    pub fn each(&self) -> Vec<(Outcome, Meta, Vec<Value>)> {
        let Some(outcomes) = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Vec::new();
        };
        let mut outcomes: BTreeMap<Key, Outcome> = outcomes.into_iter().map(|o| (o.key.clone(), o)).collect();
        let known = self.known();
        let with = |(key, object): (&Key, &RouteObject)| {
            let generation = object.meta.generation;
            // What was said of a route that is nobody's business any more is taken back.
            let nothing = || Outcome { key: key.clone(), generation, parents: Vec::new(), rules: 0, kept: None };
            let outcome = outcomes.remove(key).unwrap_or_else(nothing);
            // Of an older version nothing is said: there will be a word on this one soon.
            (generation == outcome.generation).then(|| (outcome, object.meta.clone(), object.parents.clone()))
        };
        known.routes.iter().filter_map(with).collect()
    }

    /// A status was written, or could not be.
    pub fn wrote(&self, good: bool) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            writes.0 += 1;
        } else {
            writes.1 += 1;
        }
    }

    /// How many writes of a status there were, and how many failed.
    pub fn writes(&self) -> (u64, u64) {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch in words: `httproutes shop`.
pub fn name((resource, namespace): &Watch) -> String {
    format!("{} {}", resource.plural(), namespace.as_deref().unwrap_or("of all namespaces"))
}

impl Known {
    fn set(&mut self, resource: Resource, object: &Value) {
        match resource {
            Resource::Routes(kind) => {
                let Some((key, route)) = RouteObject::read(kind, object) else { return };
                if self.routes.len() >= MAX_OBJECTS && !self.routes.contains_key(&key) {
                    self.beyond += 1;
                    return;
                }
                if self.good.get(&key).is_some_and(|good| good.uid != route.meta.uid) {
                    self.good.remove(&key);
                }
                self.routes.insert(key, route);
            }
            Resource::Services => {
                let Some((id, service)) = ServiceObject::read(object) else { return };
                if self.services.len() >= MAX_OBJECTS && !self.services.contains_key(&id) {
                    self.beyond += 1;
                    return;
                }
                self.services.insert(id, service);
            }
        }
    }

    fn translation(&mut self, config: &Config) -> Option<Translation> {
        let listed = |resource: Resource| {
            let mut of = self.watches.iter().filter(|((watched, _), _)| *watched == resource).peekable();
            of.peek().is_some() && of.all(|(_, watched)| watched.listed)
        };
        let routes = Kind::ALL.iter().any(|kind| listed(Resource::Routes(*kind)));
        if !listed(Resource::Services) || !routes {
            return None;
        }
        let Self { routes, services, good, .. } = self;
        good.retain(|key, _| routes.contains_key(key));
        let mut world = World { settings: &config.gateway_api, services, with_grpc: HashSet::new() };
        let mut candidates = Vec::new();
        for kind in [Kind::Grpc, Kind::Http] {
            for (key, object) in routes.iter().filter(|(key, _)| key.kind == kind) {
                candidates.extend(candidate(&world, key, object, good));
            }
            let followed = candidates.iter().filter(|c: &&Candidate| c.key.kind == Kind::Grpc);
            let parents = followed.flat_map(|c| c.parents.iter().map(move |parent| (&c.key, parent)));
            let of_services = parents.filter(|(_, (parent, refusal))| refusal.is_none() && parent.kind() == "Service");
            world.with_grpc =
                of_services.map(|(key, (parent, _))| (key.namespace.clone(), parent.name.clone())).collect();
        }
        candidates.sort_by(|a, b| (&a.age, a.key.kind).cmp(&(&b.age, b.key.kind)));
        Some(together(config, candidates))
    }
}

/// A route with what it becomes. None where it is not this proxy's business.
fn candidate(world: &World<'_>, key: &Key, object: &RouteObject, good: &mut BTreeMap<Key, Good>) -> Option<Candidate> {
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

/// All of them, the oldest first, as far as there is room.
fn together(config: &Config, candidates: Vec<Candidate>) -> Translation {
    let settings = &config.gateway_api;
    let template = settings.template.as_ref().and_then(|name| config.clusters.get(name));
    let template = template.cloned().unwrap_or_default();
    let mut rules: Vec<(Rank, Route)> = Vec::new();
    let mut backends: BTreeSet<Backend> = BTreeSet::new();
    let mut outcomes = Vec::new();
    for mut candidate in candidates {
        let more = candidate.made.backends.difference(&backends).count();
        let full = [
            (rules.len() + candidate.made.rules.len() > settings.most_rules, "rules", "most_rules"),
            (backends.len() + more > settings.most_clusters, "clusters", "most_clusters"),
        ];
        if let Some((_, what, key)) = full.into_iter().find(|(is, ..)| *is) {
            let message = format!("there are more {what} than `gateway_api.{key}`, and older routes go first");
            for (_, refusal) in &mut candidate.parents {
                refusal.get_or_insert_with(|| Refusal::new(TOO_MANY, message.clone()));
            }
            (candidate.made, candidate.kept) = (Made::default(), None);
        }
        let Candidate { key, generation, parents, made, kept, .. } = candidate;
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
        clusters.insert(UNRESOLVED.to_owned(), translate::unresolved(&template));
    }
    Translation { routes, clusters, outcomes }
}
