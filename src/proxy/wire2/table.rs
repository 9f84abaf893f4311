//! What a peer may say with a number: the static table (RFC 7541, appendix A) and the dynamic one (section 2.3.2).

use super::field::{Field, Name, OVERHEAD};
use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, AGE, ALLOW,
    AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, COOKIE, DATE, ETAG, EXPECT, EXPIRES, FROM, HOST, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LINK, LOCATION, MAX_FORWARDS,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, REFERER, REFRESH, RETRY_AFTER, SERVER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, USER_AGENT, VARY, VIA, WWW_AUTHENTICATE,
};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::collections::VecDeque;

/// How large a table is that nobody said anything about, in bytes.
pub(super) const DEFAULT_SIZE: usize = 4096;
/// How many entries the static table has.
pub(super) const STATIC: usize = 61;

/// Which entry it is of all that ever were, those of the static table before the others; 0 is none.
pub(super) type Turn = u64;

/// A field and what it counts.
#[derive(Debug)]
pub(super) struct Entry {
    pub field: Field,
    /// Its name and its value and `OVERHEAD`, in bytes.
    pub size: usize,
}

/// The dynamic table of a peer that talks, with the static one before it.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// The turn of the newest.
    turn: Turn,
    /// What it may hold, as the peer said, and what the peer may say at most.
    max: usize,
    limit: usize,
}

impl Table {
    /// The peer may say `limit` once it knows, and until then what is usual.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            turn: STATIC as Turn,
            max: DEFAULT_SIZE,
            limit: limit.max(DEFAULT_SIZE),
        }
    }

    /// What a number stands for.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        match index.wrapping_sub(STATIC + 1) {
            dynamic if dynamic < self.entries.len() => self.entries.get(dynamic),
            _ => FIELDS.get(index.wrapping_sub(1)),
        }
    }

    /// The turn of what a number stands for.
    #[inline]
    pub(super) fn turn(&self, index: usize) -> Turn {
        match index.checked_sub(STATIC + 1) {
            None => index as Turn,
            Some(dynamic) if dynamic < self.entries.len() => self.turn - dynamic as Turn,
            Some(_) => 0,
        }
    }

    /// Takes a field in, for which others may have to leave; it itself has no place where it is larger than the table.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        self.shrink(self.max.saturating_sub(entry.size));
        if entry.size > self.max {
            return Some(entry);
        }
        self.size += entry.size;
        self.turn += 1;
        if self.entries.len() == self.entries.capacity() {
            // An idle connection holds little more than it needs.
            self.entries.reserve_exact(4);
        }
        self.entries.push_front(entry);
        None
    }

    /// The field that was taken in last.
    pub(super) fn newest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// The peer says how large its table is from here on. `None` where it may not be.
    pub(super) fn resize(&mut self, max: usize) -> Option<()> {
        if max > self.limit {
            return None;
        }
        self.max = max;
        self.shrink(max);
        Some(())
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size;
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.size)
    }
}

/// The place of a name in the static table, the first that it has; 0 where it has none.
pub(super) fn place_of(name: &HeaderName) -> u8 {
    let is = |entry: &Entry| match &entry.field {
        Field::Header { name: known, .. } | Field::Bad(Name::Header { name: known, .. }) => known == name,
        _ => false,
    };
    FIELDS.iter().position(is).and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
}

const fn field(field: Field, name: &str, value: &str) -> Entry {
    Entry { field, size: name.len() + value.len() + OVERHEAD }
}

const fn method(method: Method, value: &str) -> Entry {
    field(Field::Method(method), ":method", value)
}

const fn path(value: &'static str) -> Entry {
    field(Field::Path(PathAndQuery::from_static(value)), ":path", value)
}

const fn status(status: StatusCode) -> Entry {
    field(Field::Status(status), ":status", "200")
}

const fn scheme(scheme: Scheme, value: &str) -> Entry {
    field(Field::Scheme(scheme), ":scheme", value)
}

