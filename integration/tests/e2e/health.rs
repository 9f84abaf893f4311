//! Health checks go the way of their cluster's requests: over mTLS as this node, or behind a PROXY header.
//!
//! ```text
//! near: a check == mTLS ==> @mtls@ of a sidecar that takes nothing else -> fleet
//! ```

use crate::failures::health_in;
use crate::identity::Authority;
use crate::{QUICK, pathloom, sidecar};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;

const OFTEN: &str = "every: 100ms, timeout: 5s, rise: 1, fall: 1";

/// A sidecar that takes nothing but mTLS; `more` stands among its workload's keys.
async fn strict(authority: &Authority, folder: &str, fleet: &Fleet, protocol: &str, more: &str) -> Sidecar {
    let yaml = format!(
        "{}workloads: {{ peers: {{ listen: '@mtls@', tls: strict{more} }} }}\nroutes: [{{ cluster: local }}]\n\
         clusters: {{ local: {{ protocol: {protocol}, endpoints: {} }} }}\n",
        authority.yaml(folder),
        fleet.yaml()
    );
    sidecar(yaml).start().await
}

/// The side that asks; `more` stands among its cluster's keys.
fn near_yaml(identity: &str, endpoints: &[SocketAddr], more: &str) -> String {
    format!(
        "{identity}workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: shop }}]\n\
         clusters: {{ shop: {{ endpoints: {}, retries: {{ attempts: 0 }}, {more} }} }}\n{QUICK}",
        list(endpoints.iter().copied())
    )
}

