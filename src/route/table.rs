//! The compiled table.

use super::actions::Actions;
use super::affinity::Affinity;
use super::connections::{Connections, is_tcp};
use super::index::Index;
use super::matcher::{Matcher, Patterns, host_without_port};
use crate::config::{Config, Route, SourceNet, TlsMode};
use crate::identity::Rules;
use crate::observe::{RouteLabel, RouteLabels};
use http::{HeaderMap, HeaderName, Method};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A cluster's position in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u32);

/// A workload's position in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(pub u32);

/// What matching looks at.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The host, with or without a port.
    pub host: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The query without its `?`; empty where there is none.
    pub query: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its position in the configuration, from 0.
    pub index: u32,
    /// Its place in the table: [`RouteTable::rule`] finds it there.
    pub place: u32,
    /// A short name for logs: host and path as written, or `*`.
    pub label: Arc<str>,
    /// The same for metrics, as far as they tell routes apart.
    pub counted: RouteLabel,
    /// How long a whole request may take, where the rule says so.
    pub timeout: Option<Duration>,
    /// What it does to its requests beyond choosing a cluster; mostly nothing.
    pub actions: Option<Arc<Actions>>,
    /// Whether its requests may be repeated, where the rule says so.
    pub idempotent: Option<bool>,
    /// Clusters with the upper end of their part of 0..2^32.
    targets: Box<[(u64, ClusterId)]>,
}

impl Rule {
    /// The cluster for a request, by 32 random bits.
    #[must_use]
    pub fn cluster(&self, random: u32) -> Option<ClusterId> {
        let point = u64::from(random);
        self.targets.iter().find(|(end, _)| point < *end).or_else(|| self.targets.last()).map(|(_, id)| *id)
    }
}

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: Arc<str>,
    /// The service that it is an instance of.
    pub service: Arc<str>,
    /// Where it serves, when it is itself an endpoint.
    pub serves: Option<SocketAddr>,
    /// Who may send what; everybody everything without.
    pub allow: Option<Rules>,
}

/// Rules, clusters' names and workloads of one configuration.
#[derive(Debug, Default, PartialEq)]
pub struct RouteTable {
    rules: Box<[(Matcher, Rule)]>,
    /// What metrics call the rules; sorted.
    labels: Box<[RouteLabel]>,
    index: Index,
    clusters: Box<[Arc<str>]>,
    /// By cluster.
    affinities: Box<[Option<Affinity>]>,
    workloads: Box<[Workload]>,
    sources: BTreeMap<SocketAddr, Box<[Source]>>,
    /// Listeners that speak TLS.
    secured: BTreeMap<SocketAddr, TlsMode>,
    connections: Connections,
}

/// A workload on a listener, and the network that it calls from; everybody without one.
type Source = (Option<SourceNet>, WorkloadId);

impl RouteTable {
    /// Compiles a configuration, which must have been validated: what cannot match is left out.
    #[must_use]
    pub fn compile(config: &Config) -> Self {
        let clusters: Box<[Arc<str>]> = config.clusters.keys().map(|name| name.as_str().into()).collect();
        let ids: HashMap<&str, ClusterId> =
            config.clusters.keys().zip(0u32..).map(|(n, i)| (n.as_str(), ClusterId(i))).collect();
        let (tcp, http): (Vec<_>, Vec<_>) =
            config.routes.iter().zip(0u32..).partition(|(route, _)| is_tcp(route, config));
        let (mut labels, mut patterns) = (RouteLabels::default(), Patterns::default());
        let mut compile = |(route, index)| compile_rule(route, index, &ids, &mut labels, &mut patterns);
        let mut rules: Box<[(Matcher, Rule)]> = http.into_iter().filter_map(&mut compile).collect();
        rules.iter_mut().zip(0..).for_each(|((_, rule), place)| rule.place = place);
        let tcp = tcp.into_iter().filter_map(|(route, index)| Some((route, compile((route, index))?.1)));
        let connections = Connections::compile(config, tcp.collect());

        let index = Index::new(rules.iter().map(|(matcher, _)| matcher));

        let mut sources: BTreeMap<SocketAddr, Vec<Source>> = BTreeMap::new();
        let mut secured = BTreeMap::new();
        let mut workloads = Vec::new();
        for ((name, workload), id) in config.workloads.iter().zip(0u32..) {
            let service = if workload.service.is_empty() { name } else { &workload.service };
            workloads.push(Workload {
                name: name.as_str().into(),
                service: service.as_str().into(),
                serves: workload.serves,
                allow: Rules::compile(&workload.allow),
            });
            if let Some(listen) = workload.listen {
                if workload.tls != TlsMode::Disabled {
                    secured.insert(listen, workload.tls);
                }
                sources.entry(listen).or_default().push((workload.source, WorkloadId(id)));
            }
        }
        // The narrowest network first; who has no network is everybody else.
        for on_listener in sources.values_mut() {
            on_listener.sort_by_key(|(net, _)| std::cmp::Reverse(net.map_or(-1, |n| i16::from(n.prefix))));
        }
        Self {
            rules,
            labels: labels.sorted(),
            index,
            clusters,
            affinities: config.clusters.values().map(|c| Affinity::compile(&c.affinity)).collect(),
            workloads: workloads.into(),
            sources: sources.into_iter().map(|(listen, list)| (listen, list.into())).collect(),
            secured,
            connections,
        }
    }

