//! Routes from Kubernetes' Gateway API, from an API server that does what a test says: they come, change and go while requests
//! flow, and none of those fails; what cannot be followed is named and changes nothing; what was told last stays.

use crate::{QUICK, shown, sidecar};
use http::Request;
use pathloom_integration::client::grpc::Client;
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::fleet::grpc::Number;
use pathloom_integration::kube_api::{KubeApi, pod, slice};
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{body, wait};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SECTION: &str = "Routes from Kubernetes";

/// Pods 0 and 1 of the fleet are the Service `catalog` of the namespace `shop`, 2 and 3 are `next`; and who tells of them.
struct Bench {
    fleet: Fleet,
    api: KubeApi,
    directory: tempfile::TempDir,
}

fn service(name: &str) -> Value {
    service_of("shop", name)
}

fn service_of(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name, "uid": format!("uid-{name}") },
        "spec": { "type": "ClusterIP", "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }] },
    })
}

fn route(kind: &str, name: &str, generation: u64, spec: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": generation,
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": spec,
    })
}

/// An HTTPRoute for the Service `catalog`.
fn http(name: &str, generation: u64, rules: Value) -> Value {
    let parents = json!([{ "group": "", "kind": "Service", "name": "catalog", "port": 80 }]);
    route("HTTPRoute", name, generation, json!({ "parentRefs": parents, "rules": rules }))
}

/// One rule for everything, with the weights of `catalog` and `next`.
fn weights(generation: u64, catalog: u32, next: u32) -> Value {
    let to = |name: &str, weight: u32| json!({ "name": name, "port": 80, "weight": weight });
    http("base", generation, json!([{ "backendRefs": [to("catalog", catalog), to("next", next)] }]))
}

impl Bench {
    async fn start() -> Self {
        let fleet = Fleet::on_one_port(4).await;
        let api = KubeApi::start().await;
        let port = fleet.endpoints[0].address.port();
        let of = |name: &str, numbers: [usize; 2]| {
            let pods = numbers.map(|n| pod(fleet.endpoints[n].address.ip(), true, true, false));
            slice("shop", name, &format!("{name}-a"), port, pods.into())
        };
        api.put([service("catalog"), service("next"), of("catalog", [0, 1]), of("next", [2, 3])]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config"), api.kubeconfig()).unwrap();
        Self { fleet, api, directory }
    }

    async fn sidecar(&self, yaml: String) -> Sidecar {
        let kubeconfig = self.directory.path().join("config").display().to_string();
        sidecar(yaml + QUICK).variable("KUBECONFIG", kubeconfig).start().await
    }

    /// Waits until the requests go to these endpoints and no others, and sees that it stays so.
    async fn only(&self, load: &Load, wanted: &[usize]) {
        let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
        wait::eventually("the right endpoints", async || {
            let seen = self.serving(load).await;
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?} and not {wanted:?}")) }
        })
        .await;
        let seen = self.serving(load).await;
        assert!(seen.is_subset(&wanted), "{seen:?} got requests, and {wanted:?} should");
    }

    /// Who gets requests that begin from now on.
    async fn serving(&self, load: &Load) -> BTreeSet<usize> {
        load.pass().await;
        let counts = || -> Vec<u64> { self.fleet.endpoints.iter().map(|e| e.state.requests()).collect() };
        let before = counts();
        load.further(200).await;
        let now = counts();
        (0..now.len()).filter(|n| now[*n] > before[*n]).collect()
    }
}

/// What `/routing` says of a route, once it is in this state.
async fn state(sidecar: &Sidecar, name: &str, wanted: &str) -> Value {
    wait::eventually(&format!("the route {name} to be {wanted}"), async || {
        let seen = sidecar.routing().await["gateway_api"].clone();
        let route = seen["routes"].as_array().into_iter().flatten().find(|route| route["name"] == name).cloned();
        match route {
            Some(route) if route["state"] == wanted => Ok(route),
            _ => Err(seen.to_string()),
        }
    })
    .await
}

