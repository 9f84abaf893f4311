//! Where endpoints come from: a file, DNS, both beside a list; servers that are down, lie or say nothing. Requests go to the
//! right endpoints all the while, and none of them fails.

use crate::{QUICK, sidecar};
use pathloom_integration::client::{VERSIONS, Version, text};
use pathloom_integration::dns::{Data, DnsServer, Reply};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{ports, wait};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

const README: &str = include_str!("../../../README.md");

/// A workload and a cluster with these keys.
pub fn with(cluster: &str) -> String {
    format!(
        "workloads: {{ frontend: {{ listen: '@in@' }} }}\n\
         routes: [{{ cluster: catalog }}]\n\
         clusters: {{ catalog: {{ {cluster} }} }}\n{QUICK}"
    )
}

/// The endpoints that may get requests, by their numbers in the fleet.
pub async fn serving(sidecar: &Sidecar, fleet: &Fleet) -> BTreeSet<usize> {
    let candidates = sidecar.candidates("catalog").await;
    let eligible = candidates.into_iter().filter(|(_, c)| c["eligible"] == true).map(|(address, _)| address);
    let number = |address: SocketAddr| fleet.endpoints.iter().position(|e| e.address == address);
    eligible.map(|address| number(address).unwrap_or_else(|| panic!("{address} is nobody's"))).collect()
}

/// Waits until these endpoints, and no others, get requests; then watches that it is so.
pub async fn only(sidecar: &Sidecar, fleet: &Fleet, load: &Load, wanted: &[usize]) {
    let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
    wait::eventually("the right endpoints", async || {
        let seen = serving(sidecar, fleet).await;
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?} and not {wanted:?}\n{}", discovery(sidecar).await)) }
    })
    .await;
    load.pass().await;
    let counts = || -> Vec<u64> { fleet.endpoints.iter().map(|e| e.state.requests()).collect() };
    let before = counts();
    load.further(100).await;
    let moved = counts().into_iter().zip(before).enumerate().filter(|(_, (now, then))| now > then).map(|(n, _)| n);
    let moved: BTreeSet<usize> = moved.collect();
    assert!(moved.is_subset(&wanted) && !moved.is_empty(), "{moved:?} got requests, and {wanted:?} should");
}

/// What `/routing` says of the first source.
pub async fn discovery(sidecar: &Sidecar) -> Value {
    sidecar.routing().await["discovery"][0].clone()
}

/// Waits until the first source fails for a reason with this code, or works where there is none.
pub async fn state(sidecar: &Sidecar, code: Option<&str>) -> Value {
    wait::eventually(&format!("discovery to be in the state {code:?}"), async || {
        let seen = discovery(sidecar).await;
        let right = match (code, seen["reason"].as_str()) {
            (None, None) => seen["state"] == "working",
            (Some(code), Some(reason)) => seen["state"] == "failing" && reason.starts_with(code),
            _ => false,
        };
        if right { Ok(seen) } else { Err(seen.to_string()) }
    })
    .await
}