/// Waits until an endpoint is not well for a reason that says this.
async fn unwell(near: &Sidecar, endpoint: SocketAddr, because: &str) {
    wait::eventually(because, || async {
        let candidate = near.candidates("shop").await[&endpoint].clone();
        let reason = candidate["reason"].as_str().unwrap_or_default();
        let so = candidate["health"] == "unhealthy" && reason.contains(because);
        if so { Ok(()) } else { Err(candidate["health"].to_string() + reason) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_but_mtls_is_well_by_every_kind_of_check() {
    let authority = Authority::new("mesh.local");
    authority.issue("near", "spiffe://mesh.local/near", &[]);
    authority.issue("far", "spiffe://mesh.local/far", &[]);
    for (protocol, check) in [
        ("http1", "check: http, path: /"),
        ("http2", "check: http, path: /"),
        ("http1", "check: grpc"),
        ("http2", "check: grpc"),
        ("http1", "check: tcp"),
    ] {
        let fleet = Fleet::start(1).await;
        // Whoever answers gRPC speaks HTTP/2, whatever requests come by.
        let local = if check.contains("grpc") { "http2" } else { protocol };
        let far = strict(&authority, "far", &fleet, local, "").await;
        let address = far.address("mtls");
        let tls = |tls: &str| format!("{tls}protocol: {protocol}, health: {{ {check}, {OFTEN} }}");
        let yaml = |more: &str| near_yaml(&authority.yaml("near"), &[address], &tls(more));
        let mut near = sidecar(yaml("tls: 'spiffe://mesh.local/far', ")).start().await;
        health_in(&near, "shop", address, "healthy").await;
        let load = Load::start(Version::Http1, near.address("in"), 2, "/").await;
        load.further(20).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        // What the endpoint behind it says is heard, too.
        let knobs = &fleet.endpoints[0].state;
        match check {
            "check: grpc" => {
                knobs.serving.store(false, SeqCst);
                unwell(&near, address, "does not serve").await;
                knobs.serving.store(true, SeqCst);
            }
            "check: tcp" => {}
            _ => {
                knobs.status.store(500, SeqCst);
                unwell(&near, address, "answered with 500").await;
                knobs.status.store(0, SeqCst);
            }
        }
        health_in(&near, "shop", address, "healthy").await;
        let metrics = near.metrics().await;
        let handshakes =
            |outcome| metrics.sum("pathloom_tls_handshakes_total", &[("side", "upstream"), ("outcome", outcome)]);
        let all: f64 = ["ok", "closed", "protocol", "refused", "wrong_identity"].map(handshakes).iter().sum();
        assert_eq!(handshakes("ok"), all, "{protocol} {check}");
        if protocol == "http1" && check.contains("http") {
            // Whoever does not speak TLS is turned away, and that is a check's answer as well.
            near.reload_and_wait(&yaml("")).await;
            unwell(&near, address, "answered with 403").await;
        }
        near.assert_no_panic();
        far.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_proves_to_be_another_gets_nothing_and_the_reason_says_so() {
    let (authority, fleet, others) = (Authority::new("mesh.local"), Fleet::start(1).await, Fleet::start(1).await);
    for name in ["near", "far", "other"] {
        authority.issue(name, &format!("spiffe://mesh.local/{name}"), &[]);
    }
    let far = strict(&authority, "far", &fleet, "http2", "").await;
    let other = strict(&authority, "other", &others, "http2", "").await;
    let (good, bad) = (far.address("mtls"), other.address("mtls"));
    for check in ["http", "grpc", "tcp"] {
        let more = format!("tls: 'spiffe://mesh.local/far', health: {{ check: {check}, {OFTEN} }}");
        let near = sidecar(near_yaml(&authority.yaml("near"), &[good, bad], &more)).start().await;
        health_in(&near, "shop", good, "healthy").await;
        unwell(&near, bad, "TLS failed (wrong_identity): it proves to be another than the cluster's `tls` expects")
            .await;
        let load = Load::start(Version::Http1, near.address("in"), 2, "/").await;
        load.further(50).await;
        let outcomes = load.stop().await.outcomes;
        assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Right(_))), "{check}: {outcomes:?}");
        let admin = near.address("admin").to_string();
        let (code, said, errors) = pathloom(&["explain", "--cluster", "shop", "--admin", &admin]).await;
        assert!(code == 0 && said.contains("wrong_identity"), "{code}: {said}{errors}");
        near.assert_no_panic();
    }
    assert_eq!(others.requests(), 0, "neither a request nor a check");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_follow_the_identities_of_both_sides() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    authority.issue("near", "spiffe://mesh.local/near", &[]);
    authority.issue("far", "spiffe://mesh.local/far", &[]);
    let rules = ", allow: [{ from: ['spiffe://mesh.local/near'] }]";
    let far = strict(&authority, "far", &fleet, "http1", rules).await;
    let address = far.address("mtls");
    let more = format!("tls: 'spiffe://mesh.local/far', health: {{ check: http, path: /, {OFTEN} }}");
    let near = sidecar(near_yaml(&authority.yaml("near"), &[address], &more)).start().await;
    health_in(&near, "shop", address, "healthy").await;
    authority.issue("near", "spiffe://mesh.local/renamed", &[]);
    unwell(&near, address, "answered with 403").await;
    authority.issue("near", "spiffe://mesh.local/near", &[]);
    health_in(&near, "shop", address, "healthy").await;
    authority.issue("far", "spiffe://mesh.local/moved", &[]);
    unwell(&near, address, "(wrong_identity)").await;
    authority.issue("far", "spiffe://mesh.local/far", &[]);
    health_in(&near, "shop", address, "healthy").await;
    near.assert_no_panic();
    far.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_introduces_itself_where_every_connection_must() {
    let fleet = Fleet::start(1).await;
    let far = sidecar(format!(
        "workloads: {{ peers: {{ listen: '@far@', proxy_from: [127.0.0.0/8] }} }}\nroutes: [{{ cluster: local }}]\n\
         clusters: {{ local: {{ endpoints: {} }} }}\n",
        fleet.yaml()
    ))
    .start()
    .await;
    let address = far.address("far");
    let near = sidecar(format!(
        "workloads: {{ w: {{ listen: '@in@', protocol: tcp }} }}\nroutes: [{{ cluster: shop }}]\n\
         clusters: {{ shop: {{ protocol: tcp, proxy_protocol: true, endpoints: {}, \
         health: {{ check: http, path: /, {OFTEN} }} }} }}\n{QUICK}",
        list([address])
    ))
    .start()
    .await;
    health_in(&near, "shop", address, "healthy").await;
    assert_eq!(far.metrics().await.failures("proxy_header"), 0.0);
}
