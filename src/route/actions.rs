//! What a rule does to its requests beyond choosing a cluster, compiled: most rules do nothing of the kind, and cost one
//! look at an empty pointer.
//!
//! **Redirects** lead where the configuration says and nowhere else: what a client wrote can follow a host that the
//! operator named, or the one that the client asked itself, but never begins the answer's `Location`: what is left of a path
//! whose prefix was taken away begins with one slash there. So no link to this host can be made to lead to another one
//! (`//elsewhere`). A `Location` is parsed as a header's value before it is
//! sent, and a request's target holds no line end.

use super::ClusterId;
use crate::config::{self, Route, Scheme, Share};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use std::collections::HashMap;
use std::time::Duration;

/// What a rule does.
#[derive(Debug, Clone, PartialEq)]
pub struct Actions {
    /// Sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// What the endpoint is asked for.
    pub rewrite: Rewrite,
    /// What happens to the request's headers.
    pub request: HeaderEdits,
    /// What happens to the answer's headers.
    pub response: HeaderEdits,
    /// What goes wrong on purpose.
    pub fault: Fault,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
    /// How many bytes a request's body may have.
    pub max_body: Option<u64>,
}

/// A share of requests, to be compared with 32 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chance(u64);

/// What goes wrong on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// So many wait.
    pub delayed: Chance,
    /// For so long.
    pub delay: Duration,
    /// So many are answered with an error.
    pub aborted: Chance,
    /// With this one.
    pub status: StatusCode,
}

/// Who gets copies of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// This cluster.
    pub cluster: ClusterId,
    /// Of so many.
    pub copied: Chance,
    /// Without those whose body has more bytes than this.
    pub max_body: usize,
}

/// Where a client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// With this status.
    pub status: StatusCode,
    scheme: Option<&'static str>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<Box<str>>,
    prefix: Option<NewPrefix>,
}

/// Another prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NewPrefix {
    /// How long the one that was matched is, without a slash at its end.
    length: usize,
    /// What takes its place, without a slash at its end.
    to: Box<str>,
}

/// What an endpoint is asked for in place of what the client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    path: Option<PathAndQuery>,
    prefix: Option<NewPrefix>,
    /// The host.
    pub host: Option<HeaderValue>,
}

/// Changes of headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl Actions {
    /// What a route asks for; none inside where that is nothing. `None` when it cannot be, which validation has told
    /// before.
    pub(super) fn compile(route: &Route, ids: &HashMap<&str, ClusterId>) -> Option<Option<Self>> {
        let actions = Self {
            redirect: Redirect::compile(route)?,
            rewrite: Rewrite::compile(route)?,
            request: HeaderEdits::compile(&route.headers.request)?,
            response: HeaderEdits::compile(&route.headers.response)?,
            fault: Fault::compile(&route.fault)?,
            mirror: Mirror::compile(&route.mirror, ids)?,
            max_body: route.max_body.map(|most| most.0),
        };
        let nothing = actions.redirect.is_none()
            && actions.rewrite == Rewrite::default()
            && actions.request.is_empty()
            && actions.response.is_empty()
            && actions.fault == Fault::default()
            && actions.mirror.is_none()
            && actions.max_body.is_none();
        Some((!nothing).then_some(actions))
    }
}

impl Chance {
    fn of(share: Share) -> Self {
        Self((share.0.clamp(0.0, 1.0) * 2f64.powi(32)).round() as u64)
    }

    /// Whether these random bits are among the share.
    #[inline]
    #[must_use]
    pub fn hits(self, random: u32) -> bool {
        u64::from(random) < self.0
    }
}

impl Fault {
    fn compile(fault: &config::Fault) -> Option<Self> {
        let config::Fault { delay, abort } = fault;
        let delayed = if delay.time.0.is_zero() { Chance::default() } else { Chance::of(delay.share) };
        let aborted = Chance::of(abort.share);
        if (delayed, aborted) == Default::default() {
            return Some(Self::default());
        }
        Some(Self { delayed, delay: delay.time.0, aborted, status: StatusCode::from_u16(abort.status).ok()? })
    }
}

