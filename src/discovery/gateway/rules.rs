//! One rule of an HTTPRoute or a GRPCRoute, as rules of the routing table.
//!
//! Each match of it becomes one rule. What this proxy cannot do is never left out of a rule silently: it would then do another
//! thing than its author wrote. So the whole route is refused, with the place and what is wrong there.

use super::types::{Filter, GrpcMatch, HeaderFilter, HttpMatch, Matches, NamedMatch, PathModifier, RedirectFilter};
use super::types::{RewriteFilter, Rule};
use crate::config::{HeaderEdits, Redirect, Rewrite, Route, RouteMatch, Scheme, Timespan};
use std::collections::BTreeMap;
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

/// That something is not supported.
pub fn unsupported<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(UNSUPPORTED, message))
}

/// What every rule of the table that comes of a rule has in common: all but where it leads, and what it matches.
pub fn common(rule: &Rule) -> Result<Route, Refusal> {
    if rule.retry {
        return unsupported("`retry` is not supported: the cluster's `retries` say what is tried again");
    }
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

/// How long an endpoint may take to begin its answer, where the rule says so.
pub fn answer_within(rule: &Rule) -> Result<Option<Duration>, Refusal> {
    let within = rule.timeouts.backend_request.as_deref().map(duration).transpose()?;
    Ok(within.filter(|time| !time.is_zero()))
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
        other => {
            return unsupported(format!(
                "a path of the type `{other}` is not supported: write `Exact` or `PathPrefix`"
            ));
        }
    }
    made.headers = exactly("header", &wanted.headers, str::to_ascii_lowercase)?;
    made.query = exactly("query parameter", &wanted.query_params, str::to_owned)?;
    Ok(made)
}

fn grpc(wanted: &GrpcMatch) -> Result<RouteMatch, Refusal> {
    let mut made = RouteMatch::default();
    if let Some(method) = &wanted.method {
        if let Some(how) = method.how.as_deref().filter(|how| *how != "Exact") {
            return unsupported(format!("a method of the type `{how}` is not supported: write `Exact`"));
        }
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (said(&method.service), said(&method.method)) {
            (Some(service), Some(method)) => made.path = Some(format!("/{service}/{method}")),
            (Some(service), None) => made.path_prefix = Some(format!("/{service}")),
            (None, Some(_)) => {
                return unsupported("a `method` without its `service` is not supported: name the service");
            }
            (None, None) => {}
        }
    }
    made.headers = exactly("header", &wanted.headers, str::to_ascii_lowercase)?;
    Ok(made)
}

/// Names with their values; of several that are the same the first one counts, as the API has it.
fn exactly(
    what: &str,
    wanted: &[NamedMatch],
    folded: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut all = BTreeMap::new();
    for one in wanted {
        if let Some(how) = one.how.as_deref().filter(|how| *how != "Exact") {
            return unsupported(format!("a {what} of the type `{how}` is not supported: write `Exact`"));
        }
        all.entry(folded(&one.name)).or_insert_with(|| one.value.clone());
    }
    Ok(all)
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
    let path = match &filter.path {
        None => None,
        Some(PathModifier { how, replace_full_path: Some(path), .. }) if how == "ReplaceFullPath" => Some(path.clone()),
        Some(PathModifier { how, .. }) => {
            return unsupported(format!(
                "a redirect's path of the type `{how}` is not supported: write `ReplaceFullPath`"
            ));
        }
    };
    let host = match (&filter.hostname, filter.port) {
        (Some(host), Some(port)) => Some(format!("{host}:{port}")),
        (Some(host), None) => Some(host.clone()),
        (None, None) => None,
        (None, Some(_)) => return unsupported("a redirect's `port` needs a `hostname` beside it"),
    };
    let made = Redirect { status: filter.status_code.unwrap_or(302), scheme, host, path };
    if !made.is_set() {
        return unsupported("the redirect leads nowhere: write `hostname`, `path` or `scheme`");
    }
    Ok(made)
}

fn rewrite(filter: &RewriteFilter) -> Result<Rewrite, Refusal> {
    let path_prefix = match &filter.path {
        None => None,
        Some(PathModifier { how, replace_prefix_match: Some(to), .. }) if how == "ReplacePrefixMatch" => {
            Some(if to.is_empty() { "/".to_owned() } else { to.clone() })
        }
        Some(PathModifier { how, .. }) => {
            return unsupported(format!(
                "a path of the type `{how}` is not supported here: write `ReplacePrefixMatch`"
            ));
        }
    };
    Ok(Rewrite { path_prefix, host: filter.hostname.clone() })
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
