//! What is known of routes, Services and ReferenceGrants: objects as they were told last.
//!
//! Watches write here, each for one kind in one namespace or in all; the merge reads. What was told stays until it is told
//! otherwise. There is a bound to everything: objects ([`MAX_OBJECTS`]), rules and clusters (the configuration's).
//!
//! **Without ReferenceGrants.** A cluster may have routes and not this kind (404): then there are no grants, which is said once
//! and is no failure. Where they cannot be read for another reason, what they told last counts, which is none at the start.

use super::grants::Grant;
use super::merge::{Candidate, Good, Translation, candidate, together};
use super::translate::{Outcome, World};
use super::types::{Key, Kind, Meta, RouteObject, ServiceObject};
use crate::config::Config;
use crate::discovery::finds::{Fault, Trouble};
use crate::discovery::listing::told;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The most routes that are kept, the most Services, and the most ReferenceGrants.
pub const MAX_OBJECTS: usize = 20_000;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Routes.
    Routes(Kind),
    /// Services, for their ports.
    Services,
    /// ReferenceGrants, for backends of another namespace.
    Grants,
}

impl Resource {
    /// All that is needed.
    pub const ALL: [Self; 4] = [Self::Routes(Kind::Http), Self::Routes(Kind::Grpc), Self::Services, Self::Grants];

    /// What the API server calls it.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Routes(kind) => kind.plural(),
            Self::Services => "services",
            Self::Grants => "referencegrants",
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
    /// The API server does not know the kind, which says that there are no objects of it.
    pub absent: bool,
}

#[derive(Debug, Default)]
struct Known {
    routes: BTreeMap<Key, RouteObject>,
    services: BTreeMap<(String, String), ServiceObject>,
    grants: BTreeMap<(String, String), Grant>,
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
            Resource::Grants => {
                let named: HashSet<(String, String)> =
                    objects.iter().filter_map(|object| Some(Grant::read(object)?.0)).collect();
                known.grants.retain(|id, _| !here(&id.0) || named.contains(id));
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
            Resource::Grants => {
                if let Some((id, _)) = Grant::read(object) {
                    known.grants.remove(&id);
                }
            }
        }
    }

    /// A watch works, and what it told is right.
    pub fn works(&self, watch: &Watch) {
        let mut known = self.known();
        if let Some(watched) = known.watches.get_mut(watch) {
            (watched.listed, watched.absent) = (true, false);
            if let Some(was) = watched.trouble.take() {
                let after_s = was.since.elapsed().as_secs();
                tracing::info!(source = name(watch), after_s, "discovery of routes works again");
            }
        }
        self.news(&known);
    }

    /// A watch does not work.
    pub fn fails(&self, watch: &Watch, fault: Fault, text: String) {
        if watch.0 == Resource::Grants && fault == Fault::NoSuchName {
            return self.absent(watch);
        }
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

    /// The API server does not know what a watch is for: there is nothing of it.
    fn absent(&self, watch: &Watch) {
        self.replace(watch, &[]);
        let mut known = self.known();
        if let Some(watched) = known.watches.get_mut(watch) {
            if !watched.absent {
                let source = name(watch);
                tracing::info!(source, "the kind is not installed, so no backend in another namespace is allowed");
            }
            (watched.listed, watched.absent, watched.trouble) = (true, true, None);
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
                if self.good.get(&key).is_some_and(|good| good.uid() != route.meta.uid) {
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
            Resource::Grants => {
                let Some((id, grant)) = Grant::read(object) else { return };
                if self.grants.len() >= MAX_OBJECTS && !self.grants.contains_key(&id) {
                    self.beyond += 1;
                    return;
                }
                self.grants.insert(id, grant);
            }
        }
    }

    fn translation(&mut self, config: &Config) -> Option<Translation> {
        let listed = |resource: Resource| {
            let mut of = self.watches.iter().filter(|((watched, _), _)| *watched == resource).peekable();
            of.peek().is_some() && of.all(|(_, watched)| watched.listed)
        };
        let routes = Kind::ALL.iter().any(|kind| listed(Resource::Routes(*kind)));
        // What somebody may do who asked and could not be told, nobody may. Who was not told yet waits.
        let grants = self.watches.iter().filter(|((watched, _), _)| *watched == Resource::Grants);
        let heard = grants.map(|(_, watched)| watched).all(|watched| watched.listed || watched.trouble.is_some());
        if !listed(Resource::Services) || !routes || !heard {
            return None;
        }
        let Self { routes, services, grants, good, .. } = self;
        good.retain(|key, _| routes.contains_key(key));
        let mut world = World { settings: &config.gateway_api, services, grants, with_grpc: HashSet::new() };
        let mut candidates: Vec<Candidate> = Vec::new();
        for kind in [Kind::Grpc, Kind::Http] {
            for (key, object) in routes.iter().filter(|(key, _)| key.kind == kind) {
                candidates.extend(candidate(&world, key, object, good));
            }
            let followed = candidates.iter().filter(|c| c.key.kind == Kind::Grpc);
            let parents = followed.flat_map(|c| c.parents.iter().map(move |parent| (&c.key, parent)));
            let of_services = parents.filter(|(_, (parent, refusal))| refusal.is_none() && parent.kind() == "Service");
            world.with_grpc =
                of_services.map(|(key, (parent, _))| (key.namespace.clone(), parent.name.clone())).collect();
        }
        Some(together(config, candidates))
    }
}
