//! What is refused, each rule for itself.

use super::{block, lines, request, response, trailers};
use crate::proxy::wire1::Scratch;
use crate::proxy::wire2::Code;
use crate::proxy::wire2::field::{Field, Name};
use crate::proxy::wire2::inflate::{Inflate, Refused};
use crate::proxy::wire2::table::Table;
use http::{HeaderMap, Method};

const BROKEN: Refused = Refused::Connection(Code::COMPRESSION_ERROR);
const MALFORMED: Refused = Refused::Stream(Code::PROTOCOL_ERROR);

/// GET / over http of a.
const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// A request of these fields.
fn asked(fields: &[(&str, &str)]) -> Result<http::request::Parts, Refused> {
    request(&mut Inflate::new(4096), &block(fields)).map(|(parts, _)| parts)
}

/// GET / with these headers.
fn with(fields: &[(&str, &str)]) -> Result<HeaderMap, Refused> {
    asked(&[&GET[..], fields].concat()).map(|parts| parts.headers)
}

/// GET / with one pseudo-header of another value.
fn but(name: &str, value: &str) -> Result<http::request::Parts, Refused> {
    asked(&GET.map(|(known, usual)| (known, if known == name { value } else { usual })))
}

/// GET / without one pseudo-header.
fn without(name: &str) -> Result<http::request::Parts, Refused> {
    let fields: Vec<_> = GET.into_iter().filter(|(known, _)| *known != name).collect();
    asked(&fields)
}

fn answered(fields: &[(&str, &str)]) -> Result<http::response::Parts, Refused> {
    response(&mut Inflate::new(4096), &block(fields)).map(|(parts, _)| parts)
}

fn raw(block: &[u8]) -> Result<HeaderMap, Refused> {
    trailers(&mut Inflate::new(4096), block)
}

#[test]
fn a_request_has_a_method_a_scheme_and_a_path_each_once() {
    let parts = asked(&GET).unwrap();
    assert_eq!(
        (parts.method, parts.uri.to_string(), parts.version),
        (Method::GET, "http://a/".into(), http::Version::HTTP_2)
    );
    for name in [":method", ":scheme", ":path"] {
        assert_eq!(without(name).unwrap_err(), MALFORMED, "{name} is missing");
    }
    let bare = without(":authority").unwrap();
    assert_eq!((bare.uri.authority(), bare.uri.scheme(), bare.uri.path()), (None, None, "/"), "a Host may say it");
    for field in GET {
        assert_eq!(asked(&[&GET[..], &[field]].concat()).unwrap_err(), MALFORMED, "{field:?} twice");
    }
}

#[test]
fn pseudo_headers_are_known_come_first_and_are_of_the_right_kind() {
    assert!(with(&[("x", "y")]).is_ok());
    for field in GET {
        let mut fields = GET.to_vec();
        fields.retain(|f| *f != field);
        fields.extend([("x", "y"), field]);
        assert_eq!(asked(&fields).unwrap_err(), MALFORMED, "{field:?} behind a header");
    }
    assert_eq!(answered(&[("x", "y"), (":status", "200")]).unwrap_err(), MALFORMED);
    for unknown in [":protocol", ":", ":Method", ":methods", ":host"] {
        assert_eq!(asked(&[&GET[..], &[(unknown, "x")]].concat()).unwrap_err(), MALFORMED, "{unknown}");
        assert_eq!(answered(&[(":status", "200"), (unknown, "x")]).unwrap_err(), MALFORMED, "{unknown}");
    }
    assert_eq!(asked(&[&GET[..], &[(":status", "200")]].concat()).unwrap_err(), MALFORMED);
    for field in GET {
        assert_eq!(answered(&[(":status", "200"), field]).unwrap_err(), MALFORMED, "{field:?}");
        assert_eq!(raw(&block(&[field])).unwrap_err(), MALFORMED, "{field:?}");
    }
    assert_eq!(raw(&block(&[(":status", "200")])).unwrap_err(), MALFORMED);
    assert_eq!(lines(&raw(&block(&[("grpc-status", "0")])).unwrap()), [("grpc-status", "0")]);
}

