//! The operators' HTTP server. GET and HEAD only:
//!
//! - `/live`: 200 while the process runs.
//! - `/ready`: 200 when requests can be served, else 503 with the reasons.
//! - `/metrics`: Prometheus text (OpenMetrics).
//! - `/config`: the configuration in force and the result of the last reload, as YAML; as JSON with `?format=json` or
//!   `Accept: application/json`.
//! - `/routing`: why requests go where they go, as JSON; `?cluster=NAME` and `?workload=NAME` narrow it, `?brief=1` leaves the
//!   candidates out, `?history=N` adds what the last N generations changed.
//! - `/graph`: the mesh as the last tick saw it, as JSON; `?busiest=N` gives the N links with the most calls, `?around=NAME`
//!   what is at a service or a node.
//! - `/requests`: the last requests as the access log has them, as JSON; `?last=N`, `?cluster=NAME`, `?workload=NAME` and `?failed=1`
//!   narrow them, `?id=ID` explains one.
//! - `/events`: what each generation changes, as it is published, as server-sent events.
//! - `/`: a page that shows all of this live, and `/assets/`, what it is made of.
//!
//! A further address (`admin.metrics`) answers for the first three alone.
//!
//! It keeps itself small: a head of at most 16 KiB, 64 connections (more wait in the kernel's queue), five seconds to
//! send a head, and five seconds without progress on the socket, so a client that stalls holds its place no longer.
//! Answers are made on blocking threads: a graph of a million links must not hold up the tick, which shares this
//! runtime. `guard` says which requests are refused for their `Host`; on a Unix socket (`socket`) none is.

use super::routing::Filter;
use super::socket::AdminListener;
use super::stall::Guarded;
use super::state::AdminState;
use super::{assets, config, events, graph, guard, history, metrics, narrow, past, requests, routing};
use crate::observe::metrics::{Format, Registry};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// How many connections are served at once.
const MAX_CONNECTIONS: usize = 64;
/// The largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take to send a head, or to take in any part of an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait after a failed accept (the process is out of descriptors), lest it spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const EVENTS: &str = "text/event-stream";
/// The page's own scripts and style, and nothing from anywhere else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A file's path holds its content's digest.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";
const ENDPOINTS: &str = "\
/         a page that shows all of this live
/live     200 while the process runs
/ready    200 when requests can be served, else 503 with the reasons
/metrics  Prometheus text
/config   the configuration in force, as YAML; ?format=json
/routing  why requests go where they go, as JSON; ?cluster=NAME&workload=NAME, ?brief=1, ?history=N; ?generation=N as it was then
/graph    the mesh as the last tick saw it, as JSON; ?busiest=N links, ?around=NAME
/requests the last requests, from the access log, as JSON; ?id=ID, ?last=N&cluster=NAME&workload=NAME&failed=1
/events   what each generation changes, as server-sent events
";

const METRICS_ENDPOINTS: &str = "\
/live     200 while the process runs
/ready    200 when requests can be served, else 503 with the reasons
/metrics  Prometheus text

The rest is at `admin.listen`.
";

/// What an address answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Everything.
    All,
    /// What tells nothing of who calls whom but in numbers: `/live`, `/ready` and `/metrics`.
    Metrics,
}

struct Server {
    state: Arc<AdminState>,
    metrics: Registry,
    pages: Pages,
    listeners: events::Listeners,
}

type Answer = Response<Either<Full<Bytes>, events::Events>>;

