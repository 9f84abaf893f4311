//! Tests of what `pathloom explain` prints.

use super::super::routing::{Filter, answer};
use super::super::{fixture, server};
use super::*;
use crate::admin::AdminListener;
use crate::config::{Admin, AdminAddress};
use serde_json::json;
use std::sync::Arc;

fn args(admin: &str, cluster: Option<&str>) -> ExplainArgs {
    let (cluster, admin) = (cluster.map(Into::into), admin.into());
    ExplainArgs { cluster, workload: None, admin, json: false, request: None, log: None }
}

pub(in crate::admin) async fn serve() -> AdminAddress {
    serve_on("127.0.0.1:0".parse().unwrap()).await
}

/// Serves this state.
pub(in crate::admin) async fn serve_this(state: crate::admin::AdminState) -> AdminAddress {
    serve_state("127.0.0.1:0".parse().unwrap(), state).await
}

async fn serve_on(listen: AdminAddress) -> AdminAddress {
    serve_state(listen, fixture::published()).await
}

async fn serve_state(listen: AdminAddress, state: crate::admin::AdminState) -> AdminAddress {
    let listener = AdminListener::bind(&Admin { listen, ..Admin::default() }).unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(server::serve(listener, server::Pages::All, Arc::new(state), std::future::pending()));
    address
}

#[test]
fn the_table_reads_as_agreed() {
    let state = fixture::published();
    let view = fixture::view(&state);
    let text = render(&answer(&state, Some(&view), Filter::default()).unwrap(), 120);
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/explain.golden");
    if std::env::var_os("PATHLOOM_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert!(text == std::fs::read_to_string(golden).unwrap(), "run with PATHLOOM_BLESS=1 if this is meant:\n{text}");
}

#[test]
fn nothing_is_wider_than_the_terminal_and_no_word_of_a_reason_is_lost() {
    let state = fixture::published();
    let view = fixture::view(&state);
    let mut routing = answer(&state, Some(&view), Filter::default()).unwrap();
    let reason = "predicted 35.1 ms at its fair share; left as it was: the change is within the dead band";
    routing["tables"][0]["candidates"][0]["reason"] = reason.into();
    routing["tables"][0]["candidates"][0]["endpoint"] = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:15001".into();
    for width in [60, 80, 100, 120, 160, 240] {
        let text = render(&routing, width);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{widest} of {width}:\n{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // From 160 on the reason stands beside the numbers and goes on below them.
        let parts = if width < 160 { &[reason][..] } else { &["predicted 35.1 ms", "the dead band"] };
        assert!(parts.iter().all(|part| flat.contains(part)), "{width}:\n{text}");
        assert!(flat.contains("timeout: nobody answers"), "{text}");
        assert_eq!(text.contains("Not shown for want of width: SCORE"), width <= 120, "{width}:\n{text}");
    }
}

#[test]
fn what_columns_mean_is_said_below_them_in_the_help_and_in_the_readme_in_the_same_words() {
    let text = render(&answer(&fixture::published(), None, Filter::default()).unwrap(), 10_000);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let read = |path: &str| std::fs::read_to_string(format!("{here}{path}")).unwrap();
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (readme, page) = (flat(read("README.md")), flat(read("src/admin/assets/explain.js")));
    for meaning in [WEIGHT, CALLS, DIFFER, INTRINSIC, PREDICTED, OBSERVED] {
        assert!(text.contains(meaning), "{meaning} is not in\n{text}");
        assert!(meanings().contains(meaning), "{meaning}");
        assert!(readme.contains(meaning), "the README lacks: {meaning}");
        assert!(page.contains(meaning), "explain.js lacks: {meaning}");
    }
}

#[test]
fn by_what_requests_stay_with_an_endpoint_is_said() {
    for (affinity, said) in [
        (json!({ "header": "x-user" }), "requests with the same header `x-user` stay"),
        (json!({ "source": true }), "requests with the same source address stay"),
    ] {
        let text = render(&json!({ "tables": [{ "workload": "w", "cluster": "c", "affinity": affinity }] }), 120);
        assert!(text.contains(said), "{text}");
    }
    let text = render(&json!({ "tables": [{ "workload": "w", "cluster": "c", "affinity": null }] }), 120);
    assert!(!text.contains("stay"), "{text}");
}

#[test]
fn warnings_stand_out_and_nothing_reaches_the_terminal_but_words() {
    let text = render(
        &json!({
            "generation": { "id": 1, "expired": true, "rung": "model" },
            "scorer": { "engine": null, "not_ready": "the model is being loaded" },
            "tables": [{ "workload": "w\u{1b}[31m", "cluster": "c", "panic": true, "candidates": [{ "endpoint": "e\r\n" }] }],
        }),
        120,
    );
    for warning in ["EXPIRED", "PANIC", "NO SCORES   the model is being loaded"] {
        assert!(text.contains(warning), "{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    assert!(render(&json!({}), 120).contains("No generation has been published yet"));
}

#[tokio::test]
async fn it_asks_a_running_proxy() {
    let address = serve().await.to_string();
    let text = explain(&args(&format!("http://{address}/"), Some("catalog"))).await.unwrap();
    assert!(
        text.contains("frontend -> catalog") && text.contains("10.0.0.1:80") && !text.contains("-> empty"),
        "{text}"
    );
    let json = explain(&ExplainArgs { json: true, ..args(&address, None) }).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["generation"]["id"], 41);
}

#[tokio::test]
async fn it_asks_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = AdminAddress::Unix(folder.path().join("admin.sock"));
    assert_eq!(serve_on(socket.clone()).await, socket);
    let text = explain(&args(&socket.to_string(), Some("catalog"))).await.unwrap();
    assert!(text.contains("frontend -> catalog"), "{text}");
    let nobody = format!("{socket}.gone");
    let error = explain(&args(&nobody, None)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("nobody listens at {nobody}: ")), "{error}");
}

#[tokio::test]
async fn an_unknown_cluster_gets_the_names_of_those_that_exist() {
    let address = serve().await.to_string();
    let error = explain(&args(&address, Some("catalog &x"))).await.unwrap_err().to_string();
    assert_eq!(error, "there is no cluster `catalog &x`; there are: catalog, empty");
}

#[tokio::test]
async fn where_nobody_listens_it_asks_whether_pathloom_runs() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = explain(&args(&unused, None)).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("nobody listens at {unused}: is pathloom running?")) && error.contains("--admin"),
        "{error}"
    );
    let error = explain(&args("nonsense", None)).await.unwrap_err().to_string();
    assert!(error.contains("cannot connect to nonsense"), "{error}");
}

#[tokio::test]
async fn somebody_else_on_the_port_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    });
    let error = explain(&args(&address, None)).await.unwrap_err().to_string();
    let wrong = format!("{address} does not answer as pathloom's admin port does: its /routing holds no tables.");
    assert!(error.starts_with(&wrong) && error.contains("`admin.listen`"), "{error}");
}
