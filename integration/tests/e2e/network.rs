//! Captured connections, on a network of several hosts: the sidecar and the kernel's rules on one, endpoints and clients on
//! others. `make test-network` runs these alone, and wants them to run.

use crate::{BINARY, QUICK, sidecar};
use pathloom_integration::lan::{Host, Lan};
use pathloom_integration::process;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How long anything may take that takes an instant.
const LIMIT: Duration = Duration::from_secs(20);
/// The hosts: where the sidecar is, and two others.
const NODE: u8 = 1;
const NEAR: u8 = 2;
const FAR: u8 = 3;

/// Serves each connection on a port of a host, over IPv4 and IPv6, with a thread.
fn serve(host: &Host, port: u16, with: impl Fn(TcpStream, SocketAddr) -> io::Result<()> + Clone + Send + 'static) {
    let listener = host.here(|| TcpListener::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that is gone already has no address any more.
            let Ok(peer) = stream.peer_addr() else { continue };
            let with = with.clone();
            std::thread::spawn(move || with(stream, peer));
        }
    });
}

/// Answers a request on each connection with the server's name.
pub fn serve_http(host: &Host, port: u16, name: &'static str) {
    serve(host, port, move |mut stream, _| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let length = name.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}")
    });
}

/// Says its name and who called as soon as it is called, then each byte again as it comes.
pub fn serve_first(host: &Host, port: u16, name: &'static str) {
    serve(host, port, move |mut stream, peer| {
        writeln!(stream, "{name} {}", peer.ip().to_canonical())?;
        let mut from = stream.try_clone()?;
        io::copy(&mut from, &mut stream)?;
        stream.shutdown(Shutdown::Write)
    });
}

fn call(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// What a server says first; it then says again what it is told.
fn greeting(ip: IpAddr, port: u16) -> io::Result<String> {
    let mut stream = call((ip, port).into())?;
    stream.write_all(b"and back")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (greeting, rest) = said.split_once('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    assert_eq!(rest, "and back");
    Ok(greeting.to_owned())
}

/// What a GET is answered with.
fn get(ip: IpAddr, port: u16, host: &str) -> io::Result<String> {
    let mut stream = call((ip, port).into())?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.rsplit_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?.1;
    Ok(format!("{} {body}", answer.split(' ').nth(1).unwrap_or_default()))
}

/// Runs `pathloom capture` here.
fn capture(what: &[&str], sidecar: &Sidecar) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("capture").args(what);
    if what[0] == "install" {
        command.arg("--config").arg(sidecar.file());
    }
    process::run(command)
}

fn install(sidecar: &Sidecar) {
    let (code, _, said) = capture(&["install"], sidecar);
    assert_eq!(code, 0, "{said}");
}

/// Does something on a host, in a runtime of its own.
fn on(host: &Host, what: impl AsyncFnOnce() + Send) {
    host.here(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what()));
}

/// A sidecar that captures what processes on its host open. `catalog` is near and far, `db` far.
const OUTBOUND: &str = "workloads: { shop: { listen: '[::]:15001', capture: outbound, protocol: detect } }
clusters:
  catalog: { policy: round_robin, addresses: ['10.99.0.1:80', '[fd99::1]:80'], endpoints: [{ address: 10.77.0.2:80 }, { address: 10.77.0.3:80 }] }
  db: { protocol: tcp, endpoints: [{ address: 10.77.0.3:5432 }, { address: '[fd77::3]:5432' }] }
  nobody: { protocol: tcp, addresses: ['10.77.0.3:7777'] }
";

#[test]
fn what_processes_open_towards_others_goes_to_their_cluster_and_the_rest_where_it_was_going() {
    let Some(lan) = Lan::start(&[NODE, NEAR, FAR]) else { return };
    let (node, near, far) = (lan.host(NODE), lan.host(NEAR), lan.host(FAR));
    serve_http(&near, 80, "near");
    serve_http(&far, 80, "far");
    serve_first(&far, 5432, "db");
    serve_first(&far, 9999, "other");
    serve_first(&far, 7777, "not to be reached");
    on(&node, async || {
        let sidecar = sidecar(OUTBOUND.to_owned() + QUICK).start().await;
        // Before there are rules, nothing is captured.
        assert_eq!(greeting(far.v4(), 9999).unwrap(), "other 10.77.0.1");
        assert_eq!(sidecar.metrics().await.sum("pathloom_connections_passed_total", &[]), 0.0);
        install(&sidecar);
        let rules = capture(&["show"], &sidecar).1;
        install(&sidecar);
        assert_eq!(capture(&["show"], &sidecar).1, rules, "installed twice is installed once");

        // HTTP to an endpoint's own address, or to one that stands for all, goes to either endpoint.
        let virtual_4: IpAddr = "10.99.0.1".parse().unwrap();
        let virtual_6: IpAddr = "fd99::1".parse().unwrap();
        for to in [near.v4(), virtual_4, virtual_6] {
            let answers: std::collections::BTreeSet<String> =
                (0..8).map(|_| get(to, 80, "whatever").unwrap()).collect();
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["200 far", "200 near"], "{to}");
        }
        // Servers that speak first, over both versions of IP.
        assert!(greeting(far.v4(), 5432).unwrap().starts_with("db "));
        assert!(greeting(far.v6(), 5432).unwrap().starts_with("db "));
        // What no cluster has.
        assert_eq!(greeting(far.v4(), 9999).unwrap(), "other 10.77.0.1");
        assert_eq!(greeting(far.v6(), 9999).unwrap(), "other fd77::1");
        assert_eq!(
            call((far.v4(), 1).into()).and_then(|mut s| s.read(&mut [0])).map_err(|e| e.kind()),
            Err(io::ErrorKind::ConnectionReset)
        );

        // What a cluster has that has no endpoints goes nowhere, and not to where it was going.
        let refused = call((far.v4(), 7777).into()).and_then(|mut stream| stream.read(&mut [0]));
        assert_eq!(refused.map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionReset));
        sidecar.counted(|m| m.failures("no_endpoints"), 1.0).await;

        sidecar.counted(|m| m.sum("pathloom_connections_passed_total", &[]), 3.0).await;
        let done = |cluster, class| [("cluster", cluster), ("status_class", class)];
        sidecar.counted(|m| m.sum("pathloom_requests_total", &done("catalog", "2xx")), 24.0).await;
        sidecar.counted(|m| m.sum("pathloom_requests_total", &done("db", "none")), 2.0).await;
        assert_eq!(sidecar.metrics().await.failures("loop"), 0.0, "the proxy's own connections are left alone");

        // A host that is cut off is passed over.
        lan.cut(NEAR, true);
        for _ in 0..4 {
            assert_eq!(get(virtual_4, 80, "whatever").unwrap(), "200 far");
        }

        assert_eq!(capture(&["remove"], &sidecar).0, 0);
        assert_eq!(capture(&["remove"], &sidecar).0, 0, "removed twice is removed");
        assert_eq!(capture(&["show"], &sidecar), (0, String::new(), "nothing is installed\n".to_owned()));
        assert_eq!(greeting(far.v4(), 9999).unwrap(), "other 10.77.0.1");
        assert_eq!(sidecar.metrics().await.sum("pathloom_connections_passed_total", &[]), 3.0, "it went by itself");
        sidecar.assert_no_panic();
    });
}

