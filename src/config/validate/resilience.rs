//! What a cluster does about failures: its times, further tries, health checks, ejection.

use super::settings::{above_zero, share};
use super::syntax::{self, MAX_NAME};
use super::{Findings, Path};
use crate::config::schema::{
    Affinity, Check, Cluster, Ejection, HealthCheck, HedgeAfter, MAX_RETRIES, Protocol, Retries, Timeouts,
};
use crate::config::units::{ByteSize, Timespan};
use std::collections::HashSet;
use std::time::Duration;

/// Each request under way may hold as much.
pub const MAX_REPLAY: ByteSize = ByteSize(16 * 1024 * 1024);
/// More often than this, checks would be a load of their own.
pub const MIN_CHECK: Timespan = Timespan(Duration::from_millis(100));

pub fn check(cluster: &Cluster, path: &Path, findings: &mut Findings) {
    times(&cluster.timeouts, &path.key("timeouts"), findings);
    retries(&cluster.retries, &cluster.timeouts, &path.key("retries"), findings);
    hedging(cluster, &path.key("hedging"), findings);
    health(&cluster.health, &path.key("health"), findings);
    ejection(&cluster.ejection, &path.key("ejection"), findings);
}

fn times(timeouts: &Timeouts, path: &Path, findings: &mut Findings) {
    let times = [
        ("connect", timeouts.connect),
        ("response_headers", timeouts.response_headers),
        ("idle", timeouts.idle),
        ("tcp_idle", timeouts.tcp_idle),
    ];
    above_zero(path, &times, findings);
}

fn retries(retries: &Retries, timeouts: &Timeouts, path: &Path, findings: &mut Findings) {
    if retries.attempts > MAX_RETRIES {
        let message = format!("{} further tries are too many", retries.attempts);
        findings.error(path.key("attempts"), message, format!("write a number from 0 to {MAX_RETRIES}"));
    }
    share(retries.budget, path.key("budget"), findings);
    if retries.body > MAX_REPLAY {
        let message = format!("{} are too much to keep of each request", retries.body);
        findings.error(path.key("body"), message, format!("write `{MAX_REPLAY}` or less"));
    }
    if retries.per_try > Timespan::default() && retries.per_try >= timeouts.response_headers {
        let message =
            format!("an answer must begin within {} anyway, so that no try ends earlier", timeouts.response_headers);
        findings.warning(path.key("per_try"), message, format!("write less than `{}`", timeouts.response_headers));
    }
    let mut seen = HashSet::new();
    for (i, on) in retries.on.iter().enumerate().filter(|(_, on)| !seen.insert(**on)) {
        findings.error(path.key("on").index(i), format!("`{on:?}` is listed twice").to_lowercase(), "list it once");
    }
}

fn hedging(cluster: &Cluster, path: &Path, findings: &mut Findings) {
    let hedging = &cluster.hedging;
    share(hedging.share, path.key("share"), findings);
    if hedging.after == HedgeAfter::Off {
        return;
    }
    if hedging.share.0 == 0.0 {
        findings.error(path.key("share"), "a share of nothing asks nobody", "write `5%`, or `after: off`");
    }
    if cluster.protocol == Protocol::Tcp {
        findings.error(path.key("after"), "TCP connections are no requests that could be sent twice", "write `off`");
    }
    if cluster.affinity != Affinity::default() {
        let message = "requests that stay with an endpoint are asked of no other";
        findings.warning(path.key("after"), message, "write `after: off`, or remove `affinity`");
    }
    let HedgeAfter::Set(after) = hedging.after else { return };
    if after == Timespan::default() {
        findings.error(path.key("after"), "every request would be sent twice", "write `auto`, or more than `0s`");
    }
    let per_try = Some(cluster.retries.per_try).filter(|t| *t > Timespan::default());
    let (least, what) = match per_try {
        Some(per_try) if per_try < cluster.timeouts.response_headers => (per_try, "retries.per_try"),
        _ => (cluster.timeouts.response_headers, "timeouts.response_headers"),
    };
    if after >= least {
        let message = format!("an endpoint is given up after {least} anyway (`{what}`)");
        findings.warning(path.key("after"), message, format!("write less than `{least}`"));
    }
}

fn health(health: &HealthCheck, path: &Path, findings: &mut Findings) {
    if health.every < MIN_CHECK {
        let message = format!("a check each {} would be a load of its own", health.every);
        findings.error(path.key("every"), message, format!("write `{MIN_CHECK}` or more"));
    }
    above_zero(path, &[("timeout", health.timeout)], findings);
    if health.timeout > health.every {
        let message =
            format!("an answer may take longer ({}) than the next check waits ({})", health.timeout, health.every);
        findings.warning(path.key("timeout"), message, format!("write `{}` or less", health.every));
        findings.resting_on(path.key("every"));
    }
    for (key, count) in [("rise", health.rise), ("fall", health.fall)] {
        if count == 0 {
            findings.error(path.key(key), "no answer at all would decide", "write a number from 1");
        }
    }
    findings.check(path.key("path"), syntax::path(&health.path));
    findings.check(path.key("service"), syntax::text(&health.service, MAX_NAME));
    if !(200..=599).contains(&health.status) {
        let message = format!("no final answer has the status {}", health.status);
        findings.error(path.key("status"), message, "write a status such as `200`");
    }
    let unused = match health.check {
        Check::Http => (!health.service.is_empty()).then_some("service"),
        Check::Grpc | Check::Tcp | Check::Off => (health.path != "/").then_some("path"),
    };
    if let Some(key) = unused {
        let word = format!("{:?}", health.check).to_lowercase();
        let message = format!("a check by `{word}` does not look at `{key}`");
        findings.warning(path.key(key).name(), message, "remove it, or choose another `check`");
    }
}

fn ejection(ejection: &Ejection, path: &Path, findings: &mut Findings) {
    above_zero(path, &[("first", ejection.first), ("interval", ejection.interval)], findings);
    if ejection.longest < ejection.first {
        let message =
            format!("the longest ejection ({}) is shorter than the first ({})", ejection.longest, ejection.first);
        findings.error(path.key("longest"), message, format!("write `{}` or more", ejection.first));
    }
    share(ejection.panic_below, path.key("panic_below"), findings);
    share(ejection.most, path.key("most"), findings);
    if !(ejection.success_rate.is_finite() && ejection.success_rate >= 0.0) {
        let message = format!("{} standard deviations have no meaning", ejection.success_rate);
        findings.error(path.key("success_rate"), message, "write a number above 0, or `0` to eject nobody");
    }
    if !(ejection.latency.is_finite() && (ejection.latency == 0.0 || ejection.latency > 1.0)) {
        let message = format!("half of all endpoints are slower than {} times the median", ejection.latency);
        findings.error(path.key("latency"), message, "write a number above 1, or `0` to eject nobody");
    }
    if ejection.volume == 0 {
        findings.error(path.key("volume"), "an endpoint without requests cannot be judged", "write a number from 1");
    }
}
