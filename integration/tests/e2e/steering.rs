//! Who steers a request: the model on trial against another policy, and the node's own zone first.

use crate::{model_steers, pathloom, shown, sidecar};
use pathloom_integration::client::VERSIONS;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::{Load, Outcome};
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::wait;
use serde_json::Value;
use std::time::Duration;

/// A trial takes at least 20 batches of 20 requests of each arm; this is far more than it should ever take.
const TRIAL: Duration = Duration::from_secs(120);

/// However wrong its predictions are, on a machine that others use, too: that is not what it is on trial for.
const UNJUDGED: &str = "guards: { max_error: 1000000 }, ";

/// The example of a section of the README, with a listener of ours and these endpoints in the place of those shown.
fn example(section: &str, fleet: &Fleet) -> String {
    let addresses = (3..).map(|i| format!("10.1.2.{i}:8080"));
    let places = addresses.zip(fleet.endpoints.iter().map(|e| e.address.to_string()));
    shown(section, [("127.0.0.1:15001".to_owned(), "@in@".to_owned())].into_iter().chain(places))
}

/// The README's trial, quick, with these keys in its `model` section.
fn on_trial(fleet: &Fleet, share: &str, more: &str) -> String {
    let yaml = example("The model on trial", fleet);
    assert!(yaml.contains("mode: canary,") && yaml.contains("share: 10%"), "{yaml}");
    let quick = format!("mode: canary, engine: embedded, tick: 100ms, triggers: {{ min_interval: 100ms }}, {more}");
    yaml.replace("mode: canary,", &quick).replace("share: 10%", share)
}

