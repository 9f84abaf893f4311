//! Numbers and strings as header blocks hold them (RFC 7541, section 5).

use super::huffman;

/// How many bytes a number may take behind its first one: as many as no head that is served needs.
const MAX_MORE: u32 = 4;

/// What is left of a block.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The number that begins in the lowest `bits` of `first`. `None` where it does not end, or is too large.
    #[inline]
    pub(super) fn number(&mut self, first: u8, bits: u32) -> Option<usize> {
        let mask = (1u8 << bits) - 1;
        let number = first & mask;
        if number < mask { Some(usize::from(number)) } else { self.more(mask) }
    }

    fn more(&mut self, mask: u8) -> Option<usize> {
        let mut number = usize::from(mask);
        for at in 0..MAX_MORE {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// The next string: a part of the block, or decoded into `buffer`.
    #[inline]
    pub(super) fn string<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        let first = self.byte()?;
        let length = self.number(first, 7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if first & 0x80 == 0 {
            return Some(text);
        }
        buffer.clear();
        huffman::decode(text, buffer)?;
        Some(buffer)
    }
}

/// Writes a number into the lowest `bits` of a byte, the others of which are `first`, and behind it.
#[inline]
pub(super) fn put_number(out: &mut Vec<u8>, first: u8, bits: u32, number: usize) {
    let mask = (1u8 << bits) - 1;
    match u8::try_from(number) {
        Ok(small) if small < mask => out.push(first | small),
        _ => put_more(out, first | mask, number.saturating_sub(usize::from(mask))),
    }
}

fn put_more(out: &mut Vec<u8>, first: u8, mut number: usize) {
    out.push(first);
    loop {
        let low = number.to_le_bytes()[0];
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// Writes a string as it is.
#[inline]
pub(super) fn put_plain(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Writes a string in the form that is shorter.
pub(super) fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    let length = huffman::length(text);
    if length < text.len() {
        put_number(out, 0x80, 7, length);
        huffman::encode(text, out);
    } else {
        put_plain(out, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: &[u8], bits: u32) -> Option<usize> {
        let mut reader = Reader(bytes);
        let first = reader.byte()?;
        reader.number(first, bits).filter(|_| reader.0.is_empty())
    }

    /// RFC 7541, appendix C.1.
    #[test]
    fn numbers_are_those_of_the_standard() {
        for (value, bits, bytes) in
            [(10, 5, &[0b01010][..]), (1337, 5, &[0b11111, 0b1001_1010, 0b0000_1010]), (42, 7, &[0b10_1010])]
        {
            let mut out = Vec::new();
            put_number(&mut out, 0, bits, value);
            assert_eq!((&*out, number(bytes, bits)), (bytes, Some(value)));
        }
    }

    #[test]
    fn a_number_that_is_too_large_or_does_not_end_is_refused() {
        assert_eq!(number(&[0x1f, 0x80], 5), None);
        assert_eq!(number(&[0x1f], 5), None);
        assert_eq!(number(&[0x1f, 0x80, 0x80, 0x80, 0x00], 5), Some(31));
        assert_eq!(number(&[0x1f, 0xff, 0xff, 0xff, 0x7f], 5), Some((1 << 28) + 30));
        assert_eq!(number(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00], 5), None);
        assert_eq!(number(&[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], 5), None);
    }

    #[test]
    fn a_string_that_is_cut_off_is_refused() {
        let string = |bytes: &[u8]| Reader(bytes).string(&mut Vec::new()).map(<[u8]>::to_vec);
        assert_eq!(string(b"\x03abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(string(b"\x00").as_deref(), Some(&b""[..]));
        assert_eq!(string(b"\x04abc"), None);
        assert_eq!(string(b"\x7f\xff\xff\xff\x7fabc"), None);
        assert_eq!(string(b"\x82\x1f"), None);
        assert_eq!(string(b""), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in 0usize..1 << 28, bits in 4u32..8, text in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            put_number(&mut out, 0, bits, value);
            prop_assert_eq!(number(&out, bits), Some(value));
            out.clear();
            put_plain(&mut out, &text);
            put_short(&mut out, &text);
            let (mut reader, mut buffer) = (Reader(&out), Vec::new());
            prop_assert_eq!(reader.string(&mut buffer), Some(&*text));
            prop_assert_eq!(reader.string(&mut buffer), Some(&*text));
            prop_assert!(reader.0.is_empty());
        }
    }
}