impl Mirror {
    fn compile(mirror: &config::Mirror, ids: &HashMap<&str, ClusterId>) -> Option<Option<Self>> {
        let Some(cluster) = &mirror.cluster else { return Some(None) };
        let max_body = usize::try_from(mirror.max_body.0).unwrap_or(usize::MAX);
        Some(Some(Self { cluster: *ids.get(cluster.as_str())?, copied: Chance::of(mirror.share), max_body }))
    }
}

impl Redirect {
    fn compile(route: &Route) -> Option<Option<Self>> {
        let redirect = &route.redirect;
        if !redirect.is_set() {
            return Some(None);
        }
        Some(Some(Self {
            status: StatusCode::from_u16(redirect.status).ok()?,
            scheme: redirect.scheme.map(|s| match s {
                Scheme::Http => "http:",
                Scheme::Https => "https:",
            }),
            host: redirect.host.as_deref().map(Into::into),
            port: redirect.port,
            path: redirect.path.as_deref().map(Into::into),
            prefix: NewPrefix::compile(route, redirect.path_prefix.as_deref()),
        }))
    }

    /// The `Location` for a request with this target that asked for this host.
    #[must_use]
    pub fn location(&self, target: &Uri, asked: &str) -> Option<HeaderValue> {
        let mut location = String::new();
        if self.scheme.is_some() || self.host.is_some() || self.port.is_some() {
            location.push_str(self.scheme.unwrap_or_default());
            location.push_str("//");
            // Another scheme has another port, which nobody named.
            location.push_str(self.host.as_deref().unwrap_or_else(|| super::matcher::host_without_port(asked)));
            if let Some(port) = self.port {
                location.push(':');
                location.push_str(itoa::Buffer::new().format(port));
            }
        }
        let mut query = target.query();
        match (&self.path, &self.prefix) {
            (Some(path), _) => {
                location.push_str(path);
                query = query.filter(|_| !path.contains('?'));
            }
            (None, Some(prefix)) => {
                let [slash, to, rest] = prefix.replaced(target.path())?;
                // Two slashes at the beginning, or what is read as such, would name a host.
                let (slash, rest) = match location.is_empty() && to.is_empty() {
                    true => ("/", rest.trim_start_matches(['/', '\\'])),
                    false => (slash, rest),
                };
                [slash, to, rest].into_iter().for_each(|part| location.push_str(part));
            }
            (None, None) if target.path().starts_with('/') => location.push_str(target.path()),
            // What follows a host must not go on with its name: `*` is a target, too.
            (None, None) => location.push('/'),
        }
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::from_maybe_shared(Bytes::from(location)).ok()
    }
}

impl Rewrite {
    fn compile(route: &Route) -> Option<Self> {
        let config::Rewrite { path_prefix, path, host } = &route.rewrite;
        let path = match path {
            Some(path) => Some(path.parse::<PathAndQuery>().ok()?),
            None => None,
        };
        let prefix = NewPrefix::compile(route, path_prefix.as_deref());
        let host = match host {
            Some(host) => Some(host.parse::<HeaderValue>().ok()?),
            None => None,
        };
        Some(Self { path, prefix, host })
    }

    /// The target with another path or prefix, for a path that has the one that was matched. None where it stays as it is.
    #[must_use]
    pub fn target(&self, target: &Uri) -> Option<PathAndQuery> {
        let [slash, to, rest] = match (&self.path, &self.prefix) {
            // It is shared, and nothing is copied.
            (Some(path), _) if target.query().is_none() => return Some(path.clone()),
            (Some(path), _) => [path.path(), "", ""],
            (None, Some(prefix)) => prefix.replaced(target.path())?,
            (None, None) => return None,
        };
        let (mark, query) = target.query().map_or(("", ""), |query| ("?", query));
        PathAndQuery::from_maybe_shared(Bytes::from([slash, to, rest, mark, query].concat())).ok()
    }
}

