//! Which of many rules a request matches first, without looking at each.
//!
//! Rules are grouped by their host, exact ones and endings in one tree that a host is walked through from its end; within a
//! group they stand in a tree of paths. A walk finds every rule whose host and path are as asked; of those the one that
//! was written first and whose other conditions hold is the answer, as if the rules had been gone through in order. A
//! group whose first rule stands behind what was found already is not looked into.

use super::matcher::{HostMatch, Matcher, PathMatch};
use super::trie::{From, Trie};
use std::collections::BTreeMap;

/// Positions of rules by what they ask of host and path.
#[derive(Debug, Default, PartialEq)]
pub struct Index {
    hosts: Trie<Hosts>,
    any_host: Group,
}

/// What is said of a host, and of the hosts that end with it.
#[derive(Debug, Default, PartialEq)]
struct Hosts {
    exact: Group,
    ending: Group,
}

/// Rules that ask for the same of a host.
#[derive(Debug, PartialEq)]
struct Group {
    /// Where the first of them stands; beyond all where there is none.
    first: u32,
    any_path: Box<[u32]>,
    paths: Trie<Paths>,
}

/// What is said of a path, and of it and what lies below it.
#[derive(Debug, Default, PartialEq)]
struct Paths {
    exact: Vec<u32>,
    prefix: Vec<u32>,
}

impl Index {
    /// Of these rules, in their order.
    pub fn new<'m>(rules: impl Iterator<Item = &'m Matcher>) -> Self {
        let mut hosts: BTreeMap<&str, (Grouping<'_>, Grouping<'_>)> = BTreeMap::new();
        let mut any_host = Grouping::default();
        for (rule, position) in rules.zip(0u32..) {
            let grouping = match &rule.host {
                HostMatch::Any => &mut any_host,
                HostMatch::Exact(host) => &mut hosts.entry(host).or_default().0,
                HostMatch::Suffix(suffix) => &mut hosts.entry(suffix).or_default().1,
            };
            match &rule.path {
                PathMatch::Any => grouping.any_path.push(position),
                PathMatch::Exact(path) => grouping.paths.entry(path).or_default().exact.push(position),
                PathMatch::Prefix(prefix) => grouping.paths.entry(prefix).or_default().prefix.push(position),
            }
        }
        let group = |(text, (exact, ending)): (_, (Grouping<'_>, Grouping<'_>))| {
            (text, Hosts { exact: exact.group(), ending: ending.group() })
        };
        Self { hosts: Trie::new(From::Back, hosts.into_iter().map(group)), any_host: any_host.group() }
    }

    /// The position of the first rule for this host (in lower case, without its port) and this path that `matches`.
    #[inline]
    pub fn first(&self, host: &str, path: &str, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        self.any_host.first(path, &matches, &mut best);
        self.hosts.walk(host.as_bytes(), |hosts, before| {
            let group = if before.is_empty() { &hosts.exact } else { &hosts.ending };
            group.first(path, &matches, &mut best);
        });
        (best != u32::MAX).then_some(best)
    }
}

impl Default for Group {
    fn default() -> Self {
        Grouping::default().group()
    }
}

impl Group {
    fn first(&self, path: &str, matches: &impl Fn(u32) -> bool, best: &mut u32) {
        if self.first >= *best {
            return;
        }
        earlier(&self.any_path, matches, best);
        self.paths.walk(path.as_bytes(), |paths, below| match below.first() {
            None => {
                earlier(&paths.exact, matches, best);
                earlier(&paths.prefix, matches, best);
            }
            Some(b'/') => earlier(&paths.prefix, matches, best),
            Some(_) => {}
        });
    }
}

/// The first of these that matches and stands before the best so far is the best.
#[inline]
fn earlier(positions: &[u32], matches: &impl Fn(u32) -> bool, best: &mut u32) {
    let before = positions.iter().take_while(|p| **p < *best);
    if let Some(position) = before.copied().find(|p| matches(*p)) {
        *best = position;
    }
}

/// A group that is being made.
#[derive(Default)]
struct Grouping<'m> {
    any_path: Vec<u32>,
    paths: BTreeMap<&'m str, Paths>,
}

impl Grouping<'_> {
    fn group(self) -> Group {
        let of_paths = self.paths.values().flat_map(|p| p.exact.first().into_iter().chain(p.prefix.first()));
        let first = self.any_path.first().into_iter().chain(of_paths).min().copied().unwrap_or(u32::MAX);
        let paths = if self.paths.is_empty() { Trie::default() } else { Trie::new(From::Front, self.paths) };
        Group { first, any_path: self.any_path.into(), paths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteMatch;
    use crate::route::RequestHead;
    use crate::route::matcher::Patterns;
    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    /// What the documentation says of a rule, with nothing compiled.
    fn matches(rule: &RouteMatch, host: &str, path: &str, method: &Method) -> bool {
        let host = host.to_ascii_lowercase();
        let hosts = rule.host.as_ref().is_none_or(|wanted| match wanted.to_ascii_lowercase().strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == wanted.to_ascii_lowercase(),
        });
        let paths = match (&rule.path, &rule.path_prefix) {
            (Some(exact), _) => path == exact,
            (None, Some(prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                path == prefix || path.starts_with(&format!("{prefix}/"))
            }
            (None, None) => true,
        };
        hosts && paths && rule.method.as_ref().is_none_or(|m| m == method.as_str())
    }

    fn rules() -> impl Strategy<Value = Vec<RouteMatch>> {
        let host = prop::option::of(prop_oneof!["[aB]{1,2}(\\.[ab]){0,2}", "\\*\\.[aB](\\.[ab]){0,1}"]);
        let path = prop::option::of("(/[ab]{1,2}){0,3}/?");
        let rule = (host, path, any::<bool>(), prop::option::of(prop_oneof!["GET", "PUT"])).prop_map(
            |(host, path, exact, method)| match exact {
                true => RouteMatch { host, path, method, ..RouteMatch::default() },
                false => RouteMatch { host, path_prefix: path, method, ..RouteMatch::default() },
            },
        );
        prop::collection::vec(rule, 0..40)
    }

    proptest! {
        #[test]
        fn the_first_that_matches_is_found_as_if_each_was_looked_at(
            rules in rules(),
            asked in prop::collection::vec(("[aB]{0,2}(\\.[ab]){0,2}", "\\*|(/[ab]{0,2}){0,4}", any::<bool>()), 20),
        ) {
            let compiled: Vec<Matcher> = rules.iter().map(|r| Matcher::compile(r, &mut Patterns::default()).unwrap()).collect();
            let index = Index::new(compiled.iter());
            for (host, path, put) in asked {
                let (method, headers) = (if put { Method::PUT } else { Method::GET }, HeaderMap::new());
                let naive = rules.iter().position(|r| matches(r, &host, &path, &method));
                let request = RequestHead { host: &host, path: &path, query: "", method: &method, headers: &headers };
                let rest = |position: u32| compiled[position as usize].matches_rest(&request);
                let found = index.first(&host.to_ascii_lowercase(), &path, rest);
                prop_assert_eq!(found.map(|p| p as usize), naive, "{} {}", host, path);
            }
        }
    }
}