#[test]
fn what_a_request_asks_for_is_well_formed() {
    for path in ["", "a", "?a", "#a", "/a#b", "http://a/", "*", "/a b", "**"] {
        assert_eq!(but(":path", path).unwrap_err(), MALFORMED, "{path}");
    }
    assert_eq!(but(":path", "/a?b=c").unwrap().uri, "http://a/a?b=c");
    for authority in ["", "user@a", "user:pass@a", "@a", "a b", "a/b", "a:b:c"] {
        assert_eq!(but(":authority", authority).unwrap_err(), MALFORMED, "{authority}");
    }
    assert_eq!(but(":authority", "[::1]:80").unwrap().uri.authority().unwrap(), "[::1]:80");
    for method in ["", "G T", "G\0T", "G:T"] {
        assert_eq!(but(":method", method).unwrap_err(), MALFORMED, "{method}");
    }
    for scheme in ["", "ht tp", "1:", "http://"] {
        assert_eq!(but(":scheme", scheme).unwrap_err(), MALFORMED, "{scheme}");
    }
    assert_eq!(but(":scheme", "https").unwrap().uri.scheme_str(), Some("https"));
}

#[test]
fn connect_names_an_authority_alone_and_options_may_ask_for_everything() {
    let connect = asked(&[(":method", "CONNECT"), (":authority", "a:443")]).unwrap();
    assert_eq!((connect.method, connect.uri.to_string()), (Method::CONNECT, "a:443".into()));
    assert_eq!(asked(&[(":method", "CONNECT")]).unwrap_err(), MALFORMED);
    assert_eq!(but(":method", "CONNECT").unwrap_err(), MALFORMED, "with scheme and path");
    for more in [(":scheme", "http"), (":path", "/")] {
        assert_eq!(asked(&[(":method", "CONNECT"), (":authority", "a:443"), more]).unwrap_err(), MALFORMED, "{more:?}");
    }
    let mut fields = GET;
    (fields[0].1, fields[2].1) = ("OPTIONS", "*");
    assert_eq!(asked(&fields).unwrap().uri.path(), "*");
}

#[test]
fn a_response_has_a_status_of_three_digits_once() {
    for status in ["100", "103", "200", "204", "304", "404", "503", "599", "999"] {
        assert_eq!(answered(&[(":status", status)]).unwrap().status.as_str(), status);
    }
    for status in ["", "20", "2000", "20x", "+20", " 200", "099", "000", "101"] {
        assert_eq!(answered(&[(":status", status)]).unwrap_err(), MALFORMED, "{status}");
    }
    assert_eq!(answered(&[("x", "y")]).unwrap_err(), MALFORMED);
    assert_eq!(answered(&[]).unwrap_err(), MALFORMED);
    assert_eq!(answered(&[(":status", "200"), (":status", "200")]).unwrap_err(), MALFORMED);
}

#[test]
fn names_are_lower_case_tokens() {
    let long = "X".repeat(200);
    for name in ["", "X-Thing", "x thing", "x:", "x\0", "x\r\n", "\u{e4}", "x/y", &long] {
        assert_eq!(with(&[(name, "y")]).unwrap_err(), MALFORMED, "{name:?}");
    }
    let long = "x".repeat(200);
    for name in ["x", "x-thing_1.2", "!#$%&'*+-.^_`|~", "content-type", &long] {
        assert_eq!(lines(&with(&[(name, "y")]).unwrap()), [(name, "y")]);
    }
}

