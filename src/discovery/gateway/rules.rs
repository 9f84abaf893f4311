//! One rule of an HTTPRoute or a GRPCRoute, as rules of the routing table.
//!
//! Each match of it becomes one rule. What this proxy cannot do is never left out of a rule silently: it would then do another
//! thing than its author wrote. So the whole route is refused, with the place and what is wrong there.
//!
//! Regular expressions match whole paths and values, in the syntax that `config::Pattern` says: the API leaves both to who
//! implements it.

use super::backend::Terms;
use super::types::{Filter, GrpcMatch, HeaderFilter, HttpMatch, Matches, NamedMatch, PathModifier, RedirectFilter};
use super::types::{Retry, RewriteFilter, Rule};
use crate::config::{HeaderEdits, MAX_RETRIES, Pattern, Redirect, Rewrite, Route, RouteMatch, Scheme, Timespan};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// Why a route, or a parent of it, is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason.
    pub reason: &'static str,
    /// Where: `rules[0].filters[1]`; empty where it is about all of it.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl Refusal {
    /// For this reason, of all of it.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, place: String::new(), message: message.into() }
    }

    /// Within this place.
    pub fn at(mut self, place: &str) -> Self {
        self.place = if self.place.is_empty() { place.to_owned() } else { format!("{place}.{}", self.place) };
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)
    }
}

/// What this proxy does not do, or cannot be.
pub const UNSUPPORTED: &str = "UnsupportedValue";

/// The codes after which requests can be tried again.
const GATEWAY_ERRORS: [u16; 3] = [502, 503, 504];

/// That something is not supported.
pub fn unsupported<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(UNSUPPORTED, message))
}

/// What every rule of the table that comes of a rule has in common: all but where it leads, and what it matches.
pub fn common(rule: &Rule) -> Result<Route, Refusal> {
    if rule.session {
        return unsupported(
            "`sessionPersistence` is not supported: write the route in the configuration, with `affinity`",
        );
    }
    let mut route = Route::default();
    for (i, filter) in rule.filters.iter().enumerate() {
        let second = rule.filters.iter().take(i).any(|other| other.what == filter.what);
        let applied = match second {
            false => apply(filter, &mut route),
            true => unsupported(format!("a second `{}` is not supported", filter.what)),
        };
        applied.map_err(|refusal| refusal.at(&format!("filters[{i}]")))?;
    }
    if route.redirect.is_set() && route.rewrite != Rewrite::default() {
        return Err(Refusal::new("IncompatibleFilters", "`RequestRedirect` and `URLRewrite` cannot both be"));
    }
    if route.redirect.is_set() && rule.filters.len() > 1 {
        return unsupported("other filters beside `RequestRedirect` are not supported: no backend gets these requests");
    }
    let request = rule.timeouts.request.as_deref().map(duration).transpose()?;
    route.timeout = request.filter(|time| !time.is_zero()).map(Timespan);
    Ok(route)
}

/// What a rule says of waiting for an answer, and of trying again.
pub fn terms(rule: &Rule) -> Result<Terms, Refusal> {
    let within = rule.timeouts.backend_request.as_deref().map(duration).transpose()?;
    let answer_within = within.filter(|time| !time.is_zero());
    let Some(Retry { codes, attempts, backoff }) = &rule.retry else {
        return Ok(Terms { answer_within, ..Terms::default() });
    };
    if backoff.is_some() {
        return unsupported("`retry.backoff` is not supported: another endpoint is asked at once, within a budget");
    }
    if let Some(many) = attempts.filter(|attempts| *attempts > MAX_RETRIES) {
        return unsupported(format!("{many} `retry.attempts` are too many: write at most {MAX_RETRIES}"));
    }
    let codes: BTreeSet<u16> = codes.iter().copied().collect();
    if !codes.is_empty() && !codes.iter().eq(&GATEWAY_ERRORS) {
        return unsupported("`retry.codes` other than 502, 503 and 504 together are not supported");
    }
    Ok(Terms { answer_within, attempts: *attempts, gateway_errors: !codes.is_empty() })
}

