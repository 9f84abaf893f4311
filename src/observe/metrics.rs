//! Metrics: families of samples that are read when somebody scrapes, and never before; `exposition` writes them.
//!
//! No request touches a registry. A room that has something to show gives a closure that returns [`Family`]s; the
//! closure is registered once ([`Registry::register`]) and called at each scrape. What this room itself knows, the
//! requests' counters and what its own queues dropped, is made here; what lies above it (generations, the tick, the
//! configuration) is made in `admin::metrics`.
//!
//! Labels are bounded by the configuration: workload, cluster, route (`routes`), and fixed words. A (workload, cluster) without a
//! request yet has no series; from its first request on it has all of them, zeros included, so that a rate sees a
//! counter rise from zero.
//!
//! Names begin with `pathloom_`, but for those that OpenTelemetry's conventions have a name for
//! (`http_server_request_duration_seconds`, `rpc_server_call_duration_seconds` and the clients'), whose labels are theirs, too.

use super::durations::scheme;
pub use super::exposition::Format;
use super::{
    Copied, DurationsSeen, Exemplar, Hedged, LATENCY_BUCKETS_S, Reason, RouteLabel, RoutesSeen, Side, TrafficRegistry,
    TrafficSnapshot,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The labels of an answer's status, by its first digit; at 0 what had no answer.
const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What kind of number a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only rises; the text's names end in `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Counts by bucket.
    Histogram,
    /// Facts in labels; the text's name ends in `_info`.
    Info,
}

/// The unit of a family, which ends its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// A bare number.
    Number,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share, 0 to 1 (or above 1 for an error in proportion to what was seen).
    Ratio,
}

/// A sample's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// A number. What is unknown has no sample at all, rather than a NaN.
    Number(f64),
    /// Counts by the buckets' upper bounds (not cumulative), and the sum of what was counted.
    Histogram {
        /// The sum.
        sum: f64,
        /// Upper bounds, the last one infinite, with their counts.
        buckets: Vec<(f64, u64)>,
        /// Requests that stand for their buckets.
        exemplars: BTreeMap<usize, Exemplar>,
    },
}

/// Labels with their values.
pub type Labels = Vec<(&'static str, String)>;

/// All samples of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name without `pathloom_`, its unit and its type's suffix.
    pub name: Cow<'static, str>,
    /// What it is, in a sentence.
    pub help: Cow<'static, str>,
    /// What kind of number it is.
    pub kind: Kind,
    /// Its unit.
    pub measure: Measure,
    /// OpenTelemetry's conventions have its name, which does not begin with `pathloom_`.
    pub of_conventions: bool,
    /// The samples by their labels.
    pub samples: Vec<(Labels, Value)>,
}

impl Family {
    /// A family without samples.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        measure: Measure,
        help: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), help: help.into(), kind, measure, of_conventions: false, samples: Vec::new() }
    }

    /// One without samples, whose name is OpenTelemetry's.
    #[must_use]
    pub fn of_conventions(
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        measure: Measure,
        help: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { of_conventions: true, ..Self::new(name, kind, measure, help) }
    }

    /// With one more sample.
    #[must_use]
    pub fn with(mut self, labels: Labels, value: Value) -> Self {
        self.samples.push((labels, value));
        self
    }

    /// With a whole number and no labels.
    #[must_use]
    pub fn count(self, value: u64) -> Self {
        self.with(Labels::new(), Value::Count(value))
    }

    /// With a number and no labels; without a sample where it is unknown.
    #[must_use]
    pub fn number(self, value: Option<f64>) -> Self {
        match value.filter(|v| v.is_finite()) {
            Some(value) => self.with(Labels::new(), Value::Number(value)),
            None => self,
        }
    }

    /// The name without its unit and its type's suffix.
    pub(super) fn full_name(&self) -> String {
        if self.of_conventions { self.name.to_string() } else { format!("pathloom_{}", self.name) }
    }
}

/// Closures that are asked at each scrape.
#[derive(Default)]
pub struct Registry(Vec<Box<dyn Fn() -> Vec<Family> + Send + Sync>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.len()).finish()
    }
}

