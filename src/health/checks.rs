//! Active health checks: each endpoint is asked in turn, apart from the requests that it serves.
//!
//! ```text
//! unchecked --a good answer--> well --`fall` bad ones in a row--> unwell --`rise` good ones in a row--> well
//!     \------ a bad answer --------------------------------------^
//! ```
//! An endpoint that is unchecked or unwell gets no requests, short of panic. The first check is made at once, the others
//! every `every`, give or take a tenth, so that proxies which started together drift apart. What a check says is one part
//! of an endpoint's state; what requests see of it is the other (`Ejector`), and whoever says no prevails. A check goes the way
//! of the cluster's requests: over its TLS, with this node's identity. As long as there is none to show, nothing is asked,
//! and nothing is held against the endpoint.
//!
//! One task an endpoint, on the slow loop's runtime. A reload leaves the tasks of what it does not change alone; where the
//! way of asking changes, what was known holds until the new way has said otherwise.

use super::probe::{Asking, probe, spoken};
use crate::balance::Unwell;
use crate::config::{Check, Cluster, Config, HealthCheck};
use crate::identity::Identities;
use crate::links::NodeKey;
use crate::observe::metrics::{Family, Kind, Measure, Value};
use rand::RngExt;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// After how long it is looked again whether there is an identity to ask with, at most.
const UNASKED: Duration = Duration::from_secs(1);

/// What checks say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Why it gets no requests; none where it is well.
    pub unwell: Option<Unwell>,
    /// Good answers in a row.
    good: u32,
    /// Bad answers in a row.
    bad: u32,
    /// Answers that were good, and that were not, since the beginning.
    pub counts: (u64, u64),
}

impl Checked {
    /// Before the first answer.
    pub const UNCHECKED: Self = Self { unwell: Some(Unwell::Unchecked), good: 0, bad: 0, counts: (0, 0) };

    /// Takes an answer in; says whether the endpoint's state is another now.
    fn take(&mut self, answer: Result<(), Unwell>, rules: &HealthCheck) -> bool {
        let was_well = self.unwell.is_none();
        match answer {
            Ok(()) => {
                (self.good, self.bad, self.counts.0) = (self.good.saturating_add(1), 0, self.counts.0 + 1);
                if self.good >= rules.rise || self.unwell.is_some_and(Unwell::unasked) {
                    self.unwell = None;
                }
            }
            // Nothing was asked, so nothing is known that was not before, but why.
            Err(why) if why.unasked() => {
                if self.unwell.is_some_and(Unwell::unasked) {
                    self.unwell = Some(why);
                }
            }
            Err(why) => {
                (self.good, self.bad, self.counts.1) = (0, self.bad.saturating_add(1), self.counts.1 + 1);
                if self.unwell.is_some() || self.bad >= rules.fall {
                    self.unwell = Some(why);
                }
            }
        }
        was_well != self.unwell.is_none()
    }
}

/// What all checks say, by endpoint.
#[derive(Debug, Clone, Default)]
pub struct Checks(Arc<Mutex<HashMap<NodeKey, Checked>>>);

impl Checks {
    fn all(&self) -> MutexGuard<'_, HashMap<NodeKey, Checked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said of an endpoint that is to be checked.
    #[must_use]
    pub fn of(&self, key: &NodeKey) -> Checked {
        self.all().get(key).copied().unwrap_or(Checked::UNCHECKED)
    }

