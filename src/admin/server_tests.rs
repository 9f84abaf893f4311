//! Tests over real sockets, on port 0.

use super::super::{fixture, state::AdminState};
use super::*;
use crate::config::{Admin, AdminAddress, load_str};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn loopback(port: u16) -> Admin {
    Admin { listen: AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port))), ..Admin::default() }
}

async fn start(state: Arc<AdminState>) -> Running {
    let listener = AdminListener::bind(&loopback(0)).unwrap();
    let AdminAddress::Tcp(address) = listener.address().unwrap() else { panic!("a port") };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async {
        let stopped = async {
            let _ = stopped.await;
        };
        serve(listener, Pages::All, state, stopped).await.unwrap();
    });
    Running { address, stop, task }
}

/// The head and the body of the answer to these bytes, read to the connection's end.
async fn raw(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_lowercase(), body.to_owned())
}

async fn get(address: SocketAddr, target: &str, headers: &str) -> (u16, String, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    let (head, body) = raw(address, &request).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, body)
}

#[tokio::test]
async fn every_endpoint_answers_with_its_type_and_is_never_cached() {
    let running = start(Arc::new(fixture::published())).await;
    for (path, content_type) in [
        ("/live", "text/plain"),
        ("/ready", "text/plain"),
        ("/metrics", "application/openmetrics-text"),
        ("/config", "application/yaml"),
        ("/config?format=json", "application/json"),
        ("/routing", "application/json"),
        ("/graph", "application/json"),
        ("/", "text/html"),
    ] {
        let (status, head, body) = get(running.address, path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains(&format!("content-type: {content_type}")), "{path}: {head}");
        assert!(head.contains("cache-control: no-store"), "{path}: {head}");
        assert_eq!(content_type == "text/html", head.contains("content-security-policy:"), "{path}: {head}");
        if content_type == "application/json" {
            let _: serde_json::Value = serde_json::from_str(&body).unwrap();
        }
    }
    let (_, _, body) = get(running.address, "/config", "Accept: application/json\r\n").await;
    assert!(body.starts_with('{'), "{body}");
    let (status, _, body) = get(running.address, "/nothing", "").await;
    assert_eq!(status, 404);
    for path in ["/live", "/ready", "/metrics", "/config", "/routing", "/graph"] {
        assert!(body.contains(path), "{body}");
    }
}

#[tokio::test]
async fn readiness_says_why_not() {
    let mut state = fixture::state();
    state.not_ready = Box::new(|| vec!["no listener accepts yet".into()]);
    let running = start(Arc::new(state)).await;
    let (status, _, body) = get(running.address, "/ready", "").await;
    assert_eq!(
        (status, body.as_str()),
        (503, "not ready:\n- no listener accepts yet\n- no generation has been published yet\n")
    );
    assert_eq!(get(running.address, "/live", "").await.0, 200);
    let (_, _, routing) = get(running.address, "/routing", "").await;
    assert!(routing.contains("\"generation\": null"), "{routing}");
}

#[tokio::test]
async fn a_failed_reload_shows_and_the_configuration_in_force_stays() {
    let state = Arc::new(fixture::published());
    let running = start(state.clone()).await;
    let errors = load_str("nonsense: 1", "proxy.yaml").unwrap_err();
    let refused = state.config.load().refused(errors, fixture::at(60));
    state.config.store(Arc::new(refused));
    let (_, _, yaml) = get(running.address, "/config", "").await;
    assert!(
        yaml.contains("# THE LAST RELOAD WAS REFUSED at 2023-11-14T22:14:20.000Z") && yaml.contains("proxy.yaml:1:1"),
        "{yaml}"
    );
    let (_, _, metrics) = get(running.address, "/metrics", "").await;
    assert!(metrics.contains("pathloom_config_reloads_total{result=\"failed\"} 1\n"));
    assert!(metrics.contains("pathloom_config_last_reload_failed 1\n"));
}

#[tokio::test]
async fn routing_is_narrowed_by_its_filters_and_names_what_exists() {
    let running = start(Arc::new(fixture::published())).await;
    let (_, _, body) = get(running.address, "/routing?workload=front%65nd&cluster=catalog", "").await;
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    let tables = value["tables"].as_array().unwrap();
    assert_eq!((tables.len(), &tables[0]["workload"]), (1, &"frontend".into()));
    let (status, _, body) = get(running.address, "/routing?cluster=catalogue", "").await;
    assert_eq!(status, 404);
    assert!(body.contains("there is no cluster `catalogue`; there are: catalog, empty"), "{body}");
}

#[tokio::test]
async fn names_that_could_be_rebound_are_refused() {
    let running = start(Arc::new(fixture::published())).await;
    let with = |host: &str| format!("GET /config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for host in ["evil.example", "evil.example:9900"] {
        let (head, body) = raw(running.address, &with(host)).await;
        assert!(
            head.contains(" 403 ") && body.contains("DNS rebinding") && !body.contains("clusters"),
            "{head}\n{body}"
        );
    }
    for host in ["localhost:1", "node-7", "[::1]:9900"] {
        assert!(raw(running.address, &with(host)).await.0.contains(" 200 "), "{host}");
    }
}

#[tokio::test]
async fn only_get_and_head_and_a_head_has_no_body() {
    let running = start(Arc::new(fixture::published())).await;
    let with = |method: &str| format!("{method} /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (head, body) = raw(running.address, &with("HEAD")).await;
    assert!(head.contains(" 200 ") && head.contains("content-length: 5") && body.is_empty(), "{head}\n{body}");
    for method in ["POST", "DELETE", "OPTIONS"] {
        let (head, _) = raw(running.address, &with(method)).await;
        assert!(head.contains(" 405 ") && head.contains("allow: get, head"), "{head}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let running = start(Arc::new(fixture::published())).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_idle_ones_give_their_place_up() {
    let running = start(Arc::new(fixture::published())).await;
    let begun = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(running.address, "/live", "").await.0, 200);
    let waited = begun.elapsed();
    assert!(waited > TIMEOUT - Duration::from_millis(500) && waited < TIMEOUT * 2, "{waited:?}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = AdminListener::bind(&loopback(address.port())).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {address} for the admin port (`admin.listen`): another process has the address; is pathloom running already?"
        )
    );
}

#[tokio::test]
async fn it_stops_when_told_and_closes_idle_connections() {
    let running = start(Arc::new(fixture::published())).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(get(running.address, "/live", "").await.0, 200);
    running.stop.send(()).unwrap();
    tokio::time::timeout(GRACE + Duration::from_millis(500), running.task).await.unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[test]
fn parameters_are_decoded() {
    assert_eq!(parameter("a=1&cluster=x%2Fy+z", "cluster").as_deref(), Some("x/y z"));
    assert_eq!(parameter("cluster=%zz%4", "cluster").as_deref(), Some("%zz%4"));
    assert_eq!((parameter("cluster=", "cluster"), parameter("", "cluster")), (None, None));
}

#[tokio::test]
async fn on_a_unix_socket_every_name_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = Admin { listen: AdminAddress::Unix(path.clone()), ..Admin::default() };
    let listener = AdminListener::bind(&admin).unwrap();
    tokio::spawn(serve(listener, Pages::All, Arc::new(fixture::published()), std::future::pending()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: pathloom\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("live\n"), "{answer}");
}
