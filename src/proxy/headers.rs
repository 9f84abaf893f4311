//! What a proxy must do to headers (RFC 9110, sections 7.6 to 7.8; RFC 9112; RFC 9113, section 8).
//!
//! One pass over the map notes which of the interesting headers are there (`seen`), so that the others cost nothing;
//! the map is then edited in place.
//!
//! - Headers of one hop go: `Connection` and what it names, `Keep-Alive`, `Proxy-Connection`, `TE` but for `trailers`,
//!   `Transfer-Encoding`, `Upgrade` unless it is passed on. `Connection` may not name what the request means
//!   (`PROTECTED`): a caller must not be able to strip what this proxy or an endpoint relies on.
//! - Lengths must agree, and no request may have both a length and a transfer coding: it would desynchronise an HTTP/1.1
//!   connection to an endpoint. HTTP/1.1 clients' lengths are checked where their heads are read (`server1`), too.
//! - Requests get `X-Forwarded-For`, `-Proto`, `-Host` and `Via` (`added`); responses get `Via`.
//!
//! `Host` reaches the endpoint as the client sent it. `Forwarded` (RFC 7239) is left alone.

use super::added::via;
use super::failure::Failure;
use super::names::*;
use super::seen::Seen;
use crate::config::Protocol;
use crate::observe::Reason;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request, response};
use std::cell::RefCell;

/// A request that names this proxy so often in `Via` goes round in circles; so does a connection that says so.
pub(super) const MAX_HOPS: usize = 16;

/// What `Connection` may not name.
const PROTECTED: [&str; 20] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
    "cookie",
    "via",
    "traceparent",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-pathloom-class",
    "x-pathloom-depth",
];

/// What a request is for: the authority that the client asked for.
///
/// HTTP/1.1 needs exactly one `Host`, beside an absolute-form target, too, which overrides it. HTTP/2's `:authority` must agree with a
/// `Host` beside it. Without any (HTTP/1.0), the listener's own name stands in.
///
/// `line` is the value of `Host`, where that is not among the headers. `known` is what the connection's request before asked for, which is most often the same: it is neither looked at nor
/// copied again then.
pub(super) fn authority(
    parts: &request::Parts,
    seen: &Seen,
    line: Option<&[u8]>,
    listener: &HeaderValue,
    known: &RefCell<HeaderValue>,
) -> Result<HeaderValue, Failure> {
    if parts.method == Method::CONNECT {
        return Err(Failure::bad_request("CONNECT is not served here.").with_status(StatusCode::NOT_IMPLEMENTED));
    }
    if seen.hosts > 1 {
        return Err(Failure::bad_request("The request has more than one Host."));
    }
    let path = parts.uri.path();
    if !(path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS) {
        return Err(Failure::bad_request("The request's target is none that a proxy can serve."));
    }
    let header = match line {
        None if seen.hosts > 0 => parts.headers.get(HOST).map(HeaderValue::as_bytes),
        line => line,
    };
    let host = match (parts.uri.authority(), header) {
        (Some(target), Some(host)) if parts.version == Version::HTTP_2 => {
            if !target.as_str().as_bytes().eq_ignore_ascii_case(host) {
                return Err(Failure::bad_request("Host and :authority differ."));
            }
            host
        }
        // Who needs no `Host` to say where it goes must send one all the same (RFC 9112, section 3.2).
        (Some(_), None) if parts.version == Version::HTTP_11 => {
            return Err(Failure::bad_request("The request has no Host."));
        }
        (Some(target), _) => {
            if parts.uri.scheme().is_none_or(|s| *s != Scheme::HTTP && *s != Scheme::HTTPS) {
                return Err(Failure::bad_request("The target's scheme is neither http nor https."));
            }
            target.as_str().as_bytes()
        }
        (None, Some(host)) => host,
        (None, None) if parts.version == Version::HTTP_10 => listener.as_bytes(),
        (None, None) => return Err(Failure::bad_request("The request has no Host.")),
    };
    let mut known = known.borrow_mut();
    if known.as_bytes() != host {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(b);
        let value = HeaderValue::from_bytes(host).ok().filter(|_| host.iter().all(allowed));
        *known = value.ok_or(Failure::bad_request("The Host is malformed."))?;
    }
    Ok(known.clone())
}

/// Whether a request's lengths are what can be passed on; `empty` says that it has no body.
pub(super) fn check_lengths(headers: &mut HeaderMap, seen: &Seen, empty: bool) -> Result<(), Failure> {
    if seen.codings > 0 {
        let plain = headers.get(TRANSFER_ENCODING).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if seen.codings > 1 || !plain {
            return Err(Failure::bad_request(
                "The request's transfer coding is none but chunked that a proxy can pass on.",
            )
            .with_status(StatusCode::NOT_IMPLEMENTED));
        }
        if seen.lengths > 0 {
            return Err(Failure::bad_request("The request has both Transfer-Encoding and Content-Length."));
        }
    }
    if seen.lengths > 0 {
        let length =
            one_length(headers, seen.lengths).ok_or(Failure::bad_request("The request's lengths conflict."))?;
        if empty && length != 0 {
            return Err(Failure::bad_request("The request has a length but no body."));
        }
    }
    Ok(())
}

