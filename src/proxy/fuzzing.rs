//! The readers of this room as functions of bytes, for `crate::fuzzing`.

use super::client1::{Parsed, parse_answer};
use super::http2;
use super::server1::{self, Limits, parse_request};
use super::wire1::{Decoder, Framing, Names, Piece};
use bytes::Bytes;
use http::{HeaderMap, Method};

const LIMITS: Limits = Limits { head: 16 * 1024, headers: 100 };
/// Heads a read may hold.
const MAX_HEADS: usize = 1_000;

/// What an HTTP/1.1 client sends: requests and their bodies.
pub fn request1(bytes: &[u8]) {
    let (mut bytes, mut names) = (Bytes::copy_from_slice(bytes), Names::default());
    for n in 0..MAX_HEADS {
        let mut head: Option<server1::RequestHead> = None;
        let lines = n % 2 == 0;
        let empty = || (HeaderMap::new(), lines.then(Default::default));
        let before = bytes.len();
        if parse_request(&mut bytes, LIMITS, empty, &mut names, &mut head).is_err() {
            return;
        }
        let Some(head) = head else { return };
        assert!(before - bytes.len() <= LIMITS.head && before > bytes.len());
        assert!(head.parts.headers.len() <= LIMITS.headers);
        if !body(head.framing, &mut bytes) || !head.keep {
            return;
        }
    }
}

/// What an HTTP/1.1 endpoint sends: answers and their bodies.
pub fn answer1(bytes: &[u8]) {
    let (mut bytes, mut names, mut spare) = (Bytes::copy_from_slice(bytes), Names::default(), HeaderMap::new());
    for n in 0..MAX_HEADS {
        let (mut place, mut lines) = (None, (n % 2 == 0).then(Default::default));
        let method = if n % 3 == 2 { Method::HEAD } else { Method::GET };
        let before = bytes.len();
        match parse_answer(&mut bytes, &method, &mut spare, &mut lines, &mut names, &mut place) {
            Err(_) | Ok(Parsed::Partial) => return,
            Ok(Parsed::Informational(status)) => assert!(status.is_informational()),
            Ok(Parsed::Final(framing, keep)) => {
                if !body(framing, &mut bytes) || !keep.0 {
                    return;
                }
            }
        }
        assert!(before > bytes.len() && place.is_some());
    }
}

/// Whether a body came to its end. What is given out is never more than came in.
fn body(framing: Framing, bytes: &mut Bytes) -> bool {
    let (mut decoder, mut left) = (Decoder::new(framing), bytes.len());
    loop {
        match decoder.next(bytes) {
            Ok(Piece::Data(data)) => {
                assert!(!data.is_empty() && data.len() <= left);
                left -= data.len();
            }
            Ok(Piece::Trailers(_)) => {}
            Ok(Piece::End) => return true,
            Ok(Piece::Partial) | Err(_) => return false,
        }
    }
}

/// What an HTTP/2 client sends behind its preface.
pub fn client2(bytes: &[u8]) {
    http2::fuzzing::run(http2::Role::Server, bytes);
}

/// What an HTTP/2 endpoint sends.
pub fn endpoint2(bytes: &[u8]) {
    http2::fuzzing::run(http2::Role::Client, bytes);
}

/// What a connection begins with from those who put a PROXY header before it.
pub fn proxy_header(bytes: &[u8]) {
    match super::proxy_header::read(bytes) {
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len() && header.length <= super::proxy_header::MAX_HEADER);
            // More bytes change nothing of what a header says.
            let longer = [bytes, b"x"].concat();
            assert_eq!(super::proxy_header::read(&longer), Ok(Some(header)));
            if let Some((client, server)) = header.addresses {
                let written = super::proxy_header::write(client, server, header.hops).unwrap_or_default();
                let same = |read: super::proxy_header::Header| read.addresses.is_some() && read.hops == header.hops;
                assert!(super::proxy_header::read(&written).is_ok_and(|read| read.is_some_and(same)));
            }
        }
        Ok(None) => assert!(bytes.len() < super::proxy_header::MAX_HEADER),
        Err(super::proxy_header::NoHeader) => {}
    }
}

/// What a client says first where it may speak anything.
pub fn first_bytes(bytes: &[u8]) {
    if super::sniff::sniff(bytes).is_none() {
        assert!(bytes.len() < super::sniff::MOST + 16);
    }
}
