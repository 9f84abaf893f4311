//! Routes of the Gateway API, as rules of the routing table; and what becomes of each.
//!
//! **Whose requests.** A parent that is a Service stands for requests to its names: `catalog.shop`, `catalog.shop.svc` and
//! `catalog.shop.svc.cluster.local` (and `catalog`, where one namespace alone counts). `hostnames` say nothing there, as the
//! API wants it of a mesh. A parent that is a Gateway, and named in the configuration, stands for requests to `hostnames`.
//! A route belongs to the namespace of its parent: nobody takes over another's Service.
//!
//! **Which rule first** (the API's own order): the more exact host; an exact path; a regular expression, the longer one first
//! (the API leaves its place open); the longer prefix; a method; more headers; more parameters of the query; the older route;
//! its name; its place in the route. Of a Service that has GRPCRoutes no HTTPRoute is followed.
//!
//! **Backends.** Each Service and port becomes a cluster, whose endpoints are found by their EndpointSlices. A share of one
//! that does not exist, or may not be used, goes to the cluster [`UNRESOLVED`], which has no endpoints: a clear 500.

use super::backend::{Backend, Terms, unresolved};
use super::grants::Grant;
use super::rules::{self, Refusal, UNSUPPORTED, unsupported};
use super::types::{BackendRef, Key, Kind, Meta, ParentRef, Rule, ServiceObject, Spec};
use crate::config::{self, Cluster, Config, GatewayApi, Mirror, Route, RouteMatch, Severity, Share, UNRESOLVED};
use crate::discovery::listing::told_in_full;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Why a route is not followed as it is: the API's reasons, and one of our own (`TooMany`).
pub const ROUTE_REASONS: [&str; 9] = [
    UNSUPPORTED,
    "IncompatibleFilters",
    "NoMatchingParent",
    "Conflicted",
    "NotAllowedByListeners",
    TOO_MANY,
    "BackendNotFound",
    "RefNotPermitted",
    "InvalidKind",
];

/// A condition of a route at one parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub holds: bool,
    /// Its reason, in the API's words.
    pub reason: &'static str,
    /// What is to be said of it.
    pub message: String,
}

impl Condition {
    fn good(reason: &'static str) -> Self {
        Self { holds: true, reason, message: String::new() }
    }
}

impl From<Refusal> for Condition {
    fn from(refusal: Refusal) -> Self {
        debug_assert!(ROUTE_REASONS.contains(&refusal.reason), "{}", refusal.reason);
        Self { holds: false, reason: refusal.reason, message: told_in_full(&refusal) }
    }
}

/// Which of two rules comes first; in the order of its fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    host: (u8, Reverse<usize>),
    kind: Kind,
    path: (u8, Reverse<usize>),
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// The older route first.
    age: Age,
    /// Of one route: the rule and the match.
    place: (usize, usize),
}

/// How old a route is: when it was made, and its name.
pub type Age = (String, String);

/// A route's age.
pub fn age(meta: &Meta) -> Age {
    (meta.creation_timestamp.clone(), format!("{}/{}", meta.namespace, meta.name))
}

/// What a route that is followed becomes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Made {
    /// Its rules, each with its rank.
    pub rules: Vec<(Rank, Route)>,
    /// Where they lead.
    pub backends: BTreeSet<Backend>,
    /// What of it cannot be found.
    pub missing: Option<Refusal>,
}

/// What is known beside a route.
pub struct World<'a> {
    /// What the configuration says.
    pub settings: &'a GatewayApi,
    /// The Services, by namespace and name.
    pub services: &'a BTreeMap<(String, String), ServiceObject>,
    /// The ReferenceGrants, by namespace and name.
    pub grants: &'a BTreeMap<(String, String), Grant>,
    /// Those that have GRPCRoutes.
    pub with_grpc: HashSet<(String, String)>,
}

/// Hosts, `None` being any; or why there are none.
type Hosts = Result<BTreeSet<Option<String>>, Refusal>;

