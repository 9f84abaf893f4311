//! Who speaks with whom: mTLS between two sidecars, certificates that change, and who may do what.
//!
//! The caller's sidecar takes plain text from its workload and secures it; the other one takes it in, and passes it on to
//! the fleet:
//!
//! ```text
//! client -> @in@ (near) == mTLS ==> @mtls@ (far) -> fleet
//! ```

use crate::{BINARY, README, protocol, sidecar};
use http::Request;
use pathloom_integration::client::raw::Raw;
use pathloom_integration::client::{VERSIONS, Version, foreign, text};
use pathloom_integration::fleet::raw::RawEndpoint;
use pathloom_integration::fleet::{Fleet, list};
use pathloom_integration::load::Load;
use pathloom_integration::process::{run, tool};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{body, wait};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TO_STDOUT: &str = "telemetry: { access_log: { to: stdout, format: json } }\n";

/// An authority, made by `pathloom ca`, and the identities' folders.
pub struct Authority(TempDir);

impl Authority {
    pub fn new(domain: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let ca = folder.path().join("ca");
        ca_command(&["init", &ca.display().to_string(), "--trust-domain", domain]);
        Self(folder)
    }

    pub fn ca(&self) -> PathBuf {
        self.0.path().join("ca")
    }

    /// Issues a certificate into the folder of an identity, over what is there, as careful tools do it.
    pub fn issue(&self, folder: &str, id: &str, more: &[&str]) {
        let (ca, at) = (self.ca().display().to_string(), self.0.path().join(folder));
        std::fs::create_dir_all(&at).unwrap();
        let mut arguments = vec!["issue", &ca, id, "--name", "fresh"];
        arguments.extend_from_slice(more);
        ca_command(&arguments);
        if !at.join("bundle.pem").exists() {
            std::fs::copy(self.ca().join("ca.pem"), at.join("bundle.pem")).unwrap();
        }
        for (made, name) in [("fresh.pem", "cert.pem"), ("fresh-key.pem", "key.pem")] {
            std::fs::rename(self.ca().join(made), at.join(name)).unwrap();
        }
    }

    pub fn file(&self, folder: &str, name: &str) -> PathBuf {
        self.0.path().join(folder).join(name)
    }

    /// The configuration's section for an identity.
    pub fn yaml(&self, folder: &str) -> String {
        let file = |name: &str| self.file(folder, name).display().to_string();
        let (certificate, key, bundle) = (file("cert.pem"), file("key.pem"), file("bundle.pem"));
        format!("identity: {{ certificate: '{certificate}', key: '{key}', bundle: '{bundle}' }}\n")
    }
}

fn ca_command(arguments: &[&str]) {
    let mut command = Command::new(BINARY);
    command.arg("ca").args(arguments);
    let (code, out, errors) = run(command);
    assert_eq!(code, 0, "{arguments:?}: {out}{errors}");
}

/// The side that takes mTLS in; `more` stands among its workload's keys.
fn far_yaml(identity: &str, fleet: &Fleet, more: &str) -> String {
    format!(
        "{identity}workloads: {{ peers: {{ listen: '@mtls@', {more} }} }}\nroutes: [{{ cluster: local }}]\n\
         clusters: {{ local: {{ endpoints: {} }} }}\n{TO_STDOUT}",
        fleet.yaml()
    )
}

/// The side that secures what comes in; `more` stands among its cluster's keys.
fn near_yaml(identity: &str, far: &Sidecar, more: &str) -> String {
    format!(
        "{identity}workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: shop }}]\n\
         clusters: {{ shop: {{ endpoints: {}, {more} }} }}\n",
        list([far.address("mtls")])
    )
}

/// Both sides, as `spiffe://mesh.local/near` and `…/far`.
async fn both(authority: &Authority, fleet: &Fleet, far_more: &str, near_more: &str) -> (Sidecar, Sidecar) {
    authority.issue("near", "spiffe://mesh.local/near", &[]);
    authority.issue("far", "spiffe://mesh.local/far", &["--dns", "far.example"]);
    let far = sidecar(far_yaml(&authority.yaml("far"), fleet, far_more)).start().await;
    let near = sidecar(near_yaml(&authority.yaml("near"), &far, near_more)).start().await;
    (near, far)
}

