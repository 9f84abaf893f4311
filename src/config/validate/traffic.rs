//! What a route does to its requests beyond choosing a cluster: rewrites, redirects, changes of headers, faults, copies;
//! and who stays with which endpoint.

use super::settings::share;
use super::syntax::{self, Wrong};
use super::{Findings, Path};
use crate::config::schema::{Affinity, Cluster, Delay, Fault, HeaderEdits, Mirror, Redirect, Route};
use std::collections::HashMap;

/// With what a client can be sent elsewhere.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Headers that belong to one connection, or say where a message ends: who changes them on the way breaks both.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
/// What the proxy says of a request by itself, and relies on. `x-forwarded-host` and `x-forwarded-proto` are not among
/// them as long as they are set: only the operator knows what stands before the proxy.
const OF_THE_PROXY: [&str; 7] = [
    "grpc-timeout",
    "traceparent",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-pathloom-class",
    "x-pathloom-depth",
    "x-request-id",
];
const FORWARDED: [&str; 2] = ["x-forwarded-host", "x-forwarded-proto"];
/// What the proxy takes from an answer, or says with it.
const OF_THE_ANSWER: [&str; 4] = ["grpc-message", "grpc-status", "proxy-status", "x-request-id"];

/// Which way headers go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Response,
}

pub fn route(route: &Route, path: &Path, findings: &mut Findings) {
    rewrite(route, &path.key("rewrite"), findings);
    redirect(route, path, findings);
    let headers = path.key("headers");
    edits(&route.headers.request, Way::Request, &headers.key("request"), findings);
    edits(&route.headers.response, Way::Response, &headers.key("response"), findings);
    fault(&route.fault, &path.key("fault"), findings);
    share(route.mirror.share, path.key("mirror").key("share"), findings);
    if route.mirror.cluster.is_none() && route.mirror != Mirror::default() {
        let remedy = "name it: `mirror: { cluster: catalog-next, share: 5% }`";
        findings.error(path.key("mirror").name(), "the mirror has no cluster", remedy);
    }
}

fn fault(fault: &Fault, path: &Path, findings: &mut Findings) {
    let Fault { delay, abort } = fault;
    share(delay.share, path.key("delay").key("share"), findings);
    share(abort.share, path.key("abort").key("share"), findings);
    let Delay { time, share } = delay;
    if time.0.is_zero() && share.0 > 0.0 {
        let remedy = "say how long: `time: 100ms`";
        findings.error(path.key("delay").name(), "the delay has no time", remedy);
    }
    if !time.0.is_zero() && share.0 == 0.0 {
        let remedy = "say how many: `share: 10%`";
        findings.warning(path.key("delay").name(), "nobody is delayed: the share is 0%", remedy);
    }
    if !(400..=599).contains(&abort.status) {
        let message = format!("{} is not the status of a failure", abort.status);
        findings.error(path.key("abort").key("status"), message, "write 400 to 599");
    }
}

/// By one thing, which can arrive.
pub fn affinity(cluster: &Cluster, path: &Path, findings: &mut Findings) {
    let Affinity { header, cookie, source } = &cluster.affinity;
    let path = path.key("affinity");
    if let Some(header) = header {
        findings.check(path.key("header"), syntax::header_name(header));
    }
    if let Some(cookie) = cookie {
        findings.check(path.key("cookie"), syntax::cookie_name(cookie));
    }
    if u8::from(header.is_some()) + u8::from(cookie.is_some()) + u8::from(*source) > 1 {
        let remedy = "keep one of `header`, `cookie` and `source`";
        findings.error(path.name(), "requests can stay with an endpoint by one thing only", remedy);
    }
}

fn rewrite(route: &Route, path: &Path, findings: &mut Findings) {
    if let Some(host) = &route.rewrite.host {
        findings.check(path.key("host"), syntax::authority(host));
    }
    if let Some(prefix) = &route.rewrite.path_prefix {
        findings.check(path.key("path_prefix"), syntax::path(prefix));
        replaced(route, path, findings);
    }
    if let Some(whole) = &route.rewrite.path {
        findings.check(path.key("path"), syntax::path_to_be(whole));
        one_path(&route.rewrite.path_prefix, path, findings);
    }
}

/// There must be a prefix where one is replaced.
fn replaced(route: &Route, path: &Path, findings: &mut Findings) {
    if route.matches.path_prefix.is_none() {
        let remedy = "add `match: { path_prefix: /v1 }`; `path_prefix: /` is every path's prefix";
        findings.error(path.key("path_prefix").name(), "the route matches no prefix that could be replaced", remedy);
    }
}

/// A path is replaced whole, or its prefix is.
fn one_path(prefix: &Option<String>, path: &Path, findings: &mut Findings) {
    if prefix.is_some() {
        findings.error(path.key("path").name(), "the path is replaced whole, and its prefix, too", "keep one of them");
    }
}