fn ips(fleet: &Fleet, numbers: &[usize]) -> Vec<IpAddr> {
    numbers.iter().map(|n| fleet.endpoints[*n].address.ip()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_endpoints_is_followed_and_the_readmes_example_is_right() {
    let section = README.split("### Where endpoints come from\n").nth(1).expect("the section");
    let example = section.split("```yaml\n").nth(1).and_then(|s| s.split("```").next()).expect("the example");
    let in_file = section.split("```yml\n").nth(1).and_then(|s| s.split("```").next()).expect("the file's example");
    for version in VERSIONS {
        let fleet = Fleet::start(4).await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalog.yaml");
        let write = |text: &str| {
            let next = directory.path().join("next");
            std::fs::write(&next, text).unwrap();
            std::fs::rename(&next, &file).unwrap();
        };
        let endpoints = |numbers: &[usize]| {
            let listed =
                fleet.endpoints.iter().enumerate().filter(|(n, _)| numbers.contains(n)).map(|(_, e)| e.address);
            format!("endpoints: {}", pathloom_integration::fleet::list(listed))
        };
        // The example's file, with addresses of ours.
        let shown =
            (4..).map(|i| format!("10.1.2.{i}:8080")).zip([1, 2].map(|n| fleet.endpoints[n].address.to_string()));
        write(&shown.fold(in_file.to_owned(), |yaml, (shown, real)| {
            assert!(yaml.contains(&shown), "{shown} is not in the example");
            yaml.replace(&shown, &format!("'{real}'"))
        }));
        let yaml = example
            .replace("127.0.0.1:15001", "@in@")
            .replace("10.1.2.3:8080", &format!("'{}'", fleet.endpoints[0].address))
            .replace("/etc/pathloom/catalog.yaml", &format!("'{}'", file.display()));
        let mut sidecar = sidecar(yaml.clone() + QUICK).start().await;
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        only(&sidecar, &fleet, &load, &[0, 1, 2]).await;
        let weights = sidecar.candidates("catalog").await;
        assert_eq!(weights[&fleet.endpoints[2].address]["configured_weight"], 2, "as the file says");
        write(&endpoints(&[2, 3]));
        only(&sidecar, &fleet, &load, &[0, 2, 3]).await;
        // Wrong, then gone: nothing changes but what operators see.
        write("endpoints:\n  - { address: 10.0.0.1 }\n");
        let failing = state(&sidecar, Some("invalid")).await;
        assert!(
            failing["reason"].as_str().unwrap().contains("catalog.yaml:2:16: `10.0.0.1` is not an IP address"),
            "{failing}"
        );
        assert!(sidecar.stderr().contains("write both, as in `127.0.0.1:8080`"), "{}", sidecar.stderr());
        only(&sidecar, &fleet, &load, &[0, 2, 3]).await;
        std::fs::remove_file(&file).unwrap();
        state(&sidecar, Some("unavailable")).await;
        let metrics = sidecar.metrics().await;
        assert_eq!(metrics.sum("pathloom_discovery_failing", &[("cluster", "catalog")]), 1.0);
        assert_eq!(metrics.sum("pathloom_discovery_endpoints", &[("state", "ready")]), 2.0, "those that are kept");
        only(&sidecar, &fleet, &load, &[0, 2, 3]).await;
        write(&endpoints(&[1]));
        only(&sidecar, &fleet, &load, &[0, 1]).await;
        state(&sidecar, None).await;
        // A reload that has nothing to do with it, and one that takes the source away.
        sidecar.reload_and_wait(&(yaml.clone() + &QUICK.replace("100ms,", "90ms,"))).await;
        only(&sidecar, &fleet, &load, &[0, 1]).await;
        let without = yaml.split("    discover:").next().unwrap().to_owned();
        sidecar.reload_and_wait(&(without + QUICK)).await;
        only(&sidecar, &fleet, &load, &[0]).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_followed_and_a_server_that_fails_or_lies_changes_nothing() {
    let fleet = Fleet::on_one_port(3).await;
    let port = fleet.endpoints[0].address.port();
    let dns = DnsServer::start().await;
    dns.has("catalog.test", ips(&fleet, &[0]), 1);
    let discover = format!("discover: [{{ dns: catalog.test, port: {port}, nameservers: ['{}'] }}]", dns.address);
    let sidecar = sidecar(with(&discover)).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 8, "/").await;
    only(&sidecar, &fleet, &load, &[0]).await;
    // A TTL of nothing is taken for a second.
    dns.has("catalog.test", ips(&fleet, &[1, 2]), 0);
    only(&sidecar, &fleet, &load, &[1, 2]).await;
    let lie = || ips(&fleet, &[0]).into_iter().map(Data::Address).collect::<Vec<_>>();
    let wrongs = [
        (Reply::Failure, "server_failure"),
        (Reply::NoSuchName(1), "no_such_name"),
        (Reply::Records(Vec::new(), 1), "no_records"),
        (Reply::Silence, "timeout"),
        (Reply::Garbage, ""),
        (Reply::OtherId(lie()), ""),
        (Reply::OtherName(lie()), ""),
    ];
    let count = wrongs.len();
    for (wrong, code) in wrongs {
        dns.says("catalog.test", wrong.clone());
        let failing = state(&sidecar, Some(code)).await;
        assert!(failing["endpoints"]["ready"] == 2, "{wrong:?}: {failing}");
        only(&sidecar, &fleet, &load, &[1, 2]).await;
        dns.has("catalog.test", ips(&fleet, &[1, 2]), 1);
        state(&sidecar, None).await;
    }
    let log = sidecar.stderr();
    assert_eq!(log.matches("discovery fails").count(), count, "once each: {log}");
    assert_eq!(log.matches("discovery works again").count(), count, "{log}");
    dns.has("catalog.test", ips(&fleet, &[0]), 1);
    only(&sidecar, &fleet, &load, &[0]).await;
    let metrics = sidecar.metrics().await;
    assert!(metrics.sum("pathloom_discovery_failures_total", &[("reason", "server_failure")]) >= 1.0);
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_say_ports_and_weights_and_what_is_too_long_comes_by_tcp() {
    let fleet = Fleet::start(4).await;
    let dns = DnsServer::start().await;
    let own = fleet.endpoints[0].address.ip();
    let srv = |priority: u16, weight: u16, n: usize| {
        Data::Srv(priority, weight, fleet.endpoints[n].address.port(), "pods.test".to_owned())
    };
    dns.has("pods.test", [own], 60);
    let name = "_http._tcp.catalog.test";
    dns.says(name, Reply::TooLong(vec![srv(10, 3, 0), srv(10, 1, 1), srv(20, 1, 3)], 1));
    let discover = format!("discover: [{{ dns: {name}, nameservers: ['{}'] }}]", dns.address);
    let sidecar = sidecar(with(&discover)).start().await;
    let load = Load::start(Version::Http2, sidecar.address("in"), 8, "/").await;
    only(&sidecar, &fleet, &load, &[0, 1]).await;
    assert!(dns.asked_by_tcp(name) > 0, "it was cut");
    let candidates = sidecar.candidates("catalog").await;
    assert_eq!(candidates[&fleet.endpoints[0].address]["configured_weight"], 3);
    // The first priority is gone, so the second counts; its target fails for a while.
    dns.says(name, Reply::Records(vec![srv(20, 0, 2), srv(20, 0, 3)], 1));
    only(&sidecar, &fleet, &load, &[2, 3]).await;
    dns.says("pods.test", Reply::Failure);
    state(&sidecar, Some("server_failure")).await;
    only(&sidecar, &fleet, &load, &[2, 3]).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_left_out_and_counted_beside_endpoints_that_are_listed() {
    let fleet = Fleet::on_one_port(3).await;
    let port = fleet.endpoints[0].address.port();
    let dns = DnsServer::start().await;
    // The sidecar's own listener is among what the server tells: requests to it would go round for ever.
    let listen = SocketAddr::new(ports::another_ip(9), port);
    let nonsense = ["0.0.0.0", "255.255.255.255", "224.0.0.1"].map(|ip| ip.parse().unwrap());
    let told: Vec<IpAddr> = [ips(&fleet, &[1]), vec![listen.ip()], nonsense.to_vec()].concat();
    dns.has("catalog.test", told, 1);
    let discover =
        format!("discover: [{{ dns: catalog.test, port: {port}, most: 2, nameservers: ['{}'] }}]", dns.address);
    let listed = format!("endpoints: [{{ address: '{}' }}], {discover}", fleet.endpoints[0].address);
    let sidecar = sidecar(with(&listed)).address("in", listen).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    only(&sidecar, &fleet, &load, &[0, 1]).await;
    let ignored = async |reason: &str| sidecar.metrics().await.sum("pathloom_discovery_ignored", &[("reason", reason)]);
    assert_eq!((ignored("bad_address").await, ignored("own_listener").await), (3.0, 1.0));
    // More than may be: the rest is left out, and the key is named.
    let many = (1..=200u8).map(|n| IpAddr::from([240, 0, 0, n]));
    dns.says(
        "catalog.test",
        Reply::TooLong(ips(&fleet, &[1, 2]).into_iter().chain(many).map(Data::Address).collect(), 1),
    );
    only(&sidecar, &fleet, &load, &[0, 1, 2]).await;
    assert_eq!(ignored("too_many").await, 200.0);
    assert!(sidecar.stderr().contains("`discover[].most`"), "{}", sidecar.stderr());
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_word_of_endpoints_requests_get_a_clear_answer_until_there_are_some() {
    let fleet = Fleet::on_one_port(2).await;
    let port = fleet.endpoints[0].address.port();
    let mut dns = DnsServer::start().await;
    dns.stop().await;
    let server = dns.address;
    let source = |name: &str| format!("{{ dns: {name}, port: {port}, nameservers: ['{server}'] }}");
    let mut sidecar = sidecar(with(&format!("discover: [{}]", source("catalog.test")))).start().await;
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let answer = wait::soon("an answer", client.get("/")).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(text(&answer, "proxy-status").contains("no_endpoints"), "{answer:?}");
    state(&sidecar, Some("")).await;
    dns.start_again().await;
    dns.has("catalog.test", ips(&fleet, &[0]), 1);
    wait::eventually("endpoints", async || {
        let seen = serving(&sidecar, &fleet).await;
        if seen == BTreeSet::from([0]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    // Another name, which does not exist yet: what there was stays until it does.
    let load = Load::start(Version::Http1, sidecar.address("in"), 4, "/").await;
    sidecar.reload_and_wait(&with(&format!("discover: [{}]", source("other.test")))).await;
    state(&sidecar, Some("no_such_name")).await;
    only(&sidecar, &fleet, &load, &[0]).await;
    dns.has("other.test", ips(&fleet, &[1]), 1);
    only(&sidecar, &fleet, &load, &[1]).await;
    // And back to a list.
    let listed = format!("endpoints: [{{ address: '{}' }}]", fleet.endpoints[0].address);
    sidecar.reload_and_wait(&with(&listed)).await;
    only(&sidecar, &fleet, &load, &[0]).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    sidecar.assert_no_panic();
}
