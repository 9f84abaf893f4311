//! What a configuration says about admission, with the gates and buckets that it says it of.
//!
//! A table belongs to a generation. Gates and buckets outlive it: a table takes those over from the one before whose
//! settings are the same, so that a reload neither forgets what was learnt nor fills a bucket.

use super::bucket::Bucket;
use super::gate::Gate;
use super::priority::{ClassId, Classes};
use crate::config::{Config, RateLimit};
use crate::route::{ClusterId, WorkloadId};
use std::collections::HashMap;
use std::sync::Arc;

/// A bucket, and by what name and settings it is taken over.
#[derive(Debug, Clone)]
pub struct Limited {
    /// The workload's name, or the route as it is written.
    pub name: Arc<str>,
    rate: RateLimit,
    /// The bucket.
    pub bucket: Arc<Bucket>,
}

/// What a route says.
#[derive(Debug, Clone, Default)]
struct RouteSays {
    class: Option<ClassId>,
    limited: Option<Limited>,
}

/// What a workload says.
#[derive(Debug, Clone, Default)]
struct WorkloadSays {
    trusted: bool,
    limited: Option<Limited>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Table {
    /// Whether there is anything to do for a request.
    pub active: bool,
    /// Whether requests are told apart by priority here, so that what is known of it is said further on.
    pub priorities: bool,
    /// The classes.
    pub classes: Classes,
    gates: Box<[Option<Arc<Gate>>]>,
    connections: Box<[Option<u32>]>,
    routes: Box<[RouteSays]>,
    workloads: Box<[WorkloadSays]>,
}

impl Table {
    /// The table of a configuration, for so many serving threads, which takes over what it can.
    #[must_use]
    pub fn compile(config: &Config, cores: usize, before: Option<&Table>) -> Self {
        let classes = Classes::compile(&config.priority);
        let known: HashMap<&str, &Arc<Gate>> =
            before.into_iter().flat_map(Table::gates).map(|gate| (&*gate.cluster, gate)).collect();
        let gates: Box<[Option<Arc<Gate>>]> = config
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let before = known.get(name.as_str()).copied();
                Gate::of(&name.as_str().into(), &cluster.admission, &classes, (cores, cluster.endpoints.len()), before)
            })
            .collect();
        let same_classes = before.is_some_and(|b| b.classes.names().eq(classes.names()));
        let limited = |name: &str, rate: &Option<RateLimit>, before: Option<&Limited>| {
            let rate = rate.as_ref()?;
            if let Some(kept) = before.filter(|b| same_classes && *b.name == *name && b.rate == *rate) {
                return Some(kept.clone());
            }
            let per_second = rate.requests.per_second();
            let burst = rate.burst.unwrap_or(per_second.ceil().clamp(1.0, f64::from(u32::MAX)) as u32);
            let bucket = Bucket::new(per_second, burst, cores, classes.names().len());
            Some(Limited { name: name.into(), rate: rate.clone(), bucket: Arc::new(bucket) })
        };
        let routes: Box<[RouteSays]> = config
            .routes
            .iter()
            .enumerate()
            .map(|(i, route)| {
                let before = before.and_then(|b| b.routes.get(i)?.limited.as_ref());
                RouteSays {
                    class: route.class.as_ref().and_then(|name| classes.named(name.as_bytes())),
                    limited: limited(&format!("{i} {}", route.label()), &route.rate, before),
                }
            })
            .collect();
        let workloads: Box<[WorkloadSays]> = config
            .workloads
            .iter()
            .map(|(name, workload)| {
                let before = before.and_then(|b| b.workload_limits().find(|l| *l.name == **name));
                WorkloadSays { trusted: workload.trusted, limited: limited(name, &workload.rate, before) }
            })
            .collect();
        let connections: Box<[Option<u32>]> = config
            .clusters
            .values()
            .map(|cluster| match cluster.admission.connections {
                crate::config::OffOr::Off => None,
                crate::config::OffOr::Set(most) => Some(most),
            })
            .collect();
        let priorities = gates.iter().any(Option::is_some)
            || routes.iter().any(|r| r.class.is_some())
            || workloads.iter().any(|w| w.trusted);
        let active =
            priorities || routes.iter().any(|r| r.limited.is_some()) || workloads.iter().any(|w| w.limited.is_some());
        Self { active, priorities, classes, gates, connections, routes, workloads }
    }

    /// A cluster's gate, where it has one.
    #[must_use]
    pub fn gate(&self, id: ClusterId) -> Option<&Arc<Gate>> {
        self.gates.get(id.0 as usize)?.as_ref()
    }

    /// All gates.
    pub fn gates(&self) -> impl Iterator<Item = &Arc<Gate>> {
        self.gates.iter().flatten()
    }

    /// How many connections a cluster's endpoints may each have.
    #[must_use]
    pub fn connections(&self, id: ClusterId) -> Option<u32> {
        self.connections.get(id.0 as usize).copied().flatten()
    }

    /// The class that a route gives, by the route's position.
    #[must_use]
    pub fn route_class(&self, index: u32) -> Option<ClassId> {
        self.routes.get(index as usize)?.class
    }

    /// Whether a workload is believed what it says of its requests.
    #[must_use]
    pub fn trusts(&self, id: WorkloadId) -> bool {
        self.workloads.get(id.0 as usize).is_some_and(|w| w.trusted)
    }

    /// A route's rate limit, by the route's position.
    #[must_use]
    pub fn route_limit(&self, index: u32) -> Option<&Limited> {
        self.routes.get(index as usize)?.limited.as_ref()
    }

    /// A workload's rate limit.
    #[must_use]
    pub fn workload_limit(&self, id: WorkloadId) -> Option<&Limited> {
        self.workloads.get(id.0 as usize)?.limited.as_ref()
    }

    /// All rate limits of routes.
    pub fn route_limits(&self) -> impl Iterator<Item = &Limited> {
        self.routes.iter().filter_map(|r| r.limited.as_ref())
    }

    /// All rate limits of workloads.
    pub fn workload_limits(&self) -> impl Iterator<Item = &Limited> {
        self.workloads.iter().filter_map(|w| w.limited.as_ref())
    }
}
