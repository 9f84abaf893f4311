//! A Kubernetes API server that does what a test says, as far as EndpointSlices go: lists, watches with bookmarks, versions
//! that are past, watches that break off, refusals.
//!
//! What it answers is written as a real server (1.33) writes it. It keeps the slices of all namespaces, numbers each change,
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
    /// The slices by namespace and name.
    slices: BTreeMap<(String, String), Value>,
    /// What changed, in order: the version, and the event as a watch tells it.
    events: Vec<(u64, Value)>,
    version: u64,
    /// Versions below this are past.
    oldest: u64,
    /// How requests are refused, if they are.
    refuses: Option<u16>,
    /// How often each was asked for: lists, watches.
    lists: usize,
    watches: usize,
    /// Lists of more than this many slices come in parts.
    page: usize,
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

impl KubeApi {
    /// Starts one that knows nothing.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let state = State {
            slices: BTreeMap::new(),
            events: Vec::new(),
            version: 1_000,
            oldest: 0,
            refuses: None,
            lists: 0,
            watches: 0,
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
                        async move { Ok::<_, Infallible>(answer(&shared, &request)) }
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

    /// Adds or replaces slices, which watches hear of one after another.
    pub fn put(&self, slices: impl IntoIterator<Item = Value>) {
        self.change(|state| slices.into_iter().for_each(|slice| state.put(slice)));
    }

    /// Deletes a slice.
    pub fn delete(&self, namespace: &str, name: &str) {
        self.change(|state| state.delete(namespace, name));
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

    /// Gives lists in parts of so many slices.
    pub fn pages_of(&self, slices: usize) {
        self.shared.state.lock().unwrap().page = slices;
    }

    /// How often slices were listed, and how often watched.
    #[must_use]
    pub fn asked(&self) -> (usize, usize) {
        let state = self.shared.state.lock().unwrap();
        (state.lists, state.watches)
    }
}

impl State {
    fn put(&mut self, mut slice: Value) {
        self.version += 1;
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |key: &str| slice["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = (text("namespace"), text("name"));
        let kind = if self.slices.insert(key, slice.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((self.version, json!({ "type": kind, "object": slice })));
    }

    fn delete(&mut self, namespace: &str, name: &str) {
        self.version += 1;
        if let Some(mut slice) = self.slices.remove(&(namespace.to_owned(), name.to_owned())) {
            slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.events.push((self.version, json!({ "type": "DELETED", "object": slice })));
        }
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

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%2F", "/")))
        .collect();
    let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let ["apis", "discovery.k8s.io", "v1", "namespaces", namespace, "endpointslices"] = path.as_slice() else {
        return full(404, &status(404, "NotFound", "the server could not find the requested resource"));
    };
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let service = selector.strip_prefix("kubernetes.io/service-name=").unwrap_or_default().to_owned();
    let mut state = shared.state.lock().unwrap();
    if let Some(code) = state.refuses {
        return full(code, &status(code, "Refused", "as scripted"));
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        state.watches += 1;
        let version: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
        let past = version < state.oldest;
        drop(state);
        return watching(shared.clone(), (*namespace).to_owned(), service, version, past);
    }
    state.lists += 1;
    let of_service = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service.as_str();
    let all: Vec<Value> = state
        .slices
        .iter()
        .filter(|((of, _), _)| of == namespace)
        .map(|(_, slice)| slice)
        .filter(of_service)
        .cloned()
        .collect();
    let from: usize = query.get("continue").and_then(|c| c.parse().ok()).unwrap_or_default();
    let part: Vec<Value> = all.iter().skip(from).take(state.page).cloned().collect();
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if from + part.len() < all.len() {
        metadata["continue"] = json!((from + part.len()).to_string());
        metadata["remainingItemCount"] = json!(all.len() - from - part.len());
    }
    full(
        200,
        &json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "items": part }),
    )
}

/// That a version is past, as a watch tells it.
fn expired() -> String {
    json!({ "type": "ERROR", "object": status(410, "Expired", "too old resource version") }).to_string() + "\n"
}

/// Events from a version on, until they break off.
fn watching(shared: Arc<Shared>, namespace: String, service: String, version: u64, past: bool) -> Response<Body> {
    let ours = move |event: &Value| {
        let metadata = &event["object"]["metadata"];
        let named = metadata["labels"]["kubernetes.io/service-name"].as_str();
        named.is_none_or(|name| name == service) && metadata["namespace"].as_str().is_none_or(|n| n == namespace)
    };
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
