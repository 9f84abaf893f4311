//! A small mesh for the tests of this room: `frontend` and `batch` call `catalog` (three endpoints) and `empty` (none).

use super::state::{AdminState, ConfigState, ScorerStatus};
use crate::admission::{self, Rank, Served};
use crate::balance::{
    Budget, Candidate, Cause, Cluster, Endpoint, EndpointId, Generation, Health, Hedging, ModelIdentity, OwnZone,
    Predicted, Published, Rung, Table, TableOptions, Why,
};
use crate::config::{
    AccessLog, Compare, Concurrency, Config, HealthCheck, Identity, Policy, Rate, RateLimit, Share, Telemetry,
};
use crate::control::history::{Broken, Change, Moved, Trouble, Turned};
use crate::control::{ArmView, CanaryView, Comparison, GraphView, Interval, Keeper, Lost, Retreat, Status};
use crate::discovery::{
    ConditionView, Fault, GatewayView, Ignored, Readiness, RouteView, SourceState, SourceView, WatchView,
};
use crate::graph::{GraphBuilder, Instance};
use crate::health::Checks;
use crate::identity::{Handshake, Identities, Side, ca};
use crate::links::{LinkKey, Links, NodeKey, Outcome, Time};
use crate::observe::metrics::{self, Held};
use crate::observe::{Arm, Came, DurationKind, Reason, Reporting, RouteLabel, TrafficRegistry};
use crate::record::{self, Recorder};
use crate::route::RouteTable;
use crate::scorer::ScoreError;
use arc_swap::ArcSwap;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The access log's only line.
const RECENT: &str = concat!(
    r#"{"time":"2026-01-01T00:00:00.000Z","request_id":"cafe01","cluster":"catalog","workload":"frontend","#,
    r#""method":"GET","host":"catalog.shop","path":"/","status":200,"generation":41,"policy":"model","reason":""}"#,
    "\n"
);

/// The moment of every look.
pub const NOW: Time = Time(100_000_000_000);
const TAU_S: f32 = 3.0;

pub fn state() -> AdminState {
    let links = Arc::new(Links::new(1));
    let traffic = Arc::new(TrafficRegistry::new(1));
    AdminState {
        published: Published::default(),
        links,
        traffic,
        control: Arc::new(Status::default()),
        clock: Arc::new(|| NOW),
        config: ArcSwap::from_pointee(ConfigState::default().loaded(&config(), Vec::new(), at(1))),
        not_ready: Box::new(Vec::new),
        scorer: Box::new(|| ScorerStatus {
            json: json!({
                "state": "ready",
                "not_ready": null,
                "engine": { "engine": "embedded", "version": "0.27", "device": "cpu", "reason": "no ONNX Runtime was found" },
            }),
            metrics: scored().families(),
        }),
        recent: Box::new(|| RECENT.into()),
        identity: Box::new(|| json!(null)),
        discovery: Box::new(sources),
        gateway: Box::new(|| Some(gateway())),
        gauges: Box::new(|| {
            let mut gauges = metrics::held(Held { downstream: 2, ..Held::default() });
            let quiet = Telemetry {
                access_log: AccessLog { to: "off".into(), ..AccessLog::default() },
                ..Telemetry::default()
            };
            gauges.extend(Reporting::start(&quiet, "node-7", 1).unwrap().families());
            let mesh = crate::mesh::Counters::default();
            mesh.set_on(true);
            mesh.set_by_server(true);
            gauges.extend(mesh.families());
            let whereabouts: record::Whereabouts = Box::new(BTreeMap::new);
            let parts = record::Parts { links: Arc::new(Links::new(1)), clock: Box::new(|| NOW), whereabouts };
            gauges.extend(Recorder::start(&quiet.record, "node-7", parts).unwrap().families());
            let checks = Checks::default();
            checks.told(&NodeKey::new("10.0.0.1:80"), Ok(()), &HealthCheck::default());
            gauges.push(checks.family());
            gauges.extend(identity_families());
            gauges
        }),
        node: "node-7".into(),
        version: "0.0.0",
        started_at: SystemTime::now(),
    }
}

