//! Agents that answer, and agents that do not.

mod scripted;

use super::wire::{MAX_ANSWER, X509Svid, X509SvidResponse};
use super::*;
use crate::config::Identity;
use crate::identity::ca::{Authority, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scripted::{Place, Says, Scripted, framed};
use std::path::Path;
use tokio::io::AsyncWriteExt;

/// Patient with an agent, and in no mood to wait for the next attempt.
const QUICK: Pace = Pace {
    answer: Duration::from_secs(30),
    ping: Duration::from_secs(60),
    pong: Duration::from_secs(60),
    pause: (Duration::from_millis(5), Duration::from_millis(50)),
    between: Duration::from_millis(1),
};
/// What never happens takes for ever; a machine under load may be slow.
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

fn authority() -> Authority {
    Authority::new("mesh".parse().unwrap()).unwrap()
}

fn svid(ca: &Authority, id: &str) -> X509Svid {
    let issued = ca.issue(&Request::new(id.parse().unwrap(), HOUR)).unwrap();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    X509Svid {
        spiffe_id: id.to_owned(),
        x509_svid: der(&issued.certificate),
        x509_svid_key: PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap().secret_der().to_vec(),
        bundle: der(ca.certificate()),
        hint: String::new(),
    }
}

fn answer(ca: &Authority, id: &str) -> X509SvidResponse {
    X509SvidResponse { svids: vec![svid(ca, id)], ..X509SvidResponse::default() }
}

fn asking(socket: &Path) -> Config {
    let workload_api = Some(format!("unix://{}", socket.display()).parse().unwrap());
    Config { identity: Identity { workload_api, ..Identity::default() }, ..Config::default() }
}

/// A node whose configuration can change.
struct Node {
    identities: Arc<Identities>,
    config: watch::Sender<Arc<Config>>,
}

impl Node {
    async fn start(pace: Pace, config: Config) -> Self {
        let identities = Arc::new(Identities::default());
        identities.configure(&config.identity).unwrap();
        let (config, receiver) = watch::channel(Arc::new(config));
        start_at(pace, identities.clone(), receiver).await;
        Self { identities, config }
    }

    fn reload(&self, config: Config) {
        self.identities.configure(&config.identity).unwrap();
        self.config.send_replace(Arc::new(config));
    }

    fn id(&self) -> Option<String> {
        self.identities.current().map(|current| current.id().to_string())
    }

    fn alarm(&self) -> Option<String> {
        self.identities.status()["alarm"]["reason"].as_str().map(str::to_owned)
    }

    async fn has(&self, id: &str) {
        until(|| self.id().as_deref() == Some(id), || format!("{id}: {}", self.identities.status())).await;
    }

    async fn alarms(&self, code: Option<&str>) {
        until(|| self.alarm().as_deref() == code, || format!("{code:?}: {}", self.identities.status())).await;
    }
}

async fn until(mut happened: impl FnMut() -> bool, seen: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < end, "waited in vain for {}", seen());
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_call_brings_the_identity_and_each_new_one() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    let node = Node::start(QUICK, asking(&socket)).await;
    assert_eq!(node.id().as_deref(), Some("spiffe://mesh/a"), "known before anybody listens");
    for id in ["spiffe://mesh/b", "spiffe://mesh/c"] {
        agent.says.send_replace(Says::Answer(answer(&ca, id)));
        node.has(id).await;
    }
    let calls = agent.calls.lock().unwrap();
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((call.method().as_str(), call.uri().path()), ("POST", "/SpiffeWorkloadAPI/FetchX509SVID"));
    let header = |name: &str| call.headers().get(name).unwrap().to_str().unwrap();
    assert_eq!((header("workload.spiffe.io"), header("te")), ("true", "trailers"));
    assert!(header("content-type").starts_with("application/grpc"));
    assert_eq!(node.alarm(), None);
}

#[tokio::test]
async fn an_agent_that_is_not_there_yet_is_asked_until_it_is_and_holds_nothing_up() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let node = Node::start(Pace { answer: HOUR, ..QUICK }, asking(&socket)).await;
    assert_eq!((node.alarm().as_deref(), node.id()), (Some("agent_unreachable"), None));
    assert!(node.identities.not_ready().unwrap().contains("agent.sock"));
    // A file that nobody listens at is no agent either.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let _agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    node.has("spiffe://mesh/a").await;
    assert_eq!((node.alarm(), node.identities.not_ready()), (None, None));
}

#[tokio::test]
async fn an_agent_that_dies_and_comes_back_leaves_the_last_good_identity_in_force() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    let node = Node::start(QUICK, asking(&socket)).await;
    drop(agent);
    node.alarms(Some("agent_unreachable")).await;
    assert_eq!((node.id().as_deref(), node.identities.not_ready()), (Some("spiffe://mesh/a"), None));
    let _agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/b")));
    node.has("spiffe://mesh/b").await;
    assert_eq!(node.alarm(), None);
}

