//! A Kubernetes API server that does what a test says, as far as EndpointSlices, Services, HTTPRoutes, GRPCRoutes,
//! ReferenceGrants, Pods and Namespaces go, each of which may also not be installed: lists, watches with bookmarks, versions
//! that are past, watches that break off, refusals; and patches of a route's status.
//!
//! What it answers is written as a real server (1.33) writes it. It keeps the objects of all namespaces, numbers each change,
//! and sends what changed since the version that a watch begins with.

use crate::ports;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What it knows, and how it behaves.
#[derive(Debug)]
struct State {
    /// The objects by kind, namespace and name.
    objects: BTreeMap<(Kind, String, String), Value>,
    /// What changed, in order: the version, and the event as a watch tells it.
    events: Vec<(u64, Value)>,
    version: u64,
    /// Versions below this are past.
    oldest: u64,
    /// How requests are refused, if they are.
    refuses: Option<u16>,
    /// A kind that it does not know.
    unknown: Option<Kind>,
    /// How often each was asked for: lists, watches, patches of a status.
    lists: usize,
    watches: usize,
    patches: usize,
    /// Lists of more than this many objects come in parts.
    page: usize,
}

/// What it knows of: each kind with its API and what that calls many of them.
const KINDS: [(&str, &str, &str); 7] = [
    ("EndpointSlice", "apis/discovery.k8s.io/v1", "endpointslices"),
    ("Service", "api/v1", "services"),
    ("Pod", "api/v1", "pods"),
    ("Namespace", "api/v1", "namespaces"),
    ("HTTPRoute", "apis/gateway.networking.k8s.io/v1", "httproutes"),
    ("GRPCRoute", "apis/gateway.networking.k8s.io/v1", "grpcroutes"),
    ("ReferenceGrant", "apis/gateway.networking.k8s.io/v1beta1", "referencegrants"),
];

/// One of [`KINDS`].
type Kind = &'static str;

/// The kind of an object; none where it is no such object.
fn kind_of(object: &Value) -> Option<Kind> {
    KINDS.iter().map(|(kind, ..)| *kind).find(|kind| object["kind"] == *kind)
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung at each change: how many there were.
    changed: watch::Sender<u64>,
    /// Rung when watches are to break off.
    broken: watch::Sender<u64>,
}

/// A running server.
#[derive(Debug)]
pub struct KubeApi {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// An instance in a slice.
#[must_use]
pub fn pod(ip: IpAddr, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({
        "addresses": [ip.to_string()],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "nodeName": "node-7",
        "zone": "eu-1a",
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("pod-{ip}"), "uid": "8f3c" },
    })
}

/// A slice of a service.
#[must_use]
pub fn slice(namespace: &str, service: &str, name: &str, port: u16, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generateName": format!("{service}-"),
            "uid": "5f3a7c12-9a2b-4c1e-8f55-0d2f5c1c0000",
            "generation": 1,
            "creationTimestamp": "2026-11-20T10:00:00Z",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
    })
}

/// A pod of the namespace `shop` on a node, with these annotations.
#[must_use]
pub fn running(node: &str, name: &str, ips: &[IpAddr], annotations: &Value) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": "77b1", "annotations": annotations, "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "app", "image": "app:1" }] },
        "status": { "phase": "Running", "hostIP": "10.77.0.1", "podIP": ips.first().map(|ip| ip["ip"].clone()), "podIPs": ips },
    })
}

/// A namespace with these labels.
#[must_use]
pub fn namespace(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": labels },
        "status": { "phase": "Active" },
    })
}

