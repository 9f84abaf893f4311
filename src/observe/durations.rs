//! How long requests took, by what OpenTelemetry's conventions tell of one: its method, its scheme, its status, its error
//! (`http.server.request.duration`, and `http.client.request.duration` for each try at an endpoint), and of gRPC calls
//! the status of gRPC and the error (`rpc.server.call.duration`, `rpc.client.call.duration`).
//!
//! What the conventions (1.45) ask for and where it comes from: `url.scheme` of the server is the client's connection's
//! (TLS or not); `server.address`, `server.port` and the scheme of the client are those of the **logical** server, the
//! cluster's service, which `metrics` adds when somebody looks. Endpoints are no labels: 1,000 of them with 15 buckets and
//! ten kinds each would be 150,000 series; `pathloom_endpoint_*` and the spans (`network.peer.address`) tell them apart.
//! Left out are what the conventions recommend and clients make up (a call's method), what they leave to choice (the
//! server's own address and port: `Host` is the client's word), and `network.protocol.version`, which would double all series.
//!
//! A core's part has one writer. A combination of labels has a place of its own from its first request on; there are
//! [`PLACES`] of them, and what comes beyond is told by its class of status alone, so that no client and no endpoint can
//! make up labels without end. Most requests find theirs first.
//!
//! **Exemplars.** The last sampled request of each bucket is kept with its trace. Whoever scrapes may hold that place for
//! a moment, and a request that finds it held leaves no exemplar.

use super::semconv::{GRPC, GRPC_FAULTS};
use super::{LATENCY_BUCKETS_S, Reason};
use crate::links::bump;
use http::Method;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

/// How many combinations of labels are told apart, for a workload, a cluster, a route and a core.
const PLACES: usize = 26;
/// One for each first digit of a status, 0 for none.
const CLASSES: usize = 6;
const BUCKETS: usize = LATENCY_BUCKETS_S.len() + 1;

/// The methods that the conventions know, in the order of their numbers.
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
/// The number of any other method.
const OTHER: u8 = METHODS.len() as u8;
/// The number of what is no request but a connection.
const NO_METHOD: u8 = OTHER + 1;
/// The number of what is a gRPC call, and is told as such beside the request that it is.
const CALL: u8 = OTHER + 2;
/// Stands beside a method's number where the client's connection is secured. In one byte, for kinds are compared with
/// each request: four bytes are one comparison.
const SECURE: u8 = 0x80;
/// The code of a try that nobody waited for any more.
const CANCELLED: u8 = u8::MAX;

/// Whose view of a request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever answers it.
    Server,
    /// Whoever sends it.
    Client,
}

/// What is told of requests that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationKind {
    /// Its number, and [`SECURE`]; of a request alone, as the server sees it.
    method_and_scheme: u8,
    /// 0 is none; below 6 a class alone. Of a gRPC call its status and one.
    status: u16,
    /// A reason's place and one; 0 is none.
    reason: u8,
}

impl DurationKind {
    /// A request: its method, its status (0 is none), and why it failed.
    #[must_use]
    pub fn new(method: &Method, status: u16, reason: Option<Reason>) -> Self {
        let method_and_scheme = match *method {
            Method::GET => 0,
            Method::POST => 1,
            Method::PUT => 2,
            Method::DELETE => 3,
            Method::HEAD => 4,
            Method::PATCH => 5,
            Method::OPTIONS => 6,
            Method::CONNECT => 7,
            Method::TRACE => 8,
            _ => OTHER,
        };
        Self { method_and_scheme, status, reason: reason.map_or(0, |r| r.index() as u8 + 1) }
    }

    /// The same over a connection of the client's that is secured, or is not.
    #[must_use]
    pub fn over_tls(self, secure: bool) -> Self {
        Self { method_and_scheme: self.method() | if secure { SECURE } else { 0 }, ..self }
    }

