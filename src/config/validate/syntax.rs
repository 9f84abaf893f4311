//! The forms of single values: hosts, paths, header names, methods, names, URLs, log filters.

use crate::config::suggest::nearest;
use crate::config::{BadPattern, MAX_PATTERN, Otlp, Pattern};
use std::net::{IpAddr, Ipv6Addr};

/// How long a name may be: what DNS allows, which is where names come from and go to.
pub const MAX_NAME: usize = 253;
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Why a value does not have its form.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub remedy: String,
}

fn wrong<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { message: message.into(), remedy: remedy.into() })
}

/// The name of a cluster, a workload or a service.
pub fn name(text: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() > MAX_NAME {
        return wrong(format!("a name of {} characters is too long", text.len()), format!("use at most {MAX_NAME}"));
    }
    if text.starts_with(plain) && text.chars().all(|c| plain(c) || "-_.".contains(c)) {
        return Ok(());
    }
    let meant: String =
        text.to_ascii_lowercase().chars().map(|c| if plain(c) || "-_.".contains(c) { c } else { '-' }).collect();
    let meant = meant.trim_start_matches(['-', '_', '.']);
    let hint = if meant.is_empty() { String::new() } else { format!(", such as `{meant}`") };
    wrong(
        format!("`{text}` is not a name that can stand here"),
        format!("begin with a small letter or a digit, and go on with small letters, digits, `-`, `_` and `.`{hint}"),
    )
}

/// A free text that is shown and exported: no control characters, and no more than `most` bytes.
pub fn text(text: &str, most: usize) -> Result<(), Wrong> {
    if text.len() > most {
        return wrong(format!("{} bytes are too many", text.len()), format!("use at most {most}"));
    }
    if text.chars().any(char::is_control) {
        return wrong("a control character cannot stand here", "remove it, line ends included");
    }
    Ok(())
}

/// A route's host: `catalog.shop`, `*.shop`, `10.1.2.3` or `[::1]`.
pub fn host(text: &str) -> Result<(), Wrong> {
    let remedy = "write it as `catalog.shop`, or `*.shop` for every host that ends so";
    if text.is_empty() {
        return wrong("the host is empty", "name a host, or remove the key to match every host");
    }
    if text == "*" {
        return wrong("`*` alone is not a host", "remove the key to match every host");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return wrong(
            format!("`{scheme}://` is not part of a host"),
            format!("write `{}`", rest.split('/').next().unwrap_or(rest)),
        );
    }
    if let Some(inside) = text.strip_prefix('[') {
        return match inside.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(_)) => Ok(()),
            _ => wrong(format!("`{text}` is not an IPv6 address"), "write it as `[::1]`, without a port"),
        };
    }
    if let Ok(IpAddr::V6(address)) = text.parse() {
        return wrong("an IPv6 address as a host stands in brackets", format!("write `[{address}]`"));
    }
    if let Some((before, port)) = text.split_once(':') {
        return match port.bytes().all(|b| b.is_ascii_digit()) {
            true => wrong("a host is matched without its port", format!("write `{before}`")),
            false => wrong(format!("`{text}` is not a host"), remedy),
        };
    }
    if let Some(without) = text.strip_suffix('.').filter(|without| host(without).is_ok()) {
        return wrong("a host is matched without a dot at its end", format!("write `{without}`"));
    }
    let labels = text.strip_prefix("*.").unwrap_or(text);
    if labels.contains('*') {
        return wrong(format!("`{text}` has its `*` where none can stand"), remedy);
    }
    if labels.len() > MAX_NAME {
        return wrong("the host is too long", format!("use at most {MAX_NAME} characters"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if labels.split('.').all(label) { Ok(()) } else { wrong(format!("`{text}` is not a host"), remedy) }
}

/// A host with or without a port, to which requests or clients are sent: `other.shop`, `other.shop:8080`, `[::1]:80`.
pub fn authority(text: &str) -> Result<(), Wrong> {
    if text.starts_with('*') {
        return wrong(format!("`{text}` stands for many hosts"), "name one, as `other.shop`");
    }
    let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    match text.rsplit_once(':') {
        Some((name, digits)) if !digits.contains(']') && !name.contains("://") && port(digits) => host(name),
        _ => host(text),
    }
}

/// A DNS name that is asked for (RFC 1035, section 2.3.4), its labels with letters, digits, `-` and `_`.
pub fn dns_name(text: &str) -> Result<(), Wrong> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return wrong(format!("`{text}` is an address, and nothing is to be looked up"), "list it under `endpoints`");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
    if text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label) {
        return Ok(());
    }
    wrong(format!("`{text}` is not a DNS name"), "write one such as `catalog.shop` or `_http._tcp.catalog.shop`")
}

