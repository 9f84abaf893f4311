//! Which heads are taken, and which are refused.

use super::*;
use http::HeaderValue;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

const LIMITS: Limits = Limits { head: 16 * 1024, headers: 50 };

/// Reads one head, and gives what was left.
fn read(text: impl AsRef<[u8]>) -> Result<(Option<Head>, Bytes), Failure> {
    let mut bytes = Bytes::copy_from_slice(text.as_ref());
    let mut head = None;
    parse(&mut bytes, LIMITS, || (HeaderMap::new(), None), &mut Names::default(), &mut head)?;
    Ok((head, bytes))
}

fn head(text: &str) -> Head {
    read(text).unwrap_or_else(|f| panic!("{text:?}: {f:?}")).0.unwrap_or_else(|| panic!("{text:?} is no whole head"))
}

/// A request with these lines.
fn with(lines: &str) -> String {
    format!("POST /a?b=c HTTP/1.1\r\nhost: shop\r\n{lines}\r\n")
}

fn status(text: impl AsRef<[u8]>) -> u16 {
    match read(text.as_ref()) {
        Ok((head, _)) => panic!("{:?} was taken: {head:?}", String::from_utf8_lossy(text.as_ref())),
        Err(failure) => failure.status().as_u16(),
    }
}

#[test]
fn a_head_is_read_as_it_stands() {
    let (read, left) = read("GET /a?b=c HTTP/1.1\r\nHost:shop \r\nX-A: \t1  2\t\r\nx-a:\r\n\r\nrest").unwrap();
    let Head { parts, seen, framing, keep, expects, trailers, .. } = read.unwrap();
    assert_eq!((parts.method, parts.uri.to_string(), parts.version), (Method::GET, "/a?b=c".into(), Version::HTTP_11));
    let lines: Vec<_> = parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
    assert_eq!(lines, [("host", &b"shop"[..]), ("x-a", b"1  2"), ("x-a", b"")]);
    assert_eq!(seen, Seen { hosts: 1, ..Seen::default() });
    assert_eq!((framing, keep, expects, trailers, &left[..]), (Framing::Length(0), true, false, false, &b"rest"[..]));
}

#[test]
fn targets_are_taken_in_every_form() {
    for target in ["/", "/a%20b?c", "*", "http://shop:80/a?b", "shop:443", "/a;b=(c)!*"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        assert_eq!(head(&format!("{method} {target} HTTP/1.1\r\n\r\n")).parts.uri.to_string(), target);
    }
    for target in ["/a#b", "#", "a b", "", "/\x7f", "/\t", "http://", "/\r"] {
        assert_eq!(status(format!("GET {target} HTTP/1.1\r\n\r\n")), 400, "{target:?}");
    }
}

#[test]
fn a_heads_length_says_where_the_body_ends() {
    assert_eq!(head(&with("")).framing, Framing::Length(0));
    assert_eq!(head(&with("Content-Length: 5\r\n")).framing, Framing::Length(5));
    assert_eq!(head(&with("content-length: 18446744073709551615\r\n")).framing, Framing::Length(u64::MAX));
    assert_eq!(head(&with("Transfer-Encoding: Chunked\r\n")).framing, Framing::Chunked);
    // Refused with the rest of its headers, and the connection is used no more.
    let both = head(&with("transfer-encoding: chunked\r\ncontent-length: 5\r\n"));
    assert_eq!((both.framing, both.keep, both.seen.lengths, both.seen.codings), (Framing::Chunked, false, 1, 1));
    assert_eq!(head(&with("transfer-encoding: gzip, chunked\r\n")).framing, Framing::Chunked);
}

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    for lines in [
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5,\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5 5\r\n",
        "content-length:\r\n",
        "content-length: 18446744073709551616\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding:\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        "transfer-encoding: gzip\r\n chunked\r\n",
        "x-a: 1\r\n\tfolded\r\n",
        " x-a: 1\r\n",
        "x-a: 1\n",
        "x-a: 1\rx-b: 2\r\n",
        "x-a: 1\r\r\n",
        "x-a: \0\r\n",
        "x-a: \x7f\r\n",
        "x a: 1\r\n",
        "x-\u{e4}: 1\r\n",
        ": 1\r\n",
        "x-a\r\n",
        "x(a): 1\r\n",
    ] {
        assert_eq!(status(with(lines)), 400, "{lines:?}");
    }
    assert_eq!(status("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), 400);
}

#[test]
fn every_line_ends_in_cr_lf() {
    for text in [
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\ny: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\n",
        "GET / HTTP/1.1\r\nhost: a\n\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\r\n\n",
    ] {
        assert_eq!(status(text), 400, "{text:?}");
    }
}

#[test]
fn first_lines_that_are_none_are_refused() {
    for text in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /  HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/0.9\r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET\r\n\r\n",
        "G\0T / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
        "GET\t/ HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(status(text), 400, "{text:?}");
    }
}

