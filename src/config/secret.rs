//! What is nobody's business but its owner's, and how it is kept out of what is shown.
//!
//! Keys and certificates are files, of which a configuration holds the paths. What else may be secret in it are the values
//! of headers and what comes from the environment: neither `/config` nor `check --effective` shows the value of a key whose
//! name says that it is secret ([`Config::shown`]) nor those of [`Secret`]s, and no error quotes what a variable held ([`Veil`]). Clients put
//! secrets into queries, too, which the access log hides in the same way.

use super::diagnostic::Diagnostic;
use super::schema::Config;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// What stands where a secret was.
const HIDDEN: &str = "(hidden)";
/// What the names of secrets hold.
const WORDS: [&str; 9] =
    ["authorization", "cookie", "token", "secret", "password", "passwd", "apikey", "credential", "signature"];
/// What the names of secrets are, or are made of, where anybody may choose them: of a header, a parameter, a fact of an endpoint.
const PARTS: [&str; 11] = ["auth", "jwt", "key", "pwd", "pass", "sig", "sas", "session", "sessionid", "sid", "code"];
/// Under these keys stand such names.
const FREE: [&str; 8] = ["headers", "headers_regex", "set", "add", "metadata", "cookies", "query", "query_regex"];
/// Under these keys stand names of clusters, headers and cookies, and no values.
const NAMES: [&str; 3] = ["split", "clusters", "affinity"];
/// What is shorter is a word like any other (`on`, a port), and hiding it would spoil the message.
const SHORTEST: usize = 6;

/// A text that is secret whatever its name is.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// For whom it is meant.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl Config {
    /// The configuration as others may see it. It can be loaded again.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        shown.telemetry.traces.headers.values_mut().for_each(|value| *value = HIDDEN.into());
        shown.without_named_secrets()
    }

    /// Without the values of keys whose names say that they are secret.
    fn without_named_secrets(self) -> Self {
        let Ok(mut value) = serde_json::to_value(&self) else { return Self::default() };
        if !hide(&mut value, "") {
            return self;
        }
        serde_json::from_value(value).unwrap_or_default()
    }
}

/// Hides the values of all keys whose names say that they are secret; whether there were any.
fn hide(value: &mut Value, home: &str) -> bool {
    let mut hidden = false;
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(text) if !NAMES.contains(&home) && is_secret(home, key) => {
                        HIDDEN.clone_into(text);
                        hidden = true;
                    }
                    other => hidden |= hide(other, key),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                hidden |= hide(item, home);
            }
        }
        _ => {}
    }
    hidden
}

/// Whether anybody may choose the names that stand under this key: those of headers, parameters, facts.
#[must_use]
pub fn is_free(home: &str) -> bool {
    FREE.contains(&home)
}

fn is_secret(home: &str, key: &str) -> bool {
    if is_free(home) { names_a_secret_value(key) } else { names_a_secret(key) }
}

/// An endpoint's facts, as others may see them.
#[must_use]
pub fn without_secret_facts(facts: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let shown = |name: &str, value| if names_a_secret_value(name) { HIDDEN } else { value };
    facts.iter().map(|(name, value)| (name.as_str(), shown(name, value.as_str()))).collect()
}

/// The same where anybody may choose the name: `x-auth`, `sig`, `code`, too.
fn names_a_secret_value(name: &str) -> bool {
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| PARTS.iter().any(|word| part.eq_ignore_ascii_case(word))) || names_a_secret(name)
}

/// Whether what has this name is secret: `Authorization`, `x-api-key`, `db_password`. The first 64 letters count.
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    let mut plain = [0; 64];
    let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
    let length = plain.iter_mut().zip(letters).map(|(place, letter)| *place = letter.to_ascii_lowercase()).count();
    let plain = plain.get(..length).unwrap_or_default();
    WORDS.iter().any(|word| plain.windows(word.len()).any(|part| part == word.as_bytes()))
}

