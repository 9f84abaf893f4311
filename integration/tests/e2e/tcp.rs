//! Connections that are no HTTP, listeners that find out what is spoken, and PROXY headers.

use crate::{QUICK, shown, sidecar};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::metrics::Metrics;
use pathloom_integration::sidecar::{Sidecar, get};
use pathloom_integration::{ports, wait};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that says its name first, and then each byte again as it comes.
async fn greeter(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(format!("{name}\n").as_bytes()).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await?;
                to.shutdown().await
            });
        }
    });
    address
}

/// Says something, and gives all that it hears; nothing where the connection broke.
async fn talk(address: SocketAddr, say: &[u8]) -> String {
    wait::soon("a talk", async {
        let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
        let mut heard = Vec::new();
        let _ = stream.write_all(say).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_the_readme_does_what_it_says() {
    let (fleet, db) = (Fleet::start(1).await, greeter("db").await);
    let places = [
        ("127.0.0.1:15432", "@db@".to_owned()),
        ("127.0.0.1:15001", "@any@".to_owned()),
        ("10.1.2.3:5432", db.to_string()),
        ("10.1.2.4:8080", fleet.endpoints[0].address.to_string()),
    ];
    // A client that is slow to speak, on a busy machine, is not one that is silent.
    let yaml = shown("Connections that are not HTTP", places).replace("detect: 500ms", "detect: 10s");
    let sidecar = sidecar(yaml + QUICK).start().await;
    assert_eq!(talk(sidecar.address("db"), b"hello").await, "db\nhello");
    // One listener: HTTP by host, TLS by name, and anything else.
    let any = sidecar.address("any");
    assert_eq!(get(any, "/").await.unwrap().0, 200);
    assert_eq!(talk(any, b"").await, "db\n");
    assert_eq!(talk(any, b"SET a b\r\n").await, "db\nSET a b\r\n");
    let done = [("cluster", "orders-db"), ("status_class", "none")];
    sidecar.counted(|m| m.sum("pathloom_requests_total", &done), 3.0).await;
    sidecar.counted(|m| m.sum("pathloom_request_body_bytes_total", &done[..1]), 14.0).await;
}

/// A TLS ClientHello for this name.
fn hello(name: &'static str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut connection = rustls::ClientConnection::new(config.into(), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_goes_by_the_name_that_it_asks_for_and_what_is_silent_by_port_after_a_while() {
    let (fleet, a, b) = (Fleet::start(1).await, greeter("a").await, greeter("b").await);
    let yaml = format!(
        "workloads: {{ w: {{ listen: '@any@', protocol: detect }} }}\nlisteners: {{ detect: 2s }}
routes: [{{ match: {{ host: a.shop }}, cluster: a }}, {{ match: {{ host: '*.shop' }}, cluster: b }}, {{ cluster: web }}]
clusters:\n  a: {{ protocol: tcp, endpoints: [{{ address: {a} }}] }}\n  b: {{ protocol: tcp, endpoints: [{{ address: {b} }}] }}
  web: {{ endpoints: {} }}\n",
        fleet.yaml()
    );
    let mut sidecar = sidecar(yaml.clone() + QUICK).start().await;
    let any = sidecar.address("any");
    let first = |heard: String| heard.split('\n').next().unwrap().to_owned();
    assert_eq!(first(talk(any, &hello("a.shop")).await), "a");
    assert_eq!(first(talk(any, &hello("x.shop")).await), "b");
    assert_eq!(talk(any, &hello("elsewhere")).await, "");
    sidecar.counted(|m| m.failures("no_route"), 1.0).await;
    // No route takes a connection without a name: a silent client is one of HTTP, and may take its time.
    let mut silent = TcpStream::connect(any).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    silent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    silent.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(talk(any, b"HELO x\r\n").await.starts_with("HTTP/1.1 400"), "what nobody takes is told so");
    sidecar.reload_and_wait(&(yaml.replace("{ cluster: web }]", "{ cluster: web }, { cluster: b }]") + QUICK)).await;
    assert_eq!(talk(any, b"HELO x\r\n").await, "b\nHELO x\r\n");
    let mut silent = TcpStream::connect(any).await.unwrap();
    let mut heard = [0; 2];
    wait::soon("the server's word", silent.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"b\n");
}

/// Who a PROXY header says that it is, in both versions.
const HEADERS: [&[u8]; 2] = [
    b"PROXY TCP4 10.1.2.3 10.9.9.9 1000 80\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x0a\x09\x09\x09\x03\xe8\0\x50",
];

/// What a listener for both kinds of workload does with a connection that begins so.
async fn statuses(sidecar: &Sidecar, begins: &[u8]) -> String {
    let request = [begins, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"].concat();
    let mut stream = TcpStream::connect(sidecar.address("in")).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut heard = Vec::new();
    let _ = wait::soon("an answer", stream.read_to_end(&mut heard)).await;
    String::from_utf8_lossy(&heard).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_is_believed_from_those_who_are_named_and_wanted_from_them() {
    let fleet = Fleet::start(1).await;
    let yaml = |from: &str| {
        format!(
            "workloads:\n  inside: {{ listen: '@in@', source: 10.1.0.0/16, proxy_from: [{from}] }}
  others: {{ listen: '@in@', proxy_from: [{from}], allow: [{{ path: /none }}] }}
routes: [{{ cluster: c }}]\nclusters: {{ c: {{ endpoints: {} }} }}\n{QUICK}",
            fleet.yaml()
        )
    };
    let trusting = sidecar(yaml("127.0.0.0/8")).start().await;
    for header in HEADERS {
        assert_eq!(statuses(&trusting, header).await, "200", "{}", header.escape_ascii());
    }
    assert_eq!(statuses(&trusting, b"PROXY UNKNOWN\r\n").await, "403", "who is not named is who it is");
    assert_eq!(statuses(&trusting, b"").await, "", "without a header nothing is served");
    trusting.counted(|m| m.failures("proxy_header"), 1.0).await;
    let doubting = sidecar(yaml("10.0.0.0/8")).start().await;
    for header in HEADERS {
        assert_eq!(statuses(&doubting, header).await, "400", "from others it is no HTTP");
    }
    assert_eq!(statuses(&doubting, b"").await, "403");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_in_a_circle_is_cut() {
    for (from, announced, first, reason, most) in [
        // Where they introduce their clients to each other, they count: the first 16 pass it on.
        (", proxy_from: [127.0.0.0/8]", ", proxy_protocol: true", HEADERS[0], "loop", 17.0),
        // Where they do not, what each takes at a time is the bound.
        ("", "", &b""[..], "overloaded", 41.0),
    ] {
        let (a, b) = (ports::free(ports::own_ip(2)), ports::free(ports::own_ip(2)));
        let to = |next: SocketAddr| {
            let admission = "admission: { concurrency: 20, pending: 0 }, ejection: { consecutive_failures: 0 }";
            format!(
                "workloads: {{ w: {{ listen: '@in@', protocol: tcp{from} }} }}\nroutes: [{{ cluster: c }}]\n\
                 clusters: {{ c: {{ protocol: tcp{announced}, {admission}, endpoints: [{{ address: {next} }}] }} }}\n"
            )
        };
        let both = [sidecar(to(b)).address("in", a).start().await, sidecar(to(a)).address("in", b).start().await];
        assert_eq!(talk(a, first).await, "", "it ends");
        let of_both = async |count: fn(&Metrics, &str) -> f64, what: &str| {
            let [one, other] = [both[0].metrics().await, both[1].metrics().await];
            count(&one, what) + count(&other, what)
        };
        wait::eventually("all of it to be over", async || {
            let open = of_both(|m, name| m.sum(name, &[]), "pathloom_downstream_connections").await;
            if open == 0.0 { Ok(()) } else { Err(open) }
        })
        .await;
        assert_eq!(of_both(Metrics::failures, reason).await, 1.0, "{:?}", both[0].metrics().await.all_failures());
        let rounds = of_both(|m, name| m.sum(name, &[]), "pathloom_downstream_connections_accepted_total").await;
        assert!(rounds <= most, "{rounds} connections");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_becomes_one_of_another_kind_by_a_reload() {
    let (fleet, db) = (Fleet::start(1).await, greeter("db").await);
    let yaml = |listener: &str| {
        format!(
            "workloads: {{ w: {{ listen: '@in@'{listener} }} }}\nlisteners: {{ detect: 10s }}\n\
             routes: [{{ cluster: db }}, {{ cluster: web }}]\nclusters:\n  \
             db: {{ protocol: tcp, endpoints: [{{ address: {db} }}] }}\n  web: {{ endpoints: {} }}\n{QUICK}",
            fleet.yaml()
        )
    };
    let mut sidecar = sidecar(yaml("")).start().await;
    let address = sidecar.address("in");
    let is_http = async || get(address, "/").await.is_ok_and(|(status, _)| status == 200);
    assert!(is_http().await && talk(address, b"SET a b\r\n").await.starts_with("HTTP/1.1 400"));
    sidecar.reload_and_wait(&yaml(", protocol: detect")).await;
    assert!(is_http().await);
    assert_eq!(talk(address, b"SET a b\r\n").await, "db\nSET a b\r\n");
    sidecar.reload_and_wait(&yaml(", protocol: tcp, proxy_from: [127.0.0.0/8]")).await;
    assert_eq!(talk(address, b"PROXY UNKNOWN\r\nhello").await, "db\nhello");
    assert_eq!(talk(address, b"hello").await, "", "it must be introduced");
    sidecar.reload_and_wait(&yaml("")).await;
    assert!(is_http().await);
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_may_call_itself_and_not_for_ever() {
    let server = greeter("there").await;
    let (a, b) = (ports::free(ports::own_ip(2)), ports::free(ports::own_ip(2)));
    // From one listener of its own to another, from there to `end`. What is wrong with this ends at the limit.
    let to = |end: SocketAddr| {
        let bounded = "admission: { concurrency: 100, pending: 0 }, ejection: { consecutive_failures: 0 }";
        format!(
            "workloads:\n  one: {{ listen: '@one@', protocol: tcp }}\n  two: {{ listen: '@two@', protocol: tcp }}\n\
             routes: [{{ match: {{ port: {} }}, cluster: next }}, {{ cluster: end }}]\nclusters:\n  \
             next: {{ protocol: tcp, {bounded}, endpoints: [{{ address: {b} }}] }}\n  \
             end: {{ protocol: tcp, {bounded}, endpoints: [{{ address: {end} }}] }}\n{QUICK}",
            a.port()
        )
    };
    // Its own listeners are no endpoints that a configuration or a source may name, but those that listen everywhere.
    let everywhere = |address: SocketAddr| SocketAddr::from(([0, 0, 0, 0], address.port()));
    let setup = sidecar(to(server)).address("one", everywhere(a)).address("two", everywhere(b));
    let mut sidecar = setup.start().await;
    for _ in 0..3 {
        assert_eq!(talk(a, b"hello").await, "there\nhello");
    }
    sidecar.reload_and_wait(&to(a)).await;
    let accepted = async || sidecar.metrics().await.sum("pathloom_downstream_connections_accepted_total", &[]);
    let before = accepted().await;
    assert_eq!(talk(a, b"hello").await, "");
    sidecar.counted(|m| m.failures("loop"), 1.0).await;
    let rounds = accepted().await - before;
    assert_eq!(rounds, 17.0, "sixteen are passed on; {:?}", sidecar.metrics().await.all_failures());
    sidecar.counted(|m| m.sum("pathloom_tcp_connections", &[]), 0.0).await;
    sidecar.reload_and_wait(&to(server)).await;
    assert_eq!(talk(a, b"hello").await, "there\nhello");
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_told_who_the_client_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "workloads: {{ w: {{ listen: '@in@', protocol: tcp, proxy_from: [127.0.0.0/8] }} }}
routes: [{{ cluster: c }}]
clusters: {{ c: {{ protocol: tcp, proxy_protocol: true, endpoints: [{{ address: {} }}] }} }}\n{QUICK}",
        listener.local_addr().unwrap()
    );
    let sidecar = sidecar(yaml).start().await;
    for header in HEADERS {
        let mut client = TcpStream::connect(sidecar.address("in")).await.unwrap();
        client.write_all(&[header, b"hello"].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut stream, _) = wait::soon("a call", listener.accept()).await.unwrap();
        let mut heard = Vec::new();
        wait::soon("all of it", stream.read_to_end(&mut heard)).await.unwrap();
        // The one that was sent on, which says in four bytes more that it came by one of us before.
        let mut expected = [HEADERS[1], b"\xe7\0\x01\x01hello"].concat();
        expected[15] += 4;
        assert_eq!(heard, expected, "{}", heard.escape_ascii());
    }
}

#[test]
fn the_readmes_capture_is_a_configuration_and_rules_follow_from_it() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("pathloom.yaml");
    std::fs::write(&file, shown("Capture", std::iter::empty::<(&str, String)>())).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::BINARY);
        command.args(args).arg(&file);
        pathloom_integration::process::run(command)
    };
    assert_eq!(run(&["check"]).0, 0);
    let (code, rules, said) = run(&["capture", "install", "--dry-run", "--config"]);
    assert_eq!((code, said.as_str()), (0, ""));
    for line in [
        "table inet pathloom {",
        "    meta mark 0x504c return",
        "    tcp dport { 22 } return",
        "    ip daddr 10.200.0.0/16 return",
        "    meta l4proto tcp redirect to :15001",
        "    meta l4proto tcp redirect to :15006",
    ] {
        assert!(rules.lines().any(|l| l == line), "{line} is not in\n{rules}");
    }
    std::fs::write(&file, "workloads: { w: { listen: 127.0.0.1:1 } }").unwrap();
    let (code, _, said) = run(&["capture", "install", "--dry-run", "--config"]);
    assert!(code != 0 && said.contains("add `capture: outbound`"), "{said}");
    // Pods are followed where they are looked for, by a build that can ask for them.
    std::fs::write(&file, "workloads: { w: { listen: '[::]:1', capture: tproxy } }").unwrap();
    let (code, _, said) = run(&["capture", "follow", "--config"]);
    let remedy = if cfg!(feature = "kubernetes") { "write `annotated`" } else { "`--features kubernetes`" };
    assert!(code == 64 && said.contains(remedy), "{code}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_follow_the_weights() {
    let (a, b) = (greeter("a").await, greeter("b").await);
    let yaml = format!(
        "workloads: {{ w: {{ listen: '@in@', protocol: tcp }} }}\nroutes: [{{ cluster: c }}]
clusters: {{ c: {{ protocol: tcp, policy: random, endpoints: [{{ address: {a}, weight: 3 }}, {{ address: {b} }}] }} }}\n{QUICK}"
    );
    let sidecar = sidecar(yaml).start().await;
    let mut to_a = 0.0;
    for _ in 0..400 {
        to_a += f64::from(talk(sidecar.address("in"), b"").await == "a\n");
    }
    // Chi-square with one degree of freedom: beyond 19.5 lies one run of a hundred thousand.
    let chi_square = (to_a - 300.0_f64).powi(2) / 300.0 + (to_a - 300.0_f64).powi(2) / 100.0;
    assert!(chi_square < 19.5, "{to_a} of 400 went to the one that should have had 300");
}