impl World<'_> {
    /// The parents of a route that are this proxy's business, and what each stands for.
    pub fn parents(&self, key: &Key, spec: &Spec) -> Vec<(ParentRef, Hosts)> {
        let ours = spec.parents.iter().filter_map(|parent| {
            let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
            match (parent.group(), parent.kind()) {
                ("", "Service") => Some((parent.clone(), self.service_hosts(key, parent, namespace))),
                ("gateway.networking.k8s.io", "Gateway") => {
                    let named = format!("{namespace}/{}", parent.name);
                    self.settings
                        .gateways
                        .contains(&named)
                        .then(|| (parent.clone(), gateway_hosts(key, spec, namespace)))
                }
                _ => None,
            }
        });
        ours.collect()
    }

    fn service_hosts(&self, key: &Key, parent: &ParentRef, namespace: &str) -> Hosts {
        let (name, domain) = (&parent.name, &self.settings.domain);
        if namespace != key.namespace {
            return unsupported(format!(
                "a route for the Service of another namespace (`{namespace}/{name}`) is not supported: write it there"
            ));
        }
        let none = |message: String| Err(Refusal::new("NoMatchingParent", message));
        let id = (namespace.to_owned(), name.clone());
        let Some(service) = self.services.get(&id) else {
            return none(format!("there is no Service `{namespace}/{name}`"));
        };
        if service.external {
            return unsupported(format!("the Service `{namespace}/{name}` is another name for a host elsewhere"));
        }
        let is = |(number, port): (&u16, &super::types::ServicePort)| {
            parent.port.is_none_or(|wanted| wanted == *number)
                && parent.section_name.as_ref().is_none_or(|wanted| *wanted == port.name)
        };
        if parent.port.is_some() || parent.section_name.is_some() {
            if !service.ports.iter().any(is) {
                return none(format!("the Service `{namespace}/{name}` has no such port"));
            }
            if service.ports.len() > 1 {
                return unsupported(format!(
                    "a route for one of several ports is not supported: `{namespace}/{name}` has {}, and requests are told apart \
                     by their host without a port",
                    service.ports.len()
                ));
            }
        }
        if key.kind == Kind::Http && self.with_grpc.contains(&id) {
            let message = format!("the Service `{namespace}/{name}` has GRPCRoutes, and those count");
            return Err(Refusal::new("Conflicted", message));
        }
        let full = format!(".svc.{domain}");
        let mut hosts: Vec<String> =
            ["", ".svc", full.as_str()].iter().map(|end| format!("{name}.{namespace}{end}")).collect();
        if self.settings.namespaces.len() == 1 {
            hosts.push(name.clone());
        }
        Ok(hosts.into_iter().map(Some).collect())
    }

    /// What becomes of a route for requests to these hosts.
    pub fn made(&self, key: &Key, meta: &Meta, spec: &Spec, hosts: &BTreeSet<Option<String>>) -> Result<Made, Refusal> {
        let mut made = Made::default();
        let mut all: Vec<((usize, usize), Route)> = Vec::new();
        for (r, rule) in spec.rules.iter().enumerate() {
            let place = format!("rules[{r}]");
            let common = rules::common(rule)
                .and_then(|route| self.destination(key, (rule, &place), route, &mut made))
                .map_err(|refusal| refusal.at(&place))?;
            let replaced = common.rewrite.path_prefix.is_some() || common.redirect.path_prefix.is_some();
            let matches = rules::matches(rule, replaced);
            for (m, matches) in matches.map_err(|refusal| refusal.at(&place))?.into_iter().enumerate() {
                all.push(((r, m), Route { matches, ..common.clone() }));
                if all.len().saturating_mul(hosts.len()) > self.settings.most_rules {
                    return Err(Refusal::new(TOO_MANY, "the route has more rules than `gateway_api.most_rules`"));
                }
            }
        }
        judged(&all, hosts, &made)?;
        if hosts.is_empty() {
            made.backends.clear();
        }
        for host in hosts {
            made.rules.extend(all.iter().map(|(place, route)| {
                let mut route = route.clone();
                route.matches.host.clone_from(host);
                (rank(key.kind, &route.matches, age(meta), *place), route)
            }));
        }
        Ok(made)
    }

    /// Where a rule's requests and their copies go.
    fn destination(
        &self,
        key: &Key,
        (rule, place): (&Rule, &str),
        mut route: Route,
        made: &mut Made,
    ) -> Result<Route, Refusal> {
        let terms = rules::terms(rule)?;
        for filter in &rule.filters {
            let Some(mirror) = filter.request_mirror.as_ref().filter(|_| filter.what == "RequestMirror") else {
                continue;
            };
            let share = match (&mirror.fraction, mirror.percent) {
                (Some(fraction), _) => match fraction.denominator.unwrap_or(100) {
                    0 => return unsupported("a share of a mirror cannot have the denominator 0"),
                    whole => f64::from(fraction.numerator) / f64::from(whole),
                },
                (None, Some(percent)) => f64::from(percent) / 100.0,
                (None, None) => 1.0,
            };
            match self.backend(key, &mirror.backend_ref, Terms::default()) {
                Ok(backend) => {
                    let cluster = Some(backend.cluster());
                    route.mirror = Mirror { cluster, share: Share(share), ..Mirror::default() };
                    made.backends.insert(backend);
                }
                Err(refusal) => missing(made, refusal.at(place)),
            }
        }
        let mut shares: BTreeMap<String, f64> = BTreeMap::new();
        for (i, reference) in rule.backends.iter().enumerate() {
            let here = format!("backendRefs[{i}]");
            if !reference.filters.is_empty() {
                let refused = unsupported("filters of one backend are not supported: write them for the rule");
                return refused.map_err(|refusal| refusal.at(&here));
            }
            let weight = f64::from(reference.weight.unwrap_or(1));
            let cluster = match self.backend(key, reference, terms) {
                Ok(backend) => {
                    let cluster = backend.cluster();
                    if weight > 0.0 {
                        made.backends.insert(backend);
                    }
                    cluster
                }
                Err(refusal) => {
                    missing(made, refusal.at(&here).at(place));
                    UNRESOLVED.to_owned()
                }
            };
            if weight > 0.0 {
                *shares.entry(cluster).or_default() += weight;
            }
        }
        if route.redirect.is_set() {
            if !shares.is_empty() {
                return unsupported("`RequestRedirect` and `backendRefs` cannot both be");
            }
            return Ok(route);
        }
        let whole: f64 = shares.values().sum();
        if shares.len() > 1 {
            route.split = shares.into_iter().map(|(cluster, share)| (cluster, Share(share / whole))).collect();
        } else {
            route.cluster = Some(shares.into_keys().next().unwrap_or_else(|| UNRESOLVED.to_owned()));
        }
        Ok(route)
    }

    /// Whether a route may lead to a Service of another namespace.
    fn is_permitted(&self, key: &Key, namespace: &str, service: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        let here = self.grants.range(first..).take_while(|((its, _), _)| its == namespace);
        here.into_iter().any(|(_, grant)| grant.permits(key, service))
    }

    fn not_permitted(&self, key: &Key, namespace: &str, service: &str) -> String {
        let counts = &self.settings.namespaces;
        if !counts.is_empty() && !counts.iter().any(|counting| counting == namespace) {
            return format!("`{namespace}/{service}` is in a namespace that `gateway_api.namespaces` does not name");
        }
        let (kind, from) = (key.kind.name(), &key.namespace);
        format!(
            "no ReferenceGrant of `{namespace}` lets {kind}s of `{from}` lead to the Service `{namespace}/{service}`"
        )
    }

    fn backend(&self, key: &Key, wanted: &BackendRef, terms: Terms) -> Result<Backend, Refusal> {
        let (group, kind) = (wanted.group.as_deref().unwrap_or(""), wanted.kind.as_deref().unwrap_or("Service"));
        let name = &wanted.name;
        if (group, kind) != ("", "Service") {
            let message = format!("`{kind}` `{name}` is no Service, and nothing else is supported");
            return Err(Refusal::new("InvalidKind", message));
        }
        let namespace = wanted.namespace.clone().unwrap_or_else(|| key.namespace.clone());
        // Before it is looked for: who may not lead there is not told whether there is one.
        if namespace != key.namespace && !self.is_permitted(key, &namespace, name) {
            return Err(Refusal::new("RefNotPermitted", self.not_permitted(key, &namespace, name)));
        }
        let none = |message: String| Err(Refusal::new("BackendNotFound", message));
        let Some(service) = self.services.get(&(namespace.clone(), name.clone())).filter(|service| !service.external)
        else {
            return none(format!("there is no Service `{namespace}/{name}` with endpoints"));
        };
        let found = wanted.port.and_then(|number| Some((number, service.ports.get(&number)?)));
        let Some((number, port)) = found else {
            let said = wanted.port.map_or_else(|| "not said".to_owned(), |number| number.to_string());
            return none(format!("the Service `{namespace}/{name}` has no such port: {said}"));
        };
        Ok(Backend {
            namespace,
            service: name.clone(),
            port: number,
            port_name: port.name.clone(),
            http2: port.http2 || key.kind == Kind::Grpc,
            terms,
        })
    }
}

