//! An answer's bytes: the head from its parts, and how its body is framed (RFC 9112, sections 6 and 9).
//!
//! A length that the answer names is kept; else its body says how long it is; else it is sent in chunks, and to an
//! HTTP/1.0 client until the connection is closed. `Date` is added where the endpoint gave none.

use super::super::body::ResponseBody;
use super::super::core::Core;
use super::super::headers::digits;
use super::super::wire1::{Options, Rest, USUAL_HEAD, Writer, announced, line};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{Method, Response, StatusCode, Version, response};
use http_body::Body;
use hyper::ext::ReasonPhrase;
use std::io::Write;

/// What must be known of a request to answer it.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Asked {
    pub head: bool,
    pub version: Version,
    /// The client leaves the connection open, and so do we.
    pub keep: bool,
    /// The client takes trailers.
    pub trailers: bool,
}

impl Asked {
    pub(super) fn new(method: &Method, version: Version, keep: bool, trailers: bool) -> Self {
        Self { head: *method == Method::HEAD, version, keep, trailers }
    }
}

/// What an answer's headers say of how it is sent.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    date: bool,
    connection: bool,
    options: Options,
}

/// Encodes an answer's head, behind what `out` holds. Says whether the connection may be used again.
pub(in crate::proxy) fn begin(
    response: Response<ResponseBody>,
    asked: &Asked,
    core: &Core,
    mut out: Vec<u8>,
) -> (Writer<ResponseBody>, bool) {
    let (parts, mut body) = response.into_parts();
    out.reserve(USUAL_HEAD);
    first_line(&parts, asked.version, &mut out);
    let mut said = lines_of(&parts, &mut out);
    if let Some(lines) = body.take_lines() {
        said.date |= lines.dated;
        said.length = said.length.or(lines.length);
        out.extend_from_slice(lines.text());
        core.scratch.recycle(lines.into_text());
    }
    let mut keep = asked.keep && !said.options.close;
    let rest = framing(&parts, asked, &said, &body, &mut keep, &mut out);
    if !said.date {
        line(&mut out, &DATE, &core.date.now());
    }
    if !said.connection {
        if !keep {
            out.extend_from_slice(b"\r\nconnection: close");
        } else if asked.version == Version::HTTP_10 {
            out.extend_from_slice(b"\r\nconnection: keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n\r\n");
    core.scratch.recycle_map(parts.headers);
    (Writer::new(out, rest, body), keep)
}

fn first_line(parts: &response::Parts, version: Version, out: &mut Vec<u8>) {
    let phrase = parts.extensions.get::<ReasonPhrase>();
    if parts.status == StatusCode::OK && version == Version::HTTP_11 && phrase.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK");
    }
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    let usual = || parts.status.canonical_reason().unwrap_or_default().as_bytes();
    out.extend_from_slice(phrase.map_or_else(usual, ReasonPhrase::as_bytes));
}

/// Writes the headers, and takes note of what they say.
fn lines_of(parts: &response::Parts, out: &mut Vec<u8>) -> Said {
    let mut said = Said::default();
    for (name, value) in &parts.headers {
        match name.as_str().len() {
            4 => said.date |= *name == DATE,
            10 if *name == CONNECTION => {
                said.connection = true;
                said.options.read(value.as_bytes());
            }
            14 if *name == CONTENT_LENGTH => said.length = digits(value.as_bytes()),
            _ => {}
        }
        line(out, name, value);
    }
    said
}

/// How the body is sent, which is said where the headers do not.
fn framing(
    parts: &response::Parts,
    asked: &Asked,
    said: &Said,
    body: &ResponseBody,
    keep: &mut bool,
    out: &mut Vec<u8>,
) -> Rest {
    let bodiless =
        parts.status.is_informational() || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if asked.head || bodiless {
        return Rest::Nothing;
    }
    let length = said.length.or_else(|| {
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() }?;
        // Writing to memory does not fail.
        let _ = write!(out, "\r\n{CONTENT_LENGTH}: {length}");
        Some(length)
    });
    match length {
        Some(0) => Rest::Nothing,
        Some(length) => Rest::Length(length),
        None if asked.version == Version::HTTP_10 => {
            *keep = false;
            Rest::Close
        }
        None => {
            out.extend_from_slice(b"\r\ntransfer-encoding: chunked");
            Rest::Chunked(if asked.trailers { announced(&parts.headers) } else { Vec::new() })
        }
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
