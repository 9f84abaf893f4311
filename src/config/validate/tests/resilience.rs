//! What a cluster does about failures, at each bound and just beyond it.

use super::super::resilience::{MAX_REPLAY, MIN_CHECK};
use super::*;
use crate::config::MAX_RETRIES;
use crate::config::Share;
use crate::config::{ByteSize, Check, Cluster, HedgeAfter, Protocol, RetryOn};

fn cluster(change: impl FnOnce(&mut Cluster)) -> impl FnOnce(&mut Config) {
    move |c: &mut Config| change(c.clusters.get_mut("catalog").unwrap())
}

#[test]
fn retries() {
    for attempts in [0, MAX_RETRIES] {
        fine(cluster(|c| c.retries.attempts = attempts));
    }
    error("clusters.catalog.retries.attempts: ", cluster(|c| c.retries.attempts = MAX_RETRIES + 1));
    for budget in [0.0, 1.0] {
        fine(cluster(|c| c.retries.budget = Share(budget)));
    }
    error("clusters.catalog.retries.budget: ", cluster(|c| c.retries.budget = Share(f64::NAN)));
    for body in [ByteSize(0), MAX_REPLAY] {
        fine(cluster(|c| c.retries.body = body));
    }
    error("clusters.catalog.retries.body: ", cluster(|c| c.retries.body = ByteSize(MAX_REPLAY.0 + 1)));
    fine(cluster(|c| c.retries.on = vec![]));
    error(
        "clusters.catalog.retries.on[1]: `reset` is listed twice",
        cluster(|c| c.retries.on = vec![RetryOn::Reset; 2]),
    );
    fine(cluster(|c| c.retries.per_try = ms(14_999)));
    warning("clusters.catalog.retries.per_try: ", cluster(|c| c.retries.per_try = ms(15_000)));
}

#[test]
fn hedging() {
    let hedged = |after, share| cluster(move |c| (c.hedging.after, c.hedging.share) = (after, Share(share)));
    for after in [HedgeAfter::Off, HedgeAfter::Auto, HedgeAfter::Set(ms(1)), HedgeAfter::Set(ms(14_999))] {
        fine(hedged(after, 1.0));
    }
    fine(hedged(HedgeAfter::Off, 0.0));
    error("clusters.catalog.hedging.share: a share of nothing", hedged(HedgeAfter::Auto, 0.0));
    error("clusters.catalog.hedging.share: ", hedged(HedgeAfter::Auto, 1.001));
    error("clusters.catalog.hedging.share: ", hedged(HedgeAfter::Off, f64::NAN));
    error("clusters.catalog.hedging.after: every request", hedged(HedgeAfter::Set(ms(0)), 0.1));
    warning("clusters.catalog.hedging.after: ", hedged(HedgeAfter::Set(ms(15_000)), 0.1));
    let tries = |after| cluster(move |c| (c.retries.per_try, c.hedging.after) = (ms(100), HedgeAfter::Set(ms(after))));
    fine(tries(99));
    warning("clusters.catalog.hedging.after: an endpoint is given up after 100ms", tries(100));
    warning("clusters.catalog.hedging.after: requests that stay", |c| {
        let catalog = c.clusters.get_mut("catalog").unwrap();
        (catalog.hedging.after, catalog.affinity.source) = (HedgeAfter::Auto, true);
    });
    error(
        "clusters.catalog.hedging.after: TCP",
        cluster(|c| (c.protocol, c.hedging.after) = (Protocol::Tcp, HedgeAfter::Auto)),
    );
}

#[test]
fn health_checks() {
    for check in [Check::Off, Check::Tcp, Check::Http, Check::Grpc] {
        fine(cluster(|c| c.health.check = check));
    }
    fine(cluster(|c| (c.health.every, c.health.timeout) = (MIN_CHECK, MIN_CHECK)));
    error("clusters.catalog.health.every: ", cluster(|c| (c.health.every, c.health.timeout) = (ms(99), ms(1))));
    error("clusters.catalog.health.timeout: ", cluster(|c| c.health.timeout = ms(0)));
    warning("clusters.catalog.health.timeout: ", cluster(|c| c.health.timeout = ms(5_001)));
    error("clusters.catalog.health.rise: ", cluster(|c| c.health.rise = 0));
    error("clusters.catalog.health.fall: ", cluster(|c| c.health.fall = 0));
    let http = |change: fn(&mut crate::config::HealthCheck)| {
        cluster(move |c| {
            c.health.check = Check::Http;
            change(&mut c.health);
        })
    };
    fine(http(|h| (h.path, h.status) = ("/healthz".into(), 599)));
    error("clusters.catalog.health.path: ", http(|h| h.path = "healthz".into()));
    error("clusters.catalog.health.status: ", http(|h| h.status = 199));
    error("clusters.catalog.health.status: ", http(|h| h.status = 600));
    warning("clusters.catalog.health.service!: a check by `http`", http(|h| h.service = "shop.Cart".into()));
    warning(
        "clusters.catalog.health.path!: a check by `tcp`",
        cluster(|c| {
            (c.health.check, c.health.path) = (Check::Tcp, "/healthz".into());
        }),
    );
}

#[test]
fn outliers() {
    for most in [0.0, 1.0] {
        fine(cluster(|c| c.ejection.most = Share(most)));
    }
    error("clusters.catalog.ejection.most: ", cluster(|c| c.ejection.most = Share(1.01)));
    for never in [0.0, 0.1] {
        fine(cluster(|c| c.ejection.success_rate = never));
    }
    error("clusters.catalog.ejection.success_rate: ", cluster(|c| c.ejection.success_rate = -0.1));
    error("clusters.catalog.ejection.success_rate: ", cluster(|c| c.ejection.success_rate = f64::NAN));
    for factor in [0.0, 1.01] {
        fine(cluster(|c| c.ejection.latency = factor));
    }
    error("clusters.catalog.ejection.latency: ", cluster(|c| c.ejection.latency = 1.0));
    error("clusters.catalog.ejection.latency: ", cluster(|c| c.ejection.latency = f64::INFINITY));
    error("clusters.catalog.ejection.interval: ", cluster(|c| c.ejection.interval = ms(0)));
    error("clusters.catalog.ejection.volume: ", cluster(|c| c.ejection.volume = 0));
}

#[test]
fn words_and_units_read_as_they_are_written() {
    let head = "workloads: { a: { listen: '127.0.0.1:1' } }\nroutes: [{ cluster: c, idempotent: true }]\n";
    let with = |more: &str| {
        yaml(&format!("{head}clusters: {{ c: {{ endpoints: [{{ address: '127.0.0.1:9' }}], {more} }} }}\n"))
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(with("retries: { attempts: 1, budget: 10%, per_try: 300ms, on: [connect, gateway], body: 1MiB }"), none);
    assert_eq!(with("health: { check: off }"), none);
    assert_eq!(with("health: { check: grpc, service: shop.Cart, every: 2s, timeout: 500ms, rise: 1, fall: 5 }"), none);
    assert_eq!(with("ejection: { success_rate: 3, latency: 5, interval: 30s, volume: 50, most: 30% }"), none);
    for wrong in
        ["retries: { on: [conect] }", "health: { check: ping }", "retries: { per_try: 300 }", "retries: { on: reset }"]
    {
        assert_eq!(with(wrong).len(), 1, "{wrong}");
    }
}
