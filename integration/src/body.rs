//! Bodies: fixed, streamed, endless, broken, and a pattern by which a long one is checked without keeping it.

use crate::BoxError;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use std::sync::LazyLock;

/// Any body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The size of a streamed body's pieces.
pub const PIECE: usize = 1 << 20;
/// A prime, so that a piece that is lost, doubled or shifted shows.
const PERIOD: usize = 65_521;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    Bytes::from(period.iter().copied().cycle().take(PIECE + PERIOD).collect::<Vec<u8>>())
});

/// A fixed body.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of whatever comes.
pub fn streamed(frames: impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// The pattern's bytes from `offset` on, at most [`PIECE`] of them.
#[must_use]
pub fn piece(offset: u64, length: u64) -> Bytes {
    let start = (offset % PERIOD as u64) as usize;
    PATTERN.slice(start..start + length.min(PIECE as u64) as usize)
}

fn pieces(length: u64) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    stream::unfold(0, move |offset| async move {
        (offset < length).then(|| {
            let piece = piece(offset, length - offset);
            let next = offset + piece.len() as u64;
            (Ok(Frame::data(piece)), next)
        })
    })
}

/// So many bytes of the pattern.
#[must_use]
pub fn patterned(length: u64) -> Body {
    streamed(pieces(length))
}

/// So many bytes of the pattern, and then these trailers.
#[must_use]
pub fn with_trailers(length: u64, trailers: HeaderMap) -> Body {
    streamed(pieces(length).chain(stream::once(async { Ok(Frame::trailers(trailers)) })))
}

/// So many bytes of the pattern, and then an error: hyper breaks the connection or the stream off.
#[must_use]
pub fn broken_after(length: u64) -> Body {
    // The error waits for its turn: at once, hyper would throw the bytes before it away.
    let error = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Err("the script breaks off here".into())
    };
    streamed(pieces(length).chain(stream::once(error)))
}

/// Checks bytes against the pattern as they come.
#[derive(Debug, Default, Clone, Copy)]
pub struct Checked {
    /// How many bytes came.
    pub length: u64,
    /// Where the first wrong one was.
    pub wrong_at: Option<u64>,
}

impl Checked {
    /// Takes in the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = piece(self.length, bytes.len() as u64);
            let (now, rest) = bytes.split_at(wanted.len());
            if now != wanted && self.wrong_at.is_none() {
                let at = now.iter().zip(&wanted).position(|(a, b)| a != b).unwrap_or(0);
                self.wrong_at = Some(self.length + at as u64);
            }
            self.length += now.len() as u64;
            bytes = rest;
        }
    }
}

/// Reads a body to its end, keeping none of it. Gives what was read, the trailers, and how it broke off if it did.
pub async fn drain<B>(body: B) -> (Checked, Option<HeaderMap>, Option<BoxError>)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut checked, mut trailers) = (Checked::default(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => checked.take(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return (checked, trailers, Some(error.into())),
        }
    }
    (checked, trailers, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pattern_survives_any_cut_and_shows_what_is_wrong() {
        let length = 3 * PIECE as u64 + 17;
        let (checked, trailers, error) = drain(patterned(length)).await;
        assert_eq!((checked.length, checked.wrong_at, trailers.is_none(), error.is_none()), (length, None, true, true));
        let mut one_by_one = Checked::default();
        piece(0, 1000).chunks(7).for_each(|c| one_by_one.take(c));
        assert_eq!((one_by_one.length, one_by_one.wrong_at), (1000, None));
        let mut shifted = Checked::default();
        shifted.take(&piece(1, 100));
        assert!(shifted.wrong_at.is_some());
        let (broken, _, error) = drain(broken_after(5)).await;
        assert!(broken.length == 5 && error.is_some());
    }
}
