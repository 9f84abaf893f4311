//! The endpoints of each cluster: those that are listed, those that were discovered, and those that are kept meanwhile.
//!
//! In this order, and the first word on an address holds: who lists an endpoint by hand means what he writes. An endpoint
//! that is terminating stays, drained, with the weight 0: what it is at goes on, and nothing new is sent, except where
//! nobody else is ready; then it gets requests as long as it serves. One that is not ready is none.

use super::listing::{Listing, Readiness};
use crate::config::{Config, Discover, Endpoint};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a source told last.
pub type Told = Option<Arc<Listing>>;

/// What clusters had before their configuration changed.
pub type Kept = BTreeMap<String, Vec<Endpoint>>;

/// What is kept of the configuration before for those clusters that have a source that `waits` for its first answer.
pub fn kept(before: &Config, next: &Config, waits: impl Fn(&Discover) -> bool) -> Kept {
    let waiting = next.clusters.iter().filter(|(_, cluster)| cluster.discover.iter().any(&waits));
    waiting.filter_map(|(name, _)| Some((name.clone(), before.clusters.get(name)?.endpoints.clone()))).collect()
}

/// The configuration with all endpoints in it, and how many of each cluster's were left out because this proxy itself
/// listens there. Without a source it is the same one.
pub fn merged(
    config: &Arc<Config>,
    kept: &Kept,
    told: impl Fn(&Discover) -> Told,
) -> (Arc<Config>, HashMap<String, usize>) {
    let mut own = HashMap::new();
    if config.clusters.values().all(|cluster| cluster.discover.is_empty()) {
        return (config.clone(), own);
    }
    let listening: HashSet<SocketAddr> = config.workloads.values().filter_map(|workload| workload.listen).collect();
    let mut next = Config::clone(config);
    for (name, cluster) in next.clusters.iter_mut().filter(|(_, cluster)| !cluster.discover.is_empty()) {
        let mut all = Together::new(std::mem::take(&mut cluster.endpoints));
        for listing in cluster.discover.iter().filter_map(&told) {
            for found in listing.found() {
                if listening.contains(&found.endpoint.address) {
                    *own.entry(name.clone()).or_default() += 1;
                } else {
                    all.add(&found.endpoint, found.readiness);
                }
            }
        }
        for endpoint in kept.get(name).into_iter().flatten() {
            all.add(endpoint, Readiness::Ready);
        }
        cluster.endpoints = all.finish();
    }
    (Arc::new(next), own)
}

/// Endpoints of a cluster, each address once.
struct Together {
    known: HashSet<SocketAddr>,
    endpoints: Vec<Endpoint>,
    terminating: Vec<Endpoint>,
}

