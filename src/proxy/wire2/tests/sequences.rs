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
                    prop_assert_eq!(seen, crate::proxy::seen::Seen::in_headers(&headers));
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

/// Runs of headers come again, change, come again behind others, lose their place in the table, and meet a limit.
#[test]
fn a_run_that_comes_again_is_what_it_says_each_time() {
    let (mut deflate, mut inflate, scratch) = (Deflate::new(), Inflate::new(4096), Scratch::default());
    for round in 0..200u32 {
        let mut headers = usual().headers;
        if round % 10 > 6 {
            headers.insert("accept", HeaderValue::from_static("text/html"));
        }
        if round % 25 == 24 {
            deflate.set_peer_limit(if round % 50 == 24 { 0 } else { 4096 });
        }
        if round % 3 == 0 {
            headers.append("x-more", HeaderValue::from(round));
        }
        let (mut out, status) = (Vec::new(), if round % 4 == 0 { StatusCode::OK } else { StatusCode::ACCEPTED });
        deflate.response(&mut out, status, &headers);
        let limit = if round % 7 == 6 { 150 } else { ROOM };
        match inflate.response(&out, limit, &scratch) {
            Ok((parts, seen)) => {
                assert_eq!((parts.status, &parts.headers), (status, &headers), "{round}");
                assert_eq!((seen, limit), (crate::proxy::seen::Seen::in_headers(&headers), ROOM));
            }
            Err(refused) => assert_eq!((refused, limit), (Refused::TooLarge, 150), "{round}"),
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        out.clear();
        deflate.trailers(&mut out, &trailers);
        assert_eq!(inflate.trailers(&out, ROOM, &scratch).unwrap(), trailers);
    }
}

/// What a response's block says of one header, beside its status.
fn said(deflate: &mut Deflate, name: &'static str, value: &'static str, sensitive: bool) -> Vec<u8> {
    let (mut headers, mut value) = (HeaderMap::new(), HeaderValue::from_static(value));
    value.set_sensitive(sensitive);
    headers.insert(name, value);
    let mut out = Vec::new();
    deflate.response(&mut out, StatusCode::OK, &headers);
    out[1..].to_vec()
}

#[test]
fn secrets_never_go_into_a_table_and_say_so() {
    let mut deflate = Deflate::new();
    let long = "session=0123456789abcdef0123456789abcdef";
    for (name, value, sensitive, secret) in [
        ("authorization", "Basic YTpi", false, true),
        ("proxy-authorization", "Basic YTpi", false, true),
        ("cookie", "a=b", false, true),
        ("cookie", long, false, false),
        ("cookie", long, true, true),
        ("x-key", "key", true, true),
        ("x-key", "key", false, false),
        ("x-key", "key", true, true),
    ] {
        for _ in 0..3 {
            let block = said(&mut deflate, name, value, sensitive);
            assert_eq!(block[0] & 0xf0 == 0x10, secret, "{name}: {value}, {block:?}");
            assert!(!secret || block.ends_with(value.as_bytes()), "as it is");
        }
    }
}

#[test]
fn what_http_2_has_not_is_not_written() {
    let mut deflate = Deflate::new();
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"] {
        for value in ["x", "close", "x"] {
            assert_eq!(said(&mut deflate, name, value, false), b"", "{name}");
        }
    }
    assert!(!said(&mut deflate, "te", "trailers", false).is_empty());
    assert_eq!(said(&mut deflate, "te", "trailers", false).len(), 1);
}

#[test]
fn what_changes_each_time_takes_no_place_and_what_comes_twice_does() {
    let mut deflate = Deflate::new();
    let date = said(&mut deflate, "date", "Mon, 21 Oct 2013 20:13:21 GMT", false);
    assert_eq!(date, [&[0x0f, 33 - 15, 29][..], b"Mon, 21 Oct 2013 20:13:21 GMT"].concat());
    assert_eq!(said(&mut deflate, "x-request-id", "first", false)[0], 0x40, "its name goes in");
    assert_eq!(said(&mut deflate, "x-request-id", "other", false), [&[0x0f, 62 - 15, 5][..], b"other"].concat());
    let mut kept = Vec::new();
    for value in ["1", "2", "3", "4", "5", "6", "6", "6", "7", "8"] {
        kept.push(said(&mut deflate, "content-length", value, false)[0] >> 6);
    }
    assert_eq!(kept, [1, 1, 1, 1, 0, 0, 1, 2, 1, 0], "coming again makes good for some change");
}

#[test]
fn a_peer_is_told_the_least_size_and_the_last_one() {
    let mut deflate = Deflate::new();
    let block = |deflate: &mut Deflate| {
        let mut out = Vec::new();
        deflate.response(&mut out, StatusCode::OK, &HeaderMap::new());
        out
    };
    deflate.set_peer_limit(65_536);
    assert_eq!(block(&mut deflate), [0x88], "4096 is what it was");
    deflate.set_peer_limit(0);
    deflate.set_peer_limit(100);
    assert_eq!(block(&mut deflate), [0x20, 0x3f, 100 - 31, 0x88]);
    assert_eq!(block(&mut deflate), [0x88]);
    deflate.set_peer_limit(10);
    assert_eq!(block(&mut deflate), [0x20 | 10, 0x88]);
}