/// A path with its query, the values of secret parameters hidden.
#[must_use]
pub fn without_secrets(path: &str) -> Cow<'_, str> {
    let Some((before, query)) = path.split_once('?') else { return Cow::Borrowed(path) };
    let secret =
        |part: &&str| part.split_once('=').is_some_and(|(name, value)| !value.is_empty() && names_a_secret_value(name));
    if !query.split('&').any(|part| secret(&part)) {
        return Cow::Borrowed(path);
    }
    let mut out = format!("{before}?");
    for (n, part) in query.split('&').enumerate() {
        out.push_str(if n == 0 { "" } else { "&" });
        match part.split_once('=').filter(|_| secret(&part)) {
            Some((name, _)) => out.extend([name, "=", HIDDEN]),
            None => out.push_str(part),
        }
    }
    Cow::Owned(out)
}

/// Remembers what variables held, and takes it out of what is said about a file.
pub(super) struct Veil<'a> {
    variables: &'a dyn Fn(&str) -> Option<String>,
    seen: RefCell<Vec<(String, String)>>,
}

impl<'a> Veil<'a> {
    pub fn new(variables: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variables, seen: RefCell::default() }
    }

    /// A variable's value.
    pub fn look_up(&self, name: &str) -> Option<String> {
        let value = (self.variables)(name)?;
        let mut seen = self.seen.borrow_mut();
        if value.len() >= SHORTEST && seen.iter().all(|(known, _)| known != name) {
            seen.push((name.to_owned(), value.clone()));
        }
        Some(value)
    }

    /// The findings, in which variables are named and not quoted.
    pub fn over(&self, mut findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let mut seen = self.seen.borrow_mut();
        // What is part of another value goes after it.
        seen.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        let veiled = |text: &mut String| {
            for (name, value) in seen.iter().filter(|(_, value)| text.contains(value.as_str())).collect::<Vec<_>>() {
                *text = text.replace(value.as_str(), &format!("${{{name}}}"));
            }
        };
        for finding in &mut findings {
            for text in std::iter::once(&mut finding.message).chain(&mut finding.remedy) {
                veiled(text);
                mask_user(text);
            }
        }
        findings
    }
}

/// The longest line in which secrets are looked for, in bytes. A longer one is no person's, and is shown in part only.
const LONGEST_MASKED: usize = 16 * 1024;

/// A line of a file as it may be shown: as many characters, those of secrets hidden. `before` is what stands above it.
pub(super) fn masked<'l>(before: &str, line: &'l str) -> Cow<'l, str> {
    if line.len() > LONGEST_MASKED {
        return Cow::Borrowed(line);
    }
    let hidden = headers_of_the_collector(before, line);
    if hidden.is_none() && !line.contains(':') {
        return Cow::Borrowed(line);
    }
    let mut text = line.to_owned();
    if let Some((start, end)) = hidden {
        stars(&mut text, start, end);
    }
    mask_user(&mut text);
    mask_values(&mut text);
    Cow::Owned(text)
}

/// Which part of a line holds values of `traces.headers`, which are secret whatever their names are: told by the keys on
/// the line and on the lines that it is indented under.
fn headers_of_the_collector(before: &str, line: &str) -> Option<(usize, usize)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let (mut least, mut above) = (indent(line), Vec::new());
    for upper in before.lines().rev().filter(|l| !l.trim_start().is_empty() && !l.trim_start().starts_with('#')) {
        if least == 0 {
            break;
        }
        if indent(upper) < least {
            (least, _) = (indent(upper), above.push(upper));
        }
    }
    above.reverse();
    let above = above.concat();
    let all = format!("{above}{line}");
    let traces = all.find("traces:")?;
    let from = traces + all.get(traces..)?.find("headers:")? + "headers:".len();
    match from.checked_sub(above.len()).filter(|start| *start > 0) {
        // They begin on this line, and may end on it.
        Some(start) => {
            let rest = line.get(start..)?;
            let mut quote = None;
            let end = rest.trim_start().starts_with('{').then(|| {
                rest.find(|c| {
                    match quote {
                        Some(open) if open == c => quote = None,
                        None if matches!(c, '\'' | '"') => quote = Some(c),
                        _ => {}
                    }
                    quote.is_none() && c == '}'
                })
            });
            Some((start, end.flatten().map_or(line.len(), |end| start + end)))
        }
        None => Some((line.find(": ").map_or(indent(line), |colon| colon + 2), line.len())),
    }
}

