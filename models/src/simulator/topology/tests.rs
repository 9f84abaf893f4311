use super::deploy::{Plan, deploy};
use super::*;
use crate::simulator::draw::Draw;
use std::path::Path;

/// Calls per request over all endpoints, by caller and callee.
fn calls_per_request(topology: &Topology) -> BTreeMap<(String, String), f64> {
    let mut calls = BTreeMap::new();
    for (endpoint, share) in topology.shares() {
        let (visits, stages) = (topology.visits(endpoint), topology.stages(endpoint));
        for (caller, stages) in stages.iter().enumerate() {
            for (callee, times) in stages.iter().flatten() {
                let key = (topology.nodes[caller].name.to_string(), topology.nodes[*callee].name.to_string());
                *calls.entry(key).or_insert(0.0) += share * visits[caller] * times;
            }
        }
    }
    calls
}

#[test]
fn the_social_network_makes_as_many_calls_a_request_as_is_published() {
    let calls = calls_per_request(&Topology::social_network().unwrap());
    // Facts: the sums of `expected_calls_per_request_at_published_mix` over the operations of each pair.
    let published = [
        ("nginx-thrift", "home-timeline-service", 0.6),
        ("home-timeline-service", "home-timeline-redis", 0.7),
        ("home-timeline-service", "post-storage-service", 0.6),
        ("nginx-thrift", "user-timeline-service", 0.3),
        ("user-timeline-service", "user-timeline-redis", 0.7),
        ("user-timeline-service", "user-timeline-mongodb", 0.4),
        ("user-timeline-service", "post-storage-service", 0.3),
        ("post-storage-service", "post-storage-memcached", 0.9),
        ("nginx-thrift", "compose-post-service", 0.1),
        ("compose-post-service", "text-service", 0.1),
        ("compose-post-service", "user-service", 0.1),
        ("compose-post-service", "media-service", 0.1),
        ("compose-post-service", "unique-id-service", 0.1),
        ("text-service", "url-shorten-service", 0.1),
        ("text-service", "user-mention-service", 0.1),
        ("url-shorten-service", "url-shorten-mongodb", 0.1),
        ("user-mention-service", "user-memcached", 0.1),
        ("user-mention-service", "user-mongodb", 0.1),
        ("compose-post-service", "post-storage-service", 0.1),
        ("post-storage-service", "post-storage-mongodb", 0.1),
        ("compose-post-service", "user-timeline-service", 0.1),
        ("compose-post-service", "home-timeline-service", 0.1),
        ("home-timeline-service", "social-graph-service", 0.1),
        ("social-graph-service", "social-graph-redis", 0.1),
    ];
    assert_eq!(calls.len(), published.len());
    for (caller, callee, expected) in published {
        let found = calls[&(caller.to_string(), callee.to_string())];
        assert!((found - expected).abs() < 1e-9, "{caller} -> {callee}: {found} instead of {expected}");
    }
}

#[test]
fn stages_run_in_order_and_groups_side_by_side() {
    let topology = Topology::social_network().unwrap();
    let node = |name: &str| topology.nodes.iter().position(|n| &*n.name == name).unwrap();
    let compose = topology.endpoints.iter().position(|e| &*e.name == "compose-post").unwrap();
    let stages = &topology.stages(compose)[node("compose-post-service")];
    let sizes: Vec<usize> = stages.iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 1, 1, 1], "four side by side, then three in turn");
    assert_eq!(stages[1][0].0, node("post-storage-service"));
    assert_eq!(stages[3][0].0, node("home-timeline-service"));

    // What is repeated outside of a group is made time after time.
    let hotel = Topology::hotel_reservation().unwrap();
    let reserve = hotel.endpoints.iter().position(|e| &*e.name == "reserve").unwrap();
    let reservation = hotel.nodes.iter().position(|n| &*n.name == "reservation").unwrap();
    let stages = &hotel.stages(reserve)[reservation];
    assert!(stages.iter().all(|s| s.len() == 1 && s[0].1 == 1.0) && stages.len() == 6 + 3 + 3, "{stages:?}");
}

const SHOP: &str = r#"{
  "app": "shop", "unknown": { "to": "us" },
  "nodes": [ { "name": "web", "kind": "frontend", "port": 80 }, { "name": "stock", "kind": "service" }, { "name": "price", "kind": "service" } ],
  "endpoints": [ { "name": "browse", "mix": 1.0 } ],
  "edges": [
    { "caller": "web", "callee": "stock", "stage": 1, "calls_per_request": { "browse": 2 } },
    { "caller": "stock", "callee": "price", "stage": 1, "calls_per_request": { "browse": 3 } }
  ]
}"#;

#[test]
fn calls_a_visit_are_calls_a_request_by_visits() {
    let topology = file::parse("shop.json", SHOP).unwrap();
    assert_eq!(topology.stages(0)[1], [[(2, 0.75)], [(2, 0.75)]], "1.5 a visit, in two steps");
}

