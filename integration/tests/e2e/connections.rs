//! Many connections.

use crate::{catalog, sidecar};
use pathloom_integration::client::raw::Raw;
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::{process, wait};

const IDLE: usize = 5_000;
/// What an idle connection may cost, in bytes.
const EACH: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_connections_are_held_cheaply_and_others_are_served() {
    let files = process::raise_open_files(2 * IDLE as u64);
    if files < IDLE as u64 + 500 {
        return process::skip(&format!("this machine allows only {files} open files"));
    }
    let fleet = Fleet::start(2).await;
    // As most shells and init systems start it: the sidecar must raise the limit itself.
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).open_files(1024).start().await;
    let limit = sidecar.process.open_files_limit();
    assert!(limit > IDLE as u64, "the sidecar left its limit of open files at {limit}");
    let address = sidecar.address("in");
    let before = sidecar.process.resident();
    let mut idle = Vec::with_capacity(IDLE);
    for n in 0..IDLE {
        let mut connection = wait::soon("a connection", Raw::connect(address)).await.unwrap();
        // One in fifty has been used, so that both kinds of idle are there.
        if n % 50 == 0 {
            let answer = wait::soon("an answer", connection.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n")).await;
            assert_eq!(answer.unwrap().status, 200);
        }
        idle.push(connection);
    }
    wait::eventually("all connections to be accepted", || async {
        let open = sidecar.metrics().await.sum("pathloom_downstream_connections", &[]);
        if open as usize >= IDLE { Ok(()) } else { Err(open) }
    })
    .await;
    let held = sidecar.process.resident().saturating_sub(before);
    eprintln!("{IDLE} idle connections take {} KiB each", held / 1024 / IDLE as u64);
    assert!(held < EACH * IDLE as u64, "{} KiB each", held / 1024 / IDLE as u64);
    let mut client = Version::Http2.connect(address).await.unwrap();
    for _ in 0..100 {
        assert_eq!(wait::soon("a request beside them", client.get("/")).await.unwrap().status(), 200);
    }
    // They were not dropped on the way: any of them still serves.
    for connection in idle.iter_mut().step_by(499) {
        let answer = wait::soon("an answer", connection.ask("GET / HTTP/1.1\r\nhost: catalog.shop\r\n\r\n")).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    drop((idle, client));
    wait::eventually("the connections to be gone", || async {
        let open = sidecar.metrics().await.sum("pathloom_downstream_connections", &[]);
        if open == 0.0 { Ok(()) } else { Err(open) }
    })
    .await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_endpoints_are_used_again() {
    for (protocol, most) in [("protocol: http1", 8), ("protocol: http2", 8)] {
        let fleet = Fleet::start(1).await;
        let sidecar = sidecar(catalog(&fleet.yaml(), protocol)).start().await;
        let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
        for _ in 0..200 {
            assert_eq!(client.get("/").await.unwrap().status(), 200);
        }
        assert!(
            fleet.connections() <= most,
            "{protocol}: {} connections for 200 requests in turn",
            fleet.connections()
        );
    }
}

#[tokio::test]
async fn memory_comes_in_small_pages_whatever_the_kernel_would_give() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", sidecar.process.id())).unwrap();
    let status = read("status");
    let line = |name: &str, text: &str| text.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned()));
    // Kernels before 5.0 do not tell.
    assert!(line("THP_enabled:", &status).is_none_or(|enabled| enabled == "0"), "huge pages are allowed");
    assert_eq!(line("AnonHugePages:", &read("smaps_rollup")).as_deref(), Some("0 kB"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_descriptors_run_out_those_who_ask_for_nothing_give_way_to_those_who_ask() {
    let fleet = Fleet::start(2).await;
    // One thread, so that all clients wait at the same socket.
    let yaml = catalog(&fleet.yaml(), "") + "process: { threads: 1 }\n";
    let sidecar = sidecar(yaml).most_open_files(100).start().await;
    let address = sidecar.address("in");
    let mut used = Version::Http1.connect(address).await.unwrap();
    assert_eq!(wait::soon("an answer", used.get("/")).await.unwrap().status(), 200);
    // More than there are descriptors: the kernel takes those that the sidecar has none for.
    let mut idle = Vec::new();
    for n in 0..150 {
        let connection = wait::soon("a connection", Raw::connect(address)).await.unwrap();
        idle.push(connection);
        if n % 10 == 0 {
            assert_eq!(wait::soon("an answer", used.get("/")).await.unwrap().status(), 200, "who asks is served");
        }
    }
    for version in VERSIONS {
        let mut other = wait::soon("a connection", version.connect(address)).await.unwrap();
        let answer = wait::soon("an answer to a newcomer", other.get("/")).await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let metrics = sidecar.metrics().await;
    assert!(metrics.sum("pathloom_downstream_connections_evicted_total", &[]) > 0.0);
    assert_eq!(metrics.sum("pathloom_ejections_total", &[]), 0.0, "no endpoint is to blame");
    sidecar.logged("few file descriptors are left").await;
    sidecar.assert_no_panic();
}