#[test]
fn values_hold_no_control_characters_and_no_blanks_at_their_ends() {
    for value in ["a\0b", "a\rb", "a\nb", "a\x7fb", " a", "a ", "\ta", "a\t", " "] {
        assert_eq!(with(&[("x", value)]).unwrap_err(), MALFORMED, "{value:?}");
        assert_eq!(raw(&block(&[("x", value)])).unwrap_err(), MALFORMED, "{value:?}");
    }
    for value in ["", "a", "a b", "a\tb"] {
        assert_eq!(lines(&with(&[("x", value)]).unwrap()), [("x", value)]);
    }
    assert_eq!(with(&[("x", "\u{e4}")]).unwrap()["x"].as_bytes(), "\u{e4}".as_bytes());
}

#[test]
fn what_belongs_to_a_connection_is_refused_and_te_but_for_trailers() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        for value in ["", "close", "chunked"] {
            assert_eq!(with(&[(name, value)]).unwrap_err(), MALFORMED, "{name}");
            assert_eq!(answered(&[(":status", "200"), (name, value)]).unwrap_err(), MALFORMED, "{name}");
            assert_eq!(raw(&block(&[(name, value)])).unwrap_err(), MALFORMED, "{name}");
        }
    }
    for value in ["", "gzip", "trailers, gzip", "Trailers"] {
        assert_eq!(with(&[("te", value)]).unwrap_err(), MALFORMED, "{value}");
    }
    assert_eq!(lines(&with(&[("te", "trailers")]).unwrap()), [("te", "trailers")]);
    // In the static table, too.
    assert_eq!(raw(&[0x80 | 57]).unwrap_err(), MALFORMED);
}

#[test]
fn cookies_come_as_they_are() {
    let headers = with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]).unwrap();
    assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn what_was_noted_is_what_the_headers_hold() {
    let fields =
        [("content-type", "application/grpc"), ("te", "trailers"), ("x", "y"), ("content-length", "1"), ("via", "2 a")];
    let mut inflate = Inflate::new(4096);
    let (parts, seen) = request(&mut inflate, &block(&[&GET[..], &fields].concat())).unwrap();
    assert_eq!(seen, super::Seen::in_headers(&parts.headers));
    assert!(seen.grpc && seen.te && seen.via && seen.lengths == 1);
}

#[test]
fn a_malformed_message_leaves_the_table_right() {
    let mut inflate = Inflate::new(4096);
    // Bad fields go into the table as others do: X: y (upper case), x with a blank, x: y.
    let bad = [&b"\x40\x01X\x01y"[..], b"\x40\x01x\x02y ", b"\x40\x01x\x01y"].concat();
    assert_eq!(trailers(&mut inflate, &bad).unwrap_err(), MALFORMED);
    assert_eq!(inflate.table().sizes(), (3, 103));
    assert_eq!(lines(&trailers(&mut inflate, &[0x80 | 62]).unwrap()), [("x", "y")]);
    assert_eq!(trailers(&mut inflate, &[0x80 | 63]).unwrap_err(), MALFORMED);
    assert_eq!(trailers(&mut inflate, &[0x80 | 64]).unwrap_err(), MALFORMED);
    // Their names may be said again: one is right, the other is not.
    assert_eq!(lines(&trailers(&mut inflate, b"\x0f\x30\x01z").unwrap()), [("x", "z")]);
    assert_eq!(trailers(&mut inflate, b"\x0f\x31\x01z").unwrap_err(), MALFORMED);
}