/// A generation that a slow link made happen, which moved a weight.
pub fn change(generation: u64) -> Change {
    let key = |i: u8| NodeKey::new(&format!("10.0.0.{i}:80"));
    let (workload, cluster): (Arc<str>, Arc<str>) = ("frontend".into(), "catalog".into());
    let link = LinkKey::new(&NodeKey::new(&workload), &key(1));
    let why = Why::Predicted { intrinsic_s: 0.011, guard: None };
    Change {
        generation,
        at: at(99),
        cause: Cause::Latency,
        early: false,
        rung: Rung::Model,
        rung_reason: "the model's scores".into(),
        model: None,
        took: Duration::from_millis(4),
        broken: vec![Broken { link, what: Trouble::Latency { mean_s: 0.120, predicted_s: 0.012 } }],
        appeared: vec![(cluster.clone(), key(2))],
        disappeared: Vec::new(),
        turned: vec![Turned { cluster: cluster.clone(), endpoint: key(3), from: Health::Healthy, to: Health::Ejected }],
        moved: vec![Moved { workload, cluster, endpoint: key(1), from: 0.9, to: 0.75, why }],
    }
}

/// A route that is followed, one that is refused, and a watch that fails.
pub fn gateway() -> GatewayView {
    let watch = |resource, trouble| WatchView {
        resource,
        source: format!("{resource} of all namespaces"),
        listed: true,
        absent: false,
        trouble,
        failures: 0,
    };
    let condition = |holds, reason, message: &str| ConditionView { holds, reason, message: message.to_owned() };
    let route = |name: &str, state, accepted, kept| RouteView {
        kind: "HTTPRoute",
        name: name.to_owned(),
        generation: 3,
        state,
        parents: vec![("Service catalog".to_owned(), accepted, condition(true, "ResolvedRefs", ""))],
        rules: 2,
        kept,
    };
    let refused = condition(false, "UnsupportedValue", "rules[0]: `retry` is not supported");
    GatewayView {
        watches: vec![
            watch("httproutes", None),
            watch("grpcroutes", Some((Fault::Denied, "not allowed".to_owned(), Duration::from_secs(9)))),
        ],
        routes: vec![
            route("shop/catalog", "accepted", condition(true, "Accepted", ""), None),
            route("shop/checkout", "refused", refused, Some(2)),
        ],
        rules: 4,
        clusters: 2,
        beyond: 0,
        writes: (1, 0),
    }
}

/// A source that works, and one that fails.
pub fn sources() -> Vec<SourceView> {
    let source = |source: &str, state, trouble, age_s| SourceView {
        cluster: "catalog".to_owned(),
        source: source.to_owned(),
        state,
        trouble,
        age: Some(Duration::from_secs(age_s)),
        endpoints: [(Readiness::Ready, 3), (Readiness::Terminating, 1), (Readiness::NotReady, 2)],
        ignored: Ignored::ALL
            .map(|reason| (reason, usize::from(reason == Ignored::BadAddress && state == SourceState::Failing))),
        answers: (2, 40),
        failures: Fault::ALL.map(|fault| (fault, 0)),
    };
    let trouble = (Fault::Timeout, "nobody answers".to_owned(), Duration::from_secs(60));
    vec![
        source("file /etc/catalog.yaml", SourceState::Working, None, 4),
        source("dns catalog.shop:8080", SourceState::Failing, Some(trouble), 61),
    ]
}

/// A model that has answered once.
fn scored() -> crate::scorer::ScorerStatus {
    crate::scorer::ScorerStatus {
        state: crate::scorer::State::Ready,
        file: "builtin".into(),
        engine: None,
        model: None,
        not_ready: None,
        last_error: None,
        model_error: None,
        inferences: 1,
        late: 0,
        errors: ScoreError::CODES.into_iter().map(|code| (code, 0)).collect(),
        restarts: 0,
        reloads: 0,
        reloads_refused: 0,
        hung_threads: 0,
        last_duration_s: Some(0.001),
        mean_duration_s: Some(0.001),
        max_duration_s: Some(0.001),
    }
}