#[tokio::test]
async fn whatever_an_agent_says_the_last_good_identity_stays_with_a_reason() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    let node = Node::start(QUICK, asking(&socket)).await;
    let mut other_key = answer(&ca, "spiffe://mesh/a");
    other_key.svids[0].x509_svid_key = svid(&ca, "spiffe://mesh/a").x509_svid_key;
    let too_large = [&[0][..], &u32::try_from(MAX_ANSWER + 1).unwrap().to_be_bytes()].concat();
    let compressed = [&[1][..], &[0, 0, 0, 1, 0]].concat();
    for (says, code) in [
        (Says::Answer(X509SvidResponse::default()), "empty"),
        (Says::Answer(other_key), "key_mismatch"),
        (Says::Bytes(vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff]), "agent_garbled"),
        (Says::Bytes(b"<html>no agent</html>".to_vec()), "agent_garbled"),
        (Says::Bytes(too_large), "agent_garbled"),
        (Says::Bytes(compressed), "agent_garbled"),
        (Says::Status(7, "no identity issued"), "agent_refused"),
        (Says::Status(12, "no such thing"), "agent_garbled"),
        (Says::Status(14, "not now"), "agent_broke_off"),
        (Says::Status(0, ""), "agent_broke_off"),
        (Says::Closes, "agent_broke_off"),
    ] {
        agent.says.send_replace(says);
        node.alarms(Some(code)).await;
        assert_eq!(node.id().as_deref(), Some("spiffe://mesh/a"), "{code}");
        agent.says.send_replace(Says::Answer(answer(&ca, "spiffe://mesh/a")));
        node.alarms(None).await;
    }
}

#[tokio::test]
async fn an_agent_that_hangs_is_noticed_whether_it_hangs_at_once_or_later() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let agent = Scripted::start(&socket, Says::Nothing);
    let hasty = Pace { answer: Duration::from_millis(200), ..QUICK };
    let node = Node::start(hasty, asking(&socket)).await;
    node.alarms(Some("agent_silent")).await;
    until(|| agent.calls() >= 2, || "another call".to_owned()).await;
    // It answers in time here, and then neither reads nor writes.
    let socket = place.socket("later.sock");
    let agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    let pinging = Pace { ping: Duration::from_millis(100), pong: Duration::from_millis(500), ..QUICK };
    let node = Node::start(pinging, asking(&socket)).await;
    node.has("spiffe://mesh/a").await;
    agent.says.send_replace(Says::Deaf);
    node.alarms(Some("agent_broke_off")).await;
    assert_eq!(node.id().as_deref(), Some("spiffe://mesh/a"));
    until(|| agent.calls() >= 2, || "another call".to_owned()).await;
}

#[tokio::test]
async fn who_speaks_something_else_is_no_agent() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0-nobody\r\n").await;
        }
    });
    let node = Node::start(QUICK, asking(&socket)).await;
    node.alarms(Some("agent_broke_off")).await;
    serving.abort();
    let _agent = Scripted::start(&socket, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    node.has("spiffe://mesh/a").await;
}

#[tokio::test]
async fn a_reload_moves_to_another_agent_and_to_none() {
    let (place, ca) = (Place::new(), authority());
    let [one, two] = ["one.sock", "two.sock"].map(|name| place.socket(name));
    let first = Scripted::start(&one, Says::Answer(answer(&ca, "spiffe://mesh/a")));
    let second = Scripted::start(&two, Says::Answer(answer(&ca, "spiffe://mesh/b")));
    let node = Node::start(QUICK, Config::default()).await;
    assert_eq!((node.id(), first.calls(), second.calls()), (None, 0, 0));
    node.reload(asking(&one));
    node.has("spiffe://mesh/a").await;
    // The same again asks nobody anew.
    node.reload(asking(&one));
    node.reload(asking(&two));
    node.has("spiffe://mesh/b").await;
    first.says.send_replace(Says::Answer(answer(&ca, "spiffe://mesh/c")));
    second.says.send_replace(Says::Answer(answer(&ca, "spiffe://mesh/d")));
    node.has("spiffe://mesh/d").await;
    node.reload(Config::default());
    assert!(node.id().is_none() && node.identities.status().is_null());
    node.reload(asking(&one));
    node.has("spiffe://mesh/c").await;
    assert_eq!((first.calls(), second.calls()), (2, 1));
}

#[tokio::test]
async fn an_agent_that_raves_keeps_nobody_busy() {
    let (place, ca) = (Place::new(), authority());
    let socket = place.socket("agent.sock");
    // A hundred answers in one piece, each of which is a new identity.
    let (a, b) = (framed(&answer(&ca, "spiffe://mesh/a")), framed(&answer(&ca, "spiffe://mesh/b")));
    let raving: Vec<u8> = (0..100).flat_map(|n| if n % 2 == 0 { a.clone() } else { b.clone() }).collect();
    let _agent = Scripted::start(&socket, Says::Bytes(raving));
    let slow = Pace { between: HOUR, ..QUICK };
    let node = Node::start(slow, asking(&socket)).await;
    node.has("spiffe://mesh/a").await;
    let taken = || {
        let families = node.identities.families();
        let taken = families.iter().find(|f| f.name == "identity_reloads").unwrap();
        format!("{:?}", taken.samples[0].1)
    };
    let before = taken();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(taken(), before, "the next one has its time");
}

#[test]
fn each_failure_makes_the_next_attempt_wait_longer_up_to_a_limit() {
    let mut pause = Pause::new(PACE);
    let (shortest, longest) = PACE.pause;
    let waited: Vec<Duration> = (0..20).map(|_| pause.after(Duration::ZERO, 1.0)).collect();
    assert_eq!((waited[0], waited[1], waited[19]), (shortest, shortest * 2, longest));
    assert!(waited.is_sorted());
    assert_eq!(pause.after(Duration::ZERO, 0.0), longest / 2, "by chance half of it");
    assert_eq!(pause.after(longest, 1.0), shortest, "who answered for long begins anew");
    // One in five minutes is what gRPC's servers in Go bear.
    assert!(PACE.ping > Duration::from_secs(300));
}