/// A number that is written in digits alone.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|d| *d < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The one length that all `Content-Length` headers agree on, which is then the only one in the map.
pub(super) fn one_length(headers: &mut HeaderMap, count: u32) -> Option<u64> {
    let first = headers.get(CONTENT_LENGTH)?;
    if let Some(length) = digits(first.as_bytes()).filter(|_| count == 1) {
        return Some(length);
    }
    let mut all = headers.get_all(CONTENT_LENGTH).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let length = digits(all.next()?.trim_ascii())?;
    if !all.all(|v| digits(v.trim_ascii()) == Some(length)) {
        return None;
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Some(length)
}

/// The members of a list, however many lines it has.
pub(super) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).iter().flat_map(|v| v.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

/// Removes headers of one hop. `Connection`'s own options are returned: whether it asks to upgrade.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, seen: &Seen) -> bool {
    let mut upgrade = false;
    if seen.connection {
        let mut named: Vec<HeaderName> = Vec::new();
        for option in headers.get_all(CONNECTION).iter().flat_map(|v| v.as_bytes().split(|b| *b == b',')) {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"upgrade") {
                upgrade = true;
            } else if !option.eq_ignore_ascii_case(b"close")
                && !option.eq_ignore_ascii_case(b"keep-alive")
                && let Ok(name) = HeaderName::from_bytes(option)
                && !PROTECTED.contains(&name.as_str())
                && name != TE
            {
                named.push(name);
            }
        }
        headers.remove(CONNECTION);
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    if seen.hop {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
        headers.remove(HTTP2_SETTINGS);
    }
    upgrade
}

/// How a request arrived.
pub(super) struct Hop<'a> {
    /// The client's address.
    pub client: &'a HeaderValue,
    /// The authority that it asked for.
    pub host: &'a HeaderValue,
    /// Whether it has no body.
    pub empty: bool,
    /// Whether it goes on over TLS.
    pub secure: bool,
}

/// What a request asks of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asks {
    /// To switch to another protocol.
    pub upgrade: bool,
    /// To be told before its body is sent.
    pub expect: bool,
}

/// Makes a request fit for the endpoint, but for what it gets on top (`Added`).
pub(super) fn to_upstream(
    parts: &mut request::Parts,
    seen: &Seen,
    protocol: Protocol,
    hop: &Hop<'_>,
) -> Result<Asks, Failure> {
    let from = parts.version;
    let headers = &mut parts.headers;
    if seen.via && members(headers, &VIA).filter(|v| v.ends_with(b" pathloom")).count() >= MAX_HOPS {
        return Err(Reason::Loop.into());
    }
    let wants_upgrade = remove_hop_by_hop(headers, seen);
    let mut asks = Asks::default();
    if seen.upgrade {
        let h2c = members(headers, &UPGRADE).any(|v| v.eq_ignore_ascii_case(b"h2c"));
        asks.upgrade = wants_upgrade && !h2c && from == Version::HTTP_11 && protocol == Protocol::Http1;
        if asks.upgrade {
            headers.insert(CONNECTION, UPGRADE_OPTION);
        } else {
            headers.remove(UPGRADE);
        }
    }
    if seen.te {
        let trailers = members(headers, &TE).any(|o| o.eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, TRAILERS);
            // RFC 9110, section 10.1.4: `Connection` names it, so that nobody passes it on unseen.
            if protocol == Protocol::Http1 {
                headers.append(CONNECTION, TE_OPTION);
            }
        } else {
            headers.remove(TE);
        }
    }
    if seen.expect {
        let known = headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        // HTTP/2 endpoints are not waited for: they are sent the body at once.
        asks.expect = known && !hop.empty && from == Version::HTTP_11 && protocol == Protocol::Http1;
        if known && !asks.expect {
            headers.remove(EXPECT);
        }
    }
    if seen.cookies > 1 && protocol == Protocol::Http1 && from == Version::HTTP_2 {
        join(headers, &COOKIE, b"; ");
    }
    framing(headers, &parts.method, seen, protocol, hop.empty);
    if seen.forwarded_for {
        headers.append(X_FORWARDED_FOR, hop.client.clone());
        join(headers, &X_FORWARDED_FOR, b", ");
    }
    if seen.client_cert {
        // Nobody but the proxy that checked a certificate says whose it was.
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    target(parts, seen, protocol, hop)?;
    Ok(asks)
}