/// What a node with an identity says of it.
fn identity_families() -> Vec<metrics::Family> {
    let folder = tempfile::tempdir().unwrap();
    let bundle = ca::init(folder.path(), "mesh.local".parse().unwrap()).unwrap();
    let id = "spiffe://mesh.local/shop/frontend".parse().unwrap();
    let day = "24h".parse().unwrap();
    let (certificate, key) = ca::issue(folder.path(), id, None, Vec::new(), day).unwrap();
    let files =
        Identity { certificate: Some(certificate), key: Some(key), bundle: Some(bundle), ..Identity::default() };
    let identities = Arc::new(Identities::default());
    identities.configure(&files).unwrap();
    identities.handshakes.count(Side::Downstream, Handshake::Done);
    identities.families()
}

/// A state with a generation and some traffic.
pub fn published() -> AdminState {
    let state = state();
    let made = generation(&state.links, &state.traffic, false);
    state.published.publish(made);
    state
}

/// Everything at once, so that each family of `/metrics` has a sample: a lost trial whose failures are compared, too, a
/// tick, a model with an error, a limit that is learnt, an own zone, and calls that failed.
pub fn whole() -> AdminState {
    let state = on_trial(true);
    state.published.publish(generation(&state.links, &state.traffic, true));
    state.control.ticked(Cause::Interval, Rung::Model, Duration::from_millis(4));
    state.control.set_model_error(Some(0.1));
    let mut trial = state.control.canary().map(|view| CanaryView::clone(&view)).unwrap();
    let more = Some(Interval { mean: 0.01, low: 0.001, high: 0.02 });
    trial.comparisons.iter_mut().for_each(|comparison| comparison.failures = more);
    state.control.show_canary(Some(trial));
    let counted = state.traffic.of(&"frontend".into(), &"catalog".into());
    let unavailable = DurationKind::call(Some(14), None);
    counted.called(0, Some(&RouteLabel::other()), unavailable, 7_000_000, None::<fn() -> _>);
    counted.tried_call(0, unavailable, 6_000_000, None::<fn() -> _>);
    state
}

/// The same after another generation: that of `published` is over, and `frontend` was chosen for by it.
pub fn replaced() -> AdminState {
    let state = state();
    let mut keeper = Keeper::new(state.control.clone());
    let mut publish = |made: Generation| {
        let (made, history) = (Arc::new(made), &state.control.history);
        state.published.publish_shared(made.clone());
        history.hand(&made);
        history.add(change(made.id));
        keeper.keep();
    };
    let made = generation(&state.links, &state.traffic, false);
    state.control.show(view(&state));
    publish(made);
    let mut next = generation(&state.links, &state.traffic, false);
    next.id += 1;
    let only = |workload: &str| {
        let options = TableOptions { policy: Policy::Model, compare: Compare::Auto, tau_s: TAU_S, explore: 0.02 };
        let counted = state.traffic.of(&workload.into(), &"catalog".into());
        Arc::new(Table::new(vec![candidate(&state.links, workload, 2)], false, options, counted))
    };
    if let Some(catalog) = next.clusters.first_mut().and_then(Arc::get_mut) {
        catalog.tables = ["batch", "frontend"].into_iter().map(only).collect();
    }
    // Candidates that are made are used two seconds ago (`candidate`), so the request comes last.
    let frontend = LinkKey::new(&NodeKey::new("frontend"), &NodeKey::new("10.0.0.1:80"));
    state.links.link(&frontend, Time(0)).begin(0, NOW);
    publish(next);
    state
}