/// A namespace of Kubernetes, or a Service in it: a DNS label (RFC 1123).
pub fn kubernetes_name(text: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(plain) {
        return Ok(());
    }
    wrong(format!("`{text}` is not a name in Kubernetes"), "use small letters, digits and `-`, such as `shop`")
}

/// A Kubernetes service, with or without its namespace.
pub fn kubernetes_service(text: &str) -> Result<(), Wrong> {
    let mut parts = text.split('/');
    if parts.clone().count() <= 2 && parts.all(|part| kubernetes_name(part).is_ok()) {
        return Ok(());
    }
    wrong(format!("`{text}` is not a Kubernetes service"), "write `namespace/service`, such as `shop/catalog`")
}

/// A path that a client is sent to, with or without a query.
pub fn target(text: &str) -> Result<(), Wrong> {
    let (before, query) = text.split_once('?').unwrap_or((text, ""));
    if text.starts_with("//") || text.starts_with("/\\") {
        return wrong(
            format!("`{text}` would be read as a host"),
            "name the host with `host`, and begin the path with one `/`",
        );
    }
    if !query.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return wrong("a query holds only visible ASCII characters", "write others percent-encoded: `%20` for a space");
    }
    path(before)
}

/// A route's path or prefix of a path.
pub fn path(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return wrong(format!("the path `{text}` does not begin with `/`"), format!("write `/{text}`"));
    }
    if let Some(end) = text.find(['?', '#']) {
        let before = text.get(..end).unwrap_or_default();
        return wrong("a path is matched without its query", format!("write `{before}`"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("a path holds only visible ASCII characters", "write others percent-encoded: `%20` for a space");
    }
    Ok(())
}

/// A regular expression.
pub fn pattern(text: &str) -> Result<(), Wrong> {
    match Pattern::new(text) {
        Ok(_) => Ok(()),
        Err(BadPattern::Empty) => wrong("the regular expression is empty", "write one, or remove the key"),
        Err(BadPattern::TooLong(bytes)) => {
            let message = format!("a regular expression of {bytes} bytes is too long");
            wrong(message, format!("use at most {MAX_PATTERN}"))
        }
        Err(BadPattern::TooLarge) => {
            let message = format!("the regular expression `{text}` is too large once it is compiled");
            wrong(message, "repeat less: `+` in place of `{1,1000}`")
        }
        Err(BadPattern::Unreadable(why)) => {
            let remedy = "write it as for Rust's `regex` or RE2: no look-around, no references back, ASCII classes";
            wrong(format!("`{text}` is not a regular expression: {why}"), remedy)
        }
    }
}

/// A path, as an endpoint can be asked for it.
pub fn path_to_be(text: &str) -> Result<(), Wrong> {
    path(text)?;
    match http::uri::PathAndQuery::try_from(text) {
        Ok(_) => Ok(()),
        Err(_) => wrong(format!("`{text}` holds a character that no request's path holds"), "write it percent-encoded"),
    }
}

/// A token as in RFC 9110, section 5.6.2.
fn token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A header's name.
pub fn header_name(text: &str) -> Result<(), Wrong> {
    if token(text) {
        return Ok(());
    }
    if text.starts_with(':') {
        return wrong(
            format!("`{text}` is not a header that can be matched"),
            "match the method with `method`, the host with `host`, the path with `path`",
        );
    }
    wrong(format!("`{text}` is not the name of a header"), "use letters, digits and `-`, as in `x-beta`")
}

/// A header's exact value, as it can arrive (RFC 9110, section 5.5).
pub fn header_value(text: &str) -> Result<(), Wrong> {
    if text.trim_matches([' ', '\t']) != text {
        return wrong(
            "a header's value never arrives with white space around it, so this matches nothing",
            "remove the white space",
        );
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return wrong(
            "a header's value holds no control characters, so this matches nothing",
            "remove them, line ends included",
        );
    }
    Ok(())
}

/// A header's value, as it can be sent.
pub fn header_to_be(text: &str) -> Result<(), Wrong> {
    if text.trim_matches([' ', '\t']) != text {
        return wrong("white space around a header's value does not arrive", "remove the white space");
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return wrong("a header's value holds no control characters", "remove them, line ends included");
    }
    Ok(())
}

/// A cookie's name (RFC 6265, section 4.1.1).
pub fn cookie_name(text: &str) -> Result<(), Wrong> {
    if token(text) {
        return Ok(());
    }
    wrong(format!("`{text}` is not the name of a cookie"), "use letters, digits, `-` and `_`, as in `session`")
}

/// A cookie's exact value, as it can arrive.
pub fn cookie_value(text: &str) -> Result<(), Wrong> {
    if text.bytes().all(|b| b.is_ascii_graphic() && b != b';') {
        return Ok(());
    }
    wrong(
        "a cookie's value holds neither white space nor `;` nor anything but ASCII, so this matches nothing",
        "write it as the browser sends it",
    )
}

/// A method. `Ok(Some(_))` is a warning: it could arrive, and probably never will.
pub fn method(text: &str) -> Result<Option<Wrong>, Wrong> {
    if METHODS.contains(&text) {
        return Ok(None);
    }
    let upper = text.to_ascii_uppercase();
    if METHODS.contains(&upper.as_str()) {
        return wrong(
            format!("methods are told apart by case, and `{text}` is none that arrives"),
            format!("write `{upper}`"),
        );
    }
    if !token(text) {
        return wrong(format!("`{text}` is not a method"), "write one such as `GET` or `POST`");
    }
    let remedy = match nearest(text, METHODS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "leave it if your clients do send it".to_owned(),
    };
    Ok(Some(Wrong { message: format!("`{text}` is not one of HTTP's common methods"), remedy }))
}

/// The host of an authority, without brackets.
pub fn without_port(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// The URL of an OTLP collector. `Ok(Some(_))` is a warning.
pub fn otlp(text: &str, protocol: Otlp) -> Result<Option<Wrong>, Wrong> {
    let remedy = match protocol {
        Otlp::Http => "write it as `http://127.0.0.1:4318/v1/traces`, or leave it empty to export nothing",
        Otlp::Grpc => "write it as `http://127.0.0.1:4317`, or leave it empty to export nothing",
    };
    let malformed = |why: &str| wrong(format!("`{text}` is not a collector's URL: {why}"), remedy);
    let Some((scheme, rest)) = text.split_once("://") else {
        return malformed("it has no `http://`");
    };
    if scheme != "http" && scheme != "https" {
        return malformed("only `http` and `https` are spoken");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return malformed("it holds characters that no URL holds");
    }
    let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    if authority.contains('@') {
        return malformed("a user and a password do not belong into it");
    }
    let (name, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    if name.starts_with('*') || host(name).is_err() {
        return malformed("its host cannot be read");
    }
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return malformed("its port is not a number from 1 to 65535"),
    };
    if protocol == Otlp::Grpc {
        if port == Some(4318) {
            let message = "4318 is by custom the port of OTLP over HTTP, and OTLP over gRPC is spoken here".to_owned();
            return Ok(Some(Wrong { message, remedy: format!("write `{scheme}://{name}:4317`") }));
        }
        if !path.trim_end_matches('/').is_empty() {
            let message = "gRPC has a path of its own, and this one is not used".to_owned();
            return Ok(Some(Wrong { message, remedy: format!("write `{scheme}://{authority}`") }));
        }
        return Ok(None);
    }
    if port == Some(4317) {
        let message = "4317 is by custom the port of OTLP over gRPC, and OTLP over HTTP is spoken here".to_owned();
        let remedy = format!("write `protocol: grpc` beside it, or `{scheme}://{name}:4318/v1/traces`");
        return Ok(Some(Wrong { message, remedy }));
    }
    if path.trim_end_matches('/').is_empty() {
        let remedy = format!("write `{scheme}://{authority}/v1/traces`");
        return Ok(Some(Wrong { message: "the URL has no path, and is used as it stands".to_owned(), remedy }));
    }
    Ok(None)
}

/// The log's filter: a level, or `target=level` in a row.
pub fn log_filter(text: &str) -> Result<(), Wrong> {
    let remedy = "write `info`, or a filter such as `pathloom=debug,info`";
    if text.trim().is_empty() {
        return wrong("the log's filter is empty", "write `info`, or `off` for no log at all");
    }
    for part in text.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        let known = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        // A lone word that is no level would name a target, and silence everything else.
        if !known && level.chars().all(|c| c.is_ascii_alphanumeric()) {
            let remedy =
                nearest(level, LEVELS).map_or_else(|| remedy.to_owned(), |near| format!("did you mean `{near}`?"));
            return wrong(format!("`{level}` is not a log level"), remedy);
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("`{text}` is not a log filter: {error}"), remedy),
    }
}

/// Whether nobody reads a path as another one: no parts that are empty or dots (`;` and what follows it is no part of a
/// name), no backslashes, and none of these percent-encoded. Servers differ in what they make of those, so a rule
/// about paths says nothing of them.
#[must_use]
pub fn plain_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let bytes = rest.as_bytes();
    let hidden = |i: usize| {
        let digits = bytes.get(i + 1..i + 3).unwrap_or_default();
        [b"2e", b"2f", b"5c", b"00"].iter().any(|code| digits.eq_ignore_ascii_case(*code))
    };
    if bytes.iter().enumerate().any(|(i, b)| *b == b'\\' || (*b == b'%' && hidden(i))) {
        return false;
    }
    let mut parts = rest.split('/').peekable();
    while let Some(part) = parts.next() {
        let name = part.split(';').next().unwrap_or_default();
        let last = parts.peek().is_none();
        if matches!(name, "." | "..") || (part.is_empty() && !last) {
            return false;
        }
    }
    true
}