impl NewPrefix {
    /// What takes the place of the prefix that a route matches.
    fn compile(route: &Route, to: Option<&str>) -> Option<Self> {
        let length = route.matches.path_prefix.as_ref()?.trim_end_matches('/').len();
        Some(Self { length, to: to?.trim_end_matches('/').into() })
    }

    /// A path with it, in three parts; None for one that is shorter than what was matched.
    fn replaced<'p>(&'p self, path: &'p str) -> Option<[&'p str; 3]> {
        let rest = path.get(self.length..)?;
        let slash = if self.to.is_empty() && !rest.starts_with('/') { "/" } else { "" };
        Some([slash, &self.to, rest])
    }
}

impl HeaderEdits {
    fn compile(edits: &config::HeaderEdits) -> Option<Self> {
        let pair = |(name, value): (&String, &String)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        Some(Self {
            remove: edits.remove.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
            set: edits.set.iter().map(pair).collect::<Option<_>>()?,
            add: edits.add.iter().map(pair).collect::<Option<_>>()?,
        })
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether this header gets one value.
    #[must_use]
    pub fn sets(&self, name: &HeaderName) -> bool {
        self.set.iter().any(|(set, _)| set == name)
    }

    /// Changes headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.remove.iter().for_each(|name| drop(headers.remove(name)));
        self.set.iter().for_each(|(name, value)| drop(headers.insert(name, value.clone())));
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(yaml: &str) -> Actions {
        let text = format!(
            "workloads: {{ w: {{ listen: 127.0.0.1:1 }} }}\nroutes: [{yaml}]\nclusters: {{ c: {{ endpoints: [{{ address: 10.0.0.1:80 }}] }} }}"
        );
        let config = config::load_str(&text, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
        Actions::compile(&config.routes[0], &HashMap::from([("c", ClusterId(0))])).unwrap().unwrap()
    }

    #[test]
    fn a_rule_that_does_nothing_more_has_no_actions() {
        let route = Route { cluster: Some("c".into()), ..Route::default() };
        assert_eq!(Actions::compile(&route, &HashMap::new()), Some(None));
    }

    #[test]
    fn the_matched_prefix_is_replaced_and_nothing_else() {
        for (from, to, target, wanted) in [
            ("/v1", "/v2", "/v1", "/v2"),
            ("/v1", "/v2", "/v1/", "/v2/"),
            ("/v1", "/v2/", "/v1/a/v1?b=/v1", "/v2/a/v1?b=/v1"),
            ("/v1/", "/", "/v1", "/"),
            ("/v1", "/", "/v1/a", "/a"),
            ("/v1", "/", "/v1?q", "/?q"),
            ("/", "/v2", "/", "/v2/"),
            ("/", "/v2", "/a%20b?c=d%0d%0a", "/v2/a%20b?c=d%0d%0a"),
        ] {
            let rewrite =
                format!("{{ match: {{ path_prefix: {from} }}, rewrite: {{ path_prefix: {to} }}, cluster: c }}");
            let made = actions(&rewrite).rewrite.target(&target.parse().unwrap()).unwrap();
            assert_eq!(made.as_str(), wanted, "{from} -> {to}: {target}");
        }
    }

    #[test]
    fn a_path_is_replaced_whole_and_its_query_stays() {
        for (target, wanted) in [("/", "/new"), ("/a/b", "/new"), ("/a?b=%20/c", "/new?b=%20/c"), ("/a?", "/new?")] {
            let made = actions("{ rewrite: { path: /new }, cluster: c }").rewrite.target(&target.parse().unwrap());
            assert_eq!(made.unwrap().as_str(), wanted, "{target}");
        }
        let host = actions("{ rewrite: { host: other.shop }, cluster: c }").rewrite;
        assert_eq!(host.target(&"/a".parse().unwrap()), None, "it stays");
    }

    #[test]
    fn a_redirect_to_another_prefix_leads_to_no_other_host() {
        for (from, redirect, target, wanted) in [
            ("/v1", "path_prefix: /v2", "/v1/a?b=c", "/v2/a?b=c"),
            ("/v1", "path_prefix: /v2", "/v1", "/v2"),
            ("/v1", "path_prefix: /", "/v1", "/"),
            ("/v1", "path_prefix: /", "/v1/a", "/a"),
            ("/v1", "path_prefix: /", "/v1//evil.com/a", "/evil.com/a"),
            ("/v1", "path_prefix: /", "/v1///\\evil.com", "/evil.com"),
            ("/v1", "path_prefix: /", "/v1/\\evil.com", "/evil.com"),
            ("/v1", "path_prefix: /v2", "/v1//evil.com", "/v2//evil.com"),
            ("/v1", "path_prefix: /, host: other.shop", "/v1//evil.com", "//other.shop//evil.com"),
            ("/", "path_prefix: /v2, scheme: https", "/a", "https://shop/v2/a"),
        ] {
            let route = format!("{{ match: {{ path_prefix: {from} }}, redirect: {{ {redirect} }} }}");
            let location = actions(&route).redirect.unwrap().location(&target.parse().unwrap(), "shop:8080").unwrap();
            assert_eq!(location, wanted, "{redirect}: {target}");
        }
    }

    #[test]
    fn a_redirect_leads_where_the_operator_says_and_nowhere_else() {
        for (redirect, target, wanted) in [
            ("path: /new", "/old?a=b", "/new?a=b"),
            ("path: \"/new?c=d\"", "/old?a=b", "/new?c=d"),
            ("path: /new", "//evil.com/x", "/new"),
            ("host: other.shop", "/old?a=b", "//other.shop/old?a=b"),
            ("host: other.shop", "//evil.com/x", "//other.shop//evil.com/x"),
            ("host: \"other.shop:8443\", scheme: https", "/", "https://other.shop:8443/"),
            ("scheme: https", "/old?a=b", "https://shop/old?a=b"),
            ("scheme: https", "//evil.com", "https://shop//evil.com"),
            ("scheme: https", "http://elsewhere/x", "https://shop/x"),
            ("scheme: https", "*", "https://shop/"),
            ("scheme: http, host: a.b, path: /c, status: 308", "/old", "http://a.b/c"),
            ("port: 8443", "//evil.com?a=b", "//shop:8443//evil.com?a=b"),
            ("port: 8443, scheme: https, path: /new", "/old", "https://shop:8443/new"),
        ] {
            let redirect = actions(&format!("{{ redirect: {{ {redirect} }} }}")).redirect.unwrap();
            let location = redirect.location(&target.parse().unwrap(), "shop:8080").unwrap();
            assert_eq!(location, wanted, "{target}");
        }
    }

    #[test]
    fn chances_are_as_large_as_the_share() {
        let Actions { fault, mirror, .. } = actions(
            "{ fault: { delay: { time: 5ms, share: 25% }, abort: { status: 429, share: 100% } }, mirror: { cluster: c, share: 0% }, cluster: c }",
        );
        let of = |chance: Chance| (0..1000u32).filter(|i| chance.hits(i * (u32::MAX / 1000))).count();
        assert!((249..=251).contains(&of(fault.delayed)), "{}", of(fault.delayed));
        assert!(fault.aborted.hits(u32::MAX) && !mirror.unwrap().copied.hits(0), "all of them, and none");
        assert_eq!((fault.delay, fault.status.as_u16()), (Duration::from_millis(5), 429));
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let edits = actions(
            "{ headers: { response: { remove: [X-Old], set: { X-One: \"1\" }, add: { x-More: b } } }, cluster: c }",
        )
        .response;
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-old", "1"), ("x-one", "a"), ("x-one", "b"), ("x-more", "a"), ("x-left", "y")] {
            headers.append(name, value.parse().unwrap());
        }
        edits.apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            (all("x-old"), all("x-one"), all("x-more"), all("x-left")),
            (vec![], vec!["1"], vec!["a", "b"], vec!["y"])
        );
        assert!(edits.sets(&"x-one".parse().unwrap()) && !edits.sets(&"x-more".parse().unwrap()));
    }
}