    /// A connection, which is no request of HTTP's.
    #[must_use]
    pub fn connection(reason: Option<Reason>) -> Self {
        Self { method_and_scheme: NO_METHOD, ..Self::new(&Method::GET, 0, reason) }
    }

    /// A request that could not be read.
    #[must_use]
    pub fn unreadable(status: u16, reason: Option<Reason>) -> Self {
        Self { method_and_scheme: OTHER, ..Self::new(&Method::GET, status, reason) }
    }

    /// A try that nobody waited for any more.
    #[must_use]
    pub fn cancelled(method: &Method) -> Self {
        Self { reason: CANCELLED, ..Self::new(method, 0, None) }
    }

    /// A gRPC call: its status, where it has one, and why it failed.
    #[must_use]
    pub fn call(status: Option<u16>, reason: Option<Reason>) -> Self {
        let known = |status: u16| usize::from(status).min(GRPC.len()) as u16 + 1;
        let status = status.map_or(0, known);
        Self { method_and_scheme: CALL, status, reason: reason.map_or(0, |r| r.index() as u8 + 1) }
    }

    /// A gRPC call to an endpoint that nobody waited for any more.
    #[must_use]
    pub fn cancelled_call() -> Self {
        Self { method_and_scheme: CALL, status: 0, reason: CANCELLED }
    }

    /// Whether it is no request but a connection.
    #[must_use]
    pub fn is_connection(self) -> bool {
        self.method() == NO_METHOD
    }

    fn method(self) -> u8 {
        self.method_and_scheme & !SECURE
    }

    fn secure(self) -> bool {
        self.method_and_scheme & SECURE != 0
    }

    /// The first digit of its status; 0 where it has none.
    #[must_use]
    pub fn class(self) -> usize {
        usize::from(if self.status < 100 { self.status } else { self.status / 100 }).min(CLASSES - 1)
    }

    /// The same, with its scheme and its class of status alone.
    fn folded(self) -> Self {
        match self.method() {
            CALL => Self { status: 0, reason: 0, ..self },
            NO_METHOD => Self { status: self.class() as u16, reason: 0, ..self },
            _ => {
                let folded = Self { method_and_scheme: OTHER, status: self.class() as u16, reason: 0 };
                folded.over_tls(self.secure())
            }
        }
    }

    fn reason(self) -> Option<&'static str> {
        let known = || Reason::ALL.get(usize::from(self.reason.checked_sub(1)?)).map(|reason| reason.code());
        if self.reason == CANCELLED { Some("cancelled") } else { known() }
    }

    /// The labels by the conventions' names.
    #[must_use]
    pub fn labels(self, side: Side) -> Vec<(&'static str, String)> {
        if self.method() == CALL { self.labels_of_call(side) } else { self.labels_of_request(side) }
    }

    fn labels_of_call(self, side: Side) -> Vec<(&'static str, String)> {
        let mut labels = vec![("rpc_system_name", "grpc".to_owned())];
        let status = self.status.checked_sub(1);
        let word = status.map(|status| *GRPC.get(usize::from(status)).unwrap_or(&"_OTHER"));
        let fault = match side {
            Side::Server => status.is_some_and(|s| GRPC_FAULTS.contains(&s) || usize::from(s) >= GRPC.len()),
            Side::Client => status.is_some_and(|s| s != 0),
        };
        let error = self.reason().or(word.filter(|_| fault)).or(if word.is_none() { Some("_OTHER") } else { None });
        labels.extend(word.map(|word| ("rpc_response_status_code", word.to_owned())));
        labels.extend(error.map(|error| ("error_type", error.to_owned())));
        labels
    }

    /// An error is 500 or more to the server, 400 or more to the client.
    fn labels_of_request(self, side: Side) -> Vec<(&'static str, String)> {
        let least = if side == Side::Server { 5 } else { 4 };
        let method = METHODS.get(usize::from(self.method())).unwrap_or(&"_OTHER");
        let mut labels = vec![("http_request_method", (*method).to_owned())];
        if side == Side::Server {
            labels.push(("url_scheme", scheme(self.secure()).to_owned()));
        }
        let status = match self.status {
            0 => None,
            class @ 1..100 => Some(format!("{class}xx")),
            status => Some(status.to_string()),
        };
        let error = match (self.reason(), &status) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, Some(status)) if self.class() >= least => Some(status.clone()),
            (None, Some(_)) => None,
            (None, None) => Some("_OTHER".to_owned()),
        };
        labels.extend(status.map(|status| ("http_response_status_code", status)));
        labels.extend(error.map(|error| ("error_type", error)));
        labels
    }
}