/// Waits until every watch fails for a reason with this code, or works where there is none.
async fn watches(sidecar: &Sidecar, code: Option<&str>) {
    wait::eventually(&format!("the watches to be in the state {code:?}"), async || {
        let seen = sidecar.routing().await["gateway_api"]["watches"].clone();
        let right = |watch: &Value| match (code, watch["reason"].as_str()) {
            (None, None) => watch["state"] == "working",
            (Some(code), Some(reason)) => reason.starts_with(code),
            _ => false,
        };
        if seen.as_array().is_some_and(|all| all.len() == 4 && all.iter().all(right)) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_come_change_and_go_while_requests_flow_and_the_readmes_example_is_right() {
    for version in VERSIONS {
        let bench = Bench::start().await;
        bench.api.put([weights(1, 1, 0)]);
        let yaml = shown(SECTION, [("127.0.0.1:15001", "@in@".to_owned())]);
        let mut sidecar = bench.sidecar(yaml.clone()).await;
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        bench.only(&load, &[0, 1]).await;
        assert_eq!(sidecar.candidates("kube.shop.catalog.80").await.len(), 2);
        // Weights move.
        bench.api.put([weights(2, 1, 1)]);
        bench.only(&load, &[0, 1, 2, 3]).await;
        bench.api.put([weights(3, 0, 1)]);
        bench.only(&load, &[2, 3]).await;
        // A route that says more of the requests goes before, as long as it is there.
        let exact = json!([{
            "matches": [{ "path": { "type": "Exact", "value": "/" } }], "backendRefs": [{ "name": "catalog", "port": 80 }],
        }]);
        bench.api.put([http("exact", 1, exact)]);
        bench.only(&load, &[0, 1]).await;
        bench.api.delete_a("HTTPRoute", "shop", "exact");
        bench.only(&load, &[2, 3]).await;
        // Pods move below it.
        let port = bench.fleet.endpoints[0].address.port();
        bench.api.put([slice(
            "shop",
            "next",
            "next-a",
            port,
            vec![pod(bench.fleet.endpoints[3].address.ip(), true, true, false)],
        )]);
        bench.only(&load, &[3]).await;
        // The file's own routes go first, and a reload changes nothing else.
        let own = format!(
            "routes: [{{ match: {{ host: catalog.shop }}, cluster: own }}]\n{}  own: {{ endpoints: [{{ address: '{}' }}] }}\n",
            yaml, bench.fleet.endpoints[0].address
        );
        sidecar.reload_and_wait(&(own + QUICK)).await;
        bench.only(&load, &[0]).await;
        sidecar.reload_and_wait(&(yaml + QUICK)).await;
        bench.only(&load, &[3]).await;
        load.stop().await.assert_each_right_and_once(&bench.fleet.journal);
        // Without a route there is none, and nothing was written.
        bench.api.delete_a("HTTPRoute", "shop", "base");
        wait::eventually("no route", async || {
            let mut client = Version::Http1.connect(sidecar.address("in")).await.map_err(|e| e.to_string())?;
            let answer = client.get("/").await.map_err(|e| e.to_string())?;
            if answer.status() == 404 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await;
        assert_eq!(bench.api.patches(), 0);
        sidecar.assert_no_panic();
    }
}

fn yaml(more: &str) -> String {
    format!("workloads: {{ frontend: {{ listen: '@in@' }} }}\ngateway_api: {{ enabled: true{more} }}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_last_stays_whatever_happens_to_the_server_and_nonsense_is_named_and_changes_nothing() {
    let mut bench = Bench::start().await;
    bench.api.put([weights(1, 1, 0)]);
    let sidecar = bench.sidecar(yaml("")).await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 8, "/").await;
    bench.only(&load, &[0, 1]).await;
    // One that cannot be read, one that asks for too much, one whose new version does, one that leads nowhere.
    let regex = json!([{
        "matches": [{ "path": { "type": "RegularExpression", "value": "/[" } }], "backendRefs": [{ "name": "next", "port": 80 }],
    }]);
    bench.api.put([
        http("broken", 1, json!("many")),
        http("regex", 1, regex.clone()),
        http("base", 2, regex),
        http(
            "astray",
            1,
            json!([{ "matches": [{ "method": "PUT" }], "backendRefs": [{ "name": "nobody", "port": 80 }] }]),
        ),
    ]);
    let refused = state(&sidecar, "shop/regex", "refused").await;
    let accepted = &refused["parents"][0]["accepted"];
    assert!(accepted["reason"] == "UnsupportedValue", "{refused}");
    assert!(accepted["message"].as_str().unwrap().contains("`/[` is not a regular expression"), "{refused}");
    state(&sidecar, "shop/broken", "refused").await;
    let astray = state(&sidecar, "shop/astray", "unresolved").await;
    assert_eq!(astray["parents"][0]["resolved_refs"]["reason"], "BackendNotFound");
    let kept = state(&sidecar, "shop/base", "refused").await;
    assert_eq!((&kept["generation"], &kept["generation_in_force"]), (&json!(2), &json!(1)));
    bench.only(&load, &[0, 1]).await;
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("pathloom_gateway_routes", &[("state", "refused")]), 3.0);
    assert!(sidecar.stderr().contains("HTTPRoute shop/broken"), "{}", sidecar.stderr());
    // A version that is past: all is listed anew.
    let (lists, _) = bench.api.asked();
    bench.api.delete_a("HTTPRoute", "shop", "regex");
    bench.api.compact();
    bench.api.break_watches();
    wait::eventually("other lists", async || {
        let (now, _) = bench.api.asked();
        if now >= lists + 4 { Ok(()) } else { Err(now) }
    })
    .await;
    wait::eventually("one route less", async || {
        let count = sidecar.routing().await["gateway_api"]["routes"].as_array().map_or(0, Vec::len);
        if count == 3 { Ok(()) } else { Err(count) }
    })
    .await;
    bench.only(&load, &[0, 1]).await;
    // Refused, then gone: nothing changes.
    bench.api.refuse(Some(403));
    bench.api.break_watches();
    watches(&sidecar, Some("denied")).await;
    bench.only(&load, &[0, 1]).await;
    bench.api.refuse(None);
    watches(&sidecar, None).await;
    bench.api.stop().await;
    watches(&sidecar, Some("unreachable")).await;
    assert_eq!(sidecar.metrics().await.sum("pathloom_gateway_failing", &[]), 4.0);
    bench.only(&load, &[0, 1]).await;
    // What changed meanwhile is heard as soon as it is back.
    bench.api.put([weights(3, 0, 1)]);
    bench.api.start_again().await;
    bench.only(&load, &[2, 3]).await;
    watches(&sidecar, None).await;
    state(&sidecar, "shop/base", "accepted").await;
    load.stop().await.assert_each_right_and_once(&bench.fleet.journal);
    sidecar.assert_no_panic();
}

/// The entry of ours in a route's status, once there is one for this version.
async fn written(api: &KubeApi, name: &str, generation: u64) -> Value {
    wait::eventually(&format!("the status of {name}"), async || {
        let object = api.object("HTTPRoute", "shop", name).unwrap_or_default();
        let entries = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        let ours = entries.into_iter().find(|e| e["controllerName"] == "pathloom.dev/sidecar");
        match ours {
            Some(entry) if entry["conditions"][0]["observedGeneration"] == generation => Ok(entry),
            _ => Err(object.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_written_once_and_again_only_when_it_changes() {
    let bench = Bench::start().await;
    let theirs =
        json!({ "parentRef": { "name": "edge" }, "controllerName": "other.test/controller", "conditions": [] });
    let mut base = weights(1, 1, 0);
    base["status"] = json!({ "parents": [theirs] });
    bench.api.put([base]);
    let sidecar = bench.sidecar(yaml(", status: true")).await;
    let entry = written(&bench.api, "base", 1).await;
    let condition = |entry: &Value, n: usize| {
        let one = &entry["conditions"][n];
        ["type", "status", "reason"].map(|key| one[key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(condition(&entry, 0), ["Accepted", "True", "Accepted"]);
    assert_eq!(condition(&entry, 1), ["ResolvedRefs", "True", "ResolvedRefs"]);
    assert_eq!(entry["parentRef"], json!({ "group": "", "kind": "Service", "name": "catalog", "port": 80 }));
    let object = bench.api.object("HTTPRoute", "shop", "base").unwrap();
    assert_eq!(object["status"]["parents"][0], theirs, "others' words stay");
    // Another route, which is refused, gets its word; the first one needs none again.
    let refused = |generation: u64, key: &str| {
        http(
            "refused",
            generation,
            json!([{ key: { "backoff": "1s" }, "backendRefs": [{ "name": "next", "port": 80 }] }]),
        )
    };
    bench.api.put([refused(1, "retry")]);
    let entry = written(&bench.api, "refused", 1).await;
    assert_eq!(condition(&entry, 0), ["Accepted", "False", "UnsupportedValue"]);
    assert!(entry["conditions"][0]["message"].as_str().unwrap().contains("`retry.backoff`"), "{entry}");
    assert_eq!(bench.api.patches(), 2);
    // A new word on one object has to wait. By then the first one could be written again, and would be before this one.
    bench.api.put([refused(2, "sessionPersistence")]);
    let entry = written(&bench.api, "refused", 2).await;
    assert!(entry["conditions"][0]["message"].as_str().unwrap().contains("`sessionPersistence`"), "{entry}");
    assert_eq!(bench.api.patches(), 3);
    sidecar.counted(|metrics| metrics.sum("pathloom_gateway_status_writes_total", &[("result", "ok")]), 3.0).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_routes_lead_calls_by_their_service_and_method() {
    let bench = Bench::start().await;
    let rules = json!([{
        "matches": [{ "method": { "service": "test.Numbers", "method": "Double" } }],
        "backendRefs": [{ "name": "next", "port": 80 }],
    }]);
    let spec = json!({ "parentRefs": [{ "name": "mesh" }], "rules": rules });
    bench.api.put([route("GRPCRoute", "numbers", 1, spec)]);
    let sidecar = bench.sidecar(yaml(", gateways: [shop/mesh]")).await;
    state(&sidecar, "shop/numbers", "accepted").await;
    let mut client = Client::connect(sidecar.address("in")).await.unwrap();
    wait::eventually("the route", async || {
        let call = client.unary("/test.Numbers/Double", tonic::Request::new(Number::of(21)));
        match wait::soon("a call", call).await {
            Ok(answer) if answer.get_ref().value == 42 => Ok(()),
            Ok(answer) => Err(format!("{:?}", answer.get_ref())),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    let other = client.unary("/test.Numbers/Never", tonic::Request::new(Number::of(1)));
    let status = wait::soon("a call that no route is for", other).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented, "{status}");
    assert_eq!(bench.fleet.endpoints[0].state.requests() + bench.fleet.endpoints[1].state.requests(), 0);
    sidecar.assert_no_panic();
}

/// Waits until a request for a path gets this answer.
async fn answered(sidecar: &Sidecar, path: &str, wanted: u16) {
    wait::eventually(&format!("{wanted} for {path}"), async || {
        let mut client = Version::Http1.connect(sidecar.address("in")).await.map_err(|e| e.to_string())?;
        let answer = client.get(path).await.map_err(|e| e.to_string())?;
        if answer.status() == wanted { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_lets_a_route_lead_to_another_namespace_and_a_cluster_without_grants_works() {
    let bench = Bench::start().await;
    bench.api.uninstall(Some("ReferenceGrant"));
    let port = bench.fleet.endpoints[0].address.port();
    let stock = vec![pod(bench.fleet.endpoints[3].address.ip(), true, true, false)];
    bench.api.put([service_of("other", "stock"), slice("other", "stock", "stock-a", port, stock)]);
    let abroad = json!([{
        "matches": [{ "path": { "type": "Exact", "value": "/stock" } }],
        "backendRefs": [{ "name": "stock", "namespace": "other", "port": 80 }],
    }]);
    bench.api.put([weights(1, 1, 0), http("abroad", 1, abroad)]);
    let sidecar = bench.sidecar(yaml("")).await;
    answered(&sidecar, "/", 200).await;
    let refused = state(&sidecar, "shop/abroad", "unresolved").await;
    assert_eq!(refused["parents"][0]["resolved_refs"]["reason"], "RefNotPermitted", "{refused}");
    assert_eq!(refused["parents"][0]["accepted"]["reason"], "Accepted", "{refused}");
    answered(&sidecar, "/stock", 500).await;
    let seen = sidecar.routing().await["gateway_api"]["watches"].clone();
    let of_grants = seen.as_array().into_iter().flatten().find(|w| w["source"] == "referencegrants of all namespaces");
    assert_eq!(of_grants.map(|w| &w["state"]), Some(&json!("absent")), "{seen}");
    assert_eq!(sidecar.metrics().await.sum("pathloom_gateway_failing", &[]), 0.0);
    // The kind comes, and a grant with it.
    bench.api.uninstall(None);
    watches(&sidecar, None).await;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": { "namespace": "other", "name": "shop", "uid": "uid-grant" },
        "spec": {
            "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop" }],
            "to": [{ "group": "", "kind": "Service", "name": "stock" }],
        },
    });
    bench.api.put([grant]);
    state(&sidecar, "shop/abroad", "accepted").await;
    answered(&sidecar, "/stock", 200).await;
    assert_eq!(bench.fleet.endpoints[3].state.requests(), 1, "nobody else is in that namespace");
    // Without it nobody may.
    bench.api.delete_a("ReferenceGrant", "other", "shop");
    answered(&sidecar, "/stock", 500).await;
    answered(&sidecar, "/", 200).await;
    let said = sidecar.stderr().matches("the kind is not installed").count();
    assert_eq!(said, 1, "{}", sidecar.stderr());
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regular_expressions_and_new_paths_hold_for_requests_over_both_versions() {
    let bench = Bench::start().await;
    let next = json!([{ "name": "next", "port": 80 }]);
    let regex = |what: &str, name: &str, value: &str| json!({ what: [{ "type": "RegularExpression", "name": name, "value": value }] });
    let filter = |what: &str, key: &str, said: Value| json!([{ "type": what, key: said }]);
    let rules = json!([
        { "matches": [{ "path": { "type": "RegularExpression", "value": "/v[0-9]+/items" } }], "backendRefs": next },
        { "matches": [regex("headers", "x-beta", "on|[12]")], "backendRefs": next },
        { "matches": [regex("queryParams", "v", "a b|c+")], "backendRefs": next },
        {
            "matches": [{ "path": { "value": "/whole" } }],
            "filters": filter("URLRewrite", "urlRewrite", json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/bytes/7" } })),
            "backendRefs": next,
        },
        {
            "matches": [{ "path": { "value": "/old" } }],
            "filters": filter("RequestRedirect", "requestRedirect", json!({
                "statusCode": 308, "port": 8443,
                "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" },
            })),
        },
    ]);
    bench.api.put([weights(1, 1, 0), http("more", 1, rules)]);
    let sidecar = bench.sidecar(yaml("")).await;
    state(&sidecar, "shop/more", "accepted").await;
    answered(&sidecar, "/old", 308).await;
    for version in VERSIONS {
        let mut client = version.connect(sidecar.address("in")).await.unwrap();
        let mut ask = async |path: &str, beta: &str| {
            let request = Request::get(format!("http://catalog.shop{path}")).header("x-beta", beta);
            wait::soon("an answer", client.exchange(request.body(body::empty()).unwrap())).await.unwrap()
        };
        for (path, beta, is_next) in [
            ("/v12/items", "", true),
            ("/v12/items/1", "", false),
            ("/a/v12/items", "", false),
            ("/", "on", true),
            ("/", "one", false),
            ("/?v=a%20b", "", true),
            ("/?v=ccc", "", true),
            ("/?v=cca", "", false),
        ] {
            let answer = ask(path, beta).await;
            assert_eq!(answer.status(), 200, "{version:?} {path}");
            let endpoint: usize = text(&answer, "x-endpoint").parse().unwrap();
            assert_eq!(endpoint >= 2, is_next, "{version:?} {path} {beta}: {endpoint}");
        }
        assert_eq!(ask("/whole/and/more", "").await.body().len(), 7, "{version:?}");
        assert_eq!(ask("/whole?length", "").await.body().len(), 7, "{version:?}");
        let moved = ask("/old/a?b=c", "").await;
        assert_eq!((moved.status().as_u16(), text(&moved, "location")), (308, "//catalog.shop:8443/new/a?b=c"));
    }
    sidecar.assert_no_panic();
}
