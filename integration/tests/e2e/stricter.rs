//! A reload by which a listener takes no plain text any more, and those who are on it.

use crate::identity::Authority;
use crate::sidecar;
use pathloom_integration::client::raw::Raw;
use pathloom_integration::client::{VERSIONS, text};
use pathloom_integration::fleet::raw::RawEndpoint;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ASK: &str = "GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_plain_text_leave_when_their_listener_becomes_strict_and_others_stay() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    authority.issue("near", "spiffe://mesh.local/near", &[]);
    authority.issue("far", "spiffe://mesh.local/far", &[]);
    let echo = RawEndpoint::start(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let yaml = |mode: &str| {
        format!(
            "{}process: {{ drain: 2s, threads: 1 }}\nlisteners: {{ detect: 100ms }}\nworkloads:\n  peers: {{ listen: '@mtls@', tls: {mode} }}\n  \
             bytes: {{ listen: '@bytes@', protocol: tcp, tls: {mode} }}\nroutes: [{{ cluster: echo }}, {{ cluster: local }}]\n\
             clusters:\n  local: {{ endpoints: {} }}\n  echo: {{ protocol: tcp, endpoints: {} }}\n",
            authority.yaml("far"),
            fleet.yaml(),
            list([echo.address]),
        )
    };
    let mut far = sidecar(yaml("permissive")).start().await;
    let near = sidecar(format!(
        "{}workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: shop }}]\n\
         clusters: {{ shop: {{ endpoints: {}, tls: mesh }} }}\n",
        authority.yaml("near"),
        list([far.address("mtls")]),
    ))
    .start()
    .await;
    // On each protocol a connection with nothing under way and one with a request; and one that carries bytes.
    let mut idle1 = Raw::connect(far.address("mtls")).await.unwrap();
    assert_eq!(idle1.ask(ASK).await.unwrap().status, 200);
    let mut idle2 = VERSIONS[1].connect(far.address("mtls")).await.unwrap();
    assert_eq!(idle2.get("/").await.unwrap().status(), 200);
    let mut waiting = Vec::new();
    for version in VERSIONS {
        let mut connection = version.connect(far.address("mtls")).await.unwrap();
        waiting.push(tokio::spawn(async move { (connection.get("/hold").await.unwrap(), connection) }));
    }
    wait::until("two to be held", || fleet.holding() == 2).await;
    let mut bytes = Raw::connect(far.address("bytes")).await.unwrap();
    bytes.send("hello").await.unwrap();
    bytes.stream.read_exact(&mut [0; 5]).await.unwrap();
    let mut through = VERSIONS[1].connect(near.address("in")).await.unwrap();
    assert_eq!(through.get("/").await.unwrap().status(), 200);
    let shaken = far.metrics().await.sum("pathloom_tls_handshakes_total", &[("side", "downstream"), ("outcome", "ok")]);

    far.reload_and_wait(&yaml("strict")).await;
    for version in VERSIONS {
        wait::eventually("plain text to be refused", || async {
            let answer = version.connect(far.address("mtls")).await.unwrap().get("/").await;
            answer.ok().filter(|answer| answer.status() == 403).map(drop).ok_or("served")
        })
        .await;
    }
    let served = fleet.requests();
    // Those that were idle are told to leave: nothing that is asked on them is served.
    assert!(idle1.closed().await);
    wait::until("the other one to be told to leave", || !idle2.usable()).await;
    assert!(idle2.get("/").await.is_err());
    assert_eq!(fleet.requests(), served);
    // What was under way is finished, and is the last.
    fleet.open_gates();
    for (version, waiting) in VERSIONS.into_iter().zip(waiting) {
        let (answer, mut connection) = wait::soon("the answer", waiting).await.unwrap();
        assert_eq!(answer.status(), 200, "{version:?}");
        if version == VERSIONS[0] {
            assert_eq!(text(&answer, "connection"), "close");
        }
        assert!(connection.get("/").await.is_err(), "{version:?}");
    }
    // Of bytes nobody knows where they end: `process.drain` is what they still get.
    let mut rest = Vec::new();
    let _ = wait::soon("the end of the bytes", bytes.stream.read_to_end(&mut rest)).await;
    assert!(bytes.stream.write_all(b"more").await.is_err() || rest.is_empty());
    wait::eventually("it to be counted", || async {
        let refused = far.metrics().await.failures("tls_required");
        if refused >= 3.0 { Ok(()) } else { Err(refused) }
    })
    .await;
    // Who came by TLS noticed nothing.
    assert_eq!(through.get("/").await.unwrap().status(), 200);
    let after = far.metrics().await.sum("pathloom_tls_handshakes_total", &[("side", "downstream"), ("outcome", "ok")]);
    assert_eq!(after, shaken, "on the same connection");
    far.assert_no_panic();
}
