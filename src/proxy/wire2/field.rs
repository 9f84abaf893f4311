//! One field, made at once into what the proxy works with (RFC 9113, sections 8.2 and 8.3).
//!
//! A field that may not stand in any message is `Bad`: its size is all that matters of it, for the table must follow.

use super::super::seen::Seen;
use http::header::{HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode};

/// What a field counts beside its name and its value (RFC 7541, section 4.1), in bytes.
pub(super) const OVERHEAD: usize = 32;

/// What a field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Scheme,
    Path,
    Authority,
    Status,
    /// `noted`: the proxy must look at it (`Seen`).
    Header {
        name: HeaderName,
        noted: bool,
    },
    /// A name of so many bytes that no message may hold.
    Bad(usize),
}

/// A field with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Method(Method),
    Scheme(Scheme),
    Path(PathAndQuery),
    Authority(Authority),
    Status(StatusCode),
    Header {
        name: HeaderName,
        value: HeaderValue,
        noted: bool,
    },
    /// No message may hold it. The name may be right, and be said again with another value.
    Bad(Name),
}

impl Name {
    pub(super) fn new(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b":status" => Self::Status,
            _ => match HeaderName::from_lowercase(text) {
                Ok(name) if !of_connection(&name) => {
                    let noted = noted(&name);
                    Self::Header { name, noted }
                }
                _ => Self::Bad(text.len()),
            },
        }
    }

    /// How long it is, in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Method | Self::Scheme | Self::Status => 7,
            Self::Path => 5,
            Self::Authority => 10,
            Self::Header { name, .. } => name.as_str().len(),
            Self::Bad(length) => *length,
        }
    }
}

impl Field {
    /// The value is copied. `sensitive`: nobody may put it into a table.
    pub(super) fn new(name: Name, value: &[u8], sensitive: bool) -> Self {
        let made = match &name {
            Name::Method => Method::from_bytes(value).ok().map(Self::Method),
            Name::Scheme => scheme(value).map(Self::Scheme),
            Name::Path => path(value).map(Self::Path),
            Name::Authority => authority(value).map(Self::Authority),
            Name::Status => status(value).map(Self::Status),
            Name::Header { name, noted } => header(name, value).map(|mut value| {
                value.set_sensitive(sensitive);
                Self::Header { name: name.clone(), value, noted: *noted }
            }),
            Name::Bad(_) => None,
        };
        made.unwrap_or(Self::Bad(name))
    }

    pub(super) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Path(_) => Name::Path,
            Self::Authority(_) => Name::Authority,
            Self::Status(_) => Name::Status,
            Self::Header { name, noted, .. } => Name::Header { name: name.clone(), noted: *noted },
            Self::Bad(name) => name.clone(),
        }
    }
}

/// Fields of a connection, which HTTP/2 has not (RFC 9113, section 8.2.2). `te` has one value that may stand.
pub(super) fn of_connection(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.len() {
        7 => name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        _ => false,
    }
}

fn noted(name: &HeaderName) -> bool {
    let mut seen = Seen::default();
    seen.note(name, &GRPC);
    seen != Seen::default()
}

/// A value that would be taken note of, whatever the name is.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn header(name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) || *name == TE && value != b"trailers" {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}

/// It begins with a letter.
fn scheme(value: &[u8]) -> Option<Scheme> {
    value.first().filter(|b| b.is_ascii_alphabetic())?;
    Scheme::try_from(value).ok()
}

/// It begins with a slash, or is the asterisk; a fragment is no part of it.
fn path(value: &[u8]) -> Option<PathAndQuery> {
    let right = value == b"*" || value.first() == Some(&b'/') && !value.contains(&b'#');
    PathAndQuery::try_from(value).ok().filter(|_| right)
}

/// Who a user is has no place in it.
fn authority(value: &[u8]) -> Option<Authority> {
    Authority::try_from(value).ok().filter(|_| !value.contains(&b'@'))
}

/// Three digits, and not what HTTP/2 has another way for (RFC 9113, section 8.6).
fn status(value: &[u8]) -> Option<StatusCode> {
    StatusCode::from_bytes(value).ok().filter(|status| *status != StatusCode::SWITCHING_PROTOCOLS)
}