/// The scheme of what is asked over a connection.
pub(super) fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// A request that stands for its bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Its trace: 32 hexadecimal digits.
    pub trace_id: [u8; 32],
    /// Its span: 16 hexadecimal digits.
    pub span_id: [u8; 16],
    /// How long it took, in seconds.
    pub seconds: f64,
    /// When it was over.
    pub at: SystemTime,
}

#[derive(Debug)]
struct Series {
    kind: DurationKind,
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>; BUCKETS]>>,
}

impl Series {
    fn new(kind: DurationKind) -> Box<Self> {
        let buckets = [const { AtomicU64::new(0) }; BUCKETS];
        Box::new(Self { kind, buckets, sum_ns: AtomicU64::new(0), exemplars: OnceLock::new() })
    }
}

/// One core's durations.
#[derive(Debug)]
pub struct Durations {
    places: [OnceLock<Box<Series>>; PLACES],
    /// By scheme and class.
    folded: [[OnceLock<Box<Series>>; CLASSES]; 2],
    folded_connections: OnceLock<Box<Series>>,
    folded_calls: OnceLock<Box<Series>>,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            places: [const { OnceLock::new() }; PLACES],
            folded: [const { [const { OnceLock::new() }; CLASSES] }; 2],
            folded_connections: OnceLock::new(),
            folded_calls: OnceLock::new(),
        }
    }
}

impl Durations {
    /// Counts a request that took so long, and keeps it as its bucket's exemplar where it is one.
    #[inline]
    pub fn record(&self, kind: DurationKind, took_ns: u64, exemplar: Option<impl FnOnce() -> ([u8; 32], [u8; 16])>) {
        let Some(series) = self.place(kind) else { return };
        let seconds = took_ns as f64 * 1e-9;
        let bucket = LATENCY_BUCKETS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        if let Some(counter) = series.buckets.get(bucket) {
            bump(counter, 1);
        }
        bump(&series.sum_ns, took_ns);
        if let Some(exemplar) = exemplar {
            let kept = series.exemplars.get_or_init(|| Box::new([const { Mutex::new(None) }; BUCKETS]));
            if let Some(Ok(mut place)) = kept.get(bucket).map(Mutex::try_lock) {
                let (trace_id, span_id) = exemplar();
                // Divided, so that it is shown in as many digits as it has.
                let seconds = took_ns as f64 / 1e9;
                *place = Some(Exemplar { trace_id, span_id, seconds, at: SystemTime::now() });
            }
        }
    }

    fn place(&self, kind: DurationKind) -> Option<&Series> {
        for place in &self.places {
            match place.get() {
                Some(series) if series.kind == kind => return Some(series),
                Some(_) => {}
                None => return Some(place.get_or_init(|| Series::new(kind))),
            }
        }
        let folded = kind.folded();
        let place = match kind.method() {
            CALL => &self.folded_calls,
            NO_METHOD => &self.folded_connections,
            _ => self.folded.get(usize::from(folded.secure()))?.get(folded.class())?,
        };
        Some(place.get_or_init(|| Series::new(folded)))
    }

    fn all(&self) -> impl Iterator<Item = &Series> {
        let places = self
            .places
            .iter()
            .chain(self.folded.iter().flatten())
            .chain([&self.folded_connections, &self.folded_calls]);
        places.filter_map(|place| place.get().map(|series| &**series))
    }
}