/// The same while the model is on trial: faster by a tenth so far, or given up for its latency.
pub fn on_trial(retreated: bool) -> AdminState {
    let state = published();
    let pair = (Arc::from("frontend"), Arc::from("catalog"));
    let traffic = state.traffic.of(&pair.0, &pair.1);
    traffic.count_arms();
    let view = |arm: Arm, requests: u64, failures: u64, latency_s: f64| {
        let mut view = ArmView { requests, failures, ..ArmView::default() };
        (0..requests).for_each(|_| {
            traffic.steered(0, arm, Came::Within(latency_s));
            view.latencies.record(latency_s);
        });
        view
    };
    let arms = [view(Arm::Model, 100, 2, 0.010), view(Arm::Against, 300, 0, 0.020)];
    let lost = Retreat {
        lost: Lost::CanaryLatency,
        cluster: pair.1.clone(),
        words: "its requests took long".into(),
        at: Time(NOW.0 - 5_000_000_000),
        until: Some(NOW + Duration::from_secs(595)),
    };
    let comparison = Comparison {
        cluster: pair.1.clone(),
        batches: 12,
        latency_s: Some(Interval { mean: -0.002, low: -0.004, high: 0.0 }),
        against_s: 0.020,
        failures: None,
    };
    state.control.show_canary(Some(CanaryView {
        arms: [(pair, arms)].into(),
        comparisons: vec![comparison],
        retreat: retreated.then_some(lost),
        ..CanaryView::default()
    }));
    state
}

pub fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn config() -> Config {
    let workloads = ["batch", "frontend"].map(|w| (w.to_owned(), crate::config::Workload::default()));
    let clusters = ["catalog", "empty"].map(|c| (c.to_owned(), crate::config::Cluster::default()));
    let mut config = Config { workloads: workloads.into(), clusters: clusters.into(), ..Config::default() };
    if let (Some(catalog), Some(batch)) = (config.clusters.get_mut("catalog"), config.workloads.get_mut("batch")) {
        catalog.admission.concurrency = Concurrency::Limit(2);
        batch.rate = Some(RateLimit { requests: Rate { count: 1, per: 'h' }, burst: None });
    }
    config
}

/// Limits of which each has refused somebody.
fn limits(learnt: bool) -> admission::Table {
    let mut config = config();
    if let Some(empty) = config.clusters.get_mut("empty").filter(|_| learnt) {
        empty.admission.concurrency = Concurrency::Auto;
    }
    let table = admission::Table::compile(&config, 1, None);
    let normal = table.classes.usual;
    for gate in table.gates() {
        (0..3).for_each(|_| _ = gate.arrive(0, Rank::new(70, b"7f"), normal));
    }
    table.workload_limits().for_each(|l| l.bucket.refuse(usize::from(normal.0)));
    for gate in table.gates().filter(|_| learnt) {
        (0..100).for_each(|_| gate.hand_on(0, 1, Served::Within(Duration::from_millis(10))));
        (0..20).for_each(|tenth| gate.adjust(Time(tenth * 100_000_000)));
    }
    table
}