fn error(from: &str, to: &str) -> String {
    assert!(SHOP.contains(from), "{from}");
    file::parse("shop.json", &SHOP.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_remedy() {
    for (from, to, words) in [
        (
            "\"stage\": 1, \"calls_per_request\": { \"browse\": 3 }",
            "\"calls_per_request\": { \"browse\": 3 }",
            vec!["shop.json: edges[1] stock -> price: `stage` is missing", "rising order"],
        ),
        ("\"mix\": 1.0", "\"mix\": -1", vec!["endpoints[0] `browse`: `mix` is -1", "0 or above"]),
        ("\"mix\": 1.0", "\"mix\": 0", vec!["none has a `mix` above 0"]),
        (", \"mix\": 1.0", "", vec!["endpoints[0] `browse`: `mix` is missing"]),
        ("\"kind\": \"frontend\"", "\"kind\": \"web\"", vec!["nodes[0] `web`: kind `web` is unknown", "frontend"]),
        ("\"port\": 80", "\"work_ms\": 0", vec!["nodes[0] `web`: `work_ms` is 0", "above 0"]),
        ("\"callee\": \"price\"", "\"callee\": \"prize\"", vec!["there is no node `prize`", "add it to `nodes`"]),
        ("{ \"browse\": 3 }", "{ \"brows\": 3 }", vec!["there is no endpoint `brows`"]),
        ("{ \"browse\": 3 }", "{ \"browse\": -3 }", vec!["-3 calls per request of `browse`"]),
        ("\"name\": \"price\"", "\"name\": \"stock\"", vec!["nodes: `stock` is there twice"]),
        ("\"endpoints\"", "\"end_points\"", vec!["`endpoints` is missing"]),
        ("\"caller\": \"web\"", "\"caller\": \"price\"", vec!["cycle, stock -> price -> stock; remove one"]),
        ("\"callee\": \"stock\"", "\"callee\": \"price\"", vec!["nobody calls web and stock"]),
        ("{\n  \"app\"", "{{", vec!["shop.json: not JSON", "line 1"]),
    ] {
        let found = error(from, to);
        for word in words {
            assert!(found.contains(word), "`{to}` gives `{found}` without `{word}`");
        }
    }
    let both = error("\"mix\": 1.0 }", "\"mix\": -1 }, { \"mix\": 1 }");
    assert!(both.lines().count() >= 2, "all errors come together: {both}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let found = Topology::load(Path::new("/nowhere/shop.json")).unwrap_err().to_string();
    assert!(found.contains("/nowhere/shop.json"), "{found}");
}

#[test]
fn generated_applications_have_the_size_and_the_out_degree_that_were_asked_for() {
    for (services, degree) in [(10, 1.5), (25, 2.5), (300, 3.5), (3_000, 4.5), (10_000, 1.5)] {
        let topology = generate::generate(services, degree, &mut Draw::new(7)).unwrap();
        assert_eq!(topology.nodes.len(), services);
        // Calls that hardly any request makes are left out, and small applications have no room for many.
        let found = topology.edges.len() as f64 / services as f64;
        assert!((0.75 * degree..=1.02 * degree).contains(&found), "{services}: {found} instead of {degree}");
        let calls: f64 = calls_per_request(&topology).values().sum();
        assert!((1.0..80.0).contains(&calls), "{services}: {calls} calls a request");
    }
    assert!(generate::generate(9, 2.5, &mut Draw::new(1)).unwrap_err().to_string().contains("10 to 10000"));
    assert!(generate::generate(10, 5.0, &mut Draw::new(1)).is_err());
}

#[test]
fn popularity_is_heavy_tailed() {
    let topology = generate::generate(1_000, 3.0, &mut Draw::new(3)).unwrap();
    let mut callers = vec![0; topology.nodes.len()];
    topology.edges.iter().for_each(|e| callers[e.callee] += 1);
    callers.sort_unstable();
    assert!(callers[999] > 10 * callers[500], "{} and {}", callers[999], callers[500]);
}

#[test]
fn a_deployment_is_whole_and_as_busy_as_planned() {
    for seed in 0..20 {
        let mut draw = Draw::new(seed);
        let topology = match seed % 4 {
            0 => Topology::social_network().unwrap(),
            1 => Topology::e_commerce().unwrap(),
            2 => generate::tiny(2, &mut draw).unwrap(),
            _ => generate::generate(30, 2.5, &mut draw).unwrap(),
        };
        let mesh = deploy(&topology, &Plan::random(200.0, &mut draw), &mut draw);
        let entering: f64 = mesh.entries.iter().map(|e| e.rate).sum();
        assert!((entering - 200.0).abs() < 1e-6, "{entering}");
        assert_eq!(mesh.routes.len(), mesh.instances.len());
        for (i, instance) in mesh.instances.iter().enumerate() {
            let service = &mesh.services[instance.service];
            assert!(service.replicas.contains(&i) && instance.host < mesh.hosts.len() && instance.slowness > 0.0);
            assert_eq!(mesh.routes[i].len(), service.called.len());
            for (route, called) in mesh.routes[i].iter().zip(&service.called) {
                let reached: Vec<usize> = route.pairs.iter().map(|p| mesh.pairs[*p].destination).collect();
                assert_eq!(reached, mesh.services[*called].replicas);
                assert!(route.pairs.iter().all(|p| mesh.pairs[*p].source == i));
            }
            for handler in &service.handlers {
                let share: f64 = handler.work.parts.iter().map(|p| p.share).sum();
                assert!((share - 1.0).abs() < 1e-9);
                for call in handler.stages.iter().flatten() {
                    let called = &mesh.services[service.called[call.dependency]];
                    assert!(call.handler < called.handlers.len() && call.times > 0.0);
                }
            }
        }
        let names: BTreeSet<_> = mesh.instances.iter().map(|i| &i.key).collect();
        assert_eq!(names.len(), mesh.instances.len(), "names differ");
    }
}
