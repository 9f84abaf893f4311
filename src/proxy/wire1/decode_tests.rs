//! Bodies in whatever pieces they come.

use super::*;

/// Data, trailers, and what was left over.
type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Reads a body that comes in these pieces; `Ok(None)` when it is not over with them.
fn read(framing: Framing, pieces: &[&[u8]]) -> Result<Option<Read>, Malformed> {
    let mut decoder = Decoder::new(framing);
    let (mut data, mut trailers, mut bytes) = (Vec::new(), None, Bytes::new());
    let mut pieces = pieces.iter();
    loop {
        match decoder.next(&mut bytes)? {
            Piece::Data(part) => {
                assert!(!part.is_empty());
                data.extend_from_slice(&part);
            }
            Piece::Trailers(map) => trailers = Some(map),
            Piece::End => {
                let left = [&bytes[..], &pieces.copied().collect::<Vec<_>>().concat()].concat();
                return Ok(Some((data, trailers, left)));
            }
            Piece::Partial => match pieces.next() {
                Some(piece) => {
                    assert!(bytes.is_empty(), "what is not needed yet is kept by nobody");
                    bytes = Bytes::copy_from_slice(piece);
                }
                None if decoder.end().is_ok() => return Ok(Some((data, trailers, Vec::new()))),
                None => return Ok(None),
            },
        }
    }
}

fn chunked(text: &[u8]) -> Result<Option<Read>, Malformed> {
    read(Framing::Chunked, &[text])
}

#[test]
fn a_body_reads_the_same_wherever_it_is_cut() {
    let mut trailers = HeaderMap::new();
    trailers.append("x-sum", HeaderValue::from_static("42"));
    trailers.append("x-b", HeaderValue::from_static("c d"));
    let cases: [(Framing, &[u8], Read); 6] = [
        (Framing::Length(5), b"helloGET", (b"hello".to_vec(), None, b"GET".to_vec())),
        (Framing::Length(0), b"GET", (vec![], None, b"GET".to_vec())),
        (Framing::Close, b"hello", (b"hello".to_vec(), None, vec![])),
        (
            Framing::Chunked,
            b"5\r\nhello\r\n0000A ;a=b;c=\"d \t\xe9\"\r\n 0123456\r\n\r\n0;end\r\n\r\nHTTP",
            (b"hello 0123456\r\n".to_vec(), None, b"HTTP".to_vec()),
        ),
        (
            Framing::Chunked,
            b"1\r\nx\r\n0\r\nX-Sum: 42\r\nx-b:  c d\r\n\r\nHTTP",
            (b"x".to_vec(), Some(trailers.clone()), b"HTTP".to_vec()),
        ),
        (Framing::Chunked, b"0\r\n\r\n", (vec![], None, vec![])),
    ];
    for (framing, text, expected) in cases {
        let expected = Ok(Some(expected));
        let case = String::from_utf8_lossy(text).into_owned();
        assert_eq!(read(framing, &[text]), expected, "{case}");
        for cut in 1..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(read(framing, &[first, second]), expected, "{case} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(framing, &bytes), expected, "{case} byte by byte");
    }
}

#[test]
fn chunks_that_break_their_grammar_are_refused() {
    for text in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"0x1\r\n",
        b";a\r\n",
        b"1\nx\r\n",
        b"1\r\r\n",
        b"1 2\r\n",
        b"1;a\nx\r\n0\r\n\r\n",
        b"1;a\x01b\r\n",
        b"1;a\x7f\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1\r\nx\r0\r\n\r\n",
        b"1\r\nx\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\r\nx\r\n\r\n",
        b"0\r\nx: 1\n\r\n",
        b"0\r\nx: 1\ry: 2\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\nx: 1\r\n y\r\n\r\n",
        b"0\r\nx : 1\r\n\r\n",
        b"0\r\nx: \x01\r\n\r\n",
        // More than 64 bits hold; a reader that wraps around would see a small chunk.
        b"10000000000000001\r\nx\r\n0\r\n\r\n",
        b"00000000000000001\r\nx\r\n0\r\n\r\n",
    ] {
        assert_eq!(chunked(text), Err(Malformed), "{:?}", String::from_utf8_lossy(text));
    }
    assert_eq!(chunked(b"ffffffffffffffff\r\nx"), Ok(None), "the largest that fits");
}

#[test]
fn what_was_refused_stays_refused() {
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut bytes = Bytes::from_static(b"1\r\nxy");
    assert!(matches!(decoder.next(&mut bytes), Ok(Piece::Data(_))), "what came before goes on");
    let mut right = Bytes::from_static(b"0\r\n\r\n");
    assert!(decoder.next(&mut right).is_err() && decoder.end().is_err() && !decoder.done());
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let extensions = |n: usize| chunked(format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(n)).as_bytes());
    assert!(extensions(MAX_EXTENSIONS).is_ok() && extensions(MAX_EXTENSIONS + 1).is_err());
    let many = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(MAX_EXTENSIONS / 15 + 1) + "0\r\n\r\n";
    assert!(chunked(many.as_bytes()).is_err(), "all chunks together");
    let padded = |n: usize| chunked(format!("1{}\r\nx\r\n0\r\n\r\n", " ".repeat(n)).as_bytes());
    assert!(padded(8).is_ok() && padded(MAX_EXTENSIONS + 1).is_err());
    let trailers = |n: usize, size: usize| {
        let lines: String = (0..n).map(|i| format!("x-{i}: {}\r\n", "y".repeat(size))).collect();
        chunked(format!("0\r\n{lines}\r\n").as_bytes()).map(|r| r.unwrap().1.unwrap().len())
    };
    assert_eq!((trailers(MAX_TRAILER_FIELDS, 1), trailers(MAX_TRAILER_FIELDS + 1, 1)), (Ok(100), Err(Malformed)));
    assert_eq!((trailers(1, MAX_TRAILERS - 7), trailers(1, MAX_TRAILERS - 6)), (Ok(1), Err(Malformed)));
}

#[test]
fn a_body_that_is_cut_off_is_not_over() {
    for (framing, text) in [
        (Framing::Length(5), &b"hell"[..]),
        (Framing::Length(5), b""),
        (Framing::Chunked, b""),
        (Framing::Chunked, b"5\r\nhell"),
        (Framing::Chunked, b"5\r\nhello"),
        (Framing::Chunked, b"5\r\nhello\r\n"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r"),
        (Framing::Chunked, b"0\r\nx: 1\r\n"),
    ] {
        assert_eq!(read(framing, &[text]), Ok(None), "{framing:?} {text:?}");
    }
}

#[test]
fn the_end_is_known_with_the_last_data_where_it_came_along() {
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut bytes = Bytes::from_static(b"5\r\nhello\r\n0\r\n\r\nnext");
    assert!(matches!(decoder.next(&mut bytes), Ok(Piece::Data(_))));
    assert!(decoder.done() && &bytes[..] == b"next");
    let mut decoder = Decoder::new(Framing::Length(5));
    let mut bytes = Bytes::from_static(b"hello");
    assert_eq!(decoder.left(), Some(5));
    assert!(matches!(decoder.next(&mut bytes), Ok(Piece::Data(_))) && decoder.done() && decoder.left() == Some(0));
}