/// A generation; the whole of it has an own zone and a limit that is learnt, too.
fn generation(links: &Links, traffic: &TrafficRegistry, whole: bool) -> Generation {
    let routes = Arc::new(RouteTable::compile(&config()));
    let table = |workload: &str, cluster: &str, count: u8| {
        let counted = traffic.of(&workload.into(), &cluster.into());
        let get = |status, reason| (DurationKind::new(&http::Method::GET, status, reason), reason);
        let trace = || ([b'1'; 32], [b'2'; 16]);
        let route = Some(&RouteLabel::other());
        counted.finished(0, route, get(200, None), 7_000_000, (10, 1000), Some(trace));
        counted.finished(0, route, get(503, Some(Reason::ConnectRefused)), 1_000_000, (10, 10), None::<fn() -> _>);
        counted.tried(0, get(200, None).0, 6_000_000, Some(trace));
        counted.tried(0, get(503, Some(Reason::ConnectRefused)).0, 500_000, None::<fn() -> _>);
        counted.called(0, route, DurationKind::call(Some(0), None), 7_000_000, Some(trace));
        counted.tried_call(0, DurationKind::call(Some(0), None), 6_000_000, Some(trace));
        counted.retried(0);
        let candidates = (1..=count).map(|i| candidate(links, workload, i)).collect();
        let options = TableOptions { policy: Policy::Model, compare: Compare::Auto, tau_s: TAU_S, explore: 0.02 };
        let table = Table::new(candidates, false, options, counted);
        let own = OwnZone { name: "eu-1a".into(), share: 0.9, well: 1.0, load: Some(0.5) };
        Arc::new(if whole { table.with_own_zone(own) } else { table })
    };
    let cluster = |name: &str, count: u8| {
        let tables = routes.workloads().iter().map(|w| table(&w.name, name, count)).collect();
        let hedging = (name == "catalog").then(|| Hedging {
            after: Some(Duration::from_millis(25)),
            share: Share(0.05),
            budget: Arc::new(Budget::new(1, Share(0.05), 0, Time(0))),
        });
        Arc::new(Cluster { hedging, ..Cluster::of(name, tables) })
    };
    Generation {
        id: 41,
        made_at: Time(NOW.0 - 500_000_000),
        made_at_wall: at(99),
        expires_at: NOW + Duration::from_secs(30),
        cause: Cause::Interval,
        rung: Rung::Model,
        rung_reason: "the model's scores are fresh".into(),
        model: Some(Arc::new(ModelIdentity {
            name: "loom".into(),
            digest: "abc123".into(),
            engine: "embedded".into(),
        })),
        clusters: [cluster("catalog", 3), cluster("empty", 0)].into(),
        admission: Arc::new(limits(whole)),
        routes,
    }
}

/// The first is known well, the second barely, the third is ejected and was never used.
fn candidate(links: &Links, workload: &str, i: u8) -> Candidate {
    let key = NodeKey::new(&format!("10.0.0.{i}:80"));
    let link = links.link(&LinkKey::new(&NodeKey::new(workload), &key), Time(0));
    let node = links.node(&key, Time(0));
    if i == 1 && workload == "frontend" {
        link.begin(0, NOW);
        link.record(0, Time(NOW.0 - 2_000_000_000), 0.012, Outcome::Success, 0.010, TAU_S);
    }
    Candidate {
        endpoint: Arc::new(Endpoint {
            id: EndpointId(u64::from(i)),
            key,
            address: SocketAddr::from(([10, 0, 0, i], 80)),
            zone: if i == 1 { "eu-1a".into() } else { "".into() },
            host: "".into(),
            weight: 1,
            metadata: BTreeMap::new(),
            tls: None,
        }),
        link,
        node,
        weight: [0.75, 0.25, 0.0][usize::from(i - 1)],
        prior_s: 0.010,
        measured_at: None,
        success: 0.99,
        bias: 1.0,
        health: if i == 3 { Health::Ejected } else { Health::Healthy },
        score: (i < 3).then_some(4.5),
        predicted: (i < 3).then_some(Predicted { intrinsic_s: 0.011, mean_s: 0.013, p99_s: 0.040, jitter_s: 0.002 }),
        reason: Why::Said(if i == 3 { "ejected: 3 failures in a row" } else { "softmax of the score" }),
    }
}

/// The graph as a tick saw it: `frontend` has used the first endpoint.
pub fn view(state: &AdminState) -> GraphView {
    let mut builder = GraphBuilder::default();
    let frontend: Arc<str> = "frontend".into();
    let (zone, host) = ("eu-1a".into(), "".into());
    builder.instance(Instance { key: NodeKey::new(&frontend), service: frontend, zone, host });
    let graph = builder.build(&state.links.observe(NOW)).unwrap();
    let attention = vec![0.5; graph.links.len()];
    let node_load = vec![12.0; graph.nodes.len()];
    GraphView { generation: 41, graph, attention, node_load }
}
