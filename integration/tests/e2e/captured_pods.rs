//! Pods of a Kubernetes node that want to be captured, and those that do not: `pathloom capture follow` beside the sidecar,
//! on a node with pods of its own behind it, in network namespaces, and an API server that does what a test says.
//!
//! Whoever is called says who calls: the node, where the connection was captured and passed on, or the pod itself.
//! `make test-network` runs these, and wants them to run.

use crate::network::{serve_first, serve_http};
use crate::{BINARY, QUICK, sidecar};
use nix::sys::signal::Signal;
use pathloom_integration::kube_api::{KubeApi, namespace, running};
use pathloom_integration::lan::{Host, Lan};
use pathloom_integration::process::{self, Process};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a call may take: a proxy that hangs must not hold the test up.
const CALL: Duration = Duration::from_secs(2);
/// The hosts: the node, a server elsewhere, and two pods on the node.
const NODE: u8 = 1;
const FAR: u8 = 3;
const POD_A: u8 = 11;
const POD_B: u8 = 12;
/// The annotation, and the label.
const CAPTURE: &str = "pathloom.dev/capture";

/// A sidecar that captures in this way. `far` is also a Service.
fn configuration(mode: &str) -> String {
    format!(
        "workloads: {{ pods: {{ listen: '[::]:15006', capture: {mode}, protocol: detect }} }}
clusters: {{ far: {{ addresses: ['10.96.0.10:80'], endpoints: [{{ address: 10.77.0.3:80 }}] }} }}
capture: {{ pods: annotated }}\n{QUICK}"
    )
}

fn call(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CALL)?;
    stream.set_read_timeout(Some(CALL))?;
    Ok(stream)
}

/// Who calls, as the one who is called sees it.
fn seen(address: SocketAddr) -> io::Result<String> {
    let mut stream = call(address)?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (_, caller) = said.trim().split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(caller.to_owned())
}

/// What a GET is answered with.
fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = call(address)?;
    write!(stream, "GET / HTTP/1.1\r\nhost: far\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?.1.to_owned())
}

/// Runs `pathloom capture` here.
fn capture(what: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("capture").args(what).env_remove("PATHLOOM_CONFIG");
    process::run(command)
}

/// What the kernel has.
fn shown() -> String {
    let (code, rules, said) = capture(&["show"]);
    assert_eq!(code, 0, "{said}");
    rules
}

/// A node with two pods, a server elsewhere, the sidecar and the API server on the node.
struct Bench {
    api: KubeApi,
    sidecar: Sidecar,
    node: Host,
    far: Host,
    a: Host,
    b: Host,
    /// The configuration that the agent reads.
    file: PathBuf,
    directory: tempfile::TempDir,
}

impl Bench {
    async fn start(node: Host, far: Host, a: Host, b: Host, mode: &str) -> Self {
        let api = KubeApi::start().await;
        api.put([namespace("shop", &json!({})), namespace("depot", &json!({ CAPTURE: "enabled" }))]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config"), api.kubeconfig()).unwrap();
        let sidecar = sidecar(configuration(mode)).start().await;
        let file = directory.path().join("pathloom.yaml");
        std::fs::copy(sidecar.file(), &file).unwrap();
        let bench = Self { api, sidecar, node, far, a, b, file, directory };
        bench.pod("a", json!({ CAPTURE: "enabled" }));
        bench.pod("b", json!({ "other": "enabled" }));
        // Others' nodes are others' business, whatever address they say.
        bench.api.put([running("other", "c", &[bench.b.v4(), bench.b.v6()], &json!({ CAPTURE: "enabled" }))]);
        bench
    }

    fn pod(&self, name: &str, annotations: Value) {
        let host = if name == "a" { &self.a } else { &self.b };
        self.api.put([running("n1", name, &[host.v4(), host.v6()], &annotations)]);
    }

    fn agent(&self) -> Process {
        let mut command = Command::new(BINARY);
        command.args(["capture", "follow", "--node", "n1", "--config"]).arg(&self.file);
        command.env("KUBECONFIG", self.directory.path().join("config")).env("RUST_BACKTRACE", "1");
        Process::start(command)
    }

    /// Who calls when this pod calls the server, over both versions of IP.
    async fn callers(&self, pod: &Host) -> Vec<String> {
        let (pod, to) = (pod.clone(), [self.far.v4(), self.far.v6()]);
        let called = tokio::task::spawn_blocking(move || {
            let one = |ip: IpAddr| seen((ip, 9999).into()).unwrap_or_else(|error| error.to_string());
            pod.here(|| to.map(one))
        });
        called.await.unwrap().to_vec()
    }

    /// Waits until this pod is captured, or is not, and the other way round.
    async fn captured(&self, pod: &Host, wanted: bool, agent: &Process) {
        let caller = if wanted { &self.node } else { pod };
        let expected = [caller.v4().to_string(), caller.v6().to_string()];
        wait::eventually("the pod's way", async || {
            let callers = self.callers(pod).await;
            if callers == expected { Ok(()) } else { Err(format!("{callers:?}\n{}", agent.stderr.text())) }
        })
        .await;
    }

    async fn requests(&self, to: SocketAddr, from: &Host) -> (io::Result<String>, f64) {
        let pod = from.clone();
        let answer = tokio::task::spawn_blocking(move || pod.here(|| get(to))).await.unwrap();
        let done = [("cluster", "far"), ("status_class", "2xx")];
        (answer, self.sidecar.metrics().await.sum("pathloom_requests_total", &done))
    }
}

async fn logged(agent: &Process, text: &str) {
    wait::eventually("a line in the agent's log", async || {
        let log = agent.stderr.text();
        if log.contains(text) { Ok(()) } else { Err(format!("{text:?} is not in\n{log}")) }
    })
    .await;
}

fn write(file: &Path, text: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, file).unwrap();
}

