//! What an operator has at three in the morning: alerting rules that fire, `top` on a running sidecar, and the way of one request.

use crate::{BINARY, QUICK, catalog, sidecar};
use pathloom_integration::client::{Version, text};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::{process, wait};
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

async fn run(mut command: Command, arguments: &[&str]) -> (i32, String, String) {
    command.args(arguments).env_remove("PATHLOOM_CONFIG").env_remove("PATHLOOM_ADMIN");
    tokio::task::spawn_blocking(move || process::run(command)).await.unwrap()
}

async fn pathloom(arguments: &[&str]) -> (i32, String, String) {
    run(Command::new(BINARY), arguments).await
}

/// `make test-alerts` and CI want it to run; elsewhere it does where promtool is.
#[tokio::test]
async fn every_alert_fires_when_it_should_and_no_other_does() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    if Command::new(&promtool).arg("--version").output().is_err() {
        assert!(std::env::var_os("PROMTOOL").is_none(), "there is no {promtool}");
        return process::skip("there is no promtool (apt-get install prometheus)");
    }
    let tested = format!("{ROOT}/integration/alerts/alerts_test.yaml");
    let (code, out, errors) = run(Command::new(&promtool), &["test", "rules", &tested]).await;
    assert_eq!(code, 0, "{out}{errors}");
    // A rule that never fires is found out: the same tests with a threshold that nobody reaches.
    let folder = tempfile::tempdir().unwrap();
    let rules = std::fs::read_to_string(format!("{ROOT}/proxy-config/alerts.yaml")).unwrap();
    std::fs::write(folder.path().join("alerts.yaml"), rules.replace("> 0.05", "> 50")).unwrap();
    let test = std::fs::read_to_string(&tested).unwrap().replace("../../proxy-config/alerts.yaml", "alerts.yaml");
    let broken = folder.path().join("test.yaml");
    std::fs::write(&broken, test).unwrap();
    let (code, out, errors) = run(Command::new(&promtool), &["test", "rules", &broken.display().to_string()]).await;
    assert!(code != 0 && (out + &errors).contains("PathloomRequestsFail"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_printed_frame_of_top_shows_a_running_sidecar_and_a_dead_one_is_an_error() {
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + QUICK).start().await;
    let admin = sidecar.address("admin").to_string();
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    let endpoint = fleet.endpoints[0].address.to_string();
    let frame = wait::eventually("the endpoints", || async {
        // There is no terminal here, so `--once` is what it does anyway.
        let (code, out, errors) = pathloom(&["top", "--admin", &admin]).await;
        if code == 0 && out.contains(&endpoint) && out.contains("steered by") { Ok(out) } else { Err(out + &errors) }
    })
    .await;
    for word in ["frontend", "catalog", "WEIGHT", "HEALTH"] {
        assert!(frame.contains(word), "{word} is not in\n{frame}");
    }
    let (code, out, errors) = pathloom(&["top", "--once", "--admin", &admin, "--filter", "no such row"]).await;
    assert!(code == 0 && !out.contains(&endpoint), "{out}{errors}");
    let (code, _, errors) = pathloom(&["top", "--once", "--admin", "127.0.0.1:1"]).await;
    assert!(code == 1 && errors.contains("nobody listens at 127.0.0.1:1"), "{code} {errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_request_went_and_why_is_told_from_the_log_that_the_sidecar_writes() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let fleet = Fleet::start(1).await;
    let yaml = catalog(&fleet.yaml(), "") + QUICK;
    let yaml = yaml + &format!("telemetry: {{ access_log: {{ to: '{}' }} }}\n", log.display());
    let sidecar = sidecar(yaml).start().await;
    let admin = sidecar.address("admin").to_string();
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let id = text(&client.get("/").await.unwrap(), "x-request-id").to_owned();
    let endpoint = fleet.endpoints[0].address.to_string();
    let told = wait::eventually("the request's line", || async {
        let (code, out, errors) = pathloom(&["explain", "--request", &id, "--admin", &admin]).await;
        if code == 0 { Ok(out) } else { Err(errors) }
    })
    .await;
    for word in [id.as_str(), endpoint.as_str(), "generation", "frontend -> catalog", "answer      200"] {
        assert!(told.contains(word), "{word} is not in\n{told}");
    }
    let (code, _, errors) = pathloom(&["explain", "--request", "no-such-id", "--admin", &admin]).await;
    assert!(code == 1 && errors.contains("no-such-id"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_explained_by_the_candidates_of_the_generation_that_chose_and_not_by_todays() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let fleet = Fleet::start(2).await;
    let address = |i: usize| fleet.endpoints[i].address.to_string();
    // One endpoint at first, another one later.
    let yaml = |endpoint: &str| {
        let log = format!("telemetry: {{ access_log: {{ to: '{}' }} }}\n", log.display());
        // So slow that its generations are remembered however long a busy machine takes.
        catalog(&format!("[{{ address: '{endpoint}' }}]"), "") + "model: { engine: embedded, tick: 5s }\n" + &log
    };
    let mut sidecar = sidecar(yaml(&address(0))).start().await;
    let admin = sidecar.address("admin").to_string();
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    let first = text(&client.get("/").await.unwrap(), "x-request-id").to_owned();
    sidecar.reload_and_wait(&yaml(&address(1))).await;
    let explained = async |id: &str| pathloom(&["explain", "--request", id, "--admin", &admin]).await;
    // The endpoint is gone from the table in force, and so is the generation that chose.
    wait::eventually("the new endpoint", || async {
        let (_, out, errors) = pathloom(&["explain", "--admin", &admin]).await;
        if out.contains(&address(1)) && !out.contains(&address(0)) { Ok(()) } else { Err(out + &errors) }
    })
    .await;
    let told = wait::eventually("the table that chose", || async {
        let (code, out, errors) = explained(&first).await;
        if code == 0 && out.contains("as it was then") { Ok(out) } else { Err(out + &errors) }
    })
    .await;
    assert!(told.contains(&format!("> {} ", address(0))) && !told.contains(&address(1)), "{told}");
    for word in ["policy", "HEALTH", "rung"] {
        assert!(told.contains(word), "{word} is not in\n{told}");
    }
    // A request of now goes by the table of now.
    let second = text(&client.get("/").await.unwrap(), "x-request-id").to_owned();
    let told = wait::eventually("the second request's line", || async {
        let (code, out, errors) = explained(&second).await;
        if code == 0 { Ok(out) } else { Err(errors) }
    })
    .await;
    assert!(told.contains(&format!("> {} ", address(1))) && !told.contains(&address(0)), "{told}");
}