/// Whoever may connect, on an address or on a Unix socket.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepting {
    fn new(listener: AdminListener) -> io::Result<Self> {
        match listener {
            AdminListener::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            AdminListener::Unix(listener) => UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// Serves until `shutdown` ends, and a second longer for answers under way.
///
/// # Errors
/// When the runtime does not take the listener.
pub async fn serve(
    listener: AdminListener,
    pages: Pages,
    state: Arc<AdminState>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let listener = Accepting::new(listener)?;
    let metrics = metrics::registry(&state);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let listeners = events::Listeners::new(stopping.clone());
    let server = Arc::new(Server { state, metrics, pages, listeners });
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = &mut shutdown => break,
            (place, accepted) = accepted => match accepted {
                Ok(stream) => (place, stream),
                Err(error) => {
                    tracing::warn!(%error, "the admin port could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (server, stopping) = (server.clone(), stopping.clone());
        tokio::spawn(async move {
            match stream {
                Accepted::Tcp(stream) => {
                    let _ = stream.set_nodelay(true);
                    connection(stream, true, server, stopping).await;
                }
                // No web page can make a browser ask here.
                Accepted::Unix(stream) => connection(stream, false, server, stopping).await,
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = stop.send(true);
    // Every place free again: every connection over.
    let _ = tokio::time::timeout(GRACE, places.acquire_many(MAX_CONNECTIONS as u32)).await;
    Ok(())
}

/// Serves a connection; `by_name` where browsers reach it, so that the name by which it is asked counts.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    by_name: bool,
    server: Arc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Guarded::new(stream, TIMEOUT));
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(server, by_name, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // What goes wrong on an operator's connection is the operator's to see, and not worth a line.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(GRACE, connection).await;
}

async fn answer(server: Arc<Server>, by_name: bool, request: Request<Incoming>) -> Answer {
    if by_name && let Some(host) = guard::foreign_host(request.uri(), request.headers(), &server.state.node) {
        let text = format!(
            "The admin port does not answer for the host name `{host}`, because a web page could point such a name here (DNS rebinding).\n\
             Use an IP address, `localhost` or the node's name `{}`.\n",
            server.state.node
        );
        return respond(StatusCode::FORBIDDEN, TEXT, text);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "The admin port changes nothing: only GET and HEAD.\n".into(),
        );
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (parts, _) = request.into_parts();
    let made = tokio::task::spawn_blocking(move || {
        route(&server, parts.uri.path(), parts.uri.query().unwrap_or(""), &parts.headers)
    });
    made.await
        .unwrap_or_else(|_| respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "The answer could not be made.\n".into()))
}

fn route(server: &Server, path: &str, query: &str, headers: &HeaderMap) -> Answer {
    let state = &server.state;
    let parameter = |name: &str| parameter(query, name);
    match path {
        "/live" => respond(StatusCode::OK, TEXT, "live\n".into()),
        "/ready" => ready(state),
        "/metrics" => {
            let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::accepted(accept);
            respond(StatusCode::OK, format.content_type(), server.metrics.encode(format))
        }
        _ if server.pages == Pages::Metrics => not_found(METRICS_ENDPOINTS),
        "/config" => match wants_json(parameter("format").as_deref(), headers) {
            true => respond(StatusCode::OK, JSON, pretty(&config::json(&state.config.load()))),
            false => respond(StatusCode::OK, YAML, config::yaml(&state.config.load())),
        },
        "/routing" => {
            let (cluster, workload) = (parameter("cluster"), parameter("workload"));
            if let Some(generation) = parameter("generation") {
                let began = parameter("began");
                let filter = Filter { cluster: cluster.as_deref(), workload: workload.as_deref() };
                return then(state, &generation, began.as_deref(), filter);
            }
            match routing::routing(state, Filter { cluster: cluster.as_deref(), workload: workload.as_deref() }) {
                Ok(mut value) => {
                    if parameter("brief").is_some() {
                        narrow::brief(&mut value);
                    }
                    if let (Some(count), Some(map)) = (parameter("history"), value.as_object_mut()) {
                        let count = count.parse().unwrap_or(0);
                        map.insert("history".to_owned(), history::last(&state.control.history, count));
                    }
                    respond(StatusCode::OK, JSON, pretty(&value))
                }
                Err(unknown) => {
                    let value = serde_json::json!({ "error": unknown.to_string(), "known": unknown.known });
                    respond(StatusCode::NOT_FOUND, JSON, pretty(&value))
                }
            }
        }
        "/graph" => {
            let busiest = parameter("busiest").and_then(|n| n.parse().ok());
            let told = state.links.told();
            let told = told.as_deref().map(|told| (told, (state.clock)()));
            let mut value = graph::graph(state.control.view().as_deref(), told, busiest);
            if let Some(name) = parameter("around") {
                narrow::around(&mut value, &name);
            }
            narrow::with_generation(&mut value, &state.published.load());
            respond(StatusCode::OK, JSON, pretty(&value))
        }
        "/requests" => match parameter("id") {
            Some(id) => match requests::one(state, &id) {
                Ok(value) => respond(StatusCode::OK, JSON, pretty(&value)),
                Err(unknown) => respond(StatusCode::NOT_FOUND, JSON, pretty(&unknown)),
            },
            None => {
                let last = parameter("last").and_then(|n| n.parse().ok());
                let (cluster, workload) = (parameter("cluster"), parameter("workload"));
                let wanted = requests::Wanted { last, cluster, workload, failed: parameter("failed").is_some() };
                respond(StatusCode::OK, JSON, pretty(&requests::last(state, &wanted)))
            }
        },
        "/events" => listen(server, headers),
        "/" => {
            let mut response = respond(StatusCode::OK, HTML, assets::page());
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
            response
        }
        _ => assets::find(path).map_or_else(|| not_found(ENDPOINTS), asset),
    }
}

/// `/routing` as it was in a generation.
fn then(state: &AdminState, generation: &str, began: Option<&str>, filter: Filter<'_>) -> Answer {
    let Ok(generation) = generation.parse() else {
        let value = serde_json::json!({ "error": "a generation is a number, as in the access log" });
        return respond(StatusCode::BAD_REQUEST, JSON, pretty(&value));
    };
    match past::routing(state, past::Wanted { generation, began }, filter) {
        Ok(value) => respond(StatusCode::OK, JSON, pretty(&value)),
        Err(why) => respond(StatusCode::NOT_FOUND, JSON, pretty(&serde_json::json!({ "error": why, "known": [] }))),
    }
}

fn not_found(there_is: &str) -> Answer {
    respond(StatusCode::NOT_FOUND, TEXT, format!("There is nothing at this path. There is:\n\n{there_is}"))
}

fn listen(server: &Server, headers: &HeaderMap) -> Answer {
    match server.listeners.listen(&server.state.control, headers) {
        Ok(events) => respond(StatusCode::OK, EVENTS, String::new()).map(|_| Either::Right(events)),
        Err(events::Refused::Full) => {
            let text = format!("{} listen already; /routing?history=N says the same.\n", events::MAX_LISTENERS);
            let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            response
        }
        Err(events::Refused::Foreign) => {
            respond(StatusCode::FORBIDDEN, TEXT, "Pages of other sites may not listen here.\n".into())
        }
    }
}

fn asset(&(_, content_type, content): &assets::Asset) -> Answer {
    let mut response = respond(StatusCode::OK, content_type, String::new());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOR_GOOD));
    response.map(|_| Either::Left(Full::new(Bytes::from_static(content))))
}

fn ready(state: &AdminState) -> Answer {
    let mut reasons = (state.not_ready)();
    if state.published.load().id == 0 {
        reasons.push("no generation has been published yet".to_owned());
    }
    if reasons.is_empty() {
        return respond(StatusCode::OK, TEXT, "ready\n".into());
    }
    respond(
        StatusCode::SERVICE_UNAVAILABLE,
        TEXT,
        reasons.iter().fold("not ready:\n".to_owned(), |text, r| format!("{text}- {r}\n")),
    )
}

fn wants_json(format: Option<&str>, headers: &HeaderMap) -> bool {
    let accepts =
        || headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("application/json"));
    format.map_or_else(accepts, |f| f == "json")
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The value of a query's parameter, percent-decoded; an empty one asks for nothing.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?.1;
    Some(decode(value)).filter(|v| !v.is_empty())
}

fn decode(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((first, rest)) = bytes.split_first() {
        let pair = (hex(rest.first()), hex(rest.get(1)));
        bytes = rest;
        match (first, pair) {
            (b'%', (Some(high), Some(low))) => {
                out.push((high * 16 + low) as u8);
                bytes = rest.get(2..).unwrap_or_default();
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
