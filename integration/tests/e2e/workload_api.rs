//! Identities from an agent: two sidecars that speak mTLS by what a SPIFFE Workload API gives them.
//!
//! ```text
//!           agent                      agent
//!             |                          |
//! client -> @in@ (near) == mTLS ==> @mtls@ (far) -> fleet
//! ```

use crate::{BINARY, protocol, sidecar};
use pathloom_integration::agent::{Agent, Given, Svid, in_der};
use pathloom_integration::client::{VERSIONS, Version};
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::process::run;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const NEAR: &str = "spiffe://mesh.local/near";
const FAR: &str = "spiffe://mesh.local/far";
/// A user without rights.
const NOBODY: u32 = 65_534;

/// What an agent has its identities from: a throw-away authority.
struct Authority(TempDir);

impl Authority {
    fn new(domain: &str) -> Self {
        let this = Self(TempDir::new().unwrap());
        this.command(&["init", &this.at(), "--trust-domain", domain]);
        this
    }

    fn at(&self) -> String {
        self.0.path().join("ca").display().to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("ca").join(name)
    }

    fn bundle(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn command(&self, arguments: &[&str]) {
        let mut command = Command::new(BINARY);
        command.arg("ca").args(arguments);
        let (code, out, errors) = run(command);
        assert_eq!(code, 0, "{arguments:?}: {out}{errors}");
    }

    fn svid(&self, id: &str) -> Svid {
        self.lasting(id, "1h")
    }

    fn lasting(&self, id: &str, valid: &str) -> Svid {
        self.command(&["issue", &self.at(), id, "--name", "fresh", "--valid", valid]);
        let (certificate, key) = (self.file("fresh.pem"), self.file("fresh-key.pem"));
        let svid = Svid::of_files(id, &certificate, &key, &self.bundle());
        for file in [certificate, key] {
            std::fs::remove_file(file).unwrap();
        }
        svid
    }
}

fn far_yaml(identity: &str, fleet: &Fleet) -> String {
    format!(
        "{identity}workloads: {{ peers: {{ listen: '@mtls@', tls: strict }} }}\nroutes: [{{ cluster: local }}]\n\
         clusters: {{ local: {{ endpoints: {} }} }}\n",
        fleet.yaml()
    )
}

fn near_yaml(identity: &str, far: &Sidecar, more: &str) -> String {
    format!(
        "{identity}workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: shop }}]\n\
         clusters: {{ shop: {{ endpoints: {}, {more} }} }}\n",
        list([far.address("mtls")])
    )
}

async fn status(sidecar: &Sidecar, listener: &str) -> u16 {
    let mut connection = Version::Http1.connect(sidecar.address(listener)).await.unwrap();
    connection.get("/").await.unwrap().status().as_u16()
}

async fn alarm(sidecar: &Sidecar) -> Option<String> {
    sidecar.routing().await["identity"]["alarm"]["reason"].as_str().map(str::to_owned)
}

async fn alarms(sidecar: &Sidecar, reason: Option<&str>) {
    wait::eventually("the alarm", || async {
        let seen = alarm(sidecar).await;
        if seen.as_deref() == reason { Ok(()) } else { Err(format!("{seen:?}, not {reason:?}")) }
    })
    .await;
    let gauge = sidecar.metrics().await.get("pathloom_identity_alarm", &[]);
    assert_eq!(gauge, Some(f64::from(u8::from(reason.is_some()))));
}

/// How many identities a sidecar has taken.
async fn taken(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().await.sum("pathloom_identity_reloads_total", &[("outcome", "taken")])
}

/// Waits until it took another identity than so many before.
async fn takes(sidecar: &Sidecar, before: f64) {
    wait::eventually("another identity", || async {
        let now = taken(sidecar).await;
        if now > before { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

async fn handshakes(sidecar: &Sidecar, side: &str) -> f64 {
    sidecar.metrics().await.sum("pathloom_tls_handshakes_total", &[("side", side), ("outcome", "ok")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_speak_mtls_by_what_their_agents_give_and_rotation_fails_no_request() {
    for spoken in VERSIONS {
        let (ca, fleet) = (Authority::new("mesh.local"), Fleet::start(2).await);
        let (near_agent, far_agent) = (Agent::giving(ca.svid(NEAR)), Agent::giving(ca.svid(FAR)));
        let far = sidecar(far_yaml(&far_agent.yaml(), &fleet)).start().await;
        let tls = format!("tls: '{FAR}', {}", protocol(spoken));
        let near = sidecar(near_yaml(&near_agent.yaml(), &far, &tls)).start().await;
        let load = Load::start(Version::Http1, near.address("in"), 8, "/").await;
        for _ in 0..3 {
            let (shook, before) = (handshakes(&near, "upstream").await, [taken(&near).await, taken(&far).await]);
            near_agent.give(ca.svid(NEAR));
            far_agent.give(ca.svid(FAR));
            takes(&near, before[0]).await;
            takes(&far, before[1]).await;
            load.pass().await;
            assert!(handshakes(&near, "upstream").await > shook, "new connections prove the new identity");
        }
        // Another authority takes over: believed by all before anybody shows its certificates.
        let next = Authority::new("mesh.local");
        let both = [in_der(&ca.bundle()), in_der(&next.bundle())].concat();
        for issuer in [&ca, &next] {
            let before = [taken(&near).await, taken(&far).await];
            near_agent.give(Svid { bundle: both.clone(), ..issuer.svid(NEAR) });
            far_agent.give(Svid { bundle: both.clone(), ..issuer.svid(FAR) });
            takes(&near, before[0]).await;
            takes(&far, before[1]).await;
            load.pass().await;
        }
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        assert_eq!((alarm(&near).await, alarm(&far).await), (None, None));
        // All of it over one call each.
        assert_eq!((near_agent.calls(), far_agent.calls()), (1, 1));
        near.assert_no_panic();
        far.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_agent_is_away_or_talks_nonsense_the_last_good_identity_serves() {
    let (ca, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let (near_agent, mut far_agent) = (Agent::giving(ca.svid(NEAR)), Agent::giving(ca.svid(FAR)));
    let far = sidecar(far_yaml(&far_agent.yaml(), &fleet)).start().await;
    let near = sidecar(near_yaml(&near_agent.yaml(), &far, "tls: mesh")).start().await;
    let load = Load::start(Version::Http1, near.address("in"), 4, "/").await;
    let good = ca.svid(FAR);
    let strange = Authority::new("other.local");
    for (bad, reason) in [
        (Given::default(), "empty"),
        (Svid { x509_svid: b"no certificate".to_vec(), ..good.clone() }.into(), "broken"),
        (Svid { x509_svid_key: ca.svid(FAR).x509_svid_key, ..good.clone() }.into(), "key_mismatch"),
        (Svid { bundle: in_der(&strange.bundle()), ..good.clone() }.into(), "untrusted"),
        (Svid { spiffe_id: NEAR.to_owned(), ..good.clone() }.into(), "wrong_id"),
        (Svid { bundle: vec![0; 5 << 20], ..good.clone() }.into(), "agent_garbled"),
    ] {
        far_agent.give_all(bad);
        alarms(&far, Some(reason)).await;
        // New connections are made all the while: those under another identity of the near side's.
        let (shook, before) = (handshakes(&far, "downstream").await, taken(&near).await);
        near_agent.give(ca.svid(NEAR));
        takes(&near, before).await;
        load.pass().await;
        assert!(handshakes(&far, "downstream").await > shook, "{reason}");
        far_agent.give(good.clone());
        alarms(&far, None).await;
    }
    far_agent.refuse();
    alarms(&far, Some("agent_refused")).await;
    load.pass().await;
    far_agent.die().await;
    alarms(&far, Some("agent_unreachable")).await;
    assert_eq!(status(&near, "in").await, 200);
    assert_eq!(far.get("/ready").await.0, 200);
    load.pass().await;
    far_agent.give(ca.svid(FAR));
    let before = taken(&far).await;
    far_agent.come();
    takes(&far, before).await;
    alarms(&far, None).await;
    load.pass().await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    let log = far.stderr();
    assert_eq!(log.matches("reason=\"agent_unreachable\"").count(), 1, "once, however often it was tried:\n{log}");
    far.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_starts_before_its_agent_is_ready_once_that_gives_it_an_identity() {
    let (ca, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let mut agent = Agent::absent();
    agent.give(ca.svid(FAR));
    let far = sidecar(far_yaml(&agent.yaml(), &fleet));
    // Whose sidecar it is must not matter, nor what that gave up before it asked.
    let far = if nix::unistd::geteuid().is_root() { far.user(NOBODY) } else { far }.spawn();
    wait::eventually("the sidecar to say why it is not ready", || async {
        match pathloom_integration::sidecar::get(far.address("admin"), "/ready").await {
            Ok((503, why)) if why.contains("agent.sock") => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    alarms(&far, Some("agent_unreachable")).await;
    agent.come();
    alarms(&far, None).await;
    assert_eq!(far.get("/ready").await.0, 200);
    assert!(far.stderr().contains("privileges given up"), "{}", far.stderr());
    let near_agent = Agent::giving(ca.svid(NEAR));
    let near = sidecar(near_yaml(&near_agent.yaml(), &far, &format!("tls: '{FAR}'"))).start().await;
    assert_eq!(status(&near, "in").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_its_agent_never_renews_expires_with_an_alarm() {
    let (ca, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let agent = Agent::giving(ca.svid(FAR));
    let far = sidecar(far_yaml(&agent.yaml(), &fleet)).start().await;
    // Taken or not, as the moment has it: expired it raises the alarm either way.
    agent.give(ca.lasting(FAR, "1s"));
    alarms(&far, Some("expired")).await;
    assert_eq!(far.get("/ready").await.0, 200, "who is not ready serves nobody");
    agent.give(ca.svid(FAR));
    alarms(&far, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_of_a_federated_trust_domain_is_called_by_its_id() {
    let (ca, partner, fleet) = (Authority::new("mesh.local"), Authority::new("partner.local"), Fleet::start(1).await);
    let with = |svid: Svid, domain: &str, other: &Authority| Given {
        svids: vec![svid],
        federated_bundles: [(domain.to_owned(), in_der(&other.bundle()))].into(),
        ..Given::default()
    };
    let id = "spiffe://partner.local/billing";
    let (near_agent, far_agent) = (Agent::giving(ca.svid(NEAR)), Agent::giving(partner.svid(id)));
    near_agent.give_all(with(ca.svid(NEAR), "spiffe://partner.local", &partner));
    far_agent.give_all(with(partner.svid(id), "spiffe://mesh.local", &ca));
    let identity = |agent: &Agent, more: &str| {
        format!("identity: {{ workload_api: 'unix://{}'{more} }}\n", agent.socket().display())
    };
    let far_named = far_yaml(&identity(&far_agent, ", federated: [mesh.local]"), &fleet);
    let mut far = sidecar(far_named.clone()).start().await;
    let near_named = near_yaml(&identity(&near_agent, ", federated: [partner.local]"), &far, &format!("tls: '{id}'"));
    let near = sidecar(near_named.clone()).start().await;
    assert_eq!(status(&near, "in").await, 200);
    assert_eq!(near.routing().await["identity"]["federated"], serde_json::json!(["partner.local"]));
    // Whom the configuration does not name (any more) is not let in, whatever the agent says of it.
    let before = taken(&far).await;
    far.reload_and_wait(&far_yaml(&identity(&far_agent, ""), &fleet)).await;
    takes(&far, before).await;
    let late = sidecar(near_named).start().await;
    assert_eq!(status(&late, "in").await, 502);
    far.reload_and_wait(&far_named).await;
    takes(&far, before + 1.0).await;
    wait::eventually("it to be let in", || async {
        match status(&late, "in").await {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_readme_shows_works() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- workload API: a test runs this -->").unwrap();
    let (shown, _) = rest.split_once("<!-- workload API: end -->").unwrap();
    let yaml = shown.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let (ca, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let mut agent = Agent::absent();
    let hinted = Svid { hint: "shop".to_owned(), ..ca.svid(FAR) };
    agent.give_all(Given { svids: vec![ca.svid(NEAR), hinted], ..Given::default() });
    agent.come();
    let yaml = yaml.replace("127.0.0.1:15443", "'@mtls@'");
    let yaml = yaml.replace("127.0.0.1:8080", &format!("'{}'", fleet.endpoints[0].address));
    let socket = format!("unix://{}", agent.socket().display());
    let far = sidecar(yaml).variable("SPIFFE_ENDPOINT_SOCKET", socket).start().await;
    assert_eq!(far.routing().await["identity"]["id"], FAR, "the one with the hint");
    let near_agent = Agent::giving(ca.svid(NEAR));
    let near = sidecar(near_yaml(&near_agent.yaml(), &far, "tls: mesh")).start().await;
    assert_eq!(status(&near, "in").await, 200);
}
