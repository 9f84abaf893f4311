//! HTTP/2 on the wire, the part of it that knows no connection (RFC 9113; header compression: RFC 7541).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `frame` | frames' heads, settings, and the frames that fit into a line |
//! | `number` | numbers and strings as a header block holds them |
//! | `huffman` | its strings' code |
//! | `field` | one field, made at once into what the proxy works with, and what is wrong with it |
//! | `table` | the fields that need not be said again, of a peer that talks |
//! | `head` | what a message's fields make together |
//! | `again` | the headers that a peer says again in the same order |
//! | `inflate` | reads a header block |
//! | `known` | the fields that need not be said again, to a peer that listens |
//! | `deflate` | writes a header block |
//!
//! **Speed.** A connection says the same again and again. What a table keeps is therefore finished: the name and the
//! value as they go into a map, the path parsed, and whether a proxy must look at it. A field that was said before
//! costs a clone and an append, and no allocation.
//!
//! **Strictness.** A block that cannot be decoded ends the connection: nobody knows the table any more. A message that
//! is malformed, or larger than the limit, was decoded whole, so that the table is right; it ends its stream alone. What
//! came is copied, so that no value holds the whole of what was read, and costs no more than its bytes: a field of the
//! table beyond a message's limit is counted and not kept.

mod again;
mod deflate;
mod field;
mod frame;
mod head;
mod huffman;
mod inflate;
mod known;
mod number;
mod table;

pub(in crate::proxy) use deflate::Deflate;
pub(in crate::proxy) use frame::*;
pub(in crate::proxy) use inflate::{Inflate, Refused};

/// Why a stream or a connection ends (RFC 9113, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Code(pub u32);

#[expect(dead_code, reason = "the standard's list, whole")]
impl Code {
    pub(in crate::proxy) const NO_ERROR: Self = Self(0x0);
    pub(in crate::proxy) const PROTOCOL_ERROR: Self = Self(0x1);
    pub(in crate::proxy) const INTERNAL_ERROR: Self = Self(0x2);
    pub(in crate::proxy) const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub(in crate::proxy) const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub(in crate::proxy) const STREAM_CLOSED: Self = Self(0x5);
    pub(in crate::proxy) const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub(in crate::proxy) const REFUSED_STREAM: Self = Self(0x7);
    pub(in crate::proxy) const CANCEL: Self = Self(0x8);
    pub(in crate::proxy) const COMPRESSION_ERROR: Self = Self(0x9);
    pub(in crate::proxy) const CONNECT_ERROR: Self = Self(0xa);
    pub(in crate::proxy) const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub(in crate::proxy) const INADEQUATE_SECURITY: Self = Self(0xc);
    pub(in crate::proxy) const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

#[cfg(test)]
mod tests;