/// Hides who is named with his password in a URL, character by character: marks below a line stay where they are.
fn mask_user(text: &mut String) {
    let part = |from: usize, text: &str| {
        let rest = text.get(from..)?;
        let start = from + rest.find("://")? + 3;
        let authority =
            text.get(start..)?.find(|c: char| c == '/' || c.is_whitespace()).map_or(text.len(), |n| start + n);
        Some((start, text.get(start..authority)?.rfind('@').map(|n| start + n), authority))
    };
    let mut from = 0;
    while let Some((start, at, end)) = part(from, text) {
        from = at.map_or(end, |at| stars(text, start, at));
    }
}

/// Hides what follows a secret's name in a line of a file.
fn mask_values(text: &mut String) {
    let mut from = 0;
    while let Some(colon) = text.get(from..).and_then(|rest| rest.find(": ")).map(|n| from + n) {
        let before = text.get(..colon).unwrap_or_default();
        let name =
            before.rsplit(|c: char| c.is_whitespace() || matches!(c, '{' | ',' | '[')).next().unwrap_or_default();
        let end = text.get(colon..).and_then(|rest| rest.find([',', '}'])).map_or(text.len(), |n| colon + n);
        from = if names_a_secret(name) { stars(text, colon + 2, end) } else { colon + 2 };
    }
}