/// There is no room for it any more.
pub const TOO_MANY: &str = "TooMany";

/// The first thing that is missing is told.
fn missing(made: &mut Made, refusal: Refusal) {
    made.missing.get_or_insert(refusal);
}

/// A Gateway that is named in the configuration stands for the hosts that a route names, whoever listens for it.
fn gateway_hosts(key: &Key, spec: &Spec, namespace: &str) -> Hosts {
    if namespace != key.namespace {
        let message =
            format!("routes for a Gateway of another namespace (`{namespace}`) are not followed: write it there");
        return Err(Refusal::new("NotAllowedByListeners", message));
    }
    if spec.hostnames.is_empty() {
        return Ok(BTreeSet::from([None]));
    }
    Ok(spec.hostnames.iter().cloned().map(Some).collect())
}

/// Holds what was made to the rules that the configuration's own routes are held to.
fn judged(all: &[((usize, usize), Route)], hosts: &BTreeSet<Option<String>>, made: &Made) -> Result<(), Refusal> {
    let (template, mut config) = (Cluster::default(), Config::default());
    config.clusters = made.backends.iter().map(|backend| (backend.cluster(), unresolved(&template))).collect();
    config.clusters.insert(UNRESOLVED.to_owned(), unresolved(&template));
    config.routes = all.iter().map(|(_, route)| route.clone()).collect();
    let named = hosts.iter().flatten().map(|host| Route {
        matches: RouteMatch { host: Some(host.clone()), ..RouteMatch::default() },
        cluster: Some(UNRESOLVED.to_owned()),
        ..Route::default()
    });
    config.routes.extend(named);
    let findings = config::validate(&config);
    let Some(error) = findings.iter().find(|finding| finding.severity == Severity::Error) else { return Ok(()) };
    let place = error.path.steps.iter().find_map(|step| match step {
        config::validate::Step::Index(index) => all.get(*index).map(|(place, _)| *place),
        config::validate::Step::Key(_) => None,
    });
    let place = place.map_or_else(|| "hostnames".to_owned(), |(r, m)| format!("rules[{r}].matches[{m}]"));
    Err(Refusal::new(UNSUPPORTED, format!("{}; {}", error.message, error.remedy)).at(&place))
}

