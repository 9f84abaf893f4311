//! Traces across services and sidecars: one tree at a receiver of OTLP, whatever becomes of that receiver.

use crate::identity::Authority;
use crate::{catalog, sidecar};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanKind, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use pathloom_integration::body;
use pathloom_integration::client::Version;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::Load;
use pathloom_integration::otlp::{Answers, Arrived, Receiver};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// The kinds of spans, as OTLP numbers them.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes()).unwrap();
        self.0.insert(name, HeaderValue::from_str(&value).unwrap());
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// A service with OpenTelemetry's own SDK in it.
#[derive(Clone)]
struct Service {
    provider: SdkTracerProvider,
    /// The sidecar by which it calls the next one, and that one's host.
    next: Option<(SocketAddr, &'static str)>,
}

impl Service {
    fn new(name: &'static str, receiver: &Receiver, next: Option<(SocketAddr, &'static str)>) -> Self {
        let to = format!("http://{}", receiver.address);
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(to).build().unwrap();
        let resource = Resource::builder().with_service_name(name).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Self { provider, next }
    }

    /// Serves HTTP, with a span for each request.
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind((ports::own_ip(1), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                let serve = service_fn(move |request| {
                    let service = service.clone();
                    async move { Ok::<_, Infallible>(service.answer(request).await) }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                tokio::spawn(async move { drop(served.await) });
            }
        });
        address
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let caller = TraceContextPropagator::new().extract(&Headers(request.headers_mut()));
        let tracer = self.provider.tracer("service");
        let span = tracer.span_builder("serve").with_kind(SpanKind::Server).start_with_context(&tracer, &caller);
        let context = caller.with_span(span);
        let status = self.call(&context).await;
        context.span().end();
        Response::builder().status(status).body(Full::default()).unwrap()
    }

    /// Calls the next service, if there is one.
    async fn call(&self, within: &Context) -> u16 {
        let Some((sidecar, host)) = self.next else { return 200 };
        let tracer = self.provider.tracer("service");
        let span = tracer.span_builder("call").with_kind(SpanKind::Client).start_with_context(&tracer, within);
        let context = within.with_span(span);
        let mut request = Request::get(format!("http://{host}/items/7")).body(body::empty()).unwrap();
        TraceContextPropagator::new().inject_context(&context, &mut Headers(request.headers_mut()));
        let mut connection = Version::Http1.connect(sidecar).await.unwrap();
        let status = connection.exchange(request).await.unwrap().status();
        context.span().set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        context.span().end();
        status.as_u16()
    }

    async fn flush(&self) {
        let provider = self.provider.clone();
        tokio::task::spawn_blocking(move || provider.force_flush()).await.unwrap().unwrap();
    }
}

