//! The PROXY protocol (HAProxy's `proxy-protocol.txt`): who a connection comes from, said before its first byte.
//!
//! Read in both versions, and only from those that the configuration names: whoever else says it would be believed to be
//! anybody. From those it must come, as the protocol wants it: there is no guessing. A header that names nobody (`LOCAL`,
//! `UNKNOWN`: a load balancer's own health check) leaves the connection as coming from whom it comes. What a header says
//! beyond addresses is read over, but for `HOPS`.
//!
//! Written in version 2. Whoever passes on what came with a header also says how many of us did so before, as `Via` does
//! for requests: nothing else in a stream of bytes would tell one that goes in a circle. Nothing here reads more than
//! `MAX_HEADER`.

use ppp::{PartialResult, v1, v2};
use std::net::{IpAddr, SocketAddr};

/// The longest header that is read, in bytes: addresses take 52, and what is said beyond them is rarely more than that.
pub(super) const MAX_HEADER: usize = 4 * 1024;
/// The longest header of version 1 (`proxy-protocol.txt`, section 2.1).
const MAX_TEXT: usize = 107;
/// What version 1 begins with.
const TEXT: &[u8] = b"PROXY ";
/// How long the part of version 2 is that says how long the rest is.
const FIXED: usize = 16;
/// By how many of us it came before, a byte: of those kinds that applications give a meaning of their own (section 2.2.7).
const HOPS: u8 = 0xe7;

/// A header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Its length, in bytes.
    pub length: usize,
    /// Who connects to whom; none where it names nobody.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// By how many of us it came before.
    pub hops: u8,
}

/// The bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoHeader;

/// Reads a header at the beginning of these bytes; none when more are needed.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let known = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(a, b)| a == b);
    if known(v2::PROTOCOL_PREFIX) {
        read_binary(bytes)
    } else if known(TEXT) {
        read_text(bytes)
    } else {
        Err(NoHeader)
    }
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let length = |at: usize| bytes.get(at).map(|byte| usize::from(*byte));
    if let (Some(high), Some(low)) = (length(FIXED - 2), length(FIXED - 1))
        && FIXED + (high << 8 | low) > MAX_HEADER
    {
        return Err(NoHeader);
    }
    match v2::Header::try_from(bytes) {
        Ok(header) => {
            let named = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
            let addresses = match header.addresses {
                v2::Addresses::IPv4(ip) if named => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                v2::Addresses::IPv6(ip) if named => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                _ => None,
            };
            let hops = header.tlvs().flatten().find(|said| said.kind == HOPS);
            let hops = hops.and_then(|said| said.value.first().copied()).unwrap_or(0);
            Ok(Some(Header { length: header.len(), addresses, hops }))
        }
        Err(error) if error.is_incomplete() && bytes.len() < MAX_HEADER => Ok(None),
        Err(_) => Err(NoHeader),
    }
}

