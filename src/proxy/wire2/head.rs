//! What a message's fields make together (RFC 9113, section 8.3; section 6.5.2 for their size).
//!
//! Pseudo-headers come first, each once: a request's are its method, scheme, path and authority; a response's its status
//! alone; trailers have none. A message beyond the limit of its size keeps nothing more, and is not looked at further.

use super::super::headers::Seen;
use super::Code;
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
    /// What its fields may still take, in bytes.
    left: usize,
    /// A field came that is no pseudo-header.
    regular: bool,
    malformed: bool,
    too_large: bool,
}

impl Head {
    /// One that fits into `limit` bytes, its headers into `headers`.
    pub(super) fn new(headers: HeaderMap, limit: usize) -> Self {
        Self {
            headers,
            seen: Seen::default(),
            method: None,
            scheme: None,
            path: None,
            authority: None,
            status: None,
            left: limit,
            regular: false,
            malformed: false,
            too_large: false,
        }
    }

    /// One of which nothing is wanted.
    pub(super) fn unwanted() -> Self {
        Self { too_large: true, ..Self::new(HeaderMap::new(), 0) }
    }

    /// Whether there is place for so many bytes more.
    fn takes(&mut self, size: usize) -> bool {
        match self.left.checked_sub(size) {
            Some(left) => self.left = left,
            None => self.too_large = true,
        }
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

    fn checked(&self) -> Result<(), Refused> {
        if self.too_large {
            return Err(Refused::TooLarge);
        }
        if self.malformed { Err(MALFORMED) } else { Ok(()) }
    }

    fn asks(&self) -> bool {
        self.method.is_some() || self.scheme.is_some() || self.path.is_some() || self.authority.is_some()
    }

    /// What it is as a request. Where it is none, its map is left.
    pub(super) fn request(&mut self) -> Result<(request::Parts, Seen), Refused> {
        self.checked()?;
        let method = self.method.take().filter(|_| self.status.is_none()).ok_or(MALFORMED)?;
        let uri = self.uri(&method).ok_or(MALFORMED)?;
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.version) = (method, uri, Version::HTTP_2);
        parts.headers = std::mem::take(&mut self.headers);
        Ok((parts, self.seen))
    }

    /// CONNECT has an authority alone; the others need a scheme and a path.
    fn uri(&mut self, method: &Method) -> Option<Uri> {
        let mut uri = uri::Parts::default();
        uri.authority = self.authority.take();
        if *method == Method::CONNECT {
            let alone = uri.authority.is_some() && self.scheme.is_none() && self.path.is_none();
            return Uri::from_parts(uri).ok().filter(|_| alone);
        }
        let scheme = self.scheme.take()?;
        let path = self.path.take()?;
        if path.as_str() == "*" && *method != Method::OPTIONS {
            return None;
        }
        // Without an authority, which a Host may name, there is no place for the scheme.
        uri.scheme = Some(scheme).filter(|_| uri.authority.is_some());
        uri.path_and_query = Some(path);
        Uri::from_parts(uri).ok()
    }

    /// What it is as a response. Where it is none, its map is left.
    pub(super) fn response(&mut self) -> Result<(response::Parts, Seen), Refused> {
        self.checked()?;
        let status = self.status.filter(|_| !self.asks()).ok_or(MALFORMED)?;
        let mut parts = Response::new(()).into_parts().0;
        (parts.status, parts.version) = (status, Version::HTTP_2);
        parts.headers = std::mem::take(&mut self.headers);
        Ok((parts, self.seen))
    }

    /// What it is as trailers. Where it is none, its map is left.
    pub(super) fn trailers(&mut self) -> Result<HeaderMap, Refused> {
        self.checked()?;
        if self.asks() || self.status.is_some() {
            return Err(MALFORMED);
        }
        Ok(std::mem::take(&mut self.headers))
    }
}
