//! Who may do what: a listener's rules, compiled once for each configuration.
//!
//! One rule that holds is enough; where there are rules and none holds, the request is refused. A rule that names a
//! path says nothing of paths that servers read differently (`/public/../admin`, `//`, encoded slashes and dots): those
//! are refused unless another rule, which names no path, lets them through.

use crate::config::{Allow, SpiffeId, SpiffePattern, plain_path};
use http::Method;

/// A workload's rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules(Box<[Rule]>);

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    /// Empty is everybody.
    from: Box<[SpiffePattern]>,
    /// Empty is all.
    methods: Box<[Method]>,
    path: PathRule,
}

#[derive(Debug, Clone, PartialEq)]
enum PathRule {
    Any,
    Exact(Box<str>),
    /// Without a slash at its end.
    Prefix(Box<str>),
}

impl Rules {
    /// Compiles what a configuration says; none where it says nothing.
    #[must_use]
    pub fn compile(allow: &[Allow]) -> Option<Self> {
        (!allow.is_empty()).then(|| Self(allow.iter().filter_map(Rule::compile).collect()))
    }

    /// Whether a request may be served. `peer` is who its client has proven to be.
    #[must_use]
    pub fn allow(&self, peer: Option<&SpiffeId>, method: &Method, path: &str) -> bool {
        self.0.iter().any(|rule| rule.holds(peer, method, path))
    }

    /// Whether a connection may be passed on that is no HTTP: by rules that name neither methods nor a path.
    #[must_use]
    pub fn allow_connection(&self, peer: Option<&SpiffeId>) -> bool {
        let any = |rule: &&Rule| rule.methods.is_empty() && rule.path == PathRule::Any;
        self.0.iter().filter(any).any(|rule| rule.is_from(peer))
    }
}

impl Rule {
    /// None where it names a method that is none, which validation refuses: without the rule less is allowed, not more.
    fn compile(allow: &Allow) -> Option<Self> {
        let path = match (&allow.path, &allow.path_prefix) {
            (Some(path), _) => PathRule::Exact(path.as_str().into()),
            (None, Some(prefix)) => PathRule::Prefix(prefix.trim_end_matches('/').into()),
            (None, None) => PathRule::Any,
        };
        let methods = allow.methods.iter().map(|m| Method::from_bytes(m.as_bytes()).ok()).collect::<Option<_>>()?;
        Some(Self { from: allow.from.iter().cloned().collect(), methods, path })
    }

    fn is_from(&self, peer: Option<&SpiffeId>) -> bool {
        self.from.is_empty() || peer.is_some_and(|peer| self.from.iter().any(|f| f.matches(peer)))
    }

    fn holds(&self, peer: Option<&SpiffeId>, method: &Method, path: &str) -> bool {
        self.is_from(peer)
            && (self.methods.is_empty() || self.methods.contains(method))
            && match &self.path {
                PathRule::Any => true,
                PathRule::Exact(wanted) => path == &**wanted,
                PathRule::Prefix(prefix) => {
                    path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        && plain_path(path)
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[Allow]) -> Rules {
        Rules::compile(allow).unwrap()
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn without_rules_there_is_nothing_to_ask_and_with_rules_the_default_is_no() {
        assert_eq!(Rules::compile(&[]), None);
        let get = rules(&[Allow { methods: vec!["GET".into()], ..Allow::default() }]);
        assert!(get.allow(None, &Method::GET, "/") && !get.allow(None, &Method::POST, "/"));
    }

    #[test]
    fn a_rule_wants_all_that_it_names_and_one_rule_is_enough() {
        let both = rules(&[
            Allow {
                from: vec!["spiffe://mesh/shop/*".parse().unwrap()],
                methods: vec!["GET".into(), "HEAD".into()],
                path_prefix: Some("/v2/".into()),
                ..Allow::default()
            },
            Allow { path: Some("/health".into()), ..Allow::default() },
        ]);
        let (shop, bank) = (id("spiffe://mesh/shop/a"), id("spiffe://mesh/bank/a"));
        assert!(both.allow(Some(&shop), &Method::GET, "/v2") && both.allow(Some(&shop), &Method::HEAD, "/v2/x"));
        assert!(!both.allow(Some(&shop), &Method::POST, "/v2/x") && !both.allow(Some(&shop), &Method::GET, "/v20"));
        assert!(!both.allow(Some(&bank), &Method::GET, "/v2") && !both.allow(None, &Method::GET, "/v2"));
        assert!(both.allow(None, &Method::DELETE, "/health") && !both.allow(None, &Method::GET, "/health/x"));
    }

    #[test]
    fn a_path_that_servers_read_differently_does_not_leave_its_prefix() {
        let public = rules(&[Allow { path_prefix: Some("/public".into()), ..Allow::default() }]);
        for path in ["/public", "/public/", "/public/a.b/c..d/.well-known", "/public/a;b=c", "/public/%41"] {
            assert!(public.allow(None, &Method::GET, path), "{path}");
        }
        for path in [
            "/public/../admin",
            "/public/..",
            "/public/./x",
            "/public//admin",
            "/public/%2e%2e/admin",
            "/public/.%2E/admin",
            "/public/..%2fadmin",
            "/public/..%5Cadmin",
            "/public\\..\\admin",
            "/public/..;/admin",
            "/public/a%00",
            "//public/x",
            "/publics",
            "*",
            "",
        ] {
            assert!(!public.allow(None, &Method::GET, path), "{path}");
        }
        let whole = rules(&[Allow { path_prefix: Some("/".into()), ..Allow::default() }]);
        assert!(whole.allow(None, &Method::GET, "/") && !whole.allow(None, &Method::GET, "/a/../b"));
    }
}
