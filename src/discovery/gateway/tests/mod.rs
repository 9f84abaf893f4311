//! Objects as an API server tells them, and what becomes of them.

mod backends;
mod parents;
mod rules;
mod together;

use super::conditions::patch;
use super::hub::{Hub, Resource};
use super::merge::Translation;
use super::translate::Outcome;
use super::types::Kind;
use crate::config::{Cluster, Config, GatewayApi, Pattern, Protocol, Retries, RetryOn, Route, Scheme, Share, Timespan};
use crate::discovery::Fault;
use crate::route::{RequestHead, RouteTable};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ALL: [(Resource, Option<String>); 4] = [
    (Resource::Routes(Kind::Http), None),
    (Resource::Routes(Kind::Grpc), None),
    (Resource::Services, None),
    (Resource::Grants, None),
];

/// What is known, and a configuration by which it is looked at.
struct Bench {
    hub: Hub,
    config: Config,
}

fn config(section: GatewayApi) -> Config {
    Config { gateway_api: GatewayApi { enabled: true, ..section }, ..Config::default() }
}

/// The Services `catalog` and `next` of the namespace `shop` with the port 80, `depot` with two, and `stock` of `other`.
fn bench() -> Bench {
    let hub = Hub::new(Arc::default());
    hub.expect(&ALL);
    let port = |name: &str, number: u16| json!({ "name": name, "port": number, "protocol": "TCP", "targetPort": 8080 });
    let services = [
        service("shop", "catalog", json!([port("", 80)])),
        service("shop", "next", json!([port("http", 80)])),
        service("shop", "depot", json!([port("http", 80), port("admin", 81)])),
        service("other", "stock", json!([port("http", 80)])),
    ];
    for watch in &ALL {
        hub.replace(watch, if watch.0 == Resource::Services { &services } else { &[] });
        hub.works(watch);
    }
    Bench { hub, config: config(GatewayApi::default()) }
}

fn service(namespace: &str, name: &str, ports: Value) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": { "type": "ClusterIP", "ports": ports } })
}

fn object(kind: Kind, name: &str, created: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind.name(),
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": 1,
            "creationTimestamp": created, "resourceVersion": "7",
        },
        "spec": spec,
    })
}

/// A route for the Service `catalog` with these rules.
fn http(name: &str, rules: Value) -> Value {
    object(
        Kind::Http,
        name,
        "2026-11-01T00:00:00Z",
        json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "catalog", "port": 80 }], "rules": rules }),
    )
}

fn grpc(name: &str, rules: Value) -> Value {
    object(
        Kind::Grpc,
        name,
        "2026-11-01T00:00:00Z",
        json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "catalog" }], "rules": rules }),
    )
}

/// A ReferenceGrant of the namespace `other`.
fn grant(name: &str, from: Value, to: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": { "namespace": "other", "name": name },
        "spec": { "from": [from], "to": [to] },
    })
}

fn to(name: &str) -> Value {
    json!([{ "name": name, "port": 80 }])
}

impl Bench {
    fn put(&self, object: &Value) {
        let kind = if object["kind"] == "GRPCRoute" { Kind::Grpc } else { Kind::Http };
        self.hub.set(Resource::Routes(kind), object);
    }

    fn translation(&self) -> Translation {
        self.hub.translation(&self.config).unwrap()
    }

    /// The rules of these routes for the first host, and how each was taken.
    fn of(objects: &[Value]) -> (Vec<Route>, Vec<Outcome>) {
        let bench = bench();
        objects.iter().for_each(|object| bench.put(object));
        let Translation { routes, outcomes, .. } = bench.translation();
        let host = "catalog.shop.svc.cluster.local";
        (routes.into_iter().filter(|route| route.matches.host.as_deref() == Some(host)).collect(), outcomes)
    }
}

/// The only rule that an HTTPRoute with this rule becomes.
fn one(rule: Value) -> Route {
    let (routes, outcomes) = Bench::of(&[http("a", json!([rule]))]);
    assert_eq!(outcomes[0].word(), "accepted", "{outcomes:?}");
    assert_eq!(routes.len(), 1);
    routes.into_iter().next().unwrap()
}

/// Why a route is not accepted, after it was seen that it leads nowhere.
fn refusal(object: &Value) -> (&'static str, String) {
    let (routes, outcomes) = Bench::of(std::slice::from_ref(object));
    assert_eq!((routes.len(), outcomes.len()), (0, 1), "{outcomes:?}");
    let accepted = &outcomes[0].parents[0].1;
    assert!(!accepted.holds, "{object}");
    (accepted.reason, accepted.message.clone())
}