/// The matches of a rule; one that matches everything where it has none.
pub fn matches(rule: &Rule, prefix_is_replaced: bool) -> Result<Vec<RouteMatch>, Refusal> {
    let named =
        |i: usize, made: Result<RouteMatch, Refusal>| made.map_err(|refusal| refusal.at(&format!("matches[{i}]")));
    let mut all: Vec<RouteMatch> = match &rule.matches {
        Matches::Http(matches) => {
            matches.iter().enumerate().map(|(i, m)| named(i, http(m, prefix_is_replaced))).collect::<Result<_, _>>()?
        }
        Matches::Grpc(matches) => {
            matches.iter().enumerate().map(|(i, m)| named(i, grpc(m))).collect::<Result<_, _>>()?
        }
    };
    if all.is_empty() {
        all.push(http(&HttpMatch::default(), prefix_is_replaced)?);
    }
    Ok(all)
}

fn http(wanted: &HttpMatch, prefix_is_replaced: bool) -> Result<RouteMatch, Refusal> {
    let mut made = RouteMatch { method: wanted.method.clone(), ..RouteMatch::default() };
    let path = wanted.path.as_ref();
    let value = path.and_then(|path| path.value.clone()).unwrap_or_else(|| "/".to_owned());
    match path.and_then(|path| path.how.as_deref()).unwrap_or("PathPrefix") {
        "Exact" => made.path = Some(value),
        "PathPrefix" if value == "/" && !prefix_is_replaced => {}
        "PathPrefix" => made.path_prefix = Some(value),
        "RegularExpression" => made.path_regex = Some(value),
        other => {
            return unsupported(format!(
                "a path of the type `{other}` is not supported: write `Exact`, `PathPrefix` or `RegularExpression`"
            ));
        }
    }
    (made.headers, made.headers_regex) = named("header", &wanted.headers, str::to_ascii_lowercase)?;
    (made.query, made.query_regex) = named("query parameter", &wanted.query_params, str::to_owned)?;
    Ok(made)
}

fn grpc(wanted: &GrpcMatch) -> Result<RouteMatch, Refusal> {
    let mut made = RouteMatch::default();
    if let Some(method) = &wanted.method {
        let is_regex = is_regex("method", method.how.as_deref())?;
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (said(&method.service), said(&method.method)) {
            (Some(service), Some(method)) if !is_regex => made.path = Some(format!("/{service}/{method}")),
            (Some(service), None) if !is_regex => made.path_prefix = Some(format!("/{service}")),
            (None, None) => {}
            (service, method) => {
                let part = |text: Option<String>| match text {
                    None => Ok("[^/]+".to_owned()),
                    Some(text) if is_regex => group(text),
                    Some(text) => Ok(Pattern::escaped(&text)),
                };
                made.path_regex = Some(format!("/{}/{}", part(service)?, part(method)?));
            }
        }
    }
    (made.headers, made.headers_regex) = named("header", &wanted.headers, str::to_ascii_lowercase)?;
    Ok(made)
}

/// A regular expression as a part of another. It must be one by itself, or it would get out of its group.
fn group(text: String) -> Result<String, Refusal> {
    match Pattern::new(&text) {
        Ok(_) => Ok(format!("(?:{text})")),
        Err(_) => unsupported(format!("`{text}` is not a regular expression, or is too large")),
    }
}

/// Whether something is matched by a regular expression, and not exactly.
fn is_regex(what: &str, how: Option<&str>) -> Result<bool, Refusal> {
    match how.unwrap_or("Exact") {
        "Exact" => Ok(false),
        "RegularExpression" => Ok(true),
        other => unsupported(format!(
            "a {what} of the type `{other}` is not supported: write `Exact` or `RegularExpression`"
        )),
    }
}

/// Names, with exact values and with regular expressions.
type Named = (BTreeMap<String, String>, BTreeMap<String, String>);

/// Names with what is wanted of their values; of several that are the same the first one counts, as the API has it.
fn named(what: &str, wanted: &[NamedMatch], folded: impl Fn(&str) -> String) -> Result<Named, Refusal> {
    let (mut exact, mut by_regex) = Named::default();
    let mut seen = HashSet::new();
    for one in wanted {
        let is_regex = is_regex(what, one.how.as_deref())?;
        let name = folded(&one.name);
        if seen.insert(name.clone()) {
            if is_regex { &mut by_regex } else { &mut exact }.insert(name, one.value.clone());
        }
    }
    Ok((exact, by_regex))
}