impl Registry {
    /// Registers a closure that gives its families at each scrape. No two may give a family of the same name.
    pub fn register(&mut self, families: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        self.0.push(Box::new(families));
    }

    /// Everything registered, as text.
    #[must_use]
    pub fn encode(&self, format: Format) -> String {
        let families: Vec<Family> = self.0.iter().flat_map(|families| families()).collect();
        format.encode(&families)
    }
}

/// The logical server that a cluster is, as `http.client.request.duration` has it: never one of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The service's name.
    pub address: Arc<str>,
    /// The port that its endpoints have in common, else the scheme's.
    pub port: u16,
    /// It is spoken to over TLS.
    pub secure: bool,
}

/// What requests counted; `live` says which routes there are, `server_of` which server a cluster is.
#[must_use]
pub fn traffic(
    registry: &TrafficRegistry,
    live: impl Fn(&RouteLabel) -> bool,
    server_of: impl Fn(&str) -> Server,
) -> Vec<Family> {
    use {Kind::Counter, Measure::Number};
    let mut requests = Family::new(
        "requests",
        Counter,
        Number,
        "Requests that are over, by the class of the answer's status; none where there was no answer, as for TCP connections.",
    );
    let mut failures = Family::new(
        "request_failures",
        Counter,
        Number,
        "Requests that failed, by the reason's code, which the access log and the Proxy-Status header share.",
    );
    let mut duration = Family::new(
        "request_duration",
        Kind::Histogram,
        Measure::Seconds,
        "Time from a request's head to the end of its answer; of a TCP connection, from its beginning to its end.",
    );
    let of_conventions =
        |name: &'static str, help: &'static str| Family::of_conventions(name, Kind::Histogram, Measure::Seconds, help);
    let mut server = of_conventions(
        "http_server_request_duration",
        "Duration of requests, from the head to the end of the answer, by route, method, scheme, status and error.",
    );
    let mut client = of_conventions(
        "http_client_request_duration",
        "Duration of tries at endpoints, from their beginning to the end of the answer, by service, method, status and error.",
    );
    let mut server_calls = of_conventions(
        "rpc_server_call_duration",
        "Duration of gRPC calls, from the head to the end of the answer, by route, gRPC status and error.",
    );
    let mut client_calls = of_conventions(
        "rpc_client_call_duration",
        "Duration of gRPC calls to endpoints, from their beginning to the end of the answer, by service, gRPC status and error.",
    );
    let mut retries = Family::new("retries", Counter, Number, "Attempts beyond a request's first.");
    let mut hedges = Family::new(
        "hedges",
        Counter,
        Number,
        "Requests of which a second endpoint was due to be asked, by what became of that: won or lost where it was, else why not.",
    );
    let mut faults =
        Family::new("faults_injected", Counter, Number, "Requests that a route delayed or failed on purpose.");
    let mut copies = Family::new(
        "mirrored_requests",
        Counter,
        Number,
        "Copies of requests to other clusters that a route sent to this one, by what became of them.",
    );
    let mut request_bytes = Family::new("request_body", Counter, Measure::Bytes, "Bytes of bodies that clients sent.");
    let mut response_bytes = Family::new("response_body", Counter, Measure::Bytes, "Bytes of bodies that clients got.");
    for ((workload, cluster), seen) in registry.snapshot() {
        if seen == TrafficSnapshot::default() {
            continue;
        }
        let labels = || vec![("workload", workload.to_string()), ("cluster", cluster.to_string())];
        let labels_and = |name: &'static str, value: &str| {
            let mut labels = labels();
            labels.push((name, value.to_owned()));
            labels
        };
        for (class, count) in STATUS_CLASSES.iter().zip(seen.statuses) {
            requests.samples.push((labels_and("status_class", class), Value::Count(count)));
        }
        for (reason, count) in Reason::ALL.iter().zip(seen.failures) {
            failures.samples.push((labels_and("reason", reason.code()), Value::Count(count)));
        }
        duration.samples.push((labels(), histogram(seen.latency_sum_s, seen.latency_buckets, BTreeMap::new())));
        by_route(&mut server, labels, &seen.server, &live);
        let called = server_of(&cluster);
        let to_server = || {
            let mut labels = labels();
            labels.push(("server_address", called.address.to_string()));
            labels.push(("server_port", called.port.to_string()));
            labels
        };
        let by_scheme = || {
            let mut labels = to_server();
            labels.push(("url_scheme", scheme(called.secure).to_owned()));
            labels
        };
        by_kind(&mut client, by_scheme, &seen.client, Side::Client);
        by_route(&mut server_calls, labels, &seen.server_calls, &live);
        by_kind(&mut client_calls, to_server, &seen.client_calls, Side::Client);
        retries.samples.push((labels(), Value::Count(seen.retries)));
        for (what, count) in Hedged::ALL.iter().zip(seen.hedges) {
            hedges.samples.push((labels_and("outcome", what.as_str()), Value::Count(count)));
        }
        for (kind, count) in [("delay", seen.delays), ("abort", failed_on_purpose(&seen))] {
            faults.samples.push((labels_and("kind", kind), Value::Count(count)));
        }
        for (what, count) in Copied::ALL.iter().zip(seen.copies) {
            copies.samples.push((labels_and("outcome", what.as_str()), Value::Count(count)));
        }
        request_bytes.samples.push((labels(), Value::Count(seen.request_bytes)));
        response_bytes.samples.push((labels(), Value::Count(seen.response_bytes)));
    }
    let mut unrouted =
        Family::new("unrouted_requests", Counter, Number, "Requests that reached no cluster, by the reason's code.");
    let nowhere = registry.unrouted().snapshot();
    by_route(&mut server, Labels::new, &nowhere.server, &live);
    by_route(&mut server_calls, Labels::new, &nowhere.server_calls, &live);
    for (reason, count) in Reason::ALL.iter().zip(nowhere.failures) {
        unrouted.samples.push((vec![("reason", reason.code().to_owned())], Value::Count(count)));
    }
    vec![
        requests,
        failures,
        duration,
        server,
        client,
        server_calls,
        client_calls,
        retries,
        hedges,
        faults,
        copies,
        request_bytes,
        response_bytes,
        unrouted,
    ]
}