    /// Everything, in the order of names: for metrics.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(NodeKey, Checked)> {
        let mut all: Vec<_> = self.all().iter().map(|(k, c)| (k.clone(), *c)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The metric.
    #[must_use]
    pub fn family(&self) -> Family {
        let help = "Health checks of an endpoint, by whether it was well.";
        let family = Family::new("health_checks", Kind::Counter, Measure::Number, help);
        self.snapshot().into_iter().fold(family, |family, (key, checked)| {
            let labels = |result: &str| vec![("endpoint", key.to_string()), ("result", result.to_owned())];
            let (good, bad) = checked.counts;
            family.with(labels("well"), Value::Count(good)).with(labels("unwell"), Value::Count(bad))
        })
    }

    /// Takes an answer in; says whether the endpoint's state is another now.
    pub fn told(&self, key: &NodeKey, answer: Result<(), Unwell>, rules: &HealthCheck) -> bool {
        let mut all = self.all();
        let checked = all.entry(key.clone()).or_insert(Checked::UNCHECKED);
        let changed = checked.take(answer, rules);
        if changed {
            tracing::info!(endpoint = %key, unwell = checked.unwell.map(tracing::field::display), "a health check changed an endpoint's state");
        }
        changed
    }
}

/// Everybody who is to be asked. Where several clusters have an endpoint, the first one's rules hold, as they do for its
/// ejection, and with them its way there: what it speaks, and how that is secured.
fn wanted(config: &Config, identities: &Arc<Identities>) -> HashMap<NodeKey, Asking> {
    let mut all = HashMap::new();
    let mark = config.own_mark();
    for cluster in config.clusters.values() {
        let asked = cluster.health.check != Check::Off;
        let spoken = spoken(cluster.health.check, cluster.protocol);
        let dial = if asked { identities.dial(&cluster.tls, spoken) } else { None };
        for endpoint in &cluster.endpoints {
            all.entry(NodeKey::new(&endpoint.address.to_string())).or_insert_with(|| Asking {
                address: endpoint.address,
                host: host(cluster, endpoint.address),
                protocol: cluster.protocol,
                check: cluster.health.clone(),
                dial: dial.clone(),
                proxy_protocol: cluster.proxy_protocol,
                mark,
            });
        }
    }
    all.retain(|_, asking| asking.check.check != Check::Off);
    all
}

/// The authority that a check's requests are for: the name that the endpoint must prove, since servers outside the mesh answer
/// for no other; else its address.
fn host(cluster: &Cluster, address: SocketAddr) -> String {
    match (&cluster.tls.name, address.port()) {
        (None, _) => address.to_string(),
        (Some(name), 443) => name.clone(),
        (Some(name), port) => format!("{name}:{port}"),
    }
}

/// Asks for as long as there is a configuration to come; `changed` is called when an endpoint's state has changed.
pub async fn run(
    checks: Checks,
    identities: Arc<Identities>,
    mut config: watch::Receiver<Arc<Config>>,
    changed: impl Fn() + Clone + Send + 'static,
) {
    let mut tasks: HashMap<NodeKey, (Asking, Stops)> = HashMap::new();
    loop {
        let wanted = wanted(&config.borrow_and_update().clone(), &identities);
        checks.all().retain(|key, _| wanted.contains_key(key));
        tasks.retain(|key, (asking, _)| wanted.get(key) == Some(&*asking));
        for (key, asking) in wanted {
            tasks.entry(key).or_insert_with_key(|key| {
                let task = ask(checks.clone(), identities.clone(), key.clone(), asking.clone(), changed.clone());
                (asking, Stops(tokio::spawn(task).abort_handle()))
            });
        }
        if config.changed().await.is_err() {
            return;
        }
    }
}

/// Stops a task when nobody wants it any more.
struct Stops(AbortHandle);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(checks: Checks, identities: Arc<Identities>, key: NodeKey, asking: Asking, changed: impl Fn()) {
    loop {
        let answer = probe(&asking, &identities.handshakes).await;
        let unasked = matches!(answer, Some(Err(why)) if why.unasked());
        if answer.is_some_and(|answer| checks.told(&key, answer, &asking.check)) {
            changed();
        }
        let every = if unasked { asking.check.every.0.min(UNASKED) } else { asking.check.every.0 };
        let wait = every.mul_f64(rand::rng().random_range(0.9..1.1));
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterTls, Protocol};
    use crate::identity::Handshake;

    const BAD: Result<(), Unwell> = Err(Unwell::NoConnection);

    fn after(answers: &[Result<(), Unwell>]) -> Option<Unwell> {
        let mut checked = Checked::UNCHECKED;
        for answer in answers {
            checked.take(*answer, &HealthCheck::default());
        }
        checked.unwell
    }

    #[test]
    fn the_first_answer_decides_alone_and_later_ones_in_rows() {
        assert_eq!(
            (after(&[]), after(&[Ok(())]), after(&[BAD])),
            (Some(Unwell::Unchecked), None, Some(Unwell::NoConnection))
        );
        assert_eq!(after(&[Ok(()), BAD, BAD]), None, "two of three");
        assert_eq!(after(&[Ok(()), BAD, BAD, Ok(()), BAD, BAD]), None, "the row was broken");
        assert_eq!(after(&[Ok(()), BAD, BAD, BAD]), Some(Unwell::NoConnection));
        assert_eq!(after(&[BAD, Ok(())]), Some(Unwell::NoConnection), "one of two");
        assert_eq!(after(&[BAD, Ok(()), BAD, Ok(()), Ok(())]), None);
        assert_eq!(after(&[BAD, Err(Unwell::Status(500))]), Some(Unwell::Status(500)), "the last reason shows");
    }