fn traced(cluster: &str, endpoint: SocketAddr, node: &str, traces: &str) -> String {
    format!(
        "node: {{ name: {node} }}\n\
         workloads: {{ caller-of-{cluster}: {{ listen: '@in@' }} }}\n\
         routes: [{{ match: {{ path_prefix: /items }}, cluster: {cluster} }}]\n\
         clusters: {{ {cluster}: {{ endpoints: [{{ address: '{endpoint}' }}] }} }}\n\
         telemetry: {{ access_log: {{ to: 'off' }}, traces: {{ {traces}, sample: 0% }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_across_three_services_and_two_sidecars_arrives_as_one_tree() {
    let receiver = Receiver::start(Answers::AtOnce).await;
    let inventory = Service::new("inventory", &receiver, None);
    let second = sidecar(traced("inventory", inventory.serve().await, "second", &receiver.http())).start().await;
    let orders = Service::new("orders", &receiver, Some((second.address("in"), "inventory.shop")));
    let first = sidecar(traced("orders", orders.serve().await, "first", &receiver.grpc())).start().await;
    let shop = Service::new("shop", &receiver, Some((first.address("in"), "orders.shop")));

    let tracer = shop.provider.tracer("service");
    let root = Context::new().with_span(tracer.span_builder("checkout").start_with_context(&tracer, &Context::new()));
    let trace_id = root.span().span_context().trace_id().to_bytes();
    assert_eq!(shop.call(&root).await, 200);
    root.span().end();
    for service in [&shop, &orders, &inventory] {
        service.flush().await;
    }
    let tree = wait::eventually("the whole tree", || async {
        let tree = receiver.tree(&trace_id);
        if tree.len() == 9 { Ok(tree) } else { Err(format!("{} of 9: {:?}", tree.len(), receiver.arrived())) }
    })
    .await;
    // From the innermost span up: who sent it, its kind, and over what it came.
    let parents: std::collections::BTreeSet<_> = tree.values().map(|a| a.span.parent_span_id.clone()).collect();
    let mut leaves = tree.values().filter(|a| !parents.contains(&a.span.span_id));
    let (leaf, none) = (leaves.next().unwrap(), leaves.next());
    assert!(none.is_none(), "each span but one has one below it: {tree:?}");
    let mut way = Vec::new();
    let mut at = Some(leaf);
    while let Some(arrived) = at {
        let who = if arrived.instance.is_empty() || arrived.service != "pathloom" {
            &arrived.service
        } else {
            &arrived.instance
        };
        way.push((who.as_str(), arrived.span.kind));
        at = tree.get(&arrived.span.parent_span_id);
    }
    assert_eq!(
        way,
        [
            ("inventory", SERVER),
            ("second", CLIENT),
            ("second", SERVER),
            ("orders", CLIENT),
            ("orders", SERVER),
            ("first", CLIENT),
            ("first", SERVER),
            ("shop", CLIENT),
            ("shop", 1),
        ]
    );
    let of = |node: &str, kind: i32| -> &Arrived {
        tree.values().find(|a| a.instance == node && a.service == "pathloom" && a.span.kind == kind).unwrap()
    };
    assert!(of("first", CLIENT).grpc && !of("second", CLIENT).grpc, "one of each protocol");
    for (node, cluster) in [("first", "orders"), ("second", "inventory")] {
        let (server, client) = (of(node, SERVER), of(node, CLIENT));
        assert!(server.span.name.starts_with("GET ") && server.attribute("http.route").is_some(), "{server:?}");
        for span in [server, client] {
            assert_eq!(span.attribute("pathloom.cluster").as_deref(), Some(cluster));
            assert_eq!(span.attribute("http.response.status_code").as_deref(), Some("200"));
            assert!(span.attribute("pathloom.generation").is_some(), "{span:?}");
        }
        assert_eq!(client.attribute("pathloom.share").as_deref(), Some("1"), "the only endpoint gets all");
        assert!(client.attribute("pathloom.candidate").is_some() && client.attribute("pathloom.reason").is_some());
        let inside = |a: &Arrived| a.span.start_time_unix_nano <= a.span.end_time_unix_nano;
        assert!(inside(server) && inside(client));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_dead_or_hung_or_slow_is_noticed_by_nobody_but_a_counter() {
    for answers in [None, Some(Answers::Never), Some(Answers::After(Duration::from_millis(300)))] {
        let receiver = Receiver::start(answers.unwrap_or(Answers::AtOnce)).await;
        for traces in [receiver.http(), receiver.grpc()] {
            if answers.is_none() {
                // Its address stays, and nobody is there.
                receiver.stop().await;
            }
            let fleet = Fleet::start(1).await;
            let traces = format!("traces: {{ {traces}, sample: 100% }}");
            let yaml =
                catalog(&fleet.yaml(), "") + &format!("telemetry: {{ access_log: {{ to: 'off' }}, {traces} }}\n");
            let sidecar = sidecar(yaml).start().await;
            let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/traced").await;
            load.further(200).await;
            if answers == Some(Answers::Never) {
                wait::until("a batch to be under way", || !receiver.arrived().is_empty()).await;
            }
            let counted = async |name: &str| sidecar.metrics().await.get(name, &[]).unwrap_or(f64::NAN);
            let case = format!("{answers:?} {traces}");
            wait::eventually(&case, || async {
                let (exported, dropped) =
                    (counted("pathloom_spans_exported_total").await, counted("pathloom_spans_dropped_total").await);
                let as_expected = match answers {
                    Some(Answers::After(_)) => exported > 0.0,
                    _ => dropped > 0.0 && exported == 0.0,
                };
                if as_expected { Ok(()) } else { Err(format!("{exported} exported, {dropped} dropped")) }
            })
            .await;
            load.further(200).await;
            load.stop().await.assert_each_right_and_once(&fleet.journal);
            sidecar.assert_no_panic();
        }
    }
}

/// How many spans a sidecar keeps for its collector (`observe::traces`).
const QUEUE: u64 = 8_192;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_the_queue_of_spans_holds_are_answered_while_a_receiver_never_answers() {
    let receiver = Receiver::start(Answers::Never).await;
    let fleet = Fleet::start(1).await;
    let yaml = catalog(&fleet.yaml(), "")
        + &format!("telemetry: {{ access_log: {{ to: 'off' }}, traces: {{ {}, sample: 100% }} }}\n", receiver.grpc());
    let sidecar = sidecar(yaml).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/traced").await;
    // Each leaves two spans. From the first batch on nothing is ever taken: whoever waited for room would hang here.
    load.further(10).await;
    wait::until("a batch to be under way", || !receiver.arrived().is_empty()).await;
    load.further(QUEUE).await;
    let done = load.finished();
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    let of = async |name: &str| sidecar.metrics().await.get(name, &[]).unwrap_or(f64::NAN);
    assert_eq!(of("pathloom_spans_exported_total").await, 0.0);
    // What is neither waiting nor in the one batch that is under way was dropped, and each of it counted.
    let least = (2 * done - QUEUE - 512) as f64;
    wait::eventually("what was dropped to be counted", || async {
        let dropped = of("pathloom_spans_dropped_total").await;
        if dropped >= least { Ok(()) } else { Err(format!("{dropped} of at least {least}")) }
    })
    .await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_wants_tls_and_a_token_gets_them_and_a_wrong_authority_is_told_of() {
    const TOKEN: &str = "planted-token-83b1";
    let (authority, stranger) = (Authority::new("mesh.local"), Authority::new("other.local"));
    let address = ports::free(ports::own_ip(3));
    authority.issue("collector", "spiffe://mesh.local/collector", &["--dns", &address.ip().to_string()]);
    authority.issue("node", "spiffe://mesh.local/node", &[]);
    let (ca, wrong) = (authority.ca().join("ca.pem"), stranger.ca().join("ca.pem"));
    let of_collector = ["cert.pem", "key.pem"].map(|name| authority.file("collector", name));
    let receiver = Receiver::start_secured(address, [&of_collector[0], &of_collector[1], &ca]).await;
    let believed = authority.file("node", "believed.pem");
    let of_node = ["cert.pem", "key.pem"].map(|name| authority.file("node", name).display().to_string());
    let fleet = Fleet::start(1).await;
    for (protocol, path) in [("http", "/v1/traces"), ("grpc", "")] {
        let yaml = |authorities: &std::path::Path| {
            let tls = format!(
                "tls: {{ authorities: '{}', certificate: '{}', key: '{}' }}",
                authorities.display(),
                of_node[0],
                of_node[1]
            );
            let traces = format!(
                "traces: {{ otlp: 'https://{address}{path}', protocol: {protocol}, {tls}, \
                 headers: {{ x-team: '${{TOKEN}}', authorization: 'Bearer ${{TOKEN}}' }}, sample: 100% }}"
            );
            catalog(&fleet.yaml(), "")
                + &format!("telemetry: {{ log: trace, access_log: {{ to: 'off' }}, {traces} }}\n")
        };
        std::fs::copy(&ca, &believed).unwrap();
        let before = receiver.arrived().len();
        let mut sidecar = sidecar(yaml(&ca)).variable("TOKEN", TOKEN).start().await;
        for span in further(&sidecar, &receiver).await.split_off(before) {
            assert_eq!((span.service.as_str(), span.grpc), ("pathloom", protocol == "grpc"));
            assert_eq!(span.headers["x-team"], TOKEN);
            assert_eq!(span.headers["authorization"], format!("Bearer {TOKEN}"));
        }

        // An authority that did not issue the collector's certificate: requests do not notice.
        std::fs::copy(&wrong, &believed).unwrap();
        sidecar.reload_and_wait(&yaml(&believed)).await;
        let before = receiver.arrived().len();
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        wait::eventually("spans to be dropped", async || {
            assert_eq!(client.get("/traced").await.unwrap().status(), 200);
            let dropped = sidecar.metrics().await.get("pathloom_spans_dropped_total", &[]).unwrap_or(f64::NAN);
            if dropped > 0.0 { Ok(()) } else { Err(dropped) }
        })
        .await;
        sidecar.logged("the trace collector does not take spans").await;
        sidecar.logged("invalid peer certificate").await;
        assert_eq!(receiver.arrived().len(), before);

        // The file is replaced, and nobody reloads.
        std::fs::copy(&ca, &believed).unwrap();
        further(&sidecar, &receiver).await;
        // A file of no use is named, and what there was goes on.
        std::fs::write(&believed, "no certificate").unwrap();
        further(&sidecar, &receiver).await;
        sidecar.logged("telemetry.traces.tls.authorities: ").await;
        further(&sidecar, &receiver).await;
        let shown = sidecar.get("/config").await.1 + &sidecar.get("/metrics").await.1 + &sidecar.stderr();
        assert!(shown.contains("x-team"));
        let leaks: Vec<&str> = shown.lines().filter(|line| line.contains(TOKEN)).take(5).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
        sidecar.assert_no_panic();
    }
}

/// Sends requests until further spans have arrived; all that did.
async fn further(sidecar: &Sidecar, receiver: &Receiver) -> Vec<Arrived> {
    let before = receiver.arrived().len();
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    wait::eventually("further spans", async || {
        assert_eq!(client.get("/traced").await.unwrap().status(), 200);
        let all = receiver.arrived();
        if all.len() > before { Ok(all) } else { Err(format!("{} spans", all.len())) }
    })
    .await
}
