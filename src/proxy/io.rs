//! Which protocol a client speaks, by the first bytes that it sends.

use super::wire2::PREFACE;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// What a client speaks that begins with these bytes; `None` when more are needed to know.
pub(super) fn spoken(first: &[u8]) -> Option<Spoken> {
    let known = first.len().min(PREFACE.len());
    if first.get(..known) != PREFACE.get(..known) {
        return Some(Spoken::Http1);
    }
    (known == PREFACE.len()).then_some(Spoken::Http2)
}
