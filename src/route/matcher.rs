//! What a request must look like.
//!
//! Host and path are looked up in an index, and the rest is asked of the rules that it finds. A path by a regular expression
//! is among the rest, so that rules without one cost what they cost where there are none.

use super::RequestHead;
use super::pairs;
use crate::config::{Pattern, RouteMatch};
use http::header::COOKIE;
use http::{HeaderName, HeaderValue, Method};
use std::collections::{BTreeMap, HashMap};

/// A host, as a rule asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// Any.
    Any,
    /// This one; kept in lower case.
    Exact(Box<str>),
    /// Whatever ends with this (`.shop`) and has something before it.
    Suffix(Box<str>),
}

impl HostMatch {
    /// Compiles a host as the configuration has it.
    pub fn compile(host: Option<&str>) -> Self {
        match host.map(|host| (host, host.strip_prefix('*'))) {
            None => Self::Any,
            Some((_, Some(suffix))) => Self::Suffix(suffix.to_ascii_lowercase().into()),
            Some((host, None)) => Self::Exact(host.to_ascii_lowercase().into()),
        }
    }

    /// Whether a name, where there is one, is as asked.
    pub fn matches(&self, name: Option<&str>) -> bool {
        match (self, name) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Exact(wanted), Some(name)) => name.eq_ignore_ascii_case(wanted),
            (Self::Suffix(wanted), Some(name)) => name
                .len()
                .checked_sub(wanted.len())
                .filter(|before| *before > 0)
                .and_then(|before| name.get(before..))
                .is_some_and(|end| end.eq_ignore_ascii_case(wanted)),
        }
    }
}

/// A path, as a rule asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Any.
    Any,
    /// This one.
    Exact(Box<str>),
    /// This one, without a slash at its end, and what lies below it.
    Prefix(Box<str>),
}

/// A rule's compiled conditions: all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub host: HostMatch,
    pub path: PathMatch,
    method: Option<Method>,
    /// What most rules do not ask for.
    more: Option<Box<More>>,
}

/// What a request must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct More {
    headers: Box<[(HeaderName, HeaderValue)]>,
    cookies: Wanted,
    query: Wanted,
    path_pattern: Option<Pattern>,
    header_patterns: Box<[(HeaderName, Pattern)]>,
    query_patterns: Box<[(Box<str>, Pattern)]>,
}

/// Patterns by their texts, each compiled once however many rules have it.
#[derive(Debug, Default)]
pub struct Patterns<'c>(HashMap<&'c str, Option<Pattern>>);

impl<'c> Patterns<'c> {
    /// A pattern. `None` when it is none, which validation has told before.
    fn get(&mut self, text: &'c str) -> Option<Pattern> {
        self.0.entry(text).or_insert_with(|| Pattern::new(text).ok()).clone()
    }
}

impl More {
    fn holds(&self, request: &RequestHead<'_>) -> bool {
        self.headers.iter().all(|(name, value)| request.headers.get_all(name).iter().any(|v| v == value))
            && self
                .cookies
                .iter()
                .all(|(name, value)| pairs::cookies(request.headers, name).any(|v| v == value.as_bytes()))
            && self.query.iter().all(|(name, value)| pairs::in_query(request.query, name, value))
            && self.path_pattern.as_ref().is_none_or(|pattern| pattern.matches(request.path.as_bytes()))
            && self.header_patterns.iter().all(|(name, pattern)| {
                request.headers.get_all(name).iter().any(|value| pattern.matches(value.as_bytes()))
            })
            && self
                .query_patterns
                .iter()
                .all(|(name, pattern)| pairs::query_values(request.query, name).any(|value| pattern.matches(&value)))
    }
}

/// Names, and the value that each must have.
type Wanted = Box<[(Box<str>, Box<str>)]>;

fn wanted(pairs: &BTreeMap<String, String>) -> Wanted {
    pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

impl Matcher {
    /// Compiles a rule's conditions. `None` when one can never hold, which validation has told before.
    pub fn compile<'c>(rule: &'c RouteMatch, patterns: &mut Patterns<'c>) -> Option<Self> {
        let host = HostMatch::compile(rule.host.as_deref());
        let path = match (&rule.path, &rule.path_prefix) {
            (Some(path), _) => PathMatch::Exact(path.as_str().into()),
            (None, Some(prefix)) => PathMatch::Prefix(prefix.trim_end_matches('/').into()),
            (None, None) => PathMatch::Any,
        };
        let method = match &rule.method {
            None => None,
            Some(name) => Some(Method::from_bytes(name.as_bytes()).ok()?),
        };
        let headers = rule
            .headers
            .iter()
            .map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?)))
            .collect::<Option<Box<[_]>>>()?;
        let (cookies, query) = (wanted(&rule.cookies), wanted(&rule.query));
        let path_pattern = match &rule.path_regex {
            None => None,
            Some(regex) => Some(patterns.get(regex)?),
        };
        let header_patterns = rule
            .headers_regex
            .iter()
            .map(|(name, regex)| Some((name.parse::<HeaderName>().ok()?, patterns.get(regex)?)))
            .collect::<Option<Box<[_]>>>()?;
        let query_patterns = rule
            .query_regex
            .iter()
            .map(|(name, regex)| Some((name.as_str().into(), patterns.get(regex)?)))
            .collect::<Option<Box<[_]>>>()?;
        let exact = headers.is_empty() && cookies.is_empty() && query.is_empty();
        let none = path_pattern.is_none() && header_patterns.is_empty() && query_patterns.is_empty();
        let more = More { headers, cookies, query, path_pattern, header_patterns, query_patterns };
        let more = (!(exact && none)).then(|| Box::new(more));
        Some(Self { host, path, method, more })
    }

    /// The headers that it asks for.
    pub fn asked_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.more.iter().flat_map(|more| {
            let cookie = (!more.cookies.is_empty()).then_some(&COOKIE);
            let by_pattern = more.header_patterns.iter().map(|(name, _)| name);
            more.headers.iter().map(|(name, _)| name).chain(by_pattern).chain(cookie)
        })
    }

    /// Whether method, headers, cookies and query are as asked, and a path that is asked for by a regular expression: for a rule that was found by its host and its path.
    #[inline]
    pub fn matches_rest(&self, request: &RequestHead<'_>) -> bool {
        self.method.as_ref().is_none_or(|m| m == request.method) && self.more.as_ref().is_none_or(|m| m.holds(request))
    }
}

/// A host without its port; IPv6 literals keep their brackets.
pub fn host_without_port(host: &str) -> &str {
    let digits = host.bytes().rev().take_while(u8::is_ascii_digit).count();
    let port = host.len() - digits;
    host.get(..port).and_then(|before| before.strip_suffix(':')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::host_without_port;

    #[test]
    fn a_port_is_taken_off_and_nothing_else() {
        for (host, name) in [
            ("catalog.shop", "catalog.shop"),
            ("catalog.shop:80", "catalog.shop"),
            ("catalog.shop:", "catalog.shop"),
            ("catalog:eighty", "catalog:eighty"),
            ("10.0.0.7:8080", "10.0.0.7"),
            ("10.0.0.7", "10.0.0.7"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("80", "80"),
            (":80", ""),
            ("", ""),
        ] {
            assert_eq!(host_without_port(host), name, "{host}");
        }
    }
}
