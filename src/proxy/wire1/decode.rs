//! Takes a body apart, whatever pieces it comes in (RFC 9112, sections 6 and 7).
//!
//! Chunks are read as their grammar says, with one leniency that hyper has too: blanks between a size and its line's
//! end, which some servers pad with. Refused: a size without a digit or of more than 64 bits, extensions and trailers
//! beyond their limits, control characters in an extension, and every line that does not end in CR LF. Once something
//! was refused the body stays refused: nobody knows where it ends.

use super::{Framing, Malformed};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What all extensions of a body's chunks may take together, in bytes.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// What a body's trailers may take, in bytes and in fields.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 100;
/// How many digits the size of a chunk may have: as many as 64 bits need.
const MAX_DIGITS: u8 = 16;

/// What a body holds next.
#[derive(Debug)]
pub(in crate::proxy) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes are needed.
    Partial,
    End,
}

/// Where in a body the reader is.
#[derive(Debug)]
pub(in crate::proxy) enum Decoder {
    Length(u64),
    Close,
    Chunked(Chunked),
    Done,
    Refused,
}

#[derive(Debug)]
pub(in crate::proxy) struct Chunked {
    at: At,
    /// The chunk's size, or what is left of it.
    size: u64,
    digits: u8,
    extensions: usize,
    /// The trailers so far, with the empty line that ends them.
    trailers: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line of the trailers, the last of which is empty.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Decoder {
    pub(in crate::proxy) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Close => Self::Close,
            Framing::Chunked => {
                Self::Chunked(Chunked { at: At::Size, size: 0, digits: 0, extensions: 0, trailers: BytesMut::new() })
            }
        }
    }

    /// Whether all of it was read.
    pub(in crate::proxy) fn done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How much is still to come, where that is known.
    pub(in crate::proxy) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            Self::Close | Self::Chunked(_) | Self::Refused => None,
        }
    }

    /// The connection ended. `Err` when it should not have yet.
    pub(in crate::proxy) fn end(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Close | Self::Done => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) | Self::Refused => Err(Malformed),
        }
    }

    /// Takes the next piece off the front of `bytes`.
    pub(in crate::proxy) fn next(&mut self, bytes: &mut Bytes) -> Result<Piece, Malformed> {
        match self {
            Self::Done => Ok(Piece::End),
            Self::Refused => Err(Malformed),
            Self::Close if bytes.is_empty() => Ok(Piece::Partial),
            Self::Close => Ok(Piece::Data(std::mem::take(bytes))),
            Self::Length(_) if bytes.is_empty() => Ok(Piece::Partial),
            Self::Length(left) => {
                let data = split(bytes, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Piece::Data(data))
            }
            Self::Chunked(chunked) => {
                let piece = chunked.next(bytes);
                match &piece {
                    Ok(Piece::End | Piece::Trailers(_)) => *self = Self::Done,
                    // The end may already be here; who knows that need not ask again.
                    Ok(Piece::Data(_)) => match chunked.skip(bytes) {
                        Ok(true) if chunked.trailers.is_empty() => *self = Self::Done,
                        Ok(_) => {}
                        Err(Malformed) => *self = Self::Refused,
                    },
                    Ok(Piece::Partial) => {}
                    Err(Malformed) => *self = Self::Refused,
                }
                piece
            }
        }
    }
}

/// At most `most` bytes off the front.
fn split(bytes: &mut Bytes, most: u64) -> Bytes {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if bytes.len() <= most { std::mem::take(bytes) } else { bytes.split_to(most) }
}

impl Chunked {
    fn next(&mut self, bytes: &mut Bytes) -> Result<Piece, Malformed> {
        if self.at != At::Data && self.skip(bytes)? {
            return self.finish();
        }
        if self.at != At::Data || bytes.is_empty() {
            return Ok(Piece::Partial);
        }
        let data = split(bytes, self.size);
        self.size -= data.len() as u64;
        if self.size == 0 {
            self.at = At::DataCr;
        }
        Ok(Piece::Data(data))
    }

    /// Reads what is not data, until there is data or no more bytes. Says whether the body is over.
    fn skip(&mut self, bytes: &mut Bytes) -> Result<bool, Malformed> {
        let mut taken = 0;
        for byte in bytes.iter() {
            if matches!(self.at, At::Data | At::End) {
                break;
            }
            taken += 1;
            self.step(*byte)?;
        }
        if taken == bytes.len() {
            *bytes = Bytes::new();
        } else {
            bytes::Buf::advance(bytes, taken);
        }
        Ok(self.at == At::End)
    }

    /// One byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                self.digits += 1;
                if self.digits > MAX_DIGITS {
                    return Err(Malformed);
                }
                self.size = (self.size << 4) | u64::from(digit);
                At::Size
            }
            (At::Size, b' ' | b'\t' | b';' | b'\r') if self.digits == 0 => return Err(Malformed),
            (At::Size | At::Blank, b' ' | b'\t') => {
                self.extension()?;
                At::Blank
            }
            (At::Size | At::Blank, b';') => At::Extension,
            (At::Size | At::Blank | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension()?;
                At::Extension
            }
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                if self.size == 0 { At::TrailerStart } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::Trailer, b'\n') => return Err(Malformed),
            (At::Trailer, b'\r') => {
                self.trailer(byte)?;
                At::TrailerLf
            }
            (At::TrailerStart | At::Trailer, _) => {
                self.trailer(byte)?;
                At::Trailer
            }
            (At::TrailerLf, b'\n') => {
                self.trailer(byte)?;
                At::TrailerStart
            }
            (At::EndLf, b'\n') => At::End,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn extension(&mut self) -> Result<(), Malformed> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(Malformed) } else { Ok(()) }
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Malformed> {
        self.trailers.extend_from_slice(&[byte]);
        if self.trailers.len() > MAX_TRAILERS { Err(Malformed) } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<Piece, Malformed> {
        if self.trailers.is_empty() {
            return Ok(Piece::End);
        }
        self.trailers.extend_from_slice(b"\r\n");
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&self.trailers, &mut fields) else {
            return Err(Malformed);
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
            trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?);
        }
        Ok(Piece::Trailers(trailers))
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