/// What was seen of requests that are alike, over all cores.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DurationSeen {
    /// Counts by bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// All of them together, in seconds.
    pub sum_s: f64,
    /// By bucket.
    pub exemplars: BTreeMap<usize, Exemplar>,
}

/// What was seen, by kind.
pub type DurationsSeen = BTreeMap<DurationKind, DurationSeen>;

/// Adds a core's part to what others saw.
pub fn add(seen: &mut DurationsSeen, durations: &Durations) {
    for series in durations.all() {
        let one = seen.entry(series.kind).or_default();
        one.buckets.iter_mut().zip(&series.buckets).for_each(|(sum, counter)| *sum += counter.load(Relaxed));
        one.sum_s += series.sum_ns.load(Relaxed) as f64 * 1e-9;
        for (bucket, place) in series.exemplars.get().into_iter().flat_map(|kept| kept.iter().enumerate()) {
            let kept = place.lock().ok().and_then(|place| place.clone());
            if let Some(kept) = kept.filter(|new| one.exemplars.get(&bucket).is_none_or(|old| old.at < new.at)) {
                one.exemplars.insert(bucket, kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ids = ([u8; 32], [u8; 16]);
    const NONE: Option<fn() -> Ids> = None;

    fn seen(durations: &Durations) -> DurationsSeen {
        let mut seen = DurationsSeen::default();
        add(&mut seen, durations);
        seen
    }

    #[test]
    fn what_is_alike_is_counted_together_and_labelled_as_the_conventions_have_it() {
        let durations = Durations::default();
        for (method, status, reason, ms) in [
            (Method::GET, 200, None, 3),
            (Method::GET, 200, None, 30),
            (Method::POST, 503, None, 1),
            (Method::GET, 404, None, 1),
            (Method::GET, 504, Some(Reason::ResponseTimeout), 20_000),
            (Method::from_bytes(b"FROB").unwrap(), 0, Some(Reason::ClientGone), 1),
        ] {
            durations.record(DurationKind::new(&method, status, reason), ms * 1_000_000, NONE);
        }
        let all = seen(&durations);
        assert_eq!(all.len(), 5);
        let ok = &all[&DurationKind::new(&Method::GET, 200, None)];
        assert_eq!((ok.buckets[0], ok.buckets[3], ok.buckets.iter().sum::<u64>()), (1, 1, 2));
        assert!((ok.sum_s - 0.033).abs() < 1e-9);
        let labels = |kind: DurationKind, side| {
            let labels = kind.labels(side).into_iter().map(|(name, value)| format!("{name}={value}"));
            labels.collect::<Vec<_>>().join(" ")
        };
        let of = |status, reason| DurationKind::new(&Method::GET, status, reason);
        assert_eq!(
            labels(of(200, None), Side::Server),
            "http_request_method=GET url_scheme=http http_response_status_code=200"
        );
        let over_tls = "http_request_method=GET url_scheme=https http_response_status_code=200";
        assert_eq!(labels(of(200, None).over_tls(true), Side::Server), over_tls);
        let absent = "http_request_method=GET url_scheme=http http_response_status_code=404";
        assert_eq!(labels(of(404, None), Side::Server), absent);
        let failed = "http_request_method=GET http_response_status_code=404 error_type=404";
        assert_eq!(labels(of(404, None), Side::Client), failed, "a client's error");
        let late = "http_request_method=GET url_scheme=http http_response_status_code=504 error_type=response_timeout";
        assert_eq!(labels(of(504, Some(Reason::ResponseTimeout)), Side::Server), late);
        assert_eq!(
            labels(DurationKind::cancelled(&Method::GET), Side::Client),
            "http_request_method=GET error_type=cancelled"
        );
    }

    #[test]
    fn labels_have_an_end() {
        let durations = Durations::default();
        for (status, secure) in (100..600).flat_map(|status| [(status, false), (status, true)]) {
            durations.record(DurationKind::new(&Method::GET, status, None).over_tls(secure), 1, NONE);
        }
        durations.record(DurationKind::connection(None), 1, NONE);
        let all = seen(&durations);
        assert_eq!(all.len(), PLACES + 2 * 5 + 1);
        assert_eq!(all.values().map(|seen| seen.buckets.iter().sum::<u64>()).sum::<u64>(), 1_001, "none is lost");
        let folded = all.keys().filter(|kind| kind.class() == 5);
        let labels = |kind: &DurationKind| kind.labels(Side::Server).into_iter().map(|(_, value)| value);
        let folded: Vec<Vec<_>> = folded.map(|kind| labels(kind).collect()).collect();
        assert_eq!(folded, [["_OTHER", "http", "5xx", "5xx"], ["_OTHER", "https", "5xx", "5xx"]]);
        assert_eq!(all.keys().filter(|kind| kind.is_connection()).count(), 1);
    }

    #[test]
    fn a_call_is_told_by_its_status_and_by_whose_fault_it_was() {
        let labels = |kind: DurationKind, side| {
            let labels = kind.labels(side).into_iter().map(|(name, value)| format!("{name}={value}"));
            labels.collect::<Vec<_>>().join(" ").replace("rpc_system_name=grpc", "grpc")
        };
        let (server, client, timeout) = (Side::Server, Side::Client, Some(Reason::ResponseTimeout));
        let call = DurationKind::call;
        for (kind, side, expected) in [
            (call(Some(0), None), client, "grpc rpc_response_status_code=OK"),
            (call(Some(5), None), server, "grpc rpc_response_status_code=NOT_FOUND"),
            (call(Some(5), None), client, "grpc rpc_response_status_code=NOT_FOUND error_type=NOT_FOUND"),
            (call(Some(14), None), server, "grpc rpc_response_status_code=UNAVAILABLE error_type=UNAVAILABLE"),
            (
                call(Some(4), timeout),
                server,
                "grpc rpc_response_status_code=DEADLINE_EXCEEDED error_type=response_timeout",
            ),
            (call(Some(99), None), server, "grpc rpc_response_status_code=_OTHER error_type=_OTHER"),
            (call(None, None), server, "grpc error_type=_OTHER"),
            (DurationKind::cancelled_call(), client, "grpc error_type=cancelled"),
        ] {
            assert_eq!(labels(kind, side), expected);
        }
        let durations = Durations::default();
        for reason in [None, timeout, Some(Reason::ClientGone)] {
            for status in 0..20 {
                durations.record(call(Some(status), reason), 1, NONE);
            }
        }
        let all = seen(&durations);
        assert_eq!(all.len(), PLACES + 1);
        assert_eq!(all.values().map(|seen| seen.buckets.iter().sum::<u64>()).sum::<u64>(), 60, "none is lost");
        assert_eq!(labels(call(None, None).folded(), client), "grpc error_type=_OTHER");
        assert!(all.keys().all(|kind| !kind.is_connection()));
    }

    #[test]
    fn the_last_sampled_request_stands_for_its_bucket() {
        let (one, other) = (Durations::default(), Durations::default());
        let kind = DurationKind::new(&Method::GET, 200, None);
        one.record(kind, 1_000_000, Some(|| ([b'1'; 32], [b'a'; 16])));
        one.record(kind, 2_000_000, Some(|| ([b'2'; 32], [b'a'; 16])));
        one.record(kind, 3_000_000, NONE);
        other.record(kind, 30_000_000, Some(|| ([b'3'; 32], [b'a'; 16])));
        let mut all = seen(&one);
        add(&mut all, &other);
        let exemplars = &all[&kind].exemplars;
        let kept: Vec<_> = exemplars.iter().map(|(bucket, e)| (*bucket, e.trace_id[0], e.seconds)).collect();
        assert_eq!(kept, [(0, b'2', 0.002), (3, b'3', 0.03)]);
    }
}