async fn handshakes(sidecar: &Sidecar, side: &str, outcome: &str) -> f64 {
    sidecar.metrics().await.sum("pathloom_tls_handshakes_total", &[("side", side), ("outcome", outcome)])
}

/// Waits until so many were counted: a client may know of its end before they are.
async fn shook(sidecar: &Sidecar, side: &str, outcome: &str, least: f64) {
    wait::eventually("handshakes to be counted", || async {
        let counted = handshakes(sidecar, side, outcome).await;
        if counted >= least { Ok(()) } else { Err(format!("{counted} {side} {outcome}")) }
    })
    .await;
}

async fn alarm(sidecar: &Sidecar) -> Option<String> {
    sidecar.routing().await["identity"]["alarm"]["reason"].as_str().map(str::to_owned)
}

/// The reason that a refused request's answer gives.
async fn refused(version: Version, sidecar: &Sidecar, listener: &str, path: &str) -> (u16, String) {
    let mut connection = version.connect(sidecar.address(listener)).await.unwrap();
    let answer = connection.get(path).await.unwrap();
    let details = text(&answer, "proxy-status").split("details=").nth(1).unwrap_or_default().trim_matches('"');
    (answer.status().as_u16(), details.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_in_a_chain_speak_mtls_and_the_endpoint_learns_who_called() {
    for spoken in VERSIONS {
        let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(2).await);
        let tls = format!("tls: 'spiffe://mesh.local/far', {}", protocol(spoken));
        let (near, far) = both(&authority, &fleet, "tls: strict", &tls).await;
        for version in VERSIONS {
            let load = Load::start(version, near.address("in"), 8, "/").await;
            load.further(500).await;
            let report = load.stop().await;
            assert!(report.outcomes.len() >= 500);
            let bad: Vec<_> = report
                .outcomes
                .values()
                .filter(|o| !matches!(o, pathloom_integration::load::Outcome::Right(_)))
                .take(3)
                .collect();
            assert!(bad.is_empty(), "{spoken:?} {version:?}: {bad:?}");
        }
        let mut connection = Version::Http1.connect(near.address("in")).await.unwrap();
        let spoofed = Request::get("/headers").header("x-forwarded-client-cert", "URI=spiffe://mesh.local/admin");
        let seen = connection.exchange(spoofed.body(body::empty()).unwrap()).await.unwrap();
        let seen = String::from_utf8_lossy(seen.body()).into_owned();
        let certs: Vec<&str> = seen.lines().filter(|l| l.starts_with("x-forwarded-client-cert")).collect();
        assert_eq!(certs.len(), 1, "{seen}");
        assert!(certs[0].contains("By=spiffe://mesh.local/far;Hash="), "{seen}");
        assert!(certs[0].ends_with(";URI=spiffe://mesh.local/near"), "{seen}");
        // A large body each way.
        let size = 3 << 20;
        let sink = Request::post("/sink").body(body::patterned(size)).unwrap();
        let answer = connection.exchange(sink).await.unwrap();
        assert_eq!(String::from_utf8_lossy(answer.body()), format!("{size} ok"));
        let answer = connection.get(&format!("/bytes/{size}")).await.unwrap();
        assert_eq!(answer.body().len(), size as usize);
        shook(&near, "upstream", "ok", 1.0).await;
        shook(&far, "downstream", "ok", 1.0).await;
        let metrics = far.metrics().await;
        let left = metrics.get("pathloom_identity_expiry_seconds", &[("of", "certificate")]).unwrap();
        assert!(left > 3600.0 && left <= 24.0 * 3600.0, "{left}");
        let named = "\"peer\":\"spiffe://mesh.local/near\"";
        wait::until("the access log to name the peer", || far.process.stdout.text().contains(named)).await;
        near.assert_no_panic();
        far.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_authorities_rotate_under_load_and_no_request_fails() {
    for spoken in VERSIONS {
        let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(2).await);
        let tls = format!("tls: mesh, {}", protocol(spoken));
        let (near, far) = both(&authority, &fleet, "tls: strict", &tls).await;
        let load = Load::start(Version::Http1, near.address("in"), 8, "/").await;
        for _ in 0..3 {
            let (shook, before) = (handshakes(&near, "upstream", "ok").await, [taken(&near).await, taken(&far).await]);
            authority.issue("near", "spiffe://mesh.local/near", &[]);
            authority.issue("far", "spiffe://mesh.local/far", &[]);
            both_take(&near, &far, before).await;
            load.pass().await;
            assert!(handshakes(&near, "upstream", "ok").await > shook, "new connections prove the new identity");
        }
        // Another authority takes over: believed by all before anybody shows its certificates.
        let next = Authority::new("mesh.local");
        let both = [&authority, &next].map(|a| std::fs::read_to_string(a.ca().join("ca.pem")).unwrap()).concat();
        let before = [taken(&near).await, taken(&far).await];
        for folder in ["near", "far"] {
            replace(&authority.file(folder, "bundle.pem"), &both);
        }
        both_take(&near, &far, before).await;
        load.pass().await;
        let before = [taken(&near).await, taken(&far).await];
        for (folder, id) in [("near", "spiffe://mesh.local/near"), ("far", "spiffe://mesh.local/far")] {
            next.issue(folder, id, &[]);
            for name in ["key.pem", "cert.pem"] {
                replace(&authority.file(folder, name), &std::fs::read_to_string(next.file(folder, name)).unwrap());
            }
        }
        both_take(&near, &far, before).await;
        load.pass().await;
        let report = load.stop().await;
        report.assert_each_right_and_once(&fleet.journal);
        assert_eq!((alarm(&near).await, alarm(&far).await), (None, None));
    }
}

/// How many identities a sidecar has taken.
async fn taken(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().await.sum("pathloom_identity_reloads_total", &[("outcome", "taken")])
}

/// Waits until both took another identity than so many before.
async fn both_take(near: &Sidecar, far: &Sidecar, before: [f64; 2]) {
    wait::eventually("both to take what is new", || async {
        let now = [taken(near).await, taken(far).await];
        if now[0] > before[0] && now[1] > before[1] { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    })
    .await;
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("next");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_or_expired_certificate_leaves_the_last_good_one_in_force_and_raises_the_alarm() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let (near, far) = both(&authority, &fleet, "tls: strict", "tls: mesh").await;
    let load = Load::start(Version::Http1, near.address("in"), 4, "/").await;
    let files: Vec<String> =
        ["cert.pem", "key.pem"].iter().map(|n| std::fs::read_to_string(authority.file("far", n)).unwrap()).collect();
    let others = std::fs::read_to_string(authority.file("near", "key.pem")).unwrap();
    let restore = || {
        replace(&authority.file("far", "cert.pem"), &files[0]);
        replace(&authority.file("far", "key.pem"), &files[1]);
    };
    let expect = async |reason: Option<&str>| {
        wait::eventually("the alarm", || async {
            let seen = alarm(&far).await;
            if seen.as_deref() == reason { Ok(()) } else { Err(format!("{seen:?}, not {reason:?}")) }
        })
        .await;
    };
    for (name, bad, reason) in [
        ("cert.pem", "no certificate", "empty"),
        ("cert.pem", &files[0][..files[0].len() / 2], "broken"),
        ("key.pem", others.as_str(), "key_mismatch"),
    ] {
        replace(&authority.file("far", name), bad);
        expect(Some(reason)).await;
        assert_eq!(far.metrics().await.get("pathloom_identity_alarm", &[]), Some(1.0));
        // New connections are made all the while.
        assert_eq!(refused(Version::Http1, &near, "in", "/").await.0, 200);
        load.pass().await;
        restore();
        expect(None).await;
    }
    authority.issue("far", "spiffe://mesh.local/far", &["--valid", "1s"]);
    // Taken or not, as the moment has it: expired it raises the alarm either way.
    expect(Some("expired")).await;
    restore();
    expect(None).await;
    load.pass().await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    assert!(!far.stderr().contains("PRIVATE KEY"));
    let (_, shown) = far.get("/config").await;
    assert!(shown.contains("key.pem") && !shown.contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_does_not_prove_whom_the_cluster_expects_gets_no_request() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let (mut near, far) = both(&authority, &fleet, "tls: strict", "tls: 'spiffe://mesh.local/other'").await;
    assert_eq!(refused(Version::Http1, &near, "in", "/").await, (502, "upstream_identity".into()));
    shook(&near, "upstream", "wrong_identity", 1.0).await;
    wait::eventually("the far side to hear of it", || async {
        let heard = handshakes(&far, "downstream", "refused").await;
        if heard >= 1.0 { Ok(()) } else { Err(heard.to_string()) }
    })
    .await;
    near.reload_and_wait(&near_yaml(&authority.yaml("near"), &far, "tls: mesh")).await;
    wait::eventually("the new expectation", || async {
        match refused(Version::Http1, &near, "in", "/").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Another trust domain, whose authority everybody believes.
    let other = Authority::new("other.local");
    other.issue("near", "spiffe://other.local/near", &[]);
    let bundle = [&authority, &other].map(|a| std::fs::read_to_string(a.ca().join("ca.pem")).unwrap()).concat();
    replace(&other.file("near", "bundle.pem"), &bundle);
    replace(&authority.file("far", "bundle.pem"), &bundle);
    let stranger = sidecar(near_yaml(&other.yaml("near"), &far, "tls: mesh")).start().await;
    assert_eq!(refused(Version::Http1, &stranger, "in", "/").await, (502, "upstream_identity".into()));
    // The other way round: a client of the other domain that does not mind whom it calls.
    wait::eventually("the bundle to be taken", || async {
        let taken = taken(&far).await;
        if taken >= 2.0 { Ok(()) } else { Err(taken.to_string()) }
    })
    .await;
    if let Some(curl) = foreign::curl() {
        let file = |name: &str| other.file("near", name).display().to_string();
        let (certificate, key) = (file("cert.pem"), file("key.pem"));
        let url = format!("https://{}/", far.address("mtls"));
        let (code, out, errors) = curl.run(&["-sSk", "--cert", &certificate, "--key", &key, &url]).await;
        assert!(code != 0 && out.is_empty(), "{out}{errors}");
        shook(&far, "downstream", "wrong_identity", 1.0).await;
    }
    // And one whose authority nobody believes: the far side refuses it although it would take anybody.
    let unknown = Authority::new("mesh.local");
    unknown.issue("near", "spiffe://mesh.local/near", &[]);
    replace(&unknown.file("near", "bundle.pem"), &bundle);
    let mesh = [&bundle, &std::fs::read_to_string(unknown.ca().join("ca.pem")).unwrap()].map(String::as_str).concat();
    replace(&unknown.file("near", "bundle.pem"), &mesh);
    let stranger = sidecar(near_yaml(&unknown.yaml("near"), &far, "tls: mesh")).start().await;
    for version in VERSIONS {
        assert_eq!(refused(version, &stranger, "in", "/").await, (502, "upstream_tls".into()));
    }
    shook(&far, "downstream", "untrusted", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_is_refused_where_tls_is_wanted_and_taken_where_both_are() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let (near, mut far) = both(&authority, &fleet, "tls: strict", "tls: mesh").await;
    for version in VERSIONS {
        assert_eq!(refused(version, &far, "mtls", "/").await, (403, "tls_required".into()));
    }
    assert_eq!(fleet.requests(), 0);
    shook(&far, "downstream", "plain_text", 2.0).await;
    assert_eq!(far.metrics().await.failures("tls_required"), 2.0);
    // Neither one protocol nor the other.
    let mut raw = Raw::connect(far.address("mtls")).await.unwrap();
    raw.send(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    let mut rest = Vec::new();
    let _ = wait::soon("the end", raw.stream.read_to_end(&mut rest)).await;
    shook(&far, "downstream", "protocol", 1.0).await;
    far.reload_and_wait(&far_yaml(&authority.yaml("far"), &fleet, "tls: permissive")).await;
    wait::eventually("both to be taken", || async {
        match refused(Version::Http1, &far, "mtls", "/").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for version in VERSIONS {
        assert_eq!(refused(version, &far, "mtls", "/").await.0, 200);
        assert_eq!(refused(version, &near, "in", "/").await.0, 200);
    }
    shook(&far, "downstream", "ok", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_let_through_what_they_name_and_nothing_else() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let rules = "tls: permissive, allow: [\
        { from: ['spiffe://mesh.local/near'], methods: [GET], path_prefix: /status }, { path: /health }]";
    let (near, mut far) = both(&authority, &fleet, rules, "tls: mesh, protocol: http2").await;
    assert_eq!(refused(Version::Http1, &near, "in", "/status/201").await, (201, String::new()));
    assert_eq!(refused(Version::Http2, &near, "in", "/health").await.0, 200);
    assert_eq!(refused(Version::Http1, &far, "mtls", "/health").await.0, 200);
    let before = fleet.requests();
    for path in ["/", "/statuses", "/status/../echo", "/status/%2e%2e/echo", "/status//x", "/health/"] {
        assert_eq!(refused(Version::Http1, &far, "mtls", path).await, (403, "not_allowed".into()), "{path}");
        // The far side's answer is passed on as it is.
        assert_eq!(refused(Version::Http1, &near, "in", path).await, (403, "not_allowed".into()), "{path}");
    }
    assert_eq!(refused(Version::Http1, &far, "mtls", "/status/201").await.1, "not_allowed", "it has proven nothing");
    let mut connection = Version::Http2.connect(near.address("in")).await.unwrap();
    let post = connection.exchange(Request::post("/status/201").body(body::empty()).unwrap()).await.unwrap();
    assert_eq!(post.status(), 403);
    let grpc = Request::post("/shop.Catalog/Get").header("content-type", "application/grpc");
    let answer = connection.exchange(grpc.body(body::empty()).unwrap()).await.unwrap();
    assert_eq!((answer.status().as_u16(), text(&answer, "grpc-status")), (200, "7"));
    assert!(text(&answer, "grpc-message").starts_with("not_allowed"), "{answer:?}");
    assert_eq!(fleet.requests(), before);
    assert!(far.metrics().await.failures("not_allowed") >= 14.0);
    let open = "tls: permissive, allow: [{ from: ['spiffe://mesh.local/*'] }]";
    far.reload_and_wait(&far_yaml(&authority.yaml("far"), &fleet, open)).await;
    wait::eventually("the new rules", || async {
        match refused(Version::Http1, &near, "in", "/").await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(refused(Version::Http1, &far, "mtls", "/").await.1, "not_allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clients_speak_mtls_with_a_listener() {
    let (authority, fleet) = (Authority::new("mesh.local"), Fleet::start(1).await);
    let (near, far) = both(&authority, &fleet, "tls: strict", "tls: mesh").await;
    let file = |name: &str| authority.file("near", name).display().to_string();
    let (certificate, key, bundle) = (file("cert.pem"), file("key.pem"), file("bundle.pem"));
    let address = far.address("mtls");
    if let Some(curl) = foreign::curl() {
        let upload = near.directory().join("upload");
        std::fs::write(&upload, body::piece(0, 1 << 20)).unwrap();
        let (resolve, upload) =
            (format!("far.example:{}:{}", address.port(), address.ip()), upload.display().to_string());
        let base = format!("https://far.example:{}", address.port());
        let with_key = [
            "-sS",
            "--fail",
            "--max-time",
            "30",
            "--resolve",
            &resolve,
            "--cacert",
            &bundle,
            "--cert",
            &certificate,
            "--key",
            &key,
        ];
        for version in ["--http1.1", "--http2"] {
            let run = async |more: &[&str]| {
                let (code, out, errors) = curl.run(&[&with_key[..], &[version], more].concat()).await;
                assert_eq!(code, 0, "{version} {more:?}: {errors}");
                out
            };
            assert!(run(&[&base]).await.starts_with("endpoint "));
            let spoken = run(&["-o", "/dev/null", "-w", "%{http_version} %{ssl_verify_result}", &base]).await;
            assert_eq!(spoken, if version == "--http2" { "2 0" } else { "1.1 0" });
            assert_eq!(run(&["-T", &upload, &format!("{base}/sink")]).await, "1048576 ok");
            let bytes = format!("{base}/bytes/1000000");
            assert_eq!(run(&["-o", "/dev/null", "-w", "%{size_download}", &bytes]).await, "1000000");
            assert!(run(&[&format!("{base}/headers")]).await.contains("x-forwarded-proto: https"));
        }
        let anonymous = ["-sS", "--resolve", &resolve, "--cacert", &bundle, &base];
        let (code, out, _) = curl.run(&anonymous).await;
        assert!(code != 0 && out.is_empty(), "{out}");
        shook(&far, "downstream", "no_certificate", 1.0).await;
    }
    if let Some(openssl) = tool("openssl", "openssl") {
        let connect = |more: &'static str| {
            let command = format!(
                "printf 'GET / HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n' | timeout 20 '{}' s_client -quiet -ign_eof \
                 -connect {address} -CAfile '{bundle}' -cert '{certificate}' -key '{key}' -verify_return_error {more} 2>&1",
                openssl.display()
            );
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]);
            run(shell)
        };
        let (_, out, _) = connect("");
        assert!(out.contains("HTTP/1.1 200") && out.contains("endpoint 0"), "{out}");
        assert!(!out.contains("unexpected eof"), "the end is announced: {out}");
        let (code, out, _) = connect("-tls1_2");
        assert!(code != 0 && !out.contains("HTTP/1.1"), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_outside_the_mesh_proves_its_name_and_is_shown_no_certificate() {
    let authority = Authority::new("mesh.local");
    authority.issue("api", "spiffe://mesh.local/api", &["--dns", "api.example"]);
    let chain = CertificateDer::pem_file_iter(authority.file("api", "cert.pem")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.file("api", "key.pem")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let endpoint = RawEndpoint::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let mut head = [0; 4096];
            while stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await;
    let bundle = authority.ca().join("ca.pem").display().to_string();
    let yaml = |name: &str| {
        format!(
            "workloads: {{ frontend: {{ listen: '@in@' }} }}\nroutes: [{{ cluster: api }}]\n\
             clusters: {{ api: {{ endpoints: {}, tls: {{ name: {name}, authorities: '{bundle}' }} }} }}\n",
            list([endpoint.address])
        )
    };
    let mut near = sidecar(yaml("api.example")).start().await;
    let mut connection = Version::Http1.connect(near.address("in")).await.unwrap();
    for _ in 0..3 {
        let answer = connection.get("/").await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, &b"api.example"[..]));
    }
    assert_eq!(handshakes(&near, "upstream", "ok").await, 1.0, "the connection is used again");
    near.reload_and_wait(&yaml("other.example")).await;
    wait::eventually("the other name", || async {
        match refused(Version::Http1, &near, "in", "/").await {
            (502, reason) if reason == "upstream_identity" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_readme_shows_works() {
    let (_, rest) = README.split_once("<!-- identity: a test runs this -->").unwrap();
    let (shown, _) = rest.split_once("<!-- identity: end -->").unwrap();
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("mesh-ca").display().to_string();
    let blocks = |language: &str| -> Vec<String> {
        let begin = format!("```{language}\n");
        shown.split(&begin).skip(1).map(|b| b.split("```").next().unwrap().replace("/tmp/mesh-ca", &at)).collect()
    };
    for line in blocks("sh")[0].lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[..2], ["pathloom", "ca"], "{line}");
        ca_command(&words[2..]);
    }
    let fleet = Fleet::start(1).await;
    let fill = |yaml: &str| {
        let quoted = yaml.replace("127.0.0.1:15443", "'@mtls@'").replace("127.0.0.1:15001", "'@in@'");
        quoted.replace("127.0.0.1:8080", &format!("'{}'", fleet.endpoints[0].address))
    };
    let configurations = blocks("yaml");
    let [far, near] = configurations.as_slice() else { panic!("two configurations") };
    let far = sidecar(fill(far)).start().await;
    let near = sidecar(fill(near)).address("mtls", far.address("mtls")).start().await;
    assert_eq!(refused(Version::Http1, &near, "in", "/v2/things").await.0, 200);
    assert_eq!(refused(Version::Http1, &near, "in", "/v1").await, (403, "not_allowed".into()));
    assert_eq!(refused(Version::Http1, &far, "mtls", "/v2/things").await, (403, "tls_required".into()));
}