/// Connections from others to a service on the sidecar's host, in one of two ways.
fn inbound(mode: &str) {
    let Some(lan) = Lan::start(&[NODE, NEAR]) else { return };
    let (node, near) = (lan.host(NODE), lan.host(NEAR));
    serve_first(&node, 8080, "app");
    serve_http(&node, 8081, "app");
    let yaml = format!(
        "workloads: {{ others: {{ listen: '[::]:15006', capture: {mode}, protocol: detect }} }}
clusters: {{ app: {{ endpoints: [{{ address: 10.77.0.1:8081 }}, {{ address: '[fd77::1]:8081' }}] }} }}
capture: {{ except_ports: [8090] }}\n"
    );
    serve_first(&node, 8090, "alone");
    on(&node, async || {
        let sidecar = sidecar(yaml + QUICK).start().await;
        install(&sidecar);
        let rules = capture(&["show"], &sidecar).1;
        install(&sidecar);
        assert_eq!(capture(&["show"], &sidecar).1, rules, "installed twice is installed once");
        assert_eq!(rules.contains("fwmark 0x504d"), mode == "tproxy", "{rules}");
        for to in [node.v4(), node.v6()] {
            let said = near.here(|| (greeting(to, 8080), get(to, 8081, "app"), greeting(to, 8090)));
            let caller = if to.is_ipv4() { near.v4() } else { near.v6() };
            assert_eq!(said.0.unwrap(), format!("app {to}"), "it is the sidecar that calls");
            assert_eq!(said.1.unwrap(), "200 app");
            assert_eq!(said.2.unwrap(), format!("alone {caller}"), "left alone");
        }
        sidecar.counted(|m| m.sum("pathloom_connections_passed_total", &[]), 2.0).await;
        let done = [("cluster", "app"), ("status_class", "2xx")];
        sidecar.counted(|m| m.sum("pathloom_requests_total", &done), 2.0).await;
        // Who connects to the listener itself was not captured, and there is no route.
        let direct = near.here(|| get(node.v4(), 15006, "app").unwrap());
        assert!(direct.starts_with("404 "), "{direct}");
        assert_eq!(capture(&["remove"], &sidecar).0, 0);
        assert_eq!(near.here(|| greeting(node.v4(), 8080)).unwrap(), format!("app {}", near.v4()));
    });
}

#[test]
fn what_others_open_is_redirected_with_its_destination() {
    inbound("inbound");
}

#[test]
fn what_others_open_is_handed_over_as_it_is_by_tproxy() {
    inbound("tproxy");
}

#[test]
fn a_proxy_that_captures_its_own_connections_cuts_them() {
    let Some(lan) = Lan::start(&[NODE, FAR]) else { return };
    let (node, far) = (lan.host(NODE), lan.host(FAR));
    serve_first(&far, 9999, "other");
    on(&node, async || {
        let mut sidecar = sidecar(OUTBOUND.to_owned() + QUICK).start().await;
        // The rules let go another mark than the one that the sidecar's connections then have.
        install(&sidecar);
        sidecar.reload_and_wait(&(OUTBOUND.to_owned() + QUICK + "capture: { mark: 7 }\n")).await;
        let began = sidecar.metrics().await.sum("pathloom_downstream_connections_accepted_total", &[]);
        assert!(greeting(far.v4(), 9999).is_err());
        wait::eventually("the loop to be cut", async || {
            let cut = sidecar.metrics().await.failures("loop");
            if cut >= 1.0 { Ok(()) } else { Err(format!("{cut} cut")) }
        })
        .await;
        let accepted = sidecar.metrics().await.sum("pathloom_downstream_connections_accepted_total", &[]) - began;
        assert!(accepted <= 6.0, "{accepted} connections went round");
        sidecar.logged("was captured, and cut").await;
    });
}
