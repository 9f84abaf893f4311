//! Bytes on a socket: for shapes that no proper client would send, and answers as they are on the wire.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A frame of HTTP/2: its length, type, flags, stream and payload.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// How an HTTP/2 client begins.
#[must_use]
pub fn opening() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()
}

/// One answer, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, its chunks put together.
    pub body: Vec<u8>,
    /// How many bytes all of it took.
    pub length: usize,
}

impl Answer {
    /// Takes the first whole answer out of these bytes; none while it is not complete. Without a length the body goes
    /// to the end of what is there.
    #[must_use]
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let end = find(raw, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&raw[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let rest = &raw[end + 4..];
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let bodiless = status < 200 || status == 204 || status == 304;
        let (body, used) = match (header("transfer-encoding"), header("content-length")) {
            _ if bodiless => (Vec::new(), 0),
            (Some("chunked"), _) => chunked(rest)?,
            (_, Some(length)) => {
                let length = length.parse().ok()?;
                (rest.get(..length)?.to_vec(), length)
            }
            _ => (rest.to_vec(), rest.len()),
        };
        Some(Self { status, headers, body, length: end + 4 + used })
    }

    /// A header's first value; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

fn chunked(raw: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line = find(raw.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&raw[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            // Trailers, if any, up to an empty line.
            loop {
                let line = find(raw.get(at..)?, b"\r\n")?;
                at += line + 2;
                if line == 0 {
                    return Some((body, at));
                }
            }
        }
        body.extend_from_slice(raw.get(at..at + size)?);
        at += size + 2;
    }
}

/// Where `needle` begins.
#[must_use]
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// A connection of bytes.
#[derive(Debug)]
pub struct Raw {
    /// The socket.
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads the next whole answer.
    ///
    /// # Errors
    /// When the connection ends before it is complete, or nothing comes for [`crate::wait::LIMIT`].
    pub async fn answer(&mut self) -> Result<Answer, Error> {
        loop {
            if let Some(answer) = Answer::parse(&self.unread)
                && (answer.length < self.unread.len() || has_length(&answer) || answer.status < 200)
            {
                self.unread.drain(..answer.length);
                return Ok(answer);
            }
            let mut buffer = vec![0; 64 * 1024];
            let read = tokio::time::timeout(crate::wait::LIMIT, self.stream.read(&mut buffer)).await;
            let read = read.map_err(|_| Error::from(ErrorKind::TimedOut))??;
            if read == 0 {
                let rest = std::mem::take(&mut self.unread);
                let whole = Answer::parse(&rest).filter(|a| !has_length(a));
                return whole.ok_or_else(|| {
                    Error::new(ErrorKind::UnexpectedEof, String::from_utf8_lossy(&rest[..rest.len().min(500)]))
                });
            }
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }

    /// Sends bytes and reads the answer.
    ///
    /// # Errors
    /// When the connection ends before it is complete.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Result<Answer, Error> {
        self.send(bytes).await?;
        self.answer().await
    }

    /// Whether the peer closes the connection without another byte.
    pub async fn closed(&mut self) -> bool {
        let mut byte = [0];
        self.unread.is_empty()
            && matches!(tokio::time::timeout(crate::wait::LIMIT, self.stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    }
}

fn has_length(answer: &Answer) -> bool {
    answer.header("transfer-encoding") == "chunked"
        || !answer.header("content-length").is_empty()
        || matches!(answer.status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_one_by_one() {
        let raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nx: y\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        let first = Answer::parse(raw).unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, &b"abcd"[..]));
        assert_eq!(Answer::parse(&raw[first.length..]).unwrap().status, 204);
        (1..first.length).for_each(|cut| assert_eq!(Answer::parse(&raw[..cut]), None, "{cut}"));
    }
}