fn apply(filter: &Filter, route: &mut Route) -> Result<(), Refusal> {
    let missing = || unsupported(format!("`{}` says nothing", filter.what));
    match filter.what.as_str() {
        "RequestHeaderModifier" => {
            let Some(edits) = &filter.request_header_modifier else { return missing() };
            route.headers.request = header_edits(edits);
        }
        "ResponseHeaderModifier" => {
            let Some(edits) = &filter.response_header_modifier else { return missing() };
            route.headers.response = header_edits(edits);
        }
        "RequestRedirect" => {
            let Some(to) = &filter.request_redirect else { return missing() };
            route.redirect = redirect(to)?;
        }
        "URLRewrite" => {
            let Some(to) = &filter.url_rewrite else { return missing() };
            route.rewrite = rewrite(to)?;
        }
        // It is resolved with the backends.
        "RequestMirror" if filter.request_mirror.is_some() => {}
        "RequestMirror" => return missing(),
        other => return unsupported(format!("the filter `{other}` is not supported")),
    }
    Ok(())
}

fn header_edits(filter: &HeaderFilter) -> HeaderEdits {
    let pairs = |all: &[NamedMatch]| {
        let mut pairs = BTreeMap::new();
        for one in all {
            pairs.entry(one.name.to_ascii_lowercase()).or_insert_with(|| one.value.clone());
        }
        pairs
    };
    HeaderEdits { set: pairs(&filter.set), add: pairs(&filter.add), remove: filter.remove.clone() }
}

fn redirect(filter: &RedirectFilter) -> Result<Redirect, Refusal> {
    let scheme = match filter.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return unsupported(format!("a redirect to the scheme `{other}` is not supported")),
    };
    let (path, path_prefix) = filter.path.as_ref().map_or(Ok((None, None)), new_path)?;
    // The API wants no port that goes without saying.
    let usual = |port: &u16| matches!((scheme, port), (Some(Scheme::Http), 80) | (Some(Scheme::Https), 443));
    let port = filter.port.filter(|port| !usual(port));
    let (host, port) = match (&filter.hostname, port) {
        (Some(host), Some(port)) => (Some(format!("{host}:{port}")), None),
        (host, port) => (host.clone(), port),
    };
    let made = Redirect { status: filter.status_code.unwrap_or(302), scheme, host, port, path, path_prefix };
    if !made.is_set() {
        return unsupported("the redirect leads nowhere: write `hostname`, `path`, `port` or `scheme`");
    }
    Ok(made)
}

fn rewrite(filter: &RewriteFilter) -> Result<Rewrite, Refusal> {
    let (path, path_prefix) = filter.path.as_ref().map_or(Ok((None, None)), new_path)?;
    Ok(Rewrite { path, path_prefix, host: filter.hostname.clone() })
}

/// What takes the place of a whole path, or of the prefix that was matched.
fn new_path(path: &PathModifier) -> Result<(Option<String>, Option<String>), Refusal> {
    // Nothing in the place of a prefix takes it away; a path always begins so.
    let slash = |to: &String| if to.is_empty() { "/".to_owned() } else { to.clone() };
    match path {
        PathModifier { how, replace_full_path: Some(to), .. } if how == "ReplaceFullPath" => {
            Ok((Some(slash(to)), None))
        }
        PathModifier { how, replace_prefix_match: Some(to), .. } if how == "ReplacePrefixMatch" => {
            Ok((None, Some(slash(to))))
        }
        PathModifier { how, .. } if matches!(how.as_str(), "ReplaceFullPath" | "ReplacePrefixMatch") => {
            unsupported(format!("`{how}` does not say with what"))
        }
        PathModifier { how, .. } => unsupported(format!(
            "a path of the type `{how}` is not supported: write `ReplaceFullPath` or `ReplacePrefixMatch`"
        )),
    }
}

/// A length of time as the API writes it (GEP-2257): `1h30m`, `10s`, `250ms`.
fn duration(text: &str) -> Result<Duration, Refusal> {
    let wrong =
        || Refusal::new(UNSUPPORTED, format!("`{text}` is not a length of time: write one such as `10s` or `250ms`"));
    let (mut rest, mut whole) = (text, Duration::ZERO);
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        if digits > 5 {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, next) = after.split_at_checked(letters).ok_or_else(wrong)?;
        whole += match unit {
            "h" => Duration::from_secs(number * 3_600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(wrong()),
        };
        rest = next;
        if rest.is_empty() {
            return Ok(whole);
        }
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_the_api_writes_them() {
        for (text, ms) in [("10s", 10_000), ("250ms", 250), ("1h30m", 5_400_000), ("1m1s1ms", 61_001), ("0s", 0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "1s ", "100000s", "1s1s1s1s1s", "1us"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