/// On a node with two pods; not where there is none to be had.
fn on_a_node(mode: &str, what: impl AsyncFnOnce(Bench) + Send) {
    let Some(mut lan) = Lan::start(&[NODE, FAR]) else { return };
    let (Some(a), Some(b)) = (lan.behind(NODE, POD_A), lan.behind(NODE, POD_B)) else { return };
    let (node, far) = (lan.host(NODE), lan.host(FAR));
    serve_http(&far, 80, "far");
    serve_first(&far, 9999, "other");
    let at = node.clone();
    at.here(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { what(Bench::start(node, far, a, b, mode).await).await });
    });
}

fn pods_that_want_it(mode: &str) {
    on_a_node(mode, async |mut bench| {
        let agent = bench.agent();
        let (a, b) = (bench.a.clone(), bench.b.clone());
        bench.captured(&a, true, &agent).await;
        bench.captured(&b, false, &agent).await;
        // A request shows at the proxy where it is a captured pod's. It goes before whoever stands for Services here.
        let service = "add table ip services; \
            add chain ip services c { type nat hook prerouting priority dstnat; }; \
            add rule ip services c ip daddr 10.96.0.10 tcp dport 80 dnat to 10.77.0.3:80";
        let mut nft = Command::new("nft");
        nft.arg(service);
        assert_eq!(process::run(nft), (0, String::new(), String::new()));
        assert_eq!(capture(&["install", "--config", &bench.file.display().to_string()]).0, 0);
        for to in [SocketAddr::new(bench.far.v4(), 80), "10.96.0.10:80".parse().unwrap()] {
            let before = bench.requests(to, &b).await;
            assert_eq!(before.0.unwrap(), "far", "{to}");
            let (answer, after) = bench.requests(to, &a).await;
            assert_eq!((answer.unwrap().as_str(), after - before.1), ("far", 1.0), "{to}");
        }
        // An annotation goes, and comes elsewhere.
        bench.pod("a", json!({}));
        bench.captured(&a, false, &agent).await;
        bench.pod("b", json!({ CAPTURE: "enabled" }));
        bench.captured(&b, true, &agent).await;
        bench.pod("b", json!({ CAPTURE: "perhaps" }));
        bench.captured(&b, false, &agent).await;
        logged(&agent, "write `enabled` or `disabled`").await;
        // The namespace speaks for those who say nothing.
        bench.pod("b", json!({ CAPTURE: "disabled" }));
        bench.api.put([namespace("shop", &json!({ CAPTURE: "enabled" }))]);
        bench.captured(&a, true, &agent).await;
        bench.captured(&b, false, &agent).await;
        bench.api.put([namespace("shop", &json!({}))]);
        bench.captured(&a, false, &agent).await;
        // The API server is away: what was told stays. It is back with another truth, and what was before is past.
        bench.pod("a", json!({ CAPTURE: "enabled" }));
        bench.captured(&a, true, &agent).await;
        bench.api.stop().await;
        logged(&agent, "Kubernetes cannot be asked").await;
        bench.captured(&a, true, &agent).await;
        bench.pod("a", json!({}));
        bench.pod("b", json!({ CAPTURE: "enabled" }));
        bench.api.compact();
        bench.api.start_again().await;
        bench.captured(&b, true, &agent).await;
        bench.captured(&a, false, &agent).await;
        // The pod is gone, and its address somebody else's.
        bench.api.delete_a("Pod", "shop", "b");
        bench.captured(&b, false, &agent).await;
        assert!(!agent.stderr.text().contains("panicked at"), "{}", agent.stderr.text());
        bench.sidecar.assert_no_panic();
    });
}

