//! What was written is what is read, block after block, whatever the tables' sizes; and no bytes bring it down.

use super::{ROOM, lines};
use crate::proxy::wire1::Scratch;
use crate::proxy::wire2::Deflate;
use crate::proxy::wire2::inflate::{Inflate, Refused};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, request};
use proptest::prelude::*;

const NAMES: [&str; 12] = [
    "accept",
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "etag",
    "set-cookie",
    "te",
    "traceparent",
    "x-request-id",
    "x-thing",
];

#[derive(Debug, Clone)]
enum Step {
    Resize(u32),
    Response(u16, Vec<(usize, String)>),
    Trailers(Vec<(usize, String)>),
    Skipped(u16, Vec<(usize, String)>),
}

/// Mostly from a few, so that they come again.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(vec!["", "trailers", "a", "b", "application/grpc", "Mon, 21 Oct 2013 20:13:21 GMT"])
            .prop_map(str::to_owned),
        2 => "[!-~]{1,40}",
        1 => "[!-~\u{e0}-\u{ff}]{100,600}",
    ]
}

fn fields() -> impl Strategy<Value = Vec<(usize, String)>> {
    proptest::collection::vec((0..200usize, value()), 0..12)
}

fn step() -> impl Strategy<Value = Step> {
    let status = || proptest::sample::select(vec![100u16, 103, 200, 204, 302, 404, 500, 503, 599]);
    prop_oneof![
        1 => proptest::sample::select(vec![0u32, 31, 40, 100, 256, 1000, 4096, 1 << 20]).prop_map(Step::Resize),
        6 => (status(), fields()).prop_map(|(status, fields)| Step::Response(status, fields)),
        2 => fields().prop_map(Step::Trailers),
        1 => (status(), fields()).prop_map(|(status, fields)| Step::Skipped(status, fields)),
    ]
}

/// Usual names, and many that are not.
fn map(fields: &[(usize, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (at, value) in fields {
        let name = match NAMES.get(at % 40) {
            Some(name) => HeaderName::from_static(name),
            None => HeaderName::from_bytes(format!("x-{at}").as_bytes()).unwrap(),
        };
        if name == "te" && value != "trailers" {
            continue;
        }
        let mut value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        value.set_sensitive(at % 7 == 0);
        map.append(name, value);
    }
    map
}

proptest! {
    #[test]
    fn what_was_written_is_read(steps in proptest::collection::vec(step(), 1..30)) {
        let (mut deflate, mut inflate, scratch) = (Deflate::new(), Inflate::new(4096), Scratch::default());
        let mut out = Vec::new();
        for step in &steps {
            out.clear();
            match step {
                Step::Resize(size) => deflate.set_peer_limit(*size),
                Step::Response(status, fields) => {
                    let (status, headers) = (StatusCode::from_u16(*status).unwrap(), map(fields));
                    deflate.response(&mut out, status, &headers);
                    let (parts, seen) = inflate.response(&out, ROOM, &scratch).unwrap();
                    prop_assert_eq!((parts.status, &parts.headers), (status, &headers));
                    prop_assert_eq!(seen, crate::proxy::headers::Seen::in_headers(&headers));
                    scratch.recycle_map(parts.headers);
                }
                Step::Trailers(fields) => {
                    let headers = map(fields);
                    deflate.trailers(&mut out, &headers);
                    prop_assert_eq!(inflate.trailers(&out, ROOM, &scratch).unwrap(), headers);
                }
                Step::Skipped(status, fields) => {
                    deflate.response(&mut out, StatusCode::from_u16(*status).unwrap(), &map(fields));
                    prop_assert_eq!(inflate.skip(&out), Ok(()));
                }
            }
        }
    }

    #[test]
    fn requests_are_read_as_they_were_written(
        asked in proptest::collection::vec(("[A-Z]{1,8}", "/[a-z/]{0,9}(\\?[a-z]{0,3})?", "[a-z]{1,9}(:80)?", any::<bool>(), fields()), 1..20)
    ) {
        let (mut deflate, mut inflate, scratch) = (Deflate::new(), Inflate::new(4096), Scratch::default());
        for (method, path, authority, secure, fields) in asked {
            let method = Method::from_bytes(if secure { b"GET" } else { method.as_bytes() }).unwrap();
            prop_assume!(method != Method::CONNECT);
            let scheme = if secure { "https" } else { "http" };
            let uri = format!("{scheme}://{authority}{path}");
            let mut parts = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
            parts.headers = map(&fields);
            let mut out = Vec::new();
            deflate.request(&mut out, &parts);
            let (read, _) = inflate.request(&out, ROOM, &scratch).unwrap();
            prop_assert_eq!((read.method, read.uri, read.headers), (parts.method, parts.uri, parts.headers));
        }
    }

    #[test]
    fn no_bytes_bring_it_down(blocks in proptest::collection::vec(any::<Vec<u8>>(), 1..10)) {
        let (mut inflate, scratch) = (Inflate::new(4096), Scratch::default());
        for block in &blocks {
            let _ = inflate.request(block, 1000, &scratch);
            let _ = inflate.response(block, 1000, &scratch);
            let _ = inflate.trailers(block, 1000, &scratch);
            let _ = inflate.skip(block);
        }
    }

    #[test]
    fn no_change_to_a_block_brings_it_down(
        fields in proptest::collection::vec(fields(), 1..6),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut deflate, mut inflate, scratch) = (Deflate::new(), Inflate::new(4096), Scratch::default());
        for fields in &fields {
            let mut out = Vec::new();
            deflate.response(&mut out, StatusCode::OK, &map(fields));
            for (at, byte) in &changes {
                let at = at.index(out.len());
                out[at] = *byte;
            }
            match inflate.response(&out, 2000, &scratch) {
                Ok((parts, _)) => {
                    let size: usize = parts.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 32).sum();
                    prop_assert!(size <= 2000);
                }
                Err(Refused::Connection(_)) => break,
                Err(_) => {}
            }
        }
    }
}

/// A usual request again and again: its second block is a byte a field.
#[test]
fn what_is_said_again_is_a_byte_a_field() {
    let (mut deflate, mut inflate, scratch) = (Deflate::new(), Inflate::new(4096), Scratch::default());
    let mut parts = usual();
    let mut sizes = Vec::new();
    for _ in 0..20 {
        let mut out = Vec::new();
        deflate.request(&mut out, &parts);
        let (read, _) = inflate.request(&out, ROOM, &scratch).unwrap();
        assert_eq!((read.uri, lines(&read.headers)), (parts.uri.clone(), lines(&parts.headers)));
        sizes.push(out.len());
    }
    assert_eq!(sizes[1..], [4 + parts.headers.len(); 19], "{sizes:?}");
    // One that changes costs itself alone, and what else there is stays.
    for id in 0..1000 {
        parts.headers.insert("x-id", HeaderValue::from(id + 100_000));
        let mut out = Vec::new();
        deflate.request(&mut out, &parts);
        inflate.request(&out, ROOM, &scratch).unwrap();
        sizes.push(out.len());
    }
    assert_eq!(sizes[1019], sizes[1] + 9, "two bytes for its name, one for its length, and six digits");
}

fn usual() -> request::Parts {
    let request = Request::builder()
        .uri("http://shop.example/cart/items?page=2")
        .header("user-agent", "agent/1.0")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip")
        .header("x-forwarded-for", "10.0.0.1")
        .header("via", "1.1 pathloom");
    request.body(()).unwrap().into_parts().0
}
