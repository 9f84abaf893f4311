//! What every request gets on top of what it brought: who asked, for whom, over what, and its place in a trace.
//!
//! Kept beside the request's headers and not put among them: towards HTTP/1.1 endpoints it is written behind them,
//! which costs a fifth of what a map asks for.

use super::ids::Ids;
use super::names::{
    HTTP, HTTPS, VIA_10, VIA_11, VIA_20, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO,
    X_REQUEST_ID,
};
use super::propagation::Carried;
use super::seen::Seen;
use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};
use std::cell::RefCell;

/// What requests of one connection get alike, as lines: written again only when they ask for another host.
#[derive(Debug)]
pub(super) struct Usual(RefCell<(HeaderValue, Vec<u8>)>);

impl Default for Usual {
    fn default() -> Self {
        Self(RefCell::new((HeaderValue::from_static(""), Vec::new())))
    }
}

/// The headers that a request gets. Of those that may stand once, the request has none any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added<'a> {
    /// The client's address.
    pub client: &'a HeaderValue,
    /// The authority that it asked for.
    pub host: &'a HeaderValue,
    /// What it said itself.
    pub seen: &'a Seen,
    /// How it said it.
    pub version: Version,
    /// The request's id, where the request does not bring it.
    pub request_id: Option<&'a HeaderValue>,
    pub trace: Carried<'a>,
    /// Who its client has proven to be, as `X-Forwarded-Client-Cert` says it; what the client says of that goes.
    pub client_cert: Option<&'a HeaderValue>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its connection's.
    pub usual: &'a Usual,
}

/// How the headers that are added begin on the wire behind another line.
const FORWARDED_FOR: &[u8] = b"\r\nx-forwarded-for: ";
const FORWARDED_HOST: &[u8] = b"\r\nx-forwarded-host: ";
const FORWARDED_PROTO: &[u8] = b"\r\nx-forwarded-proto: ";
const CLIENT_CERT: &[u8] = b"\r\nx-forwarded-client-cert: ";
pub(super) const BY_WAY_OF: &[u8] = b"\r\nvia: ";
pub(super) const REQUEST_ID: &[u8] = b"\r\nx-request-id: ";

impl Added<'_> {
    /// Writes them as lines that begin with the end of the line before, and says where its trace begins among them.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> usize {
        let Seen { forwarded_for, forwarded_host, forwarded_proto, .. } = *self.seen;
        if forwarded_for || forwarded_host || forwarded_proto || self.version == Version::HTTP_10 {
            self.write_from_here(out);
        } else {
            let mut usual = self.usual.0.borrow_mut();
            let (host, lines) = &mut *usual;
            if *host != *self.host || lines.is_empty() {
                host.clone_from(self.host);
                lines.clear();
                self.write_from_here(lines);
            }
            out.extend_from_slice(lines);
        }
        let mut line = |begin, value: &[u8]| {
            out.extend_from_slice(begin);
            out.extend_from_slice(value);
        };
        if let Some(id) = self.request_id {
            line(REQUEST_ID, id.as_bytes());
        }
        let trace = out.len();
        self.trace.write(out);
        trace
    }

    /// Writes who asked, for whom, and over what.
    fn write_from_here(&self, out: &mut Vec<u8>) {
        let mut line = |begin, value: &[u8]| {
            out.extend_from_slice(begin);
            out.extend_from_slice(value);
        };
        if !self.seen.forwarded_for {
            line(FORWARDED_FOR, self.client.as_bytes());
        }
        if !self.seen.forwarded_host {
            line(FORWARDED_HOST, self.host.as_bytes());
        }
        if !self.seen.forwarded_proto {
            line(FORWARDED_PROTO, self.proto().as_bytes());
        }
        if let Some(client_cert) = self.client_cert {
            line(CLIENT_CERT, client_cert.as_bytes());
        }
        line(BY_WAY_OF, via(self.version).as_bytes());
    }

    fn proto(&self) -> HeaderValue {
        if self.secure { HTTPS } else { HTTP }
    }

    /// Puts them among the others.
    pub(super) fn insert(&self, headers: &mut HeaderMap, ids: &mut Ids) {
        if !self.seen.forwarded_for {
            headers.append(X_FORWARDED_FOR, self.client.clone());
        }
        if !self.seen.forwarded_host {
            headers.append(X_FORWARDED_HOST, self.host.clone());
        }
        if !self.seen.forwarded_proto {
            headers.append(X_FORWARDED_PROTO, self.proto());
        }
        if let Some(client_cert) = self.client_cert {
            headers.append(X_FORWARDED_CLIENT_CERT, client_cert.clone());
        }
        headers.append(VIA, via(self.version));
        match self.request_id {
            Some(id) => drop(headers.append(X_REQUEST_ID, id.clone())),
            None => {
                if let Some(given) = headers.get_mut(X_REQUEST_ID) {
                    given.set_sensitive(true);
                }
            }
        }
        self.trace.insert(headers, ids);
    }
}

/// How a message came here.
pub(super) fn via(received: Version) -> HeaderValue {
    match received {
        Version::HTTP_2 => VIA_20,
        Version::HTTP_10 => VIA_10,
        _ => VIA_11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_written_as_is_put_among_others() {
        let client = HeaderValue::from_static("10.0.0.1");
        let id = HeaderValue::from_static("id-1");
        let cert = HeaderValue::from_static("URI=spiffe://mesh/a");
        for (usual, secure) in [(Usual::default(), false), (Usual::default(), true)] {
            for (said, host) in [(false, "shop"), (true, "shop"), (false, "shop"), (false, "other"), (false, "shop")] {
                let host = HeaderValue::from_static(host);
                let seen = Seen { forwarded_for: said, forwarded_host: said, forwarded_proto: said, ..Seen::default() };
                let added = Added {
                    client: &client,
                    host: &host,
                    seen: &seen,
                    version: Version::HTTP_2,
                    request_id: Some(&id).filter(|_| !said),
                    trace: Carried::w3c(b"00-1"),
                    client_cert: Some(&cert).filter(|_| secure),
                    secure,
                    usual: &usual,
                };
                let (mut out, mut headers) = (Vec::new(), HeaderMap::new());
                added.write(&mut out);
                added.insert(&mut headers, &mut Ids::default());
                let mut lines = Vec::new();
                for (name, value) in &headers {
                    lines.extend_from_slice(format!("\r\n{name}: {}", value.to_str().unwrap()).as_bytes());
                }
                assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(lines).unwrap());
                assert_eq!(headers.len(), if said { 2 } else { 6 } + usize::from(secure));
                let proto = headers.get(X_FORWARDED_PROTO).map(|v| v.to_str().unwrap());
                assert_eq!(proto, if said { None } else { Some(if secure { "https" } else { "http" }) });
            }
        }
    }
}