    #[test]
    fn what_could_not_be_asked_is_held_against_nobody() {
        let none = Err(Unwell::Unsecured(Handshake::NoIdentity));
        let refused = Err(Unwell::Unsecured(Handshake::Refused));
        assert_eq!(after(&[none]), none.err(), "the reason shows");
        assert_eq!(after(&[none, none, none, Ok(())]), None, "the first good answer counts at once");
        assert_eq!(after(&[none, refused, Ok(())]), refused.err(), "one of two");
        assert_eq!(after(&[Ok(()), none, none, none, none]), None, "it is as well as it was");
        assert_eq!(after(&[refused, none, none]), refused.err());
        let mut checked = Checked::UNCHECKED;
        checked.take(none, &HealthCheck::default());
        assert_eq!(checked.counts, (0, 0), "nothing was asked");
        checked.take(refused, &HealthCheck::default());
        assert_eq!(checked.counts, (0, 1));
    }

    #[test]
    fn a_check_goes_the_way_of_its_clusters_requests() {
        let identities = Arc::new(Identities::default());
        let of = |check, protocol, tls: &ClusterTls, proxy_protocol, port| {
            let cluster = Cluster {
                endpoints: vec![endpoint(port)],
                health: HealthCheck { check, ..HealthCheck::default() },
                tls: tls.clone(),
                protocol,
                proxy_protocol,
                ..Cluster::default()
            };
            let config = Config { clusters: [("a".to_owned(), cluster)].into(), ..Config::default() };
            wanted(&config, &identities).into_values().next().unwrap()
        };
        let mesh = ClusterTls { identity: "spiffe://mesh/a".parse().unwrap(), ..ClusterTls::default() };
        let outside = ClusterTls { name: Some("api.example".into()), ..ClusterTls::default() };
        for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Tcp] {
            let requests = identities.dial(&mesh, protocol);
            assert!(requests.is_some());
            assert_eq!(of(Check::Tcp, protocol, &mesh, false, 80).dial, requests);
            let spoken = if protocol == Protocol::Http2 { Protocol::Http2 } else { Protocol::Http1 };
            assert_eq!(of(Check::Http, protocol, &mesh, false, 80).dial, identities.dial(&mesh, spoken));
            assert_eq!(of(Check::Grpc, protocol, &mesh, false, 80).dial, identities.dial(&mesh, Protocol::Http2));
        }
        let plain = of(Check::Http, Protocol::Tcp, &ClusterTls::default(), true, 80);
        assert_eq!((plain.dial, plain.proxy_protocol, plain.host.as_str()), (None, true, "127.0.0.1:80"));
        assert_eq!(of(Check::Http, Protocol::Http1, &mesh, false, 443).host, "127.0.0.1:443");
        assert_eq!(of(Check::Http, Protocol::Http1, &outside, false, 443).host, "api.example");
        assert_eq!(of(Check::Http, Protocol::Http1, &outside, false, 444).host, "api.example:444");
    }

    fn endpoint(port: u16) -> crate::config::Endpoint {
        crate::config::Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            zone: String::new(),
            host: String::new(),
            weight: 1,
            metadata: Default::default(),
        }
    }

    #[test]
    fn the_first_cluster_that_has_an_endpoint_says_how_it_is_asked() {
        let cluster = |check, ports: &[u16]| crate::config::Cluster {
            endpoints: ports.iter().map(|p| endpoint(*p)).collect(),
            health: HealthCheck { check, ..HealthCheck::default() },
            ..Default::default()
        };
        let clusters = [
            ("a".to_owned(), cluster(Check::Off, &[1])),
            ("b".to_owned(), cluster(Check::Tcp, &[1, 2])),
            ("c".to_owned(), cluster(Check::Http, &[2, 3])),
        ];
        let config = Config { clusters: clusters.into(), ..Config::default() };
        let mut wanted: Vec<_> =
            wanted(&config, &Arc::default()).into_values().map(|a| (a.address.port(), a.check.check)).collect();
        wanted.sort_by_key(|w| w.0);
        assert_eq!(wanted, [(2, Check::Tcp), (3, Check::Http)]);
    }
}
