//! Which heads are taken, and which are refused.

use super::super::super::wire1::may_end;
use super::*;
use http::HeaderValue;

/// A head that was read, and what was left.
struct Read {
    parts: response::Parts,
    seen: Seen,
    framing: Framing,
    keep: bool,
    left: Bytes,
}

fn parsed(bytes: &mut Bytes, method: &Method, place: &mut Option<Head>) -> Result<Parsed, Malformed> {
    parse(bytes, method, &mut HeaderMap::new(), &mut None, &mut Names::default(), place)
}

fn read(text: &str, method: &Method) -> Result<Read, Malformed> {
    let (mut left, mut place) = (Bytes::copy_from_slice(text.as_bytes()), None);
    match parsed(&mut left, method, &mut place)? {
        Parsed::Final(framing, Keep(keep)) => {
            let Head { parts, seen, .. } = place.unwrap();
            Ok(Read { parts, seen, framing, keep, left })
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn framing(text: &str) -> Framing {
    read(text, &Method::GET).unwrap().framing
}

#[test]
fn a_heads_length_says_where_the_body_ends() {
    let get = |lines: &str| framing(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
    assert_eq!(get("Content-Length: 5\r\n"), Framing::Length(5));
    assert_eq!(get("content-length: 5\r\nContent-Length:5\r\n"), Framing::Length(5), "lengths that agree");
    assert_eq!(get("content-length: 5, 5\r\n"), Framing::Length(5));
    assert_eq!(get("content-length: 18446744073709551615\r\n"), Framing::Length(u64::MAX));
    assert_eq!(get("Transfer-Encoding: Chunked\r\n"), Framing::Chunked);
    assert_eq!(get(""), Framing::Close);
    for bodiless in ["204 No Content", "304 Not Modified", "101 Switching Protocols"] {
        for lines in ["", "content-length: 7\r\n", "transfer-encoding: chunked\r\n"] {
            assert_eq!(
                framing(&format!("HTTP/1.1 {bodiless}\r\n{lines}\r\n")),
                Framing::Length(0),
                "{bodiless} {lines}"
            );
        }
    }
    let head = read("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", &Method::HEAD).unwrap();
    assert_eq!((head.framing, head.keep), (Framing::Length(0), true));
}

#[test]
fn agreeing_lengths_are_passed_on_as_one() {
    let head = read("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5,5\r\n\r\n", &Method::GET).unwrap();
    let lengths: Vec<_> = head.parts.headers.get_all("content-length").iter().collect();
    assert_eq!(lengths, ["5"]);
}

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    for lines in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 6\r\n",
        "content-length: 5,\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5 5\r\n",
        "content-length:\r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "transfer-encoding:\x0bchunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding:\r\n",
        "transfer-encoding : chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "x: 1\r\n folded\r\n",
        "x: 1\r\n\tfolded\r\n",
        "x : 1\r\n",
        "x\r\n",
        ": 1\r\n",
        "x y: 1\r\n",
        "x(: 1\r\n",
        "x\u{e9}: 1\r\n",
        "x: a\rb\r\n",
        "x: a\r\rb\r\n",
        "x: \x01\r\n",
        "x: \0\r\n",
        "x: \x7f\r\n",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        assert_eq!(read(&text, &Method::GET).err(), Some(Malformed), "{lines:?}");
    }
    assert!(read("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &Method::GET).is_err());
    for first in [
        "\r\nHTTP/1.1 200 OK\r\n",
        "\nHTTP/1.1 200 OK\r\n",
        "ICY 200 OK\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "http/1.1 200 OK\r\n",
        "HTTP/2.0 200 OK\r\n",
        "HTTP/1.2 200 OK\r\n",
        "HTTP/1.1  200 OK\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 099 OK\r\n",
        "HTTP/1.1 2x0 OK\r\n",
        "HTTP/1.1 200 O\x01K\r\n",
        "HTTP/1.1 200 OK\r\r\n",
        "HTTP/1.1\r\n",
    ] {
        assert_eq!(read(&format!("{first}\r\n"), &Method::GET).err(), Some(Malformed), "{first:?}");
    }
}

#[test]
fn a_head_has_so_many_headers_and_no_more() {
    let head = |n: usize| {
        let lines: String = (0..n).map(|i| format!("x-{i}: y\r\n")).collect();
        read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), &Method::GET).map(|h| h.parts.headers.len())
    };
    assert_eq!((head(MAX_HEADERS), head(MAX_HEADERS + 1)), (Ok(MAX_HEADERS), Err(Malformed)));
}

#[test]
fn a_connection_stays_open_where_the_endpoint_says_so() {
    for (head, keep) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, CLOSE\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\nconnection: keep-alive\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\nconnection: close\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: closed\r\n", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: Keep-Alive\r\n", true),
        ("HTTP/1.1 200 OK\r\n", false),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n", false),
        ("HTTP/1.1 204 No Content\r\n", true),
    ] {
        assert_eq!(read(&format!("{head}\r\n"), &Method::GET).unwrap().keep, keep, "{head:?}");
    }
}

