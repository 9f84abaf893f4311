//! What a client speaks, by the first bytes that it sends, where that may be anything.
//!
//! | first bytes | taken for |
//! | --- | --- |
//! | HTTP/2's preface | HTTP |
//! | a method, a target, `HTTP/1.x` and a line's end | HTTP |
//! | a TLS ClientHello | TLS, with the name that it asks for |
//! | anything else | something else |
//!
//! A line is looked at to its end, because other protocols begin with a word and a space, too (`SET a b`, `HELO x`).

use super::wire2::PREFACE;
use rustls::server::Acceptor;

/// How much is looked at, at most: a ClientHello with what it may carry is shorter.
pub(super) const MOST: usize = 16 * 1024;
/// The longest method that is taken for one.
const LONGEST_METHOD: usize = 32;
/// A TLS record with a part of a handshake.
const HANDSHAKE: u8 = 0x16;

/// What a client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sniffed {
    Http,
    /// TLS, and the name that it asks for.
    Tls(Option<Box<str>>),
    Other,
}

/// What a client speaks that begins with these bytes; none when more are needed to know.
pub(super) fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    let first = *bytes.first()?;
    if first == HANDSHAKE {
        return hello(bytes);
    }
    let known = bytes.len().min(PREFACE.len());
    if bytes.get(..known) == PREFACE.get(..known) {
        return (known == PREFACE.len()).then_some(Sniffed::Http);
    }
    request_line(bytes)
}

fn request_line(bytes: &[u8]) -> Option<Sniffed> {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'".contains(byte)).count();
    match (bytes.get(method), method) {
        (_, LONGEST_METHOD..) | (Some(_), 0) => return Some(Sniffed::Other),
        (None, _) => return None,
        (Some(b' '), _) => {}
        (Some(_), _) => return Some(Sniffed::Other),
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let http = [&b" HTTP/1.1"[..], b" HTTP/1.0"].iter().any(|version| line.ends_with(version));
            Some(if http { Sniffed::Http } else { Sniffed::Other })
        }
        // No line of another protocol is as long as a request's may be.
        None if bytes.len() >= MOST => Some(Sniffed::Http),
        None => None,
    }
}

fn hello(bytes: &[u8]) -> Option<Sniffed> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(1..) => {}
            // It has more than it wants to know.
            Ok(0) | Err(_) => break,
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Some(Sniffed::Tls(accepted.client_hello().server_name().map(Into::into))),
        Ok(None) if bytes.len() < MOST => None,
        // It looks like TLS, and whoever it is for will know better.
        Ok(None) | Err(_) => Some(Sniffed::Tls(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello_for(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// What is said of these bytes once all are there, having said nothing before or the same.
    fn at_last(bytes: &[u8]) -> Option<Sniffed> {
        let whole = sniff(bytes);
        for end in 0..bytes.len() {
            let part = sniff(&bytes[..end]);
            assert!(part.is_none() || part == whole, "{part:?} at {end} of {}", bytes.escape_ascii());
        }
        whole
    }

    #[test]
    fn http_is_known_by_its_preface_or_by_a_whole_line() {
        assert_eq!(at_last(PREFACE), Some(Sniffed::Http));
        for line in ["GET / HTTP/1.1\r\n", "M-SEARCH * HTTP/1.0\r\n", "POST http://a/b HTTP/1.1\n"] {
            assert_eq!(at_last(line.as_bytes()), Some(Sniffed::Http), "{line}");
        }
        assert_eq!(sniff(b"GET / HTTP/1.1"), None, "a line has an end");
        let long = [b"GET /", &[b'a'; MOST][..]].concat();
        assert_eq!((sniff(&long[..MOST - 1]), sniff(&long)), (None, Some(Sniffed::Http)));
    }

    #[test]
    fn what_begins_with_a_word_and_a_space_may_be_anything() {
        for line in [
            "SET a b\r\n",
            "HELO mail.example\r\n",
            "get foo\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "SSH-2.0-x\r\n",
            "\0\0\0\x08",
            "GET\r\n",
        ] {
            assert_eq!(at_last(line.as_bytes()), Some(Sniffed::Other), "{line}");
        }
        assert_eq!(at_last(&[b'a'; LONGEST_METHOD]), Some(Sniffed::Other));
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn tls_says_the_name_that_it_asks_for() {
        assert_eq!(at_last(&hello_for("db.shop")), Some(Sniffed::Tls(Some("db.shop".into()))));
        assert_eq!(at_last(&hello_for("10.0.0.1")), Some(Sniffed::Tls(None)), "an address is no name");
        assert_eq!(sniff(b"\x16\x03\x01\0\x05hello"), Some(Sniffed::Tls(None)), "not what it seems");
        let endless = [&b"\x16\x03\x01\x3f\xff\x01\0\xff\xff"[..], &[0; MOST]].concat();
        assert_eq!(sniff(&endless[..MOST]), Some(Sniffed::Tls(None)));
    }
}
