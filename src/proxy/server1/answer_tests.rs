//! What goes out for an answer.

use super::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

fn said(
    status: u16,
    lines: &[(&'static str, &'static str)],
    body: &ResponseBody,
    asked: &Asked,
) -> (String, Rest, bool) {
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).unwrap();
    let mut headers = HeaderMap::new();
    lines.iter().for_each(|(n, v)| assert!(!headers.append(*n, HeaderValue::from_static(v))));
    parts.headers = headers;
    let mut out = Vec::new();
    first_line(&parts, asked.version, &mut out);
    let (said, mut keep) = (lines_of(&parts, &mut out), asked.keep);
    let rest = framing(&parts, asked, &said, body, &mut keep, &mut out);
    (String::from_utf8(out).unwrap(), rest, keep)
}

fn asked(head: bool, version: Version) -> Asked {
    Asked { head, version, keep: true, trailers: true }
}

#[test]
fn a_body_is_framed_as_it_is_known() {
    let get = asked(false, Version::HTTP_11);
    let full = || ResponseBody::full(Bytes::from_static(b"hello"));
    let (text, rest, keep) = said(200, &[], &full(), &get);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 5");
    assert!(matches!(rest, Rest::Length(5)) && keep);
    let (text, rest, _) = said(404, &[("content-length", "5"), ("x", "1")], &full(), &get);
    assert_eq!(text, "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nx: 1");
    assert!(matches!(rest, Rest::Length(5)));
    let (text, rest, _) = said(200, &[], &ResponseBody::empty(), &get);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 0");
    assert!(matches!(rest, Rest::Nothing));
}

#[test]
fn answers_without_a_body_name_no_length_of_their_own() {
    for (status, head) in [(204, false), (304, false), (200, true), (101, false)] {
        let (text, rest, keep) = said(status, &[], &ResponseBody::empty(), &asked(head, Version::HTTP_11));
        assert!(!text.contains("content-length") && matches!(rest, Rest::Nothing) && keep, "{text}");
    }
    let (text, rest, _) = said(200, &[("content-length", "7")], &ResponseBody::empty(), &asked(true, Version::HTTP_11));
    assert!(text.ends_with("content-length: 7") && matches!(rest, Rest::Nothing), "{text}");
}

#[test]
fn a_reason_phrase_is_kept_and_an_unknown_status_has_none() {
    let get = asked(false, Version::HTTP_10);
    assert!(said(200, &[], &ResponseBody::empty(), &get).0.starts_with("HTTP/1.0 200 OK\r\n"));
    assert!(said(299, &[], &ResponseBody::empty(), &get).0.starts_with("HTTP/1.0 299 \r\n"));
    let mut parts = Response::new(()).into_parts().0;
    parts.extensions.insert(ReasonPhrase::from_static(b"Fine"));
    let mut out = Vec::new();
    first_line(&parts, Version::HTTP_11, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 Fine");
}