impl KubeApi {
    /// Starts one that knows nothing.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            events: Vec::new(),
            version: 1_000,
            oldest: 0,
            refuses: None,
            unknown: None,
            lists: 0,
            watches: 0,
            patches: 0,
            page: usize::MAX,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            broken: watch::Sender::new(0),
        });
        let address = ports::free(ports::own_ip(3));
        let mut server = Self { address, shared, tasks: JoinSet::new() };
        server.start_again().await;
        server
    }

    /// Listens again where it did before.
    ///
    /// # Panics
    /// When somebody else took the port.
    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("its own port");
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(answered(&shared, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    }

    /// Goes away, with all connections.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    /// A configuration for clients, as `KUBECONFIG` names it; the namespace is `shop`.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "test", "user": { "token": "of-nobody" } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "shop" } }],
        })
        .to_string()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Adds or replaces objects, which watches hear of one after another.
    pub fn put(&self, objects: impl IntoIterator<Item = Value>) {
        self.change(|state| objects.into_iter().for_each(|object| state.put(object)));
    }

    /// Deletes a slice.
    pub fn delete(&self, namespace: &str, name: &str) {
        self.delete_a("EndpointSlice", namespace, name);
    }

    /// Deletes an object of another kind.
    pub fn delete_a(&self, kind: Kind, namespace: &str, name: &str) {
        self.change(|state| state.delete(kind, namespace, name));
    }

    /// An object as it is now.
    #[must_use]
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.state.lock().unwrap();
        state.objects.get(&(kind, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// How often a status was patched, or tried to be.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.shared.state.lock().unwrap().patches
    }

    /// Sends watches an event as it is.
    pub fn event(&self, event: Value) {
        self.change(|state| {
            state.version += 1;
            state.events.push((state.version, event));
        });
    }

    /// Sends watches a bookmark.
    pub fn bookmark(&self) {
        self.change(|state| {
            state.version += 1;
            let metadata = json!({ "resourceVersion": state.version.to_string(), "creationTimestamp": null });
            let object = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata });
            state.events.push((state.version, json!({ "type": "BOOKMARK", "object": object })));
        });
    }

    /// Forgets what happened, as a server does whose store was compacted: versions before now are past.
    pub fn compact(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.version += 1;
        state.oldest = state.version;
        state.events.clear();
    }

    /// Breaks all watches off in the middle.
    pub fn break_watches(&self) {
        self.shared.broken.send_modify(|count| *count += 1);
    }

    /// Refuses all requests with this status, or none any more.
    pub fn refuse(&self, status: Option<u16>) {
        self.shared.state.lock().unwrap().refuses = status;
    }

    /// Does not know this kind, as where its definition (CRD) is not installed, or knows all again.
    pub fn uninstall(&self, kind: Option<Kind>) {
        self.shared.state.lock().unwrap().unknown = kind;
    }

    /// Gives lists in parts of so many objects.
    pub fn pages_of(&self, objects: usize) {
        self.shared.state.lock().unwrap().page = objects;
    }

    /// How often objects were listed, and how often watched.
    #[must_use]
    pub fn asked(&self) -> (usize, usize) {
        let state = self.shared.state.lock().unwrap();
        (state.lists, state.watches)
    }
}

impl State {
    fn put(&mut self, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = (kind_of(&object).expect("a kind that is known"), text("namespace"), text("name"));
        let kind = if self.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((self.version, json!({ "type": kind, "object": object })));
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.version += 1;
        if let Some(mut object) = self.objects.remove(&(kind, namespace.to_owned(), name.to_owned())) {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.events.push((self.version, json!({ "type": "DELETED", "object": object })));
        }
    }

    /// A merge patch (RFC 7386) of an object's status, as of the version that it names.
    fn patch_status(&mut self, key: &(Kind, String, String), patch: &Value) -> Response<Body> {
        self.patches += 1;
        let Some(object) = self.objects.get(key) else {
            return full(404, &status(404, "NotFound", "there is no such object"));
        };
        let version = &patch["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return full(409, &status(409, "Conflict", "the object has been modified"));
        }
        let mut object = object.clone();
        merge(&mut object["status"], &patch["status"]);
        self.put(object.clone());
        full(200, &object)
    }

    /// What happened after a version.
    fn since(&self, version: u64) -> Vec<(u64, Value)> {
        self.events.iter().filter(|(at, _)| *at > version).cloned().collect()
    }
}

fn full(status: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    response.header("content-type", "application/json").body(body).expect("a response")
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// A merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        match change {
            Value::Null => drop(target.as_object_mut().map(|object| object.remove(key))),
            change => merge(&mut target[key], change),
        }
    }
}

/// What a path names: a kind, a namespace (all without), and an object whose status is meant.
fn named(path: &str) -> Option<(Kind, Option<String>, Option<String>)> {
    let path = path.trim_matches('/');
    KINDS.iter().find_map(|(kind, api, plural)| {
        let rest: Vec<&str> = path.strip_prefix(api)?.trim_matches('/').split('/').collect();
        match rest.as_slice() {
            [all] if all == plural => Some((*kind, None, None)),
            ["namespaces", namespace, all] if all == plural => Some((*kind, Some((*namespace).to_owned()), None)),
            ["namespaces", namespace, all, name, "status"] if all == plural => {
                Some((*kind, Some((*namespace).to_owned()), Some((*name).to_owned())))
            }
            _ => None,
        }
    })
}

async fn answered(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some((kind, namespace, name)) = named(head.uri.path()) else {
        return full(404, &status(404, "NotFound", "the server could not find the requested resource"));
    };
    let Some(name) = name else { return answer(shared, &head.uri, kind, namespace) };
    let merges = head.headers.get("content-type").is_some_and(|t| t == "application/merge-patch+json");
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let patch: Value = serde_json::from_slice(&body).unwrap_or_default();
    if head.method != http::Method::PATCH || !merges || !patch.is_object() {
        return full(415, &status(415, "UnsupportedMediaType", "only merge patches of a status are known here"));
    }
    let response = {
        let mut state = shared.state.lock().unwrap();
        if let Some(code) = state.refuses {
            state.patches += 1;
            return full(code, &status(code, "Refused", "as scripted"));
        }
        state.patch_status(&(kind, namespace.unwrap_or_default(), name), &patch)
    };
    shared.changed.send_modify(|count| *count += 1);
    response
}