async fn explain(sidecar: &Sidecar) -> String {
    let (code, text, errors) = pathloom(&["explain", "--admin", &sidecar.address("admin").to_string()]).await;
    assert_eq!(code, 0, "{errors}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_loses_its_trial_retreats_and_says_why() {
    for version in VERSIONS {
        let fleet = Fleet::start(2).await;
        fleet.endpoints[0].state.slow(Duration::from_millis(2));
        fleet.endpoints[1].state.slow(Duration::from_millis(60));
        // With a floor of nearly all, drawn by weight alone, the model may not choose: half of its requests go to the slow
        // endpoint. Whatever it predicts must not be what it is given up for.
        let blind = "compare: 1, guards: { floor: 99%, max_error: 1000000 }, ";
        let sidecar = sidecar(on_trial(&fleet, "share: 50%", blind)).start().await;
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        let routing = wait::within(TRIAL, "a retreat", || async {
            let routing = sidecar.routing().await;
            if routing["canary"]["retreat"].is_object() && routing["generation"]["rung"] == "against" {
                Ok(routing)
            } else {
                Err(routing["canary"].to_string())
            }
        })
        .await;
        let retreat = &routing["canary"]["retreat"];
        assert_eq!((&retreat["code"], &retreat["cluster"]), (&"canary_latency".into(), &"catalog".into()), "{retreat}");
        let reason = routing["generation"]["rung_reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("canary_latency: the model has lost its trial, "), "{reason}");
        let longer = &routing["canary"]["comparisons"][0]["longer"];
        assert!(longer["low"].as_f64().unwrap() > 0.05 && longer["high"].as_f64() > longer["low"].as_f64(), "{longer}");
        let table = &routing["tables"][0];
        assert_eq!((&table["policy"], &table["canary"]["steering"]), (&"peak_ewma".into(), &false.into()));
        let [model, against] = ["model", "against"].map(|arm| &table["canary"][arm]);
        let mean = |arm: &Value| arm["mean_ms"].as_f64().unwrap();
        assert!(mean(model) > mean(against), "{model} {against}");
        let share = model["share"].as_f64().unwrap();
        assert!((0.4..0.6).contains(&share), "{model} {against}");
        let text = explain(&sidecar).await;
        for said in ["RETREAT     canary_latency: ", "  model    ", "  against  ", " by peak_ewma: mean "] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
        // A long reason goes on in the next line.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("another trial in "), "{text}");
        let metrics = sidecar.metrics().await;
        assert_eq!(metrics.get("pathloom_canary_retreated", &[]), Some(1.0));
        assert_eq!(metrics.sum("pathloom_canary_retreats_total", &[("reason", "canary_latency")]), 1.0);
        assert_eq!(metrics.get("pathloom_generation_rung", &[("rung", "against")]), Some(1.0));
        // From here on the model's arm gets nothing.
        let steered = async || sidecar.metrics().await.sum("pathloom_canary_requests_total", &[("arm", "model")]);
        wait::eventually("the last of its requests to end", async || {
            let before = steered().await;
            load.further(200).await;
            let now = steered().await;
            if now == before { Ok(()) } else { Err(format!("{before} {now}")) }
        })
        .await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_better_stays_on_trial_until_somebody_decides() {
    let fleet = Fleet::start(2).await;
    fleet.endpoints[0].state.slow(Duration::from_millis(2));
    fleet.endpoints[1].state.slow(Duration::from_millis(60));
    let yaml = on_trial(&fleet, "share: 50%", UNJUDGED).replace("against: peak_ewma", "against: random");
    let mut sidecar = sidecar(yaml.clone()).start().await;
    for version in VERSIONS {
        let load = Load::start(version, sidecar.address("in"), 8, "/").await;
        let batches = async || sidecar.routing().await["canary"]["comparisons"][0]["batches"].as_u64().unwrap_or(0);
        let before = batches().await;
        wait::within(TRIAL, "40 further batches", async || {
            let now = batches().await;
            if now >= before + 40 { Ok(()) } else { Err(now) }
        })
        .await;
        let report = load.stop().await;
        assert!(report.outcomes.values().all(|outcome| matches!(outcome, Outcome::Right(_))), "{version:?}");
    }
    model_steers(&sidecar).await;
    let routing = sidecar.routing().await;
    assert_eq!(routing["canary"]["retreat"], Value::Null);
    let longer = &routing["canary"]["comparisons"][0]["longer"];
    assert!(longer["high"].as_f64().unwrap() < 0.0, "it is certainly faster: {longer}");
    assert!(explain(&sidecar).await.contains("canary      the model steers 50.0%, random the rest\n"));
    assert_eq!(sidecar.metrics().await.sum("pathloom_canary_retreats_total", &[]), 0.0);
    // It is decided.
    sidecar.reload_and_wait(&yaml.replace("mode: canary", "mode: active")).await;
    wait::eventually("the trial to be over", async || {
        let routing = sidecar.routing().await;
        if routing["canary"].is_null() { Ok(()) } else { Err(routing["canary"].to_string()) }
    })
    .await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_stay_in_the_own_zone_until_it_falls_ill() {
    let mut fleet = Fleet::start(3).await;
    let quick =
        "model: { engine: embedded, tick: 100ms, triggers: { min_interval: 100ms }, guards: { slow_start: 0s } }\n";
    let yaml = example("Stay in the zone", &fleet) + quick;
    // The endpoint that will be away stays away.
    let yaml = yaml.replace("locality:", "ejection: { first: 60s, panic_below: 0% }\n    locality:");
    let sidecar = sidecar(yaml).start().await;
    let near = |counts: &[u64]| (counts[0] + counts[1]) as f64 / counts.iter().sum::<u64>() as f64;
    let counted = async |fleet: &Fleet| {
        let before: Vec<u64> = fleet.endpoints.iter().map(|e| e.state.requests()).collect();
        for version in VERSIONS {
            let load = Load::start(version, sidecar.address("in"), 4, "/").await;
            load.further(2_000).await;
            load.stop().await;
        }
        fleet.endpoints.iter().zip(before).map(|(e, b)| e.state.requests() - b).collect::<Vec<u64>>()
    };
    let counts = counted(&fleet).await;
    // All but the floor of the others, a third of 2%.
    assert!(near(&counts) > 0.98 && counts[2] > 0, "{counts:?}");
    assert_eq!(sidecar.routing().await["tables"][0]["own_zone"]["zone"], "eu-1a");
    assert!(explain(&sidecar).await.contains("  zone eu-1a: 99."));
    fleet.endpoints[0].stop().await;
    let sick = wait::eventually("it to be left alone", async || {
        counted(&fleet).await;
        let own = sidecar.routing().await["tables"][0]["own_zone"].clone();
        if own["well"] == 0.5 { Ok(own) } else { Err(own.to_string()) }
    })
    .await;
    assert_eq!(sick["share"], 0.7, "1.4 times a half: {sick}");
    let counts = counted(&fleet).await;
    assert!((near(&counts) - 0.7).abs() < 0.05, "{counts:?}");
    assert_eq!(
        sidecar.metrics().await.get("pathloom_own_zone_share_ratio", &[]).map(|s| (s * 10.0).round()),
        Some(7.0)
    );
    fleet.endpoints[1].stop().await;
    wait::eventually("the other zone to have it all", async || {
        let before = fleet.endpoints[2].state.requests();
        counted(&fleet).await;
        let own = sidecar.routing().await["tables"][0]["own_zone"].clone();
        if own.is_null() && fleet.endpoints[2].state.requests() - before >= 4_000 {
            Ok(())
        } else {
            Err(own.to_string())
        }
    })
    .await;
    sidecar.assert_no_panic();
}