#[test]
fn empty_lines_may_come_before_a_request() {
    assert_eq!(head("\r\nGET / HTTP/1.1\r\n\r\n").parts.method, Method::GET);
    assert_eq!(head("\r\n\r\nGET / HTTP/1.1\r\n\r\n").parts.method, Method::GET);
    for text in ["\r\r\nGET / HTTP/1.1\r\n\r\n", "\nGET / HTTP/1.1\r\n\r\n", "\r\n\nGET / HTTP/1.1\r\n\r\n", "\rGET"] {
        assert_eq!(status(text), 400, "{text:?}");
    }
    assert!(read("\r").unwrap().0.is_none() && read("\r\n").unwrap().0.is_none());
}

#[test]
fn the_connection_is_kept_where_both_sides_can() {
    for (version, lines, keep) in [
        ("1.1", "", true),
        ("1.1", "connection: Close\r\n", false),
        ("1.1", "connection: keep-alive\r\n", true),
        ("1.1", "connection: keep-alive, close\r\n", false),
        ("1.1", "connection: x-a\r\nconnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "connection: Keep-Alive\r\n", true),
        ("1.0", "connection: keep-alive, close\r\n", false),
    ] {
        assert_eq!(head(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).keep, keep, "{version} {lines:?}");
    }
    assert!(!head("CONNECT shop:443 HTTP/1.1\r\nhost: shop:443\r\n\r\n").keep);
    let understood = head(&with("connection: keep-alive\r\n"));
    assert!(!understood.seen.connection && !understood.parts.headers.contains_key(CONNECTION));
    let more = head(&with("connection: upgrade\r\nupgrade: websocket\r\n"));
    assert!(more.seen.connection && more.seen.upgrade && more.parts.headers.contains_key(CONNECTION));
}

#[test]
fn only_who_can_wait_for_100_does() {
    let expects = |text: &str| head(text).expects;
    assert!(expects(&with("expect: 100-Continue\r\ncontent-length: 1\r\n")));
    assert!(expects(&with("expect: 100-continue\r\ntransfer-encoding: chunked\r\n")));
    assert!(!expects(&with("expect: 100-continue\r\n")), "there is no body");
    assert!(!expects(&with("expect: something\r\ncontent-length: 1\r\n")));
    assert!(!expects("POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"));
    assert!(head(&with("te: gzip, trailers\r\n")).trailers && !head(&with("te: gzip\r\n")).trailers);
}

#[test]
fn heads_beyond_the_limits_are_too_large() {
    let lines = |n: usize, size: usize| -> String {
        let lines: String = (0..n).map(|i| format!("x-{i}: {}\r\n", "y".repeat(size))).collect();
        format!("GET / HTTP/1.1\r\n{lines}\r\n")
    };
    assert_eq!(head(&lines(50, 5)).parts.headers.len(), 50);
    assert_eq!(status(lines(51, 5)), 431);
    assert!(read(lines(10, 1600)).unwrap().0.is_some());
    assert_eq!(status(lines(10, 1640)), 431);
    // Unfinished, it is refused once it cannot end within the limit any more.
    assert!(read("GET / HTTP/1.1\r\nx: ".to_owned() + &"y".repeat(16_000)).unwrap().0.is_none());
    assert_eq!(status("GET / HTTP/1.1\r\nx: ".to_owned() + &"y".repeat(16_384)), 431);
    let many = Limits { headers: 1000, head: 1 << 20 };
    let mut bytes = Bytes::from(lines(1000, 5));
    let mut head = None;
    parse(&mut bytes, many, || (HeaderMap::new(), None), &mut Names::default(), &mut head).unwrap();
    assert_eq!(head.unwrap().parts.headers.len(), 1000);
}

#[test]
fn a_part_of_a_head_is_none() {
    let text = with("content-length: 5\r\nexpect: 100-continue\r\n");
    for end in 0..text.len() {
        let (head, left) = read(&text[..end]).unwrap();
        assert!(head.is_none() && left.len() == end, "{end}");
    }
    assert!(read(&text).unwrap().0.is_some());
}

/// The same head with plain headers as lines is the same head, whatever names were read before.
fn as_lines_too(names: &mut Names, text: &[u8], whole: &Result<Option<Head>, Failure>) {
    let (mut bytes, mut head) = (Bytes::copy_from_slice(text), None);
    let empty = || (HeaderMap::new(), Some(Lines::default()));
    let read = parse(&mut bytes, LIMITS, empty, names, &mut head);
    match (whole, read.map(|()| head)) {
        (Ok(Some(whole)), Ok(Some(mut head))) => {
            let routed = |head: &Head| head.parts.headers.get_all("x-a").iter().count();
            assert_eq!(routed(whole), routed(&head), "what routes ask for is no line");
            if let Some(lines) = head.lines.take() {
                lines.put_into(&mut head.parts.headers).unwrap();
                if let Some(host) = lines.host() {
                    head.parts.headers.insert("host", HeaderValue::from_bytes(host).unwrap());
                }
            }
            assert_eq!(head.parts.headers, whole.parts.headers, "{:?}", String::from_utf8_lossy(text));
            assert_eq!(head.seen, whole.seen);
            assert_eq!((head.framing, head.keep, head.expects), (whole.framing, whole.keep, whole.expects));
        }
        (Ok(whole), Ok(head)) => assert_eq!(whole.is_none(), head.is_none()),
        (whole, read) => assert_eq!(whole.as_ref().err(), read.as_ref().err()),
    }
}

#[test]
fn headers_that_mean_nothing_to_a_proxy_are_lines() {
    let mut names = Names::default();
    names.route_by([HeaderName::from_static("x-canary")].iter());
    let text = "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: me\r\nX-Canary: yes\r\nAccept:\r\naccept: b: c\r\n\r\n";
    // Unknown names, and then known ones.
    for known in [false, true] {
        let (mut bytes, mut place) = (Bytes::from(text), None);
        parse(&mut bytes, LIMITS, || (HeaderMap::new(), Some(Lines::default())), &mut names, &mut place).unwrap();
        let head = place.unwrap();
        let (lines, names) = (head.lines.unwrap(), head.parts.headers.keys().map(|n| n.as_str()).collect::<Vec<_>>());
        let plain = "\r\nuser-agent: me\r\naccept: \r\naccept: b: c";
        if known {
            assert_eq!(lines.text(), ("\r\nhost: a".to_owned() + plain).as_bytes());
            assert_eq!((lines.host(), names), (Some(&b"a"[..]), vec!["x-canary"]));
        } else {
            assert_eq!((lines.text(), lines.host(), names), (plain.as_bytes(), None, vec!["host", "x-canary"]));
        }
        let mut headers = HeaderMap::new();
        lines.put_into(&mut headers).unwrap();
        assert_eq!(headers.get_all("accept").iter().map(|v| v.as_bytes()).collect::<Vec<_>>(), [&b""[..], b"b: c"]);
        assert!(!headers.contains_key("host"), "its place is elsewhere towards an HTTP/2 endpoint");
    }
    // What `Connection` names may be any of them.
    let (mut bytes, mut place) = (Bytes::from(text.replace("X-Canary: yes", "Connection: Accept")), None);
    parse(&mut bytes, LIMITS, || (HeaderMap::new(), Some(Lines::default())), &mut names, &mut place).unwrap();
    let head = place.unwrap();
    assert_eq!((head.lines.is_none(), head.parts.headers.get_all("accept").iter().count()), (true, 2));
}

/// A valid request, which mutations start from.
fn valid(rng: &mut SmallRng) -> Vec<u8> {
    let pick = |rng: &mut SmallRng, from: &[&str]| from[rng.random_range(0..from.len())].to_owned();
    let mut text = pick(rng, &["GET ", "POST ", "OPTIONS ", "HEAD ", "X-Y "]);
    text += &pick(rng, &["/", "/a?b", "*", "http://a/b", "/%20"]);
    text += &pick(rng, &[" HTTP/1.1\r\n", " HTTP/1.0\r\n"]);
    for _ in 0..rng.random_range(0..6) {
        let lines = [
            "Host: shop\r\n",
            "content-length: 5\r\n",
            "transfer-encoding: chunked\r\n",
            "connection: close\r\n",
            "expect: 100-continue\r\n",
            "x-a:\t b \r\n",
            "cookie: a=b\r\n",
            "User-Agent: me/1.0 (x)\r\n",
            "accept:\r\n",
            "connection: accept\r\n",
        ];
        text += &pick(rng, &lines);
    }
    (text + "\r\nrest").into_bytes()
}

fn mutate(rng: &mut SmallRng, text: &mut Vec<u8>) {
    const NASTY: &[u8] = b"\r\n\0 \t:;,=#/\x7f\x80\xffHTGE0159";
    for _ in 0..rng.random_range(0..4) {
        if text.is_empty() {
            return;
        }
        let at = rng.random_range(0..text.len());
        let byte = NASTY[rng.random_range(0..NASTY.len())];
        match rng.random_range(0..5) {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            2 => drop(text.remove(at)),
            3 => text.truncate(at.max(1)),
            _ => text[at] = rng.next_u32() as u8,
        }
    }
}

#[test]
fn it_never_disagrees_with_httparse_on_what_a_head_is() {
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut taken, mut partial, mut stricter, mut refused) = (0, 0, 0, 0);
    let mut names = Names::default();
    names.route_by([HeaderName::from_static("x-a")].iter());
    for turn in 0..60_000 {
        let text = if turn % 10 == 0 {
            (0..rng.random_range(1..80)).map(|_| rng.next_u32() as u8).collect()
        } else {
            let mut text = valid(&mut rng);
            mutate(&mut rng, &mut text);
            text
        };
        if text.is_empty() {
            continue;
        }
        let case = String::from_utf8_lossy(&text).into_owned();
        let mut lines = [httparse::EMPTY_HEADER; 50];
        let mut theirs = httparse::Request::new(&mut lines);
        let parsed = theirs.parse(&text);
        let mut bytes = Bytes::from(text.clone());
        let mut head = None;
        let ours = parse(&mut bytes, LIMITS, || (HeaderMap::new(), None), &mut Names::default(), &mut head);
        let ours = ours.map(|()| head);
        as_lines_too(&mut names, &text, &ours);
        match (ours, parsed) {
            (Ok(Some(head)), Ok(httparse::Status::Complete(length))) => {
                taken += 1;
                assert_eq!(bytes, text[length..], "{case:?}");
                assert_eq!(head.parts.method.as_str(), theirs.method.unwrap(), "{case:?}");
                let understood = |n: &str, v: &[u8]| n.eq_ignore_ascii_case("connection") && Options::default().read(v);
                let mut expected: Vec<_> = theirs.headers.iter().filter(|h| !understood(h.name, h.value)).collect();
                assert_eq!(head.parts.headers.len(), expected.len(), "{case:?}");
                // A map gives all values of a name together, in their order.
                for (name, value) in &head.parts.headers {
                    let at = expected.iter().position(|h| h.name.eq_ignore_ascii_case(name.as_str())).unwrap();
                    assert_eq!(expected.remove(at).value, value.as_bytes(), "{case:?}");
                }
            }
            (Ok(None), Ok(httparse::Status::Partial)) => partial += 1,
            (Err(_), Ok(_)) => stricter += 1,
            (Err(_), Err(_)) => refused += 1,
            (ours, theirs) => panic!("{case:?}: {ours:?} but {theirs:?}"),
        }
    }
    let enough = [taken, partial, stricter, refused].iter().all(|n| *n > 500);
    assert!(enough, "{taken} {partial} {stricter} {refused}: else this shows little");
}