fn answer(shared: &Arc<Shared>, uri: &http::Uri, kind: Kind, namespace: Option<String>) -> Response<Body> {
    let query: BTreeMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%2F", "/")))
        .collect();
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let service = selector.strip_prefix("kubernetes.io/service-name=").map(str::to_owned);
    let node = query.get("fieldSelector").and_then(|fields| fields.strip_prefix("spec.nodeName=")).map(str::to_owned);
    let chosen = Chosen { kind, namespace, service, node };
    let mut state = shared.state.lock().unwrap();
    if let Some(code) = state.refuses {
        return full(code, &status(code, "Refused", "as scripted"));
    }
    if state.unknown == Some(kind) {
        return full(404, &status(404, "NotFound", "the server could not find the requested resource"));
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        state.watches += 1;
        let version: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
        let past = version < state.oldest;
        drop(state);
        return watching(shared.clone(), chosen, version, past);
    }
    state.lists += 1;
    let all: Vec<Value> = state.objects.values().filter(|object| chosen.is(object)).cloned().collect();
    let from: usize = query.get("continue").and_then(|c| c.parse().ok()).unwrap_or_default();
    let part: Vec<Value> = all.iter().skip(from).take(state.page).cloned().collect();
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if from + part.len() < all.len() {
        metadata["continue"] = json!((from + part.len()).to_string());
        metadata["remainingItemCount"] = json!(all.len() - from - part.len());
    }
    let api = KINDS.iter().find(|(known, ..)| *known == kind).map_or("v1", |(_, api, _)| *api);
    let version = api.trim_start_matches("apis/").trim_start_matches("api/");
    full(200, &json!({ "kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": part }))
}

/// Which objects are asked for.
#[derive(Debug, Clone)]
struct Chosen {
    kind: Kind,
    namespace: Option<String>,
    service: Option<String>,
    node: Option<String>,
}

impl Chosen {
    /// Whether an object is among them; what does not say what it is, is.
    fn is(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let named = metadata["labels"]["kubernetes.io/service-name"].as_str();
        kind_of(object).is_none_or(|kind| kind == self.kind)
            && self.service.as_deref().is_none_or(|service| named.is_none_or(|name| name == service))
            && self.node.as_deref().is_none_or(|node| object["spec"]["nodeName"].as_str().is_none_or(|its| its == node))
            && self.namespace.as_deref().is_none_or(|n| metadata["namespace"].as_str().is_none_or(|its| its == n))
    }
}

/// That a version is past, as a watch tells it.
fn expired() -> String {
    json!({ "type": "ERROR", "object": status(410, "Expired", "too old resource version") }).to_string() + "\n"
}

/// Events from a version on, until they break off.
fn watching(shared: Arc<Shared>, chosen: Chosen, version: u64, past: bool) -> Response<Body> {
    let ours = move |event: &Value| chosen.is(&event["object"]);
    let (changed, broken) = (shared.changed.subscribe(), shared.broken.subscribe());
    // None when the last line was sent.
    let at = if past { Ok(()) } else { Err(version) };
    let begin = Some((shared, changed, broken, at));
    let events = futures_util::stream::unfold(begin, move |state| {
        let ours = ours.clone();
        async move {
            let (shared, mut changed, mut broken, at) = state?;
            let Err(mut version) = at else {
                // The answer has begun with 200 by then: what is past is told as an event.
                return Some((expired(), None));
            };
            loop {
                changed.borrow_and_update();
                let (events, compacted) = {
                    let state = shared.state.lock().unwrap();
                    (state.since(version), version < state.oldest)
                };
                if compacted && events.is_empty() {
                    return Some((expired(), None));
                }
                if let Some((last, _)) = events.last() {
                    version = *last;
                }
                let lines: String = events.iter().filter(|(_, e)| ours(e)).map(|(_, e)| e.to_string() + "\n").collect();
                if !lines.is_empty() {
                    return Some((lines, Some((shared, changed, broken, Err(version)))));
                }
                tokio::select! {
                    news = changed.changed() => if news.is_err() { return None },
                    _ = broken.changed() => return None,
                }
            }
        }
    });
    let frames = events.map(|lines| Ok::<_, Infallible>(Frame::data(Bytes::from(lines))));
    let response = Response::builder().header("content-type", "application/json");
    response.body(BodyExt::boxed_unsync(StreamBody::new(frames))).expect("a response")
}