#[test]
fn pods_that_want_it_are_redirected_and_no_others() {
    pods_that_want_it("inbound");
}

#[test]
fn pods_that_want_it_are_handed_over_by_tproxy_and_no_others() {
    pods_that_want_it("tproxy");
}

#[test]
fn an_agent_that_leaves_captures_nobody_unless_another_one_waits() {
    on_a_node("tproxy", async |bench| {
        let (a, address) = (bench.a.clone(), bench.a.v4().to_string());
        let mut first = bench.agent();
        bench.captured(&a, true, &first).await;
        // Rules that are installed anew, as they are or otherwise, keep whom the agent captures.
        let file = bench.file.display().to_string();
        assert_eq!(capture(&["install", "--config", &file]).0, 0);
        assert!(shown().contains(&address), "{}", shown());
        let rules = std::fs::read_to_string(&bench.file).unwrap();
        write(&bench.file, &rules.replace("pods: annotated", "pods: annotated, except_ports: [9999]"));
        bench.captured(&a, false, &first).await;
        assert!(shown().contains(&address), "{}", shown());
        write(&bench.file, "capture: 7\n");
        logged(&first, "since the file is wrong").await;
        write(&bench.file, &rules);
        bench.captured(&a, true, &first).await;
        // Somebody removes them all: they are back with the next news, which may have come already.
        assert_eq!(capture(&["remove"]).0, 0);
        bench.pod("b", json!({ CAPTURE: "enabled" }));
        bench.captured(&bench.b, true, &first).await;
        bench.captured(&a, true, &first).await;
        // The next one waits, and goes on where the first one ends.
        let mut next = bench.agent();
        logged(&next, "waits for its end").await;
        first.signal(Signal::SIGTERM);
        assert_eq!(first.end(wait::LIMIT).await.code(), Some(0), "{}", first.stderr.text());
        assert!(first.stderr.text().contains("the next agent keeps on"), "{}", first.stderr.text());
        assert!(shown().contains(&address), "{}", shown());
        logged(&next, "the proxy is ready").await;
        bench.pod("b", json!({}));
        bench.captured(&bench.b, false, &next).await;
        bench.captured(&a, true, &next).await;
        // One that is killed takes nobody along who waits.
        let mut last = bench.agent();
        logged(&last, "waits for its end").await;
        next.signal(Signal::SIGKILL);
        let _ = next.end(wait::LIMIT).await;
        assert!(shown().contains(&address) && shown().contains("expires"), "{}", shown());
        logged(&last, "the proxy is ready").await;
        // Nobody waits any more: the rules stay, and capture nobody.
        last.signal(Signal::SIGTERM);
        assert_eq!(last.end(wait::LIMIT).await.code(), Some(0), "{}", last.stderr.text());
        let left = shown();
        assert!(left.contains("@pods4") && !left.contains("elements"), "{left}");
        bench.captured(&a, false, &last).await;
        assert_eq!(capture(&["remove"]).0, 0);
        assert_eq!(shown(), "");
    });
}

#[test]
fn nobody_is_captured_while_the_proxy_does_not_answer() {
    on_a_node("inbound", async |mut bench| {
        let agent = bench.agent();
        let a = bench.a.clone();
        bench.captured(&a, true, &agent).await;
        // It hangs.
        bench.sidecar.process.signal(Signal::SIGSTOP);
        bench.captured(&a, false, &agent).await;
        bench.sidecar.process.signal(Signal::SIGCONT);
        bench.captured(&a, true, &agent).await;
        // It is gone.
        bench.sidecar.process.signal(Signal::SIGKILL);
        let _ = bench.sidecar.process.end(wait::LIMIT).await;
        bench.captured(&a, false, &agent).await;
        logged(&agent, "so no pod is captured until it is").await;
        // Pods that come now are not captured either, and all are once there is a proxy again.
        bench.pod("b", json!({ CAPTURE: "enabled" }));
        logged(&agent, "addresses=4").await;
        bench.captured(&bench.b, false, &agent).await;
        let admin = bench.sidecar.address("admin");
        bench.sidecar = sidecar(configuration("inbound")).address("admin", admin).start().await;
        bench.captured(&bench.b, true, &agent).await;
        bench.captured(&a, true, &agent).await;
    });
}