fn rank(kind: Kind, matches: &RouteMatch, age: Age, place: (usize, usize)) -> Rank {
    let host = match matches.host.as_deref() {
        Some(host) if !host.starts_with('*') => (0, Reverse(host.len())),
        Some(host) => (1, Reverse(host.len())),
        None => (2, Reverse(0)),
    };
    let path = match (&matches.path, &matches.path_regex, &matches.path_prefix) {
        (Some(path), ..) => (0, Reverse(path.len())),
        (None, Some(regex), _) => (1, Reverse(regex.len())),
        (None, None, Some(prefix)) => (2, Reverse(prefix.trim_end_matches('/').len())),
        (None, None, None) => (2, Reverse(0)),
    };
    Rank {
        host,
        kind,
        path,
        without_method: matches.method.is_none(),
        headers: Reverse(matches.headers.len() + matches.headers_regex.len()),
        query: Reverse(matches.query.len() + matches.query_regex.len()),
        age,
        place,
    }
}

/// What became of a route, for those who look.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which route.
    pub key: Key,
    /// Which version of it was judged.
    pub generation: i64,
    /// Of each parent: whether the route is followed for it, and whether its backends are known.
    pub parents: Vec<(ParentRef, Condition, Condition)>,
    /// How many rules of the table come from it.
    pub rules: usize,
    /// The version whose rules stay, where this one is refused.
    pub kept: Option<i64>,
}

impl Outcome {
    /// Its word in metrics: the worst of its parents.
    #[must_use]
    pub fn word(&self) -> &'static str {
        let all = |holds: fn(&(ParentRef, Condition, Condition)) -> bool| self.parents.iter().all(holds);
        match (all(|(_, accepted, _)| accepted.holds), all(|(_, _, resolved)| resolved.holds)) {
            (false, _) => "refused",
            (true, false) => "unresolved",
            (true, true) => "accepted",
        }
    }
}

/// That a route is followed, or why it is not.
pub fn accepted(refusal: Option<Refusal>) -> Condition {
    refusal.map_or_else(|| Condition::good("Accepted"), Condition::from)
}

/// That its backends are known, or which one is not.
pub fn resolved(missing: Option<Refusal>) -> Condition {
    missing.map_or_else(|| Condition::good("ResolvedRefs"), Condition::from)
}