fn redirect(route: &Route, path: &Path, findings: &mut Findings) {
    let redirect = &route.redirect;
    let here = path.key("redirect");
    if !redirect.is_set() {
        if *redirect != Redirect::default() {
            let remedy =
                "say where: `host: other.shop`, `path: /new`, `path_prefix: /v2`, `port: 8443` or `scheme: https`";
            findings.error(here.name(), "the redirect leads nowhere", remedy);
        }
        return;
    }
    if route.cluster.is_some() || !route.split.is_empty() {
        let message = "the route has both `redirect` and endpoints to send requests to";
        findings.error(here.name(), message, "keep one of them");
    }
    if !REDIRECTS.contains(&redirect.status) {
        let remedy = "write 301 or 308 (for good), 302 or 307 (for now), or 303 (see there, with GET)";
        findings.error(here.key("status"), format!("{} is no status that redirects", redirect.status), remedy);
    }
    if let Some(host) = &redirect.host {
        findings.check(here.key("host"), syntax::authority(host));
    }
    if let Some(target) = &redirect.path {
        findings.check(here.key("path"), syntax::target(target));
        one_path(&redirect.path_prefix, &here, findings);
    }
    if let Some(prefix) = &redirect.path_prefix {
        findings.check(here.key("path_prefix"), syntax::path(prefix).and_then(|()| syntax::target(prefix)));
        replaced(route, &here, findings);
    }
    if let Some(port) = redirect.port {
        if port == 0 {
            findings.error(here.key("port"), "0 is no port", "write 1 to 65535");
        }
        if let Some(host) = &redirect.host {
            let remedy = format!("write it there: `host: \"{host}:{port}\"`, without a port of its own before");
            findings.error(here.key("port").name(), "the port of another host is said with it", remedy);
        }
    }
    let Route { rewrite, headers, fault, mirror, rate, .. } = route;
    let more = *rewrite != Default::default() || *headers != Default::default();
    if more || *fault != Default::default() || mirror.cluster.is_some() || rate.is_some() {
        let message =
            "`rewrite`, `headers`, `fault`, `mirror` and `rate` do nothing here: no endpoint gets these requests";
        findings.warning(here.name(), message, "remove them, or the redirect");
    }
}

fn edits(edits: &HeaderEdits, way: Way, path: &Path, findings: &mut Findings) {
    let mut folded: HashMap<String, &str> = HashMap::new();
    let set = edits.set.iter().map(|(name, value)| ("set", name, Some(value)));
    let added = edits.add.iter().map(|(name, value)| ("add", name, Some(value)));
    for (what, name, value) in set.chain(added) {
        let place = path.key(what).key(name);
        findings.check(place.name(), changeable(name, what, way));
        if let Some(value) = value {
            findings.check(place.clone(), syntax::header_to_be(value));
        }
        if let Some(other) = folded.insert(name.to_ascii_lowercase(), name) {
            let message = if other == name {
                format!("`{name}` is set and added")
            } else {
                format!("`{name}` and `{other}` are the same header")
            };
            findings.error(place.name(), message, "keep one of them");
        }
    }
    for (i, name) in edits.remove.iter().enumerate() {
        let place = path.key("remove").index(i);
        findings.check(place.clone(), changeable(name, "remove", way));
        if let Some(other) = folded.insert(name.to_ascii_lowercase(), name) {
            findings.error(
                place,
                format!("`{other}` is changed twice"),
                "keep one of them; `set` replaces what is there",
            );
        }
    }
}

/// Whether a route may change a header so.
fn changeable(name: &str, what: &str, way: Way) -> Result<(), Wrong> {
    syntax::header_name(name)?;
    let lower = name.to_ascii_lowercase();
    let is = |names: &[&str]| names.contains(&lower.as_str());
    let wrong = |why: &str, remedy: &str| {
        Err(Wrong { message: format!("`{name}` cannot be changed here: {why}"), remedy: remedy.to_owned() })
    };
    if is(&OF_THE_CONNECTION) {
        return wrong("it belongs to one connection, or says where a message ends", "leave it to the proxy");
    }
    match way {
        Way::Request if lower == "host" => {
            wrong("it says what the request is for", "write `rewrite: { host: other.shop }`")
        }
        Way::Request if is(&OF_THE_PROXY) => {
            wrong("the proxy says it by itself, and others rely on it", "use a header of your own")
        }
        Way::Request if is(&FORWARDED) && what != "set" => {
            wrong("the proxy adds it where it is missing", "give it a value with `set`")
        }
        Way::Response if is(&OF_THE_ANSWER) => wrong("it tells how the request went", "use a header of your own"),
        _ => Ok(()),
    }
}
