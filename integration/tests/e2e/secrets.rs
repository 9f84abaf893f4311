//! Secrets are planted wherever there may be some, and everything that a sidecar says is searched for them.

use crate::{BINARY, pathloom, sidecar};
use pathloom_integration::client::raw::Raw;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::{process, wait};
use std::process::Command;

/// Each is a text of its own, so that what leaked is known.
const IN_A_HEADER_OF_THE_CONFIGURATION: &str = "planted-header-5f1c";
const IN_A_VARIABLE: &str = "planted-variable-77ab";
const IN_AN_ADDRESS: &str = "planted-password-c2d9";
const IN_METADATA: &str = "planted-metadata-31fa";
const IN_A_REQUEST: &str = "planted-request-0e48";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_or_shown() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca");
    let at = authority.display().to_string();
    for arguments in [&["ca", "init", &at][..], &["ca", "issue", &at, "spiffe://mesh.local/shop/frontend"]] {
        let (code, _, said) = pathloom(arguments).await;
        assert_eq!(code, 0, "{said}");
    }
    let file = |name: &str| authority.join(name).display().to_string();
    let fleet = Fleet::start(1).await;
    let yaml = |more: &str| {
        format!(
            "identity: {{ certificate: {}, key: {}, bundle: {} }}\n\
             workloads: {{ frontend: {{ listen: '@in@' }}, secured: {{ listen: '@tls@', tls: strict }} }}\n\
             routes:\n\
             \x20 - {{ match: {{ headers: {{ authorization: 'Bearer ${{PLANTED_HEADER}}' }} }}, cluster: catalog }}\n\
             \x20 - {{ cluster: catalog }}\n\
             clusters: {{ catalog: {{ endpoints: {} }}, spare: {{ endpoints: [{{ address: 127.0.0.1:9, metadata: {{ db_password: {IN_METADATA} }} }}] }} }}\n\
             telemetry: {{ log: trace, access_log: {{ to: stdout }}{more} }}\n",
            file("frontend.pem"),
            file("frontend-key.pem"),
            file("ca.pem"),
            fleet.yaml(),
        )
    };
    let setup = sidecar(yaml(""))
        .variable("PLANTED_HEADER", IN_A_HEADER_OF_THE_CONFIGURATION)
        .variable("PLANTED_VARIABLE", IN_A_VARIABLE)
        .variable("PLANTED_USER", format!("me:{IN_AN_ADDRESS}@127.0.0.1"));
    let mut sidecar = setup.start().await;

    // Requests that hold secrets, some of which fail.
    let mut said = Vec::new();
    let credentials = format!(
        "authorization: Bearer {IN_A_REQUEST}\r\nproxy-authorization: Basic {IN_A_REQUEST}\r\n\
         cookie: session={IN_A_REQUEST}\r\nx-api-key: {IN_A_REQUEST}\r\n"
    );
    for request in [
        format!(
            "GET /?access_token={IN_A_REQUEST}&sig={IN_A_REQUEST}&x=y HTTP/1.1\r\nhost: catalog.shop\r\n{credentials}\r\n"
        ),
        format!("POST /sink HTTP/1.1\r\nhost: catalog.shop\r\n{credentials}content-length: 19\r\n\r\n{IN_A_REQUEST}"),
        format!("GET / HTTP/1.1\r\nhost: catalog.shop\r\nauthorization: {IN_A_REQUEST}\rx\r\n\r\n"),
        format!("GET /break/10 HTTP/1.1\r\nhost: catalog.shop\r\n{credentials}\r\n"),
    ] {
        let mut raw = Raw::connect(sidecar.address("in")).await.unwrap();
        said.push(format!("{:?}", raw.ask(request).await));
    }
    // What is no request has no line.
    wait::eventually("a line for each request", || {
        let lines = sidecar.process.stdout.text().lines().count();
        async move { if lines >= 3 { Ok(()) } else { Err(lines) } }
    })
    .await;
    // Configurations that are wrong where a secret stands.
    for (n, wrong) in [
        ", idle_links: '${PLANTED_VARIABLE}'".to_owned(),
        ", traces: { otlp: 'http://${PLANTED_USER}/v1/traces' }".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        sidecar.reload(&yaml(wrong));
        wait::eventually("the refusal", || async {
            let seen = sidecar.reloads().await;
            if seen.1 > n as u64 { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
    for path in [
        "/config",
        "/config?format=json",
        "/routing",
        "/routing?history=100",
        "/requests?last=1000",
        "/graph",
        "/metrics",
        "/",
        "/live",
        "/ready",
        "/nothing",
    ] {
        said.push(sidecar.get(path).await.1);
    }
    let mut command = Command::new(BINARY);
    command.args(["check", "--effective"]).arg(sidecar.file()).env("PLANTED_HEADER", IN_A_HEADER_OF_THE_CONFIGURATION);
    command.env("PLANTED_VARIABLE", IN_A_VARIABLE).env("PLANTED_USER", format!("me:{IN_AN_ADDRESS}@127.0.0.1"));
    let (_, out, errors) = tokio::task::spawn_blocking(move || process::run(command)).await.unwrap();
    said.extend([out, errors]);
    sidecar.sigterm();
    sidecar.process.end(wait::LIMIT).await;
    said.extend([sidecar.stderr(), sidecar.process.stdout.text()]);

    let all = said.join("\n");
    assert!(all.contains("(hidden)") && all.contains("${PLANTED_VARIABLE}"), "what hides them was not met");
    let key = std::fs::read_to_string(authority.join("frontend-key.pem")).unwrap();
    let lines = key.lines().filter(|line| !line.starts_with("-----") && line.len() > 20);
    let secrets =
        [IN_A_HEADER_OF_THE_CONFIGURATION, IN_A_VARIABLE, IN_AN_ADDRESS, IN_METADATA, IN_A_REQUEST, "PRIVATE KEY"];
    for secret in secrets.into_iter().chain(lines) {
        let leaks: Vec<&str> = all.lines().filter(|line| line.contains(secret)).take(5).collect();
        assert!(leaks.is_empty(), "{secret} is in\n{leaks:#?}");
    }
}