#[test]
fn a_head_is_taken_off_and_the_rest_stays() {
    let text = "HTTP/1.1 404 Not Here\r\nServer: x\r\nX-A:  b c \r\nX-A: \r\ncontent-length: 3\r\n\r\nabc";
    let head = read(text, &Method::GET).unwrap();
    let Read { parts, left, .. } = head;
    assert_eq!((parts.status, parts.version, &left[..]), (StatusCode::NOT_FOUND, Version::HTTP_11, &b"abc"[..]));
    let all: Vec<_> = parts.headers.get_all("x-a").iter().collect();
    assert_eq!(all, ["b c", ""]);
    assert_eq!(parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Not Here");
    assert!(read("HTTP/1.1 404 Not Found\r\n\r\n", &Method::GET).unwrap().parts.extensions.is_empty());
}

#[test]
fn what_is_for_this_connection_alone_is_not_passed_on() {
    let left = |lines: &str| {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), &Method::GET).unwrap();
        let Seen { connection, codings, lengths, .. } = head.seen;
        let names: Vec<_> = head.parts.headers.keys().map(|n| n.as_str().to_owned()).collect();
        (names.join(" "), connection, codings, lengths)
    };
    assert_eq!(left("connection: Keep-Alive, close\r\n"), (String::new(), false, 0, 0));
    assert_eq!(left("connection: x-a\r\nx-a: 1\r\n"), ("connection x-a".into(), true, 0, 0), "others must see it");
    assert_eq!(left("transfer-encoding: chunked\r\n"), (String::new(), false, 0, 0));
    assert_eq!(left("content-length: 3\r\n"), ("content-length".into(), false, 0, 0));
    let head = read("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", &Method::GET).unwrap();
    assert!(head.parts.headers.is_empty(), "RFC 9110, section 8.6");
}

#[test]
fn informational_answers_are_taken_off_one_by_one() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let mut bytes = Bytes::from_static(text.as_bytes());
    let (mut statuses, mut place) = (Vec::new(), None);
    loop {
        match parsed(&mut bytes, &Method::GET, &mut place).unwrap() {
            Parsed::Informational(status) => statuses.push(status.as_u16()),
            Parsed::Final(..) => break statuses.push(place.unwrap().parts.status.as_u16()),
            Parsed::Partial => panic!("{statuses:?}"),
        }
    }
    assert_eq!((statuses, bytes.len()), (vec![100, 103, 200], 0));
}

#[test]
fn a_part_of_a_head_is_neither_refused_nor_taken() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\n",
        "HTTP/1.0 500\r\nconnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 OK\nx: y\n\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        for end in 1..head.len() {
            let mut part = Bytes::copy_from_slice(&head.as_bytes()[..end]);
            let parsed = parsed(&mut part, &Method::GET, &mut None);
            assert!(parsed == Ok(Parsed::Partial) && part.len() == end, "{:?}: {parsed:?}", &head[..end]);
            assert!(!may_end(&part, 0), "{:?}", &head[..end]);
        }
        for seen in 0..head.len() {
            assert!(may_end(head.as_bytes(), seen), "{head:?} {seen}");
        }
    }
}