fn framing(headers: &mut HeaderMap, method: &Method, seen: &Seen, protocol: Protocol, empty: bool) {
    match protocol {
        Protocol::Http2 if seen.codings > 0 => drop(headers.remove(TRANSFER_ENCODING)),
        Protocol::Http2 => {}
        // Said explicitly: `client1` frames the body by it.
        Protocol::Http1 if !empty && seen.lengths == 0 => drop(headers.insert(TRANSFER_ENCODING, CHUNKED)),
        Protocol::Http1 if empty && seen.lengths == 0 => {
            headers.remove(TRANSFER_ENCODING);
            if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
                headers.insert(CONTENT_LENGTH, ZERO);
            }
        }
        Protocol::Http1 | Protocol::Tcp => {}
    }
}

/// Makes one value of all that a name has.
fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &[u8]) {
    let mut joined = BytesMut::new();
    for value in headers.get_all(name) {
        if !joined.is_empty() {
            joined.put_slice(separator);
        }
        joined.put_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(name, value);
    }
}

/// The target in the form that the endpoint's protocol wants, and the authority where it belongs.
fn target(parts: &mut request::Parts, seen: &Seen, protocol: Protocol, hop: &Hop<'_>) -> Result<(), Failure> {
    let Hop { host, secure, .. } = *hop;
    let malformed = || Failure::bad_request("The request's target is malformed.");
    match protocol {
        Protocol::Http1 | Protocol::Tcp => {
            if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
                let path = std::mem::take(&mut parts.uri).into_parts().path_and_query.ok_or_else(malformed)?;
                parts.uri = Uri::from(path);
                parts.headers.insert(HOST, host.clone());
            } else if parts.version == Version::HTTP_10 || parts.version == Version::HTTP_2 {
                parts.headers.insert(HOST, host.clone());
            }
            parts.version = Version::HTTP_11;
        }
        Protocol::Http2 => {
            if seen.hosts > 0 {
                parts.headers.remove(HOST);
            }
            parts.version = Version::HTTP_2;
            let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
            let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
            if authority == Some(host.as_bytes()) && parts.uri.scheme() == Some(&scheme) {
                return Ok(());
            }
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.scheme = Some(scheme);
            uri.authority =
                Some(Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).map_err(|_| malformed())?);
            parts.uri = Uri::from_parts(uri).map_err(|_| malformed())?;
        }
    }
    Ok(())
}

/// What the request was that a response answers.
pub(super) struct Answered<'a> {
    pub method: &'a Method,
    pub upgrade: bool,
    /// Whether the response has no body.
    pub empty: bool,
    /// Whether what it gets on top is written behind its headers, and not put among them.
    pub lines: bool,
}

/// Makes a response fit for the client. `Err` when it is none that can be passed on.
pub(super) fn to_downstream(parts: &mut response::Parts, seen: &Seen, answered: &Answered<'_>) -> Result<(), Failure> {
    let from = parts.version;
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers, seen);
    if seen.te {
        headers.remove(TE);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if !answered.upgrade || !seen.upgrade {
            return Err(Reason::UpgradeFailed.into());
        }
        headers.insert(CONNECTION, UPGRADE_OPTION);
    } else if seen.upgrade {
        headers.remove(UPGRADE);
    }
    if seen.codings > 0 {
        let plain = headers.get(TRANSFER_ENCODING).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
        // A length beside the coding ought to be handled as an error (RFC 9112, section 6.3).
        if seen.codings > 1 || !plain || seen.lengths > 0 {
            return Err(Reason::UpstreamProtocol.into());
        }
        headers.remove(TRANSFER_ENCODING);
    } else if seen.lengths > 0 {
        let length = one_length(headers, seen.lengths).ok_or(Reason::UpstreamProtocol)?;
        let bodiless = *answered.method == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED;
        if parts.status == StatusCode::NO_CONTENT || parts.status.is_informational() {
            headers.remove(CONTENT_LENGTH);
        } else if answered.empty && length != 0 && !bodiless {
            return Err(Reason::ResponseIncomplete.into());
        }
    }
    if !answered.lines {
        headers.append(VIA, via(from));
    }
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Makes an informational answer fit for the client.
pub(super) fn informational(headers: &mut HeaderMap, seen: &Seen) {
    remove_hop_by_hop(headers, seen);
    for name in [&TE, &UPGRADE, &TRANSFER_ENCODING, &CONTENT_LENGTH] {
        headers.remove(name);
    }
}

/// Removes from trailers what may not stand there (RFC 9110, section 6.5.1): framing, routing, one-hop headers.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &TRANSFER_ENCODING,
        &UPGRADE,
        &TE,
        &CONTENT_LENGTH,
        &HOST,
        &CONTENT_TYPE,
        &X_FORWARDED_CLIENT_CERT,
    ] {
        trailers.remove(name);
    }
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