    /// The first rule that a request matches.
    #[must_use]
    pub fn find(&self, request: &RequestHead<'_>) -> Option<&Rule> {
        let host = host_without_port(request.host);
        let matches =
            |position: u32| self.rules.get(position as usize).is_some_and(|(matcher, _)| matcher.matches_rest(request));
        let position = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            self.index.first(&host.to_ascii_lowercase(), request.path, matches)
        } else {
            self.index.first(host, request.path, matches)
        };
        self.rules.get(position? as usize).map(|(_, rule)| rule)
    }

    /// The rule at a place.
    #[must_use]
    pub fn rule(&self, place: u32) -> Option<&Rule> {
        self.rules.get(place as usize).map(|(_, rule)| rule)
    }

    /// Whether metrics tell a rule of this label from others.
    #[must_use]
    pub fn counts(&self, label: &RouteLabel) -> bool {
        self.labels.binary_search(label).is_ok()
    }

    /// The workload that a connection belongs to: by the listener, then by the narrowest network of its source address.
    #[must_use]
    pub fn workload_of(&self, listen: SocketAddr, peer: IpAddr) -> Option<WorkloadId> {
        let here = self.sources.get(&listen)?;
        here.iter().find(|(net, _)| net.is_none_or(|n| n.contains(peer))).map(|(_, id)| *id)
    }

    /// Whether clients of a listener must prove who they are.
    #[must_use]
    pub fn tls(&self, listen: SocketAddr) -> TlsMode {
        self.secured.get(&listen).copied().unwrap_or_default()
    }

    /// Whether connections are taken as they were before: by the same listeners' modes, and from the same workloads.
    #[must_use]
    pub fn takes_as(&self, before: &Self) -> bool {
        let allow = self.workloads.iter().map(|workload| &workload.allow);
        self.secured == before.secured
            && self.sources == before.sources
            && allow.eq(before.workloads.iter().map(|workload| &workload.allow))
    }

    /// What it knows of connections that are no HTTP, or come another way than most.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// A workload by its id.
    #[must_use]
    pub fn workload(&self, id: WorkloadId) -> Option<&Workload> {
        self.workloads.get(id.0 as usize)
    }

    /// All workloads, by id.
    #[must_use]
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The clusters' names, by id.
    #[must_use]
    pub fn clusters(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// By what a cluster's requests stay with an endpoint, where they do.
    #[must_use]
    pub fn affinity(&self, cluster: ClusterId) -> Option<&Affinity> {
        self.affinities.get(cluster.0 as usize)?.as_ref()
    }

    /// The headers that rules and clusters ask for, some more than once.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let affinities = self.affinities.iter().flatten().filter_map(Affinity::header);
        self.rules.iter().flat_map(|(matcher, _)| matcher.asked_headers()).chain(affinities)
    }

    /// The addresses to listen on.
    pub fn listeners(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sources.keys().copied()
    }
}