impl Together {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let known = endpoints.iter().map(|endpoint| endpoint.address).collect();
        Self { known, endpoints, terminating: Vec::new() }
    }

    fn add(&mut self, endpoint: &Endpoint, readiness: Readiness) {
        let to = match readiness {
            Readiness::Ready => &mut self.endpoints,
            Readiness::Terminating => &mut self.terminating,
            Readiness::NotReady => return,
        };
        if self.known.insert(endpoint.address) {
            to.push(endpoint.clone());
        }
    }

    fn finish(mut self) -> Vec<Endpoint> {
        let somebody = self.endpoints.iter().any(|endpoint| endpoint.weight > 0);
        for mut endpoint in self.terminating {
            if somebody {
                endpoint.weight = 0;
            }
            self.endpoints.push(endpoint);
        }
        self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::{Gathering, bare};
    use super::*;
    use crate::config::{Cluster, Workload};
    use Readiness::{NotReady, Ready, Terminating};

    fn dns(name: &str) -> Discover {
        Discover { dns: Some(name.to_owned()), ..Discover::default() }
    }

    fn at(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn config(listed: &[u16], sources: &[&str]) -> Config {
        let endpoints = listed.iter().map(|port| bare(at(*port))).collect();
        let discover = sources.iter().map(|name| dns(name)).collect();
        let cluster = Cluster { endpoints, discover, ..Cluster::default() };
        Config { clusters: [("catalog".to_owned(), cluster)].into(), ..Config::default() }
    }

    /// The endpoints of the cluster by port and weight, where each source told this.
    fn together(config: Config, kept: &Kept, told: &[(&str, &[(u16, Readiness)])]) -> Vec<(u16, u32)> {
        let listing = |discover: &Discover| {
            let (_, found) = told.iter().find(|(name, _)| discover.dns.as_deref() == Some(name))?;
            let mut gathering = Gathering::default();
            found.iter().for_each(|(port, readiness)| gathering.add(bare(at(*port)), *readiness));
            Some(Arc::new(gathering.finish(100)))
        };
        let (merged, _) = merged(&Arc::new(config), kept, listing);
        merged.clusters["catalog"].endpoints.iter().map(|e| (e.address.port(), e.weight)).collect()
    }

    #[test]
    fn listed_and_discovered_endpoints_are_one_cluster_and_the_list_comes_first() {
        let mut config = config(&[1, 2], &["a", "b"]);
        config.clusters.get_mut("catalog").unwrap().endpoints[1].weight = 7;
        let told: [(&str, &[(u16, Readiness)]); 2] =
            [("a", &[(2, Ready), (3, Ready)]), ("b", &[(3, Ready), (4, Ready)])];
        assert_eq!(together(config, &Kept::new(), &told), [(1, 1), (2, 7), (3, 1), (4, 1)]);
    }

    #[test]
    fn who_is_leaving_gets_nothing_new_unless_nobody_else_is_ready() {
        let told = |found: &[(u16, Readiness)]| together(config(&[], &["a"]), &Kept::new(), &[("a", found)]);
        assert_eq!(told(&[(1, Terminating), (2, Ready), (3, NotReady)]), [(2, 1), (1, 0)]);
        assert_eq!(told(&[(1, Terminating), (3, NotReady)]), [(1, 1)]);
        assert_eq!(told(&[(3, NotReady)]), []);
        let drained = |listed| together(config(listed, &["a"]), &Kept::new(), &[("a", &[(1, Terminating)])]);
        assert_eq!(drained(&[2]), [(2, 1), (1, 0)], "somebody who is listed is ready");
    }

    #[test]
    fn what_a_cluster_had_stays_until_all_its_new_sources_have_answered() {
        let (before, next) = (config(&[1, 2], &[]), config(&[], &["a", "b"]));
        let kept = kept(&before, &next, |discover| discover.dns.as_deref() == Some("b"));
        assert_eq!(kept["catalog"].len(), 2);
        let none: [(&str, &[(u16, Readiness)]); 1] = [("a", &[(2, NotReady), (3, Ready)])];
        assert_eq!(together(next.clone(), &kept, &none), [(3, 1), (1, 1), (2, 1)]);
        assert!(super::kept(&before, &next, |_| false).is_empty());
        assert!(super::kept(&Config::default(), &next, |_| true).is_empty(), "there was no such cluster");
    }

    #[test]
    fn an_address_where_this_proxy_listens_is_nobodys_endpoint() {
        let mut config = config(&[], &["a"]);
        let listens = Workload { listen: Some(at(2)), ..Workload::default() };
        config.workloads.insert("frontend".to_owned(), listens);
        let mut gathering = Gathering::default();
        [1, 2].iter().for_each(|port| gathering.add(bare(at(*port)), Ready));
        let listing = Arc::new(gathering.finish(9));
        let told = |_: &Discover| Some(listing.clone());
        let (merged, own) = merged(&Arc::new(config), &Kept::new(), told);
        assert_eq!((merged.clusters["catalog"].endpoints.len(), own["catalog"]), (1, 1));
    }

    #[test]
    fn without_a_source_nothing_is_copied() {
        let config = Arc::new(config(&[1], &[]));
        assert!(Arc::ptr_eq(&merged(&config, &Kept::new(), |_| None).0, &config));
    }
}
