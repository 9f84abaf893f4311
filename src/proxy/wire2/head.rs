//! What a message's fields make together (RFC 9113, section 8.3; section 6.5.2 for their size).
//!
//! Pseudo-headers come first, each once: a request's are its method, scheme, path and authority; a response's its status
//! alone; trailers have none. A message beyond the limit of its size keeps nothing more, and is not looked at further.

use super::super::seen::Seen;
use super::super::wire1::Scratch;
use super::Code;
use super::again::{Made, is_header};
use super::field::Field;
use super::inflate::Refused;
use super::table::Entry;
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http::{request, response};

const MALFORMED: Refused = Refused::Stream(Code::PROTOCOL_ERROR);

/// A message as its fields come.
#[derive(Debug)]
pub(super) struct Head {
    pub headers: HeaderMap,
    seen: Seen,
    method: Option<Method>,
    scheme: Option<Scheme>,
    path: Option<PathAndQuery>,
    authority: Option<Authority>,
    status: Option<StatusCode>,
    /// What its fields take, and what they may take, in bytes.
    pub size: usize,
    limit: usize,
    /// A field came that is no pseudo-header.
    regular: bool,
    malformed: bool,
    too_large: bool,
}

impl Head {
    /// One that fits into `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            headers: HeaderMap::new(),
            seen: Seen::default(),
            method: None,
            scheme: None,
            path: None,
            authority: None,
            status: None,
            size: 0,
            limit,
            regular: false,
            malformed: false,
            too_large: false,
        }
    }

    /// One of which nothing is wanted.
    pub(super) fn unwanted() -> Self {
        Self { too_large: true, ..Self::new(0) }
    }

    /// Whether its next header is the first one, behind pseudo-headers: trailers are another matter.
    #[inline]
    pub(super) fn begins(&self) -> bool {
        !self.regular && (self.method.is_some() || self.status.is_some())
    }

    /// Takes a spare map where the field needs one and there is none yet.
    #[inline]
    pub(super) fn make_ready(&mut self, field: &Field, scratch: &Scratch) {
        if !self.regular && !self.too_large && self.headers.capacity() == 0 && is_header(field) {
            fill(&mut self.headers, scratch.map());
        }
    }

    /// Takes headers that were made before, where it has none yet.
    pub(super) fn adopt(&mut self, made: &Made) {
        if self.takes(made.size) {
            self.headers = made.headers.clone();
            self.seen = made.seen;
        }
        self.regular = true;
    }

    /// What its headers made, which count `size`. `None` where it is no message.
    pub(super) fn kept(&self, size: usize) -> Option<Made> {
        let right = !self.malformed && !self.too_large;
        right.then(|| Made { headers: self.headers.clone(), seen: self.seen, size })
    }

    /// Whether there is place for so many bytes more.
    fn takes(&mut self, size: usize) -> bool {
        self.size = self.size.saturating_add(size);
        self.too_large |= self.size > self.limit;
        !self.too_large
    }

    /// Takes a field that a table holds.
    #[inline]
    pub(super) fn add(&mut self, entry: &Entry) {
        if !self.takes(entry.size) {
            return;
        }
        match &entry.field {
            Field::Header { name, value, noted } => self.header(name.clone(), value.clone(), *noted),
            Field::Method(method) => self.pseudo(|head| head.method.replace(method.clone()).is_some()),
            Field::Scheme(scheme) => self.pseudo(|head| head.scheme.replace(scheme.clone()).is_some()),
            Field::Path(path) => self.pseudo(|head| head.path.replace(path.clone()).is_some()),
            Field::Authority(authority) => self.pseudo(|head| head.authority.replace(authority.clone()).is_some()),
            Field::Status(status) => self.pseudo(|head| head.status.replace(*status).is_some()),
            Field::Bad(_) => self.malformed = true,
        }
    }

    /// Takes a field that no table holds.
    pub(super) fn put(&mut self, entry: Entry) {
        if !self.takes(entry.size) {
            return;
        }
        match entry.field {
            Field::Header { name, value, noted } => self.header(name, value, noted),
            Field::Method(method) => self.pseudo(|head| head.method.replace(method).is_some()),
            Field::Scheme(scheme) => self.pseudo(|head| head.scheme.replace(scheme).is_some()),
            Field::Path(path) => self.pseudo(|head| head.path.replace(path).is_some()),
            Field::Authority(authority) => self.pseudo(|head| head.authority.replace(authority).is_some()),
            Field::Status(status) => self.pseudo(|head| head.status.replace(status).is_some()),
            Field::Bad(_) => self.malformed = true,
        }
    }

    #[inline]
    fn header(&mut self, name: HeaderName, value: HeaderValue, noted: bool) {
        self.regular = true;
        if noted {
            self.seen.note(&name, &value);
        }
        // A map has an end, too.
        self.too_large |= self.headers.try_append(name, value).is_err();
    }

    /// `put` says whether it was there already.
    #[inline]
    fn pseudo(&mut self, put: impl FnOnce(&mut Self) -> bool) {
        self.malformed |= put(self) | self.regular;
    }

    pub(super) fn checked(&self) -> Result<(), Refused> {
        if self.too_large {
            return Err(Refused::TooLarge);
        }
        if self.malformed { Err(MALFORMED) } else { Ok(()) }
    }

    fn asks(&self) -> bool {
        self.method.is_some() || self.scheme.is_some() || self.path.is_some() || self.authority.is_some()
    }

    /// What it is as a request.
    #[inline]
    pub(super) fn request(self) -> Result<(request::Parts, Seen), Refused> {
        let Self { headers, seen, method: Some(method), scheme, path, authority, status: None, .. } = self else {
            return Err(MALFORMED);
        };
        let uri = uri(&method, scheme, path, authority).ok_or(MALFORMED)?;
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.version) = (method, Version::HTTP_2);
        fill(&mut parts.uri, uri);
        fill(&mut parts.headers, headers);
        Ok((parts, seen))
    }

    /// What it is as a response.
    #[inline]
    pub(super) fn response(self) -> Result<(response::Parts, Seen), Refused> {
        let status = self.status.filter(|_| !self.asks()).ok_or(MALFORMED)?;
        let mut parts = Response::new(()).into_parts().0;
        (parts.status, parts.version) = (status, Version::HTTP_2);
        fill(&mut parts.headers, self.headers);
        Ok((parts, self.seen))
    }

    /// What it is as trailers.
    pub(super) fn trailers(self) -> Result<HeaderMap, Refused> {
        if self.asks() || self.status.is_some() { Err(MALFORMED) } else { Ok(self.headers) }
    }
}

/// What a request asks for. CONNECT has an authority alone; the others need a scheme and a path.
fn uri(
    method: &Method,
    scheme: Option<Scheme>,
    path: Option<PathAndQuery>,
    authority: Option<Authority>,
) -> Option<Uri> {
    let mut uri = uri::Parts::default();
    uri.authority = authority;
    if *method == Method::CONNECT {
        let alone = uri.authority.is_some() && scheme.is_none() && path.is_none();
        return Uri::from_parts(uri).ok().filter(|_| alone);
    }
    let (scheme, path) = (scheme?, path?);
    if path.as_str() == "*" && *method != Method::OPTIONS {
        return None;
    }
    // Without an authority, which a Host may name, there is no place for the scheme.
    if uri.authority.is_some() {
        uri.scheme = Some(scheme);
    }
    uri.path_and_query = Some(path);
    Uri::from_parts(uri).ok()
}

/// Puts something where only a default is, which holds no memory: to drop it would cost for nothing.
#[inline]
fn fill<T>(place: &mut T, value: T) {
    std::mem::forget(std::mem::replace(place, value));
}
