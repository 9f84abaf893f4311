//! Writes header blocks (RFC 7541, section 6). What is done with a field: `known`.

use super::known::{Known, Values};
use super::number::put_number;
use super::table::DEFAULT_SIZE;
use http::uri::Scheme;
use http::{HeaderMap, Method, StatusCode, request};

/// The static table's numbers.
const AUTHORITY: u8 = 1;
const METHOD: u8 = 2;
const GET: u8 = 0x80 | 2;
const POST: u8 = 0x80 | 3;
const PATH: u8 = 4;
const SLASH: u8 = 0x80 | 4;
const SCHEME: u8 = 6;
const HTTP: u8 = 0x80 | 6;
const HTTPS: u8 = 0x80 | 7;
const STATUS: u8 = 8;

/// What was said to a peer, so that it need not be said again.
#[derive(Debug)]
pub(in crate::proxy) struct Deflate {
    known: Known,
    /// How large the table is from the next block on, and the least that it was to be since the last one, in bytes.
    resized: Option<(usize, usize)>,
    methods: Values,
    schemes: Values,
    paths: Values,
    authorities: Values,
    statuses: Values,
}

impl Default for Deflate {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflate {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            known: Known::new(),
            resized: None,
            methods: Values::pseudo(METHOD),
            schemes: Values::pseudo(SCHEME),
            paths: Values::pseudo(PATH),
            authorities: Values::pseudo(AUTHORITY),
            statuses: Values::pseudo(STATUS),
        }
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`, in bytes: the next block says what is taken of it.
    pub(in crate::proxy) fn set_peer_limit(&mut self, size: u32) {
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(DEFAULT_SIZE);
        self.resized = match self.resized {
            Some((_, least)) => Some((size, least.min(size))),
            None if size == self.known.order.max() => None,
            None => Some((size, size)),
        };
    }

    /// Appends a request's block. Of fields that HTTP/2 has not nothing is written.
    pub(in crate::proxy) fn request(&mut self, out: &mut Vec<u8>, parts: &request::Parts) {
        self.begin(out);
        let known = &mut self.known.order;
        match parts.method {
            Method::GET => out.push(GET),
            Method::POST => out.push(POST),
            ref other => known.put(out, &mut self.methods, ":method", other.as_str().as_bytes(), false),
        }
        if parts.method != Method::CONNECT {
            match parts.uri.scheme() {
                Some(scheme) if *scheme == Scheme::HTTPS => out.push(HTTPS),
                Some(scheme) if *scheme != Scheme::HTTP => {
                    known.put(out, &mut self.schemes, ":scheme", scheme.as_str().as_bytes(), false);
                }
                _ => out.push(HTTP),
            }
            match parts.uri.path_and_query().map_or("/", |path| path.as_str()) {
                "/" => out.push(SLASH),
                path => known.put(out, &mut self.paths, ":path", path.as_bytes(), false),
            }
        }
        if let Some(authority) = parts.uri.authority() {
            known.put(out, &mut self.authorities, ":authority", authority.as_str().as_bytes(), false);
        }
        self.headers(out, &parts.headers);
    }

    /// Appends a response's block, an informational one's too.
    pub(in crate::proxy) fn response(&mut self, out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
        self.begin(out);
        match status.as_u16() {
            200 => out.push(0x80 | 8),
            204 => out.push(0x80 | 9),
            206 => out.push(0x80 | 10),
            304 => out.push(0x80 | 11),
            400 => out.push(0x80 | 12),
            404 => out.push(0x80 | 13),
            500 => out.push(0x80 | 14),
            _ => self.known.order.put(out, &mut self.statuses, ":status", status.as_str().as_bytes(), false),
        }
        self.headers(out, headers);
    }

    /// Appends the block of trailers.
    pub(in crate::proxy) fn trailers(&mut self, out: &mut Vec<u8>, headers: &HeaderMap) {
        self.begin(out);
        self.headers(out, headers);
    }

    /// Says how large the table is, where that changed: the least that it was to be, then what it is (RFC 7541,
    /// section 4.2).
    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((size, least)) = self.resized.take() {
            if least < size {
                self.known.order.resize(least);
                put_number(out, 0x20, 5, least);
            }
            self.known.order.resize(size);
            put_number(out, 0x20, 5, size);
        }
    }

    fn headers(&mut self, out: &mut Vec<u8>, headers: &HeaderMap) {
        self.known.headers(out, headers);
    }
}