/// Puts stars in the place of a part's characters; gives where the rest begins.
fn stars(text: &mut String, start: usize, end: usize) -> usize {
    let stars = "*".repeat(text.get(start..end).map_or(0, |part| part.chars().count()));
    text.replace_range(start..end, &stars);
    start + stars.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load_str, load_with};

    #[test]
    fn values_of_secret_headers_are_not_shown_and_what_is_shown_loads_again() {
        let config = load_str(
            "routes:\n  - { match: { headers: { Authorization: Bearer abc, x-api-key: abc, x-beta: yes } }, split: { tokens: 90%, b: 10% } }\n\
             clusters: { tokens: { endpoints: [{ address: 127.0.0.1:1, metadata: { db_password: abc, api.key: abc, version: '7' } }], affinity: { cookie: who } }, b: {} }\n\
             mesh: { key: /etc/key, nats: { servers: [nats://n:4222], user: u, password: abc } }",
            "t.yaml",
        )
        .unwrap();
        let shown = config.shown();
        let headers = &shown.routes[0].matches.headers;
        assert_eq!(headers.values().map(String::as_str).collect::<Vec<_>>(), [HIDDEN, HIDDEN, "yes"]);
        let metadata = &shown.clusters["tokens"].endpoints[0].metadata;
        assert_eq!((metadata["db_password"].as_str(), metadata["version"].as_str()), (HIDDEN, "7"));
        assert_eq!(metadata["api.key"], HIDDEN);
        assert_eq!(without_secret_facts(&config.clusters["tokens"].endpoints[0].metadata)["db_password"], HIDDEN);
        assert_eq!(
            (&shown.clusters["tokens"].affinity, &shown.mesh.key),
            (&config.clusters["tokens"].affinity, &config.mesh.key)
        );
        assert!(!format!("{:?}", config.mesh).contains("abc"), "{:?}", config.mesh);
        assert_eq!((&shown.routes[0].split, &shown.model), (&config.routes[0].split, &config.model));
        let text = shown.to_yaml();
        assert!(!text.contains("abc"), "{text}");
        assert_eq!(load_str(&text, "again.yaml").unwrap(), shown);
        let plain = load_str("clusters: { token: {} }\nroutes: [{ cluster: token }]", "t.yaml").unwrap();
        assert_eq!(plain.shown(), plain);
    }

    #[test]
    fn secret_parameters_of_a_query_are_hidden_and_others_are_not() {
        for (path, shown) in [
            ("/a?b=c", "/a?b=c"),
            ("/a?access_token=x&b=c", "/a?access_token=(hidden)&b=c"),
            ("/a?b=c&API-Key=x=y&d", "/a?b=c&API-Key=(hidden)&d"),
            ("/token=1?", "/token=1?"),
            ("/a?token=&token", "/a?token=&token"),
            ("/a?sv=1&sig=x&se=2", "/a?sv=1&sig=(hidden)&se=2"),
            ("/back?code=x&state=y", "/back?code=(hidden)&state=y"),
            ("/a?key=x&monkey=y&JWT=z", "/a?key=(hidden)&monkey=y&JWT=(hidden)"),
        ] {
            assert_eq!(without_secrets(path), shown);
        }
    }

    #[test]
    fn headers_of_the_collector_are_secret_whatever_their_names_are() {
        let yaml = |rest: &str| format!("telemetry:\n  traces:\n    otlp: https://c/v1/traces\n{rest}");
        let config = load_str(&yaml("    headers: { x-team: sesame, x-more: sesame }\n"), "t.yaml").unwrap();
        assert_eq!(config.telemetry.traces.headers["x-team"].reveal(), "sesame");
        assert!(!format!("{config:?}").contains("sesame"));
        let text = config.shown().to_yaml();
        assert!(!text.contains("sesame") && text.contains("x-team"), "{text}");
        assert_eq!(load_str(&text, "again.yaml").unwrap(), config.shown());
        for (wrong, said) in [
            (yaml("    headers: { x-team: sesame, x-more: 'a, sesame' }, sampel: 1%\n"), "headers:*"),
            (yaml("    headers: { x-team: \"sesame\\n\" }\n    sample: 1%\n"), "`x-team`"),
            (yaml("    headers:\n      x-team: [sesame]\n    sample: 1%\n"), "x-team: ********"),
            (yaml("    headers:\n      x-team: |\n        sesame, sesame\n         sesame\n"), "`x-team`"),
            (yaml("    headers:\n      x-team: sesame\n    sampel: 1%\n"), "sampel: 1%"),
            (
                "telemetry: { traces: { headers: { x-team: sesame }, sampel: 1% } }".to_owned(),
                "headers:******************}, sampel: 1%",
            ),
        ] {
            let error = load_str(&wrong, "t.yaml").unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("sesame"), "{error}");
        }
    }

    #[test]
    fn an_error_names_a_variable_and_does_not_quote_it() {
        let variables = |name: &str| match name {
            "KEY" => Some("sesame-open".to_owned()),
            "LONGER" => Some("sesame-open-wide".to_owned()),
            "SHORT" => Some("abc".to_owned()),
            _ => None,
        };
        for (text, said) in [
            ("model: { tick: '${KEY}' }", "`${KEY}` is not a length of time"),
            ("node: { name: x }\nadmin: '${LONGER}'", "`${LONGER}` is neither an IP address"),
            (
                "telemetry: { traces: { otlp: 'http://me:${KEY}@h/v1/traces' } }",
                "`http://*********@h/v1/traces` is not",
            ),
            ("telemetry: { traces: { otlp: 'http://me:sesame@h/v1/traces' } }", "otlp: 'http://*********@h/v1/traces'"),
            (
                "routes: [{ match: { headers: { x-token: sesame, a: b } }, clutser: c }]",
                "x-token: ******, a: b } }, clutser: c",
            ),
            ("model: { tick: '${SHORT}' }", "`abc` is not a length of time"),
        ] {
            let error = load_with(text.as_bytes(), "t.yaml", &variables).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("sesame"), "{error}");
        }
    }
}