fn compile_rule<'c>(
    route: &'c Route,
    index: u32,
    ids: &HashMap<&str, ClusterId>,
    labels: &mut RouteLabels,
    patterns: &mut Patterns<'c>,
) -> Option<(Matcher, Rule)> {
    let matcher = Matcher::compile(&route.matches, patterns)?;
    let mut targets = Vec::new();
    if let Some(cluster) = &route.cluster {
        targets.push((1u64 << 32, *ids.get(cluster.as_str())?));
    } else {
        let sum: f64 = route.split.values().map(|s| s.0).sum();
        let mut end = 0.0;
        for (cluster, share) in &route.split {
            end += share.0 / sum;
            // A share of nothing has an empty part of the range.
            if share.0 > 0.0 {
                targets.push(((end * 2f64.powi(32)).round() as u64, *ids.get(cluster.as_str())?));
            }
        }
    }
    let timeout = route.timeout.map(|t| t.0).filter(|t| !t.is_zero());
    let idempotent = route.idempotent;
    let actions = Actions::compile(route, ids)?.map(Arc::new);
    let label: Arc<str> = route.label().into();
    let (place, counted, targets) = (0, labels.of(&label), targets.into());
    Some((matcher, Rule { index, place, label, counted, timeout, actions, idempotent, targets }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, RouteMatch, Share, Workload as WorkloadConfig};

    fn config(routes: Vec<Route>) -> Config {
        let clusters = ["a", "b", "c"].map(|n| (n.to_owned(), Cluster::default()));
        Config { routes, clusters: clusters.into(), ..Config::default() }
    }

    fn rule(matches: RouteMatch, cluster: &str) -> Route {
        Route { matches, cluster: Some(cluster.into()), ..Route::default() }
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> Option<u32> {
        let (method, headers) = (Method::GET, HeaderMap::new());
        table.find(&RequestHead { host, path, query: "", method: &method, headers: &headers }).map(|r| r.index)
    }

    fn host(host: &str) -> RouteMatch {
        RouteMatch { host: Some(host.into()), ..RouteMatch::default() }
    }

    /// The same rules, with and without enough others before them that the index is used.
    fn with_and_without_index(rules: Vec<Route>) -> [(u32, RouteTable); 2] {
        let filler: Vec<_> = (0..20).map(|i| rule(host(&format!("filler-{i}")), "a")).collect();
        let many = filler.into_iter().chain(rules.clone()).collect();
        [(0, RouteTable::compile(&config(rules))), (20, RouteTable::compile(&config(many)))]
    }

    #[test]
    fn the_first_match_wins_whatever_its_kind() {
        let v2 = RouteMatch { path_prefix: Some("/v2/".into()), ..RouteMatch::default() };
        let rules =
            vec![rule(host("*.shop"), "a"), rule(host("Catalog.shop"), "b"), rule(v2, "c"), rule(host("x"), "a")];
        for (first, table) in with_and_without_index(rules) {
            assert_eq!(found(&table, "catalog.shop", "/"), Some(first));
            assert_eq!(found(&table, "x:8080", "/v2/y"), Some(first + 2), "an earlier rule without a host");
            assert_eq!(found(&table, "X", "/v20"), Some(first + 3), "a prefix ends at a slash");
            assert_eq!(found(&table, "shop", "/v2"), Some(first + 2), "a wildcard wants a label");
            assert_eq!(found(&table, "y", "/"), None);
        }
    }

    #[test]
    fn a_rule_is_found_by_its_place_and_counted_by_its_label() {
        let rules = vec![rule(host("x"), "a"), rule(host("y"), "nowhere"), rule(host("z"), "b"), rule(host("x"), "c")];
        let table = RouteTable::compile(&config(rules));
        let method = Method::GET;
        let head = RequestHead { host: "z", path: "/", query: "", method: &method, headers: &HeaderMap::new() };
        let found = table.find(&head).unwrap();
        assert_eq!((found.index, found.place, &*found.label, found.counted.as_str()), (2, 1, "z", "z"));
        assert_eq!(table.rule(found.place), Some(found));
        let [x, z] = [0, 1].map(|place| table.rule(place).unwrap().counted.clone());
        assert_eq!(table.rule(2).unwrap().counted, x, "what has the same label is counted together");
        let other = RouteTable::compile(&config(vec![rule(host("z"), "c")]));
        assert!(table.counts(&x) && table.counts(&z) && other.counts(&z) && !other.counts(&x));
    }

    #[test]
    fn headers_and_method_must_all_match() {
        let matches = RouteMatch {
            headers: BTreeMap::from([("x-beta".into(), "1".into())]),
            method: Some("POST".into()),
            path: Some("/p".into()),
            ..RouteMatch::default()
        };
        let table = RouteTable::compile(&config(vec![rule(matches, "a")]));
        let mut headers = HeaderMap::new();
        let mut check = |method: Method, value: Option<&'static str>, path| {
            headers.clear();
            value.map(|v| headers.insert("X-Beta", v.parse().unwrap()));
            table.find(&RequestHead { host: "h", path, query: "", method: &method, headers: &headers }).is_some()
        };
        assert!(check(Method::POST, Some("1"), "/p"));
        assert!(!check(Method::GET, Some("1"), "/p"));
        assert!(!check(Method::POST, Some("2"), "/p") && !check(Method::POST, None, "/p"));
        assert!(!check(Method::POST, Some("1"), "/p/q"));
    }

    #[test]
    fn a_cookie_that_a_rule_asks_for_is_among_the_headers_that_it_asks_for() {
        let with = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let asked = |matches| {
            let table = RouteTable::compile(&config(vec![rule(matches, "a")]));
            table.headers().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            asked(RouteMatch { cookies: with("beta"), headers: with("X-Beta"), ..RouteMatch::default() }),
            ["x-beta", "cookie"]
        );
        assert!(asked(RouteMatch { query: with("v"), ..RouteMatch::default() }).is_empty());
        assert_eq!(asked(RouteMatch { headers_regex: with("X-Beta"), ..RouteMatch::default() }), ["x-beta"]);
    }

    #[test]
    fn regular_expressions_match_whole_paths_and_values_in_the_order_of_the_rules() {
        let with = |name: &str, regex: &str| BTreeMap::from([(name.to_owned(), regex.to_owned())]);
        let path = |regex: &str| RouteMatch { path_regex: Some(regex.to_owned()), ..RouteMatch::default() };
        let exact = RouteMatch { path: Some("/v7/items".into()), ..RouteMatch::default() };
        let of_host = RouteMatch { host: Some("*.shop".into()), ..path("/[a-z]+") };
        let rules = vec![
            rule(path("/v[0-9]+/items"), "a"),
            rule(exact, "b"),
            rule(of_host, "c"),
            rule(RouteMatch { headers_regex: with("X-Beta", "[12]|on"), ..RouteMatch::default() }, "a"),
            rule(RouteMatch { query_regex: with("v", "a b|c+"), ..RouteMatch::default() }, "a"),
        ];
        for (first, table) in with_and_without_index(rules) {
            let asked = |host: &str, path: &str, query: &str, beta: &[&'static str]| {
                let mut headers = HeaderMap::new();
                for value in beta {
                    headers.append("x-beta", value.parse().unwrap());
                }
                let request = RequestHead { host, path, query, method: &Method::GET, headers: &headers };
                table.find(&request).map(|rule| rule.index - first)
            };
            assert_eq!(
                asked("x", "/v7/items", "", &[]),
                Some(0),
                "before the exact one, because it was written before"
            );
            assert_eq!(asked("x", "/v7/items/", "", &[]), None, "the whole path, and no part of it");
            assert_eq!(asked("x", "/a/v7/items", "", &[]), None);
            assert_eq!((asked("a.shop", "/abc", "", &[]), asked("shop", "/abc", "", &[])), (Some(2), None));
            assert_eq!(asked("x", "/", "", &["3", "on"]), Some(3), "one of the values");
            assert_eq!((asked("x", "/", "", &["12"]), asked("x", "/", "", &[])), (None, None));
            assert_eq!((asked("x", "/", "v=x&v=a%20b", &[]), asked("x", "/", "v=ccc", &[])), (Some(4), Some(4)));
            assert_eq!((asked("x", "/", "v=%2Bccc", &[]), asked("x", "/", "w=c", &[])), (None, None));
        }
    }

    #[test]
    fn splits_follow_their_shares() {
        let split =
            BTreeMap::from([("a".to_owned(), Share(0.9)), ("b".to_owned(), Share(0.1)), ("c".to_owned(), Share(0.0))]);
        let table = RouteTable::compile(&config(vec![Route { split, ..Route::default() }]));
        let rule = &table.rules[0].1;
        let step = u32::MAX / 1000;
        let a = (0..1000).filter(|i| rule.cluster(i * step) == Some(ClusterId(0))).count();
        assert!((899..=901).contains(&a), "{a}");
        assert_eq!(rule.cluster(u32::MAX), Some(ClusterId(1)), "c has no share");
    }

    #[test]
    fn a_connection_belongs_to_the_narrowest_workload() {
        let listen: SocketAddr = "0.0.0.0:15006".parse().unwrap();
        let workload = |source: Option<(&str, u8)>| WorkloadConfig {
            listen: Some(listen),
            source: source.map(|(a, prefix)| SourceNet { address: a.parse().unwrap(), prefix }),
            ..WorkloadConfig::default()
        };
        let workloads = BTreeMap::from([
            ("a-rest".to_owned(), workload(None)),
            ("b-wide".to_owned(), workload(Some(("10.0.0.0", 8)))),
            ("c-narrow".to_owned(), workload(Some(("10.1.2.16", 28)))),
        ]);
        let table = RouteTable::compile(&Config { workloads, ..Config::default() });
        let of = |peer: &str| table.workload_of(listen, peer.parse().unwrap()).map(|w| w.0);
        assert_eq!((of("10.1.2.17"), of("10.1.2.40"), of("192.168.0.1")), (Some(2), Some(1), Some(0)));
        assert_eq!(table.workload_of("0.0.0.0:1".parse().unwrap(), "10.0.0.1".parse().unwrap()), None);
    }
}
