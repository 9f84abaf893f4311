//! The parts together: what a peer's blocks mean, what is refused, and that what was written is what is read.

mod rules;
mod sequences;
mod standard;

use super::inflate::{Inflate, Refused};
use super::number::{put_number, put_plain};
use crate::proxy::seen::Seen;
use crate::proxy::wire1::Scratch;
use http::{HeaderMap, request, response};

/// More than a test's message takes, in bytes.
pub(super) const ROOM: usize = 1 << 20;

pub(super) fn request(inflate: &mut Inflate, block: &[u8]) -> Result<(request::Parts, Seen), Refused> {
    inflate.request(block, ROOM, &Scratch::default())
}

pub(super) fn response(inflate: &mut Inflate, block: &[u8]) -> Result<(response::Parts, Seen), Refused> {
    inflate.response(block, ROOM, &Scratch::default())
}

pub(super) fn trailers(inflate: &mut Inflate, block: &[u8]) -> Result<HeaderMap, Refused> {
    inflate.trailers(block, ROOM, &Scratch::default())
}

/// Fields as literals that no table takes in.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        put_number(&mut out, 0, 4, 0);
        put_plain(&mut out, name.as_bytes());
        put_plain(&mut out, value.as_bytes());
    }
    out
}

/// Headers in the order in which the map gives them.
pub(super) fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}