const fn header(name: HeaderName, text: &str, value: &'static str) -> Entry {
    field(Field::Header { name, value: HeaderValue::from_static(value), noted: false }, text, value)
}

/// A header that the proxy must look at.
const fn noted(name: HeaderName, text: &str) -> Entry {
    field(Field::Header { name, value: HeaderValue::from_static(""), noted: true }, text, "")
}

/// The static table. Nobody may be asked for no authority, and nothing may have a transfer coding.
static FIELDS: [Entry; STATIC] = [
    Entry { field: Field::Bad(Name::Authority), size: 10 + OVERHEAD },
    method(Method::GET, "GET"),
    method(Method::POST, "POST"),
    path("/"),
    path("/index.html"),
    scheme(Scheme::HTTP, "http"),
    scheme(Scheme::HTTPS, "https"),
    status(StatusCode::OK),
    status(StatusCode::NO_CONTENT),
    status(StatusCode::PARTIAL_CONTENT),
    status(StatusCode::NOT_MODIFIED),
    status(StatusCode::BAD_REQUEST),
    status(StatusCode::NOT_FOUND),
    status(StatusCode::INTERNAL_SERVER_ERROR),
    header(ACCEPT_CHARSET, "accept-charset", ""),
    header(ACCEPT_ENCODING, "accept-encoding", "gzip, deflate"),
    header(ACCEPT_LANGUAGE, "accept-language", ""),
    header(ACCEPT_RANGES, "accept-ranges", ""),
    header(ACCEPT, "accept", ""),
    header(ACCESS_CONTROL_ALLOW_ORIGIN, "access-control-allow-origin", ""),
    header(AGE, "age", ""),
    header(ALLOW, "allow", ""),
    header(AUTHORIZATION, "authorization", ""),
    header(CACHE_CONTROL, "cache-control", ""),
    header(CONTENT_DISPOSITION, "content-disposition", ""),
    header(CONTENT_ENCODING, "content-encoding", ""),
    header(CONTENT_LANGUAGE, "content-language", ""),
    noted(CONTENT_LENGTH, "content-length"),
    header(CONTENT_LOCATION, "content-location", ""),
    header(CONTENT_RANGE, "content-range", ""),
    noted(CONTENT_TYPE, "content-type"),
    noted(COOKIE, "cookie"),
    noted(DATE, "date"),
    header(ETAG, "etag", ""),
    noted(EXPECT, "expect"),
    header(EXPIRES, "expires", ""),
    header(FROM, "from", ""),
    noted(HOST, "host"),
    header(IF_MATCH, "if-match", ""),
    header(IF_MODIFIED_SINCE, "if-modified-since", ""),
    header(IF_NONE_MATCH, "if-none-match", ""),
    header(IF_RANGE, "if-range", ""),
    header(IF_UNMODIFIED_SINCE, "if-unmodified-since", ""),
    header(LAST_MODIFIED, "last-modified", ""),
    header(LINK, "link", ""),
    header(LOCATION, "location", ""),
    header(MAX_FORWARDS, "max-forwards", ""),
    header(PROXY_AUTHENTICATE, "proxy-authenticate", ""),
    header(PROXY_AUTHORIZATION, "proxy-authorization", ""),
    header(RANGE, "range", ""),
    header(REFERER, "referer", ""),
    header(REFRESH, "refresh", ""),
    noted(RETRY_AFTER, "retry-after"),
    header(SERVER, "server", ""),
    header(SET_COOKIE, "set-cookie", ""),
    header(STRICT_TRANSPORT_SECURITY, "strict-transport-security", ""),
    Entry { field: Field::Bad(Name::Bad(17)), size: 17 + OVERHEAD },
    header(USER_AGENT, "user-agent", ""),
    header(VARY, "vary", ""),
    noted(VIA, "via"),
    header(WWW_AUTHENTICATE, "www-authenticate", ""),
];