fn histogram<const N: usize>(sum: f64, counts: [u64; N], exemplars: BTreeMap<usize, Exemplar>) -> Value {
    let bounds = LATENCY_BUCKETS_S.iter().copied().chain([f64::INFINITY]);
    Value::Histogram { sum, buckets: bounds.zip(counts).collect(), exemplars }
}

/// A histogram for each route that there is and each kind of request.
fn by_route(family: &mut Family, labels: impl Fn() -> Labels, seen: &RoutesSeen, live: &impl Fn(&RouteLabel) -> bool) {
    for (route, seen) in seen {
        if route.as_ref().is_none_or(|route| route.is_other() || live(route)) {
            let with_route = || {
                let mut labels = labels();
                labels.extend(route.iter().map(|route| ("http_route", route.as_str().to_owned())));
                labels
            };
            by_kind(family, with_route, seen, Side::Server);
        }
    }
}

/// A histogram for each kind of request.
fn by_kind(family: &mut Family, labels: impl Fn() -> Labels, seen: &DurationsSeen, side: Side) {
    for (kind, seen) in seen.iter().filter(|(kind, _)| !kind.is_connection()) {
        let mut labels = labels();
        labels.extend(kind.labels(side));
        family.samples.push((labels, histogram(seen.sum_s, seen.buckets, seen.exemplars.clone())));
    }
}

fn failed_on_purpose(seen: &TrafficSnapshot) -> u64 {
    seen.failures.get(Reason::FaultAbort.index()).copied().unwrap_or_default()
}