fn read_text(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let line = bytes.get(..bytes.len().min(MAX_TEXT)).unwrap_or_default();
    // Only a whole line is looked at: what is half there looks whole to the eye that is not patient.
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_TEXT { Ok(None) } else { Err(NoHeader) };
    };
    let line = line.get(..end + 2).ok_or(NoHeader)?;
    let header = v1::Header::try_from(line).map_err(|_| NoHeader)?;
    let addresses = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => {
            Some(((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
        v1::Addresses::Tcp6(ip) => {
            Some(((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
    };
    Ok(Some(Header { length: line.len(), addresses, hops: 0 }))
}

/// Writes a header of version 2: `client` connects to `server`, and came by so many of us before. Where the two are of
/// different families, both are written as IPv6.
pub(super) fn write(client: SocketAddr, server: SocketAddr, hops: u8) -> Option<Vec<u8>> {
    let (client, server) = match (canonical(client), canonical(server)) {
        (client, server) if client.is_ipv4() == server.is_ipv4() => (client, server),
        (client, server) => (mapped(client), mapped(server)),
    };
    let command = v2::Version::Two | v2::Command::Proxy;
    let header = v2::Builder::with_addresses(command, v2::Protocol::Stream, (client, server));
    let header = if hops > 0 { header.write_tlv(HOPS, &[hops]).ok()? } else { header };
    header.build().ok()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_byte_by_byte() {
        for (client, server, read_client, read_server, hops) in [
            ("10.0.0.1:1000", "10.0.0.2:80", "10.0.0.1:1000", "10.0.0.2:80", 0),
            ("[fd00::1]:1000", "[fd00::2]:80", "[fd00::1]:1000", "[fd00::2]:80", 1),
            ("[::ffff:10.0.0.1]:7", "10.0.0.2:80", "10.0.0.1:7", "10.0.0.2:80", 255),
            ("10.0.0.1:1000", "[fd00::2]:80", "[::ffff:10.0.0.1]:1000", "[fd00::2]:80", 16),
        ] {
            let mut bytes = write(address(client), address(server), hops).unwrap();
            let length = bytes.len();
            bytes.extend_from_slice(b"GET /");
            for end in 0..length {
                assert_eq!(read(&bytes[..end]), Ok(None), "{end} of {length}");
            }
            let addresses = Some((address(read_client), address(read_server)));
            assert_eq!(read(&bytes), Ok(Some(Header { length, addresses, hops })));
        }
    }

    #[test]
    fn version_1_is_read_a_whole_line_at_a_time() {
        let line = b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n";
        let mut bytes = line.to_vec();
        bytes.extend_from_slice(b"hello\r\n");
        for end in 0..line.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{end}");
        }
        let addresses = Some((address("10.0.0.1:1000"), address("10.0.0.2:80")));
        assert_eq!(read(&bytes), Ok(Some(Header { length: line.len(), addresses, hops: 0 })));
        let six = read(b"PROXY TCP6 fd00::1 fd00::2 1000 80\r\n").unwrap().unwrap();
        assert_eq!(six.addresses, Some((address("[fd00::1]:1000"), address("[fd00::2]:80"))));
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(Some(Header { length: 15, addresses: None, hops: 0 })));
        assert_eq!(read(b"PROXY UNKNOWN a b c\r\nx").unwrap().unwrap().addresses, None);
    }

    #[test]
    fn what_is_no_header_is_told_at_once_and_nothing_is_read_without_end() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXX",
            b"PROXY TCP4 10.0.0.1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 99999\r\n",
            b"PROXY TCP4 fd00::1 fd00::2 1000 80\r\n",
            b"PROXY \xff\xfe\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        ] {
            assert_eq!(read(bytes), Err(NoHeader), "{}", bytes.escape_ascii());
        }
        let endless = [&b"PROXY "[..], &[b'x'; 200]].concat();
        assert_eq!(read(&endless[..MAX_TEXT - 1]), Ok(None));
        assert_eq!(read(&endless[..MAX_TEXT]), Err(NoHeader));
        // 4,081 bytes to come are one too many.
        let long = [v2::PROTOCOL_PREFIX, b"\x21\x11\x0f\xf1"].concat();
        assert_eq!(read(&long), Err(NoHeader));
        let longest = [v2::PROTOCOL_PREFIX, b"\x21\x11\x0f\xf0"].concat();
        assert_eq!(read(&longest), Ok(None));
    }

    #[test]
    fn a_header_that_names_nobody_is_read_over() {
        // What it goes on to say is cut short.
        let local = [v2::PROTOCOL_PREFIX, b"\x20\0\0\x03\xe7bc", b"rest"].concat();
        assert_eq!(read(&local), Ok(Some(Header { length: 19, addresses: None, hops: 0 })));
        let unix = [v2::PROTOCOL_PREFIX, b"\x21\x31\0\xd8", &[b'/'; 216]].concat();
        assert_eq!(read(&unix), Ok(Some(Header { length: 232, addresses: None, hops: 0 })));
    }
}
