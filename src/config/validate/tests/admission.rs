//! Limits, priorities and rates.

use super::*;
use crate::config::validate::admission::MAX_CLASSES;
use crate::config::{Concurrency, OffOr, PriorityClass, Rate, RateLimit};

fn cluster(config: &mut Config) -> &mut crate::config::Admission {
    &mut config.clusters.get_mut("catalog").unwrap().admission
}

fn rate(count: u32, burst: Option<u32>) -> Option<RateLimit> {
    Some(RateLimit { requests: Rate { count, per: 's' }, burst })
}

#[test]
fn limits_are_above_zero_and_waits_short() {
    for concurrency in [Concurrency::Off, Concurrency::Auto, Concurrency::Limit(1)] {
        fine(|c| cluster(c).concurrency = concurrency);
    }
    error("clusters.catalog.admission.concurrency: ", |c| cluster(c).concurrency = Concurrency::Limit(0));
    fine(|c| cluster(c).connections = OffOr::Set(1));
    error("clusters.catalog.admission.connections: ", |c| cluster(c).connections = OffOr::Set(0));
    fine(|c| (cluster(c).pending, cluster(c).wait) = (0, ms(0)));
    fine(|c| cluster(c).wait = ms(10_000));
    error("clusters.catalog.admission.wait: ", |c| cluster(c).wait = ms(10_001));
}

#[test]
fn rates_and_bursts_let_something_through() {
    fine(|c| c.routes[0].rate = rate(10_000_000, Some(1)));
    error("routes[0].rate.requests: ", |c| c.routes[0].rate = rate(10_000_001, None));
    error("routes[0].rate.burst: ", |c| c.routes[0].rate = rate(1, Some(0)));
    error("workloads.shop.rate.burst: ", |c| c.workloads.get_mut("shop").unwrap().rate = rate(1, Some(0)));
}

#[test]
fn classes_are_known_and_weights_say_something() {
    fine(|c| c.routes[0].class = Some("critical".into()));
    error("routes[0].class: there is no class `crtical` / did you mean `critical`?", |c| {
        c.routes[0].class = Some("crtical".into());
    });
    error("priority.default: there is no class `usual`", |c| c.priority.default = "usual".into());
    error("priority.weights!: all weights are 0", |c| {
        let weights = &mut c.priority.weights;
        (weights.resources, weights.urgency, weights.depth) = (0.0, 0.0, 0.0);
    });
    fine(|c| c.priority.weights.resources = -1.0);
    error("priority.weights.depth: NaN is not a weight", |c| c.priority.weights.depth = f64::NAN);
    let many = |c: &mut Config, n: usize| {
        c.priority.classes.extend((3..n).map(|i| (format!("class-{i}"), PriorityClass::default())));
    };
    fine(|c| many(c, MAX_CLASSES));
    error("priority.classes!: 17 classes", |c| many(c, MAX_CLASSES + 1));
    error("priority.classes.a b!: ", |c| _ = c.priority.classes.insert("a b".into(), PriorityClass::default()));
}

#[test]
fn a_mistake_is_shown_at_its_place() {
    let mesh = "routes: [{ cluster: a }]\nworkloads: { w: { listen: 127.0.0.1:1 } }\nclusters:\n  a:\n    endpoints: [{ address: 10.0.0.1:80 }]\n";
    let with = |line: &str| yaml(&format!("{mesh}    admission: {{ {line} }}\n"));
    assert_eq!(with("concurrency: auto, pending: 10, wait: 5ms, connections: off"), Vec::<String>::new());
    assert_eq!(with("concurrency: 0"), ["6:31 no request may be under way, so every one would be refused"]);
    let wrong = with("concurrency: many");
    assert!(wrong[0].starts_with("6:31 `many` is not `auto`, `off` or a number"), "{wrong:?}");
    let rate = |rate: &str| {
        yaml(&format!("routes: [{{ cluster: a, rate: {{ requests: {rate} }} }}]\nclusters: {{ a: {{}} }}"))
    };
    assert!(rate("100").iter().any(|e| e.contains("`100` is a rate without its time")), "{:?}", rate("100"));
    assert!(rate("0/s").iter().any(|e| e.contains("`0/s` is not a rate")), "{:?}", rate("0/s"));
    assert!(rate("100/d").iter().any(|e| e.contains("`100/d` is not a rate")));
    assert!(!rate("100/m").iter().any(|e| e.contains("rate")), "{:?}", rate("100/m"));
}