/// What the data path holds at the moment, and how much of it there ever was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Client connections open.
    pub downstream: u64,
    /// Client connections accepted since the start.
    pub accepted: u64,
    /// Client connections without a request that were closed because descriptors ran out, since the start.
    pub evicted: u64,
    /// Connections to endpoints open.
    pub upstream: u64,
    /// Those of them that wait for a request.
    pub pooled: u64,
    /// Connections to endpoints opened since the start.
    pub connected: u64,
    /// Requests under way.
    pub requests: u64,
    /// Connections switched to another protocol.
    pub upgraded: u64,
    /// Connections passed on as TCP.
    pub tcp: u64,
    /// Captured connections passed on to where they were going, since the start.
    pub passed: u64,
    /// Headers of traces that could not be read, since the start.
    pub malformed_traces: u64,
    /// Listeners of the configuration in force that could not be opened yet.
    pub unserved: u64,
}

/// Connections and requests under way.
#[must_use]
pub fn held(held: Held) -> Vec<Family> {
    let family =
        |name: &'static str, kind, help: &'static str, n| Family::new(name, kind, Measure::Number, help).count(n);
    use Kind::{Counter, Gauge};
    vec![
        family(
            "unserved_listeners",
            Gauge,
            "Listeners of the configuration in force that could not be opened yet.",
            held.unserved,
        ),
        family("downstream_connections", Gauge, "Client connections open, upgraded ones included.", held.downstream),
        family("downstream_connections_accepted", Counter, "Client connections accepted.", held.accepted),
        family(
            "downstream_connections_evicted",
            Counter,
            "Client connections without a request that were closed because file descriptors ran out.",
            held.evicted,
        ),
        family("upstream_connections", Gauge, "Connections to endpoints open.", held.upstream),
        family("upstream_connections_pooled", Gauge, "Connections to endpoints that wait for a request.", held.pooled),
        family("upstream_connections_opened", Counter, "Connections to endpoints opened.", held.connected),
        family("requests_in_flight", Gauge, "Requests under way.", held.requests),
        family(
            "upgraded_connections",
            Gauge,
            "Connections switched to another protocol, such as WebSocket.",
            held.upgraded,
        ),
        family("tcp_connections", Gauge, "Connections passed on as TCP, whatever is spoken on them.", held.tcp),
        family(
            "connections_passed",
            Counter,
            "Captured connections to addresses that no cluster has, passed on to where they were going.",
            held.passed,
        ),
        family(
            "malformed_trace_headers",
            Counter,
            "Headers of traces that could not be read, which are as good as absent.",
            held.malformed_traces,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::DurationKind;
    use super::*;

    fn text(families: impl Fn() -> Vec<Family> + Send + Sync + 'static) -> String {
        let mut registry = Registry::default();
        registry.register(families);
        registry.encode(Format::OpenMetrics)
    }

    fn catalog(cluster: &str) -> Server {
        assert_eq!(cluster, "c");
        Server { address: "catalog".into(), port: 8443, secure: true }
    }

    #[test]
    fn a_pair_has_no_series_until_its_first_request_and_then_all() {
        let all = Arc::new(TrafficRegistry::new(1));
        let counted = all.of(&"w".into(), &"c".into());
        let idle = {
            let all = all.clone();
            text(move || traffic(&all, |_| true, catalog))
        };
        assert!(!idle.contains("workload=\"w\""), "{idle}");
        let (get, gone) = (http::Method::GET, Some(Reason::ClientGone));
        let ids = || ([b'1'; 32], [b'2'; 16]);
        let [route, away] = ["shop/*", "gone"].map(|label| RouteLabel::new(label.into()));
        counted.finished(0, Some(&route), (DurationKind::new(&get, 0, gone), gone), 30_000_000, (3, 0), Some(ids));
        counted.finished(0, Some(&away), (DurationKind::new(&get, 200, None), None), 1, (0, 0), Some(ids));
        counted.called(0, Some(&route), DurationKind::call(Some(14), None), 30_000_000, Some(ids));
        counted.called(0, Some(&away), DurationKind::call(Some(14), None), 30_000_000, Some(ids));
        counted.tried_call(0, DurationKind::call(Some(5), None), 20_000_000, Some(ids));
        counted.tried(0, DurationKind::new(&get, 503, None), 20_000_000, None::<fn() -> _>);
        all.unrouted().finished(
            0,
            None,
            (DurationKind::new(&get, 404, Some(Reason::NoRoute)).over_tls(true), None),
            0,
            (0, 0),
            None::<fn() -> _>,
        );
        let busy = text(move || traffic(&all, |route| route.as_str() != "gone", catalog));
        for line in [
            "pathloom_requests_total{workload=\"w\",cluster=\"c\",status_class=\"none\"} 1\n",
            "pathloom_requests_total{workload=\"w\",cluster=\"c\",status_class=\"5xx\"} 0\n",
            "pathloom_request_failures_total{workload=\"w\",cluster=\"c\",reason=\"client_gone\"} 1\n",
            "pathloom_request_duration_seconds_bucket{le=\"0.025\",workload=\"w\",cluster=\"c\"} 1\n",
            "pathloom_request_duration_seconds_bucket{le=\"0.05\",workload=\"w\",cluster=\"c\"} 2\n",
            "pathloom_request_duration_seconds_bucket{le=\"+Inf\",workload=\"w\",cluster=\"c\"} 2\n",
            "pathloom_request_duration_seconds_count{workload=\"w\",cluster=\"c\"} 2\n",
            "pathloom_requests_total{workload=\"w\",cluster=\"c\",status_class=\"2xx\"} 1\n",
            "http_server_request_duration_seconds_count{workload=\"w\",cluster=\"c\",http_route=\"shop/*\",http_request_method=\"GET\",url_scheme=\"http\",error_type=\"client_gone\"} 1\n",
            "rpc_server_call_duration_seconds_count{workload=\"w\",cluster=\"c\",http_route=\"shop/*\",rpc_system_name=\"grpc\",rpc_response_status_code=\"UNAVAILABLE\",error_type=\"UNAVAILABLE\"} 1\n",
            "rpc_client_call_duration_seconds_count{workload=\"w\",cluster=\"c\",server_address=\"catalog\",server_port=\"8443\",rpc_system_name=\"grpc\",rpc_response_status_code=\"NOT_FOUND\",error_type=\"NOT_FOUND\"} 1\n",
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",url_scheme=\"https\",http_response_status_code=\"404\",error_type=\"no_route\"} 1\n",
            "http_client_request_duration_seconds_count{workload=\"w\",cluster=\"c\",server_address=\"catalog\",server_port=\"8443\",url_scheme=\"https\",http_request_method=\"GET\",http_response_status_code=\"503\",error_type=\"503\"} 1\n",
            "error_type=\"client_gone\"} 1 # {trace_id=\"11111111111111111111111111111111\",span_id=\"2222222222222222\"} 0.03 ",
            "pathloom_request_body_bytes_total{workload=\"w\",cluster=\"c\"} 3\n",
            "pathloom_unrouted_requests_total{reason=\"no_route\"} 0\n",
        ] {
            assert!(busy.contains(line), "{line} is not in\n{busy}");
        }
        assert!(busy.ends_with("# EOF\n") && !busy.contains("gone\",http_request") && !busy.contains("gone\",rpc"));
    }

    #[test]
    fn what_is_unknown_has_no_sample() {
        let gauge = |value| Family::new("x", Kind::Gauge, Measure::Ratio, "A thing.").number(value);
        let unknown = text(move || vec![gauge(None)]);
        assert_eq!(
            unknown,
            "# HELP pathloom_x_ratio A thing.\n# TYPE pathloom_x_ratio gauge\n# UNIT pathloom_x_ratio ratio\n# EOF\n"
        );
        assert!(text(move || vec![gauge(Some(f64::NAN))]).eq(&unknown));
        assert!(text(move || vec![gauge(Some(0.5))]).contains("pathloom_x_ratio 0.5\n"));
    }

    #[test]
    fn a_label_with_quotes_and_line_ends_is_escaped() {
        let family = || {
            Family::new("x", Kind::Gauge, Measure::Number, "A thing.")
                .with(vec![("l", "a\"b\\c\nd".into())], Value::Count(1))
        };
        assert!(text(move || vec![family()]).contains("pathloom_x{l=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }
}