#[test]
fn a_number_that_stands_for_nothing_is_refused() {
    assert_eq!(raw(&[0x80]).unwrap_err(), BROKEN, "0");
    assert_eq!(raw(&[0x80 | 62]).unwrap_err(), BROKEN, "nothing is in the table");
    assert_eq!(raw(&[0x7f, 0x00, 0x01, b'x']).unwrap_err(), BROKEN, "a name's number");
    assert_eq!(raw(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err(), BROKEN, "too large");
    assert_eq!(raw(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err(), BROKEN, "large");
    let mut inflate = Inflate::new(4096);
    trailers(&mut inflate, b"\x40\x01x\x01y").unwrap();
    assert!(trailers(&mut inflate, &[0x80 | 62]).is_ok());
    assert_eq!(trailers(&mut inflate, &[0x80 | 63]).unwrap_err(), BROKEN);
}

#[test]
fn a_number_of_more_than_a_byte_stands_for_what_it_says_wherever_it_stands() {
    let mut inflate = Inflate::new(4096);
    let mut fill = Vec::new();
    for at in 0..100u8 {
        fill.extend([0x40, 1, b'a' + at % 26, 1, b'!' + at % 90]);
    }
    trailers(&mut inflate, &fill).unwrap();
    // The first, which is the 100th from the end; the second; and one of a byte.
    for _ in 0..4 {
        let (parts, _) = response(&mut inflate, &[0x88, 0xff, 161 - 127, 0xff, 160 - 127, 0x80 | 62]).unwrap();
        assert_eq!(lines(&parts.headers), [("a", "!"), ("b", "\""), ("v", "*")]);
    }
}

#[test]
fn a_block_that_is_cut_off_is_refused() {
    for cut in [
        &b"\x40"[..],
        b"\x40\x01",
        b"\x40\x01x",
        b"\x40\x01x\x02y",
        b"\x00\x81",
        b"\xff",
        b"\x3f",
        b"\x40\x01x\x81\x00",
    ] {
        assert_eq!(raw(cut).unwrap_err(), BROKEN, "{cut:?}");
        assert_eq!(Inflate::new(4096).skip(cut), Err(Code::COMPRESSION_ERROR), "{cut:?}");
    }
}

#[test]
fn the_table_changes_its_size_at_a_blocks_beginning_within_the_limit() {
    let (to_0, to_4096, to_4097) = ([0x20], [0x3f, 0xe1, 0x1f], [0x3f, 0xe2, 0x1f]);
    let entry = &b"\x40\x01x\x01y"[..];
    assert!(raw(&[&to_0[..], &to_4096, entry].concat()).is_ok());
    assert_eq!(raw(&to_4097).unwrap_err(), BROKEN);
    assert_eq!(raw(&[entry, &to_0].concat()).unwrap_err(), BROKEN);
    assert_eq!(raw(&[&[0x80 | 31][..], &to_0].concat()).unwrap_err(), BROKEN, "behind a field of the static table");
    assert!(trailers(&mut Inflate::new(8192), &to_4097).is_ok());

    let mut inflate = Inflate::new(4096);
    trailers(&mut inflate, entry).unwrap();
    assert_eq!(inflate.skip(&to_0), Ok(()));
    assert_eq!(inflate.table().sizes(), (0, 0), "what was in it left");
    assert_eq!(
        lines(&trailers(&mut inflate, entry).unwrap()),
        [("x", "y")],
        "what has no place is a field nonetheless"
    );
    assert_eq!(inflate.table().sizes(), (0, 0));
    inflate.skip(&to_4096).unwrap();
    trailers(&mut inflate, entry).unwrap();
    assert_eq!(inflate.table().sizes(), (1, 34));
}

#[test]
fn an_entry_may_evict_the_one_that_its_name_is_of_and_one_too_large_evicts_all() {
    let mut inflate = Inflate::new(4096);
    // A table of 40 bytes: one entry.
    inflate.skip(&[0x3f, 40 - 31]).unwrap();
    trailers(&mut inflate, b"\x40\x01x\x01y").unwrap();
    assert_eq!(lines(&trailers(&mut inflate, b"\x7e\x01z").unwrap()), [("x", "z")]);
    assert_eq!(inflate.table().sizes(), (1, 34));
    assert_eq!(lines(&trailers(&mut inflate, b"\x7e\x0a0123456789").unwrap()), [("x", "0123456789")]);
    assert_eq!(inflate.table().sizes(), (0, 0));
}

#[test]
fn a_message_beyond_its_limit_is_decoded_and_not_kept() {
    let scratch = Scratch::default();
    let mut inflate = Inflate::new(4096);
    // x: y is 34 bytes, a: b as well.
    let both = b"\x40\x01x\x01y\x40\x01a\x01b";
    assert_eq!(inflate.trailers(both, 67, &scratch).unwrap_err(), Refused::TooLarge);
    assert_eq!(inflate.table().sizes(), (2, 68), "the table follows");
    assert_eq!(inflate.trailers(&[0x80 | 62, 0x80 | 63], 67, &scratch).unwrap_err(), Refused::TooLarge);
    assert_eq!(inflate.trailers(&[0x80 | 62, 0x80 | 63], 68, &scratch).unwrap().len(), 2);
    let status = inflate.response(&[0x80 | 8, 0x80 | 62], 42 + 33, &scratch);
    assert_eq!(status.unwrap_err(), Refused::TooLarge, "pseudo-headers count, too");
    assert!(inflate.response(&[0x80 | 8, 0x80 | 62], 42 + 34, &scratch).is_ok());
    // Behind the limit a block is still decoded, and refused where it cannot be.
    assert_eq!(inflate.trailers(&[0x80 | 62, 0x80], 0, &scratch).unwrap_err(), BROKEN);
}

#[test]
fn a_small_block_that_means_much_is_not_kept() {
    let mut inflate = Inflate::new(4096);
    let mut fill = b"\x40\x01x\x7f".to_vec();
    super::put_number(&mut fill, 0, 7, 4000);
    fill.remove(3);
    fill.extend([b'y'; 4000]);
    trailers(&mut inflate, &fill).unwrap();
    let scratch = Scratch::default();
    let bomb = vec![0x80 | 62; 16_000];
    assert_eq!(inflate.trailers(&bomb, 64 * 1024, &scratch).unwrap_err(), Refused::TooLarge);
    assert!(scratch.map().capacity() < 64, "16 of them were kept before the limit");
    assert_eq!(trailers(&mut inflate, &[0x80 | 62]).unwrap()["x"].len(), 4000);
    // More fields than a map takes are too many, whatever the limit.
    let many: Vec<(String, &str)> = (0..40_000).map(|i| (format!("x-{i}"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(inflate.trailers(&block(&many), usize::MAX, &scratch).unwrap_err(), Refused::TooLarge);
}

#[test]
fn the_static_table_is_what_its_texts_say() {
    let table = Table::new(4096);
    let mut texts = Vec::new();
    for index in 1..=61 {
        let entry = table.get(index).unwrap();
        let (name, value) = match &entry.field {
            Field::Method(method) => (":method", method.as_str()),
            Field::Scheme(scheme) => (":scheme", scheme.as_str()),
            Field::Path(path) => (":path", path.as_str()),
            Field::Status(status) => (":status", status.as_str()),
            Field::Header { name, value, .. } => (name.as_str(), value.to_str().unwrap()),
            Field::Bad(Name::Authority) => (":authority", ""),
            Field::Bad(Name::Bad(17)) => ("transfer-encoding", ""),
            other => panic!("{other:?}"),
        };
        assert_eq!(entry.size, name.len() + value.len() + 32, "{name}");
        assert_eq!(entry.field, Field::new(Name::new(name.as_bytes()), value.as_bytes(), false), "{name}");
        texts.push(format!("{name}: {value}"));
    }
    assert!(table.get(0).is_none() && table.get(62).is_none());
    // RFC 7541, appendix A: some numbers and what they stand for.
    for (index, text) in [
        (4, ":path: /"),
        (7, ":scheme: https"),
        (8, ":status: 200"),
        (14, ":status: 500"),
        (16, "accept-encoding: gzip, deflate"),
        (19, "accept: "),
        (28, "content-length: "),
        (31, "content-type: "),
        (33, "date: "),
        (38, "host: "),
        (46, "location: "),
        (54, "server: "),
        (58, "user-agent: "),
        (61, "www-authenticate: "),
    ] {
        assert_eq!(texts[index - 1], text);
    }
    assert_eq!(texts.iter().collect::<std::collections::BTreeSet<_>>().len(), 61);
}