#[test]
fn the_map_that_is_filled_anew_keeps_nothing() {
    let mut spare = HeaderMap::new();
    spare.insert("x-old", HeaderValue::from_static("1"));
    let mut bytes = Bytes::from_static(b"HTTP/1.1 200 OK\r\nx-new: 2\r\n\r\n");
    let mut place = None;
    parse(&mut bytes, &Method::GET, &mut spare, &mut None, &mut Names::default(), &mut place).unwrap();
    let headers = place.unwrap().parts.headers;
    assert_eq!((headers.len(), headers.contains_key("x-new")), (1, true));
}

#[test]
fn what_nobody_needs_to_look_at_goes_aside_in_its_order() {
    let (mut names, mut place) = (Names::default(), None);
    let mut read = |text: &str| {
        let mut lines = Some(Lines::default());
        let mut bytes = Bytes::copy_from_slice(text.as_bytes());
        parse(&mut bytes, &Method::GET, &mut HeaderMap::new(), &mut lines, &mut names, &mut place).unwrap();
        let Head { parts, lines, .. } = place.take().unwrap();
        let lines = lines.unwrap();
        (String::from_utf8(lines.text().to_vec()).unwrap(), lines.dated, parts.headers.len())
    };
    let plain = "HTTP/1.1 200 OK\r\nDate: today\r\nX-A:  1 \r\nx-a: 2\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(read(plain), ("\r\ndate: today\r\nx-a: 1\r\nx-a: 2".into(), true, 1), "a name that is new");
    for _ in 0..3 {
        assert_eq!(read(plain), ("\r\ndate: today\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 0".into(), true, 0));
    }
    let named = "HTTP/1.1 200 OK\r\nx-a: 1\r\ndate: today\r\nconnection: x-a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(read(named), (String::new(), false, 4), "what `Connection` names must be found");
    let closes = "HTTP/1.1 200 OK\r\nx-a: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(read(closes), ("\r\nx-a: 1\r\ncontent-length: 0".into(), false, 0));
    let typed = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n";
    read(typed);
    assert_eq!(read(typed), ("\r\ncontent-type: text/plain\r\ncontent-length: 5".into(), false, 0));
}

#[test]
fn a_length_that_goes_aside_is_judged_as_any_other() {
    let mut names = Names::default();
    let mut read = |lines: &str, status: u16| {
        let (mut aside, mut place) = (Some(Lines::default()), None);
        let mut bytes = Bytes::from(format!("HTTP/1.1 {status} \r\n{lines}\r\n"));
        let parsed = parse(&mut bytes, &Method::GET, &mut HeaderMap::new(), &mut aside, &mut names, &mut place);
        let Some(Head { parts, lines: Some(lines), .. }) = place else { return Err(parsed) };
        let all: Vec<_> = parts.headers.get_all("content-length").iter().map(|v| v.to_str().unwrap()).collect();
        Ok((lines.length, lines.text().len(), all.join("|")))
    };
    let once = "content-length: 5\r\n";
    assert_eq!(read(once, 200), Ok((None, 0, "5".into())), "a name that is new");
    for _ in 0..2 {
        assert_eq!(read(once, 200), Ok((Some(5), 19, String::new())));
        assert_eq!(read("content-length: 5\r\ncontent-length: 5\r\n", 200), Ok((None, 0, "5".into())));
        assert_eq!(read("content-length: 5\r\nContent-Length: 5\r\n", 200), Ok((None, 0, "5".into())));
        assert_eq!(read("content-length: 5, 5\r\n", 200), Ok((None, 0, "5".into())));
        assert_eq!(read(once, 204), Ok((None, 0, String::new())));
        for wrong in [
            "content-length: 6\r\n",
            "transfer-encoding: chunked\r\n",
            "Content-Length: 6\r\n",
            "content-length: x\r\n",
        ] {
            assert_eq!(read(&(once.to_owned() + wrong), 200), Err(Err(Malformed)), "{wrong}");
            assert_eq!(read(&(wrong.to_owned() + once), 200), Err(Err(Malformed)), "{wrong}");
        }
    }
}
