//! The code of header blocks' strings (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: of its lengths follows everything, which the compiler works out. Nearly all letters of real
//! headers have codes of at most eight bits, which one look into a table decodes; longer ones are found by their length.

/// How long the codes of all bytes are, and that of the end, in bits.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
/// The symbol that may not stand in a string.
const END: u16 = 256;
/// The longest code, in bits.
const LONGEST: usize = 30;
/// How many bits one look decodes.
const SHORT: u32 = 8;

/// What follows of the lengths.
struct Code {
    /// Every symbol's code.
    codes: [u32; 257],
    /// By the next eight bits: the symbol, and the length of its code; 0 where that is longer.
    short: [(u8, u8); 1 << SHORT],
    /// By length: the first code of it, how many there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    begin: [u32; LONGEST + 1],
    /// All symbols by their codes.
    symbols: [u16; 257],
}

static CODE: Code = code();

#[expect(clippy::indexing_slicing, reason = "the compiler runs it and would refuse an index out of bounds")]
const fn code() -> Code {
    let mut made = Code {
        codes: [0; 257],
        short: [(0, 0); 1 << SHORT],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        begin: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut next, mut place, mut length) = (0u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        made.first[length] = next;
        made.begin[length] = place as u32;
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol as usize] as usize == length {
                made.codes[symbol as usize] = next;
                made.symbols[place] = symbol;
                place += 1;
                if length <= SHORT as usize {
                    let spare = SHORT - length as u32;
                    let mut below = 0;
                    while below < 1 << spare {
                        made.short[((next << spare) + below) as usize] = (symbol as u8, length as u8);
                        below += 1;
                    }
                }
                next += 1;
                made.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    made
}

/// Decodes a string behind what is in `out`. `None` where it is not encoded as it must be: it ends with more than
/// seven bits of padding, or with other bits than ones, or holds the symbol of the end.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(text.len() * 8 / 5 + 1);
    let mut rest = text;
    // What is not decoded yet, from the highest bit on, and how many bits of it there are.
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        if have < 32 {
            if let Some((next, after)) = rest.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*next)) << (32 - have);
                (have, rest) = (have + 32, after);
            } else {
                for byte in rest {
                    bits |= u64::from(*byte) << (56 - have);
                    have += 8;
                }
                rest = &[];
            }
        }
        let [next, ..] = bits.to_be_bytes();
        let (symbol, length) = *CODE.short.get(usize::from(next))?;
        let (symbol, length) = if length > 0 { (symbol, u32::from(length)) } else { long(bits, have)? };
        if length == 0 || length > have {
            // All that is left is padding, or the string is cut off.
            let padding = !(u64::MAX.checked_shr(have).unwrap_or(0));
            return (rest.is_empty() && have < 8 && bits & padding == padding).then_some(());
        }
        out.push(symbol);
        bits <<= length;
        have -= length;
    }
}

/// The symbol at the front where its code is longer than one look decodes; a length of 0 where it is not all there.
#[cold]
fn long(bits: u64, have: u32) -> Option<(u8, u32)> {
    for length in SHORT + 1..=LONGEST as u32 {
        if length > have {
            return Some((0, 0));
        }
        let code = u32::try_from(bits >> (64 - length)).ok()?;
        let at = length as usize;
        let beyond = code.wrapping_sub(*CODE.first.get(at)?);
        if beyond < *CODE.count.get(at)? {
            let symbol = *CODE.symbols.get((CODE.begin.get(at)? + beyond) as usize)?;
            return u8::try_from(symbol).ok().map(|symbol| (symbol, length));
        }
    }
    None
}

/// How long a string is encoded, in bytes.
pub(super) fn length(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|b| LENGTHS.get(usize::from(*b)).map_or(0, |l| usize::from(*l))).sum();
    bits.div_ceil(8)
}

/// Encodes a string.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // What is not written yet, below the lowest bit, and how many bits of it there are.
    let (mut bits, mut have) = (0u64, 0u32);
    for byte in text {
        let at = usize::from(*byte);
        let (Some(code), Some(length)) = (CODE.codes.get(at), LENGTHS.get(at)) else { continue };
        bits = bits << length | u64::from(*code);
        have += u32::from(*length);
        if have >= 32 {
            have -= 32;
            let [.., a, b, c, d] = (bits >> have).to_be_bytes();
            out.extend_from_slice(&[a, b, c, d]);
        }
    }
    // Padded with ones.
    bits = bits << 32 | 0xffff_ffff;
    for byte in (0..have.div_ceil(8)).map(|at| bits >> (have + 24 - 8 * at)) {
        out.extend_from_slice(&[byte.to_le_bytes()[0]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(text, &mut out).map(|()| out)
    }

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        out
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        let known = [
            (0x00, 0x1ff8, 13),
            (0x0a, 0x3fff_fffc, 30),
            (0x20, 0x14, 6),
            (0x30, 0x0, 5),
            (0x5c, 0x7fff0, 19),
            (0x7a, 0x7b, 7),
            (0x7f, 0x0fff_fffc, 28),
            (0x80, 0xfffe6, 20),
            (0xcf, 0x01ff_ffed, 25),
            (0xff, 0x03ff_ffee, 26),
            (0x100, 0x3fff_ffff, 30),
        ];
        for (symbol, code, length) in known {
            assert_eq!((CODE.codes[symbol], LENGTHS[symbol]), (code, length), "{symbol:#x}");
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)), Some(all.clone()));
        for byte in all {
            for times in 1..20 {
                let text = vec![byte; times];
                assert_eq!((decoded(&encoded(&text)), encoded(&text).len()), (Some(text.clone()), length(&text)));
            }
        }
    }

    #[test]
    fn padding_is_at_most_seven_ones() {
        // 'a' is 00011, 'o' 00111, '0' 00000.
        assert_eq!(decoded(&[0b0001_1111]).as_deref(), Some(&b"a"[..]));
        assert_eq!(decoded(&[0b0001_1110]), None, "not ones");
        assert_eq!(decoded(&[0b0001_1000]), None, "not ones");
        assert_eq!(decoded(&[0b0001_1111, 0xff]), None, "eleven");
        assert_eq!(decoded(&[0xff]), None, "eight");
        assert_eq!(decoded(&[0b1111_1000, 0xff]), None, "a whole byte behind a letter");
        assert_eq!(decoded(b"").as_deref(), Some(&b""[..]));
        // ';' is 11111011: a byte without padding.
        assert_eq!(decoded(&[0b1111_1011]).as_deref(), Some(&b";"[..]));
    }

    #[test]
    fn the_symbol_of_the_end_is_refused() {
        assert_eq!(decoded(&[0xff; 4]), None);
        // 'a', then the end, padded with ones: 5 + 30 + 5 bits.
        assert_eq!(decoded(&[0b0001_1111, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc, 0b0001_1111]), None);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encoded(&text)), Some(text));
        }

        #[test]
        fn what_decodes_encodes_to_the_same(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(plain) = decoded(&text) {
                prop_assert_eq!(encoded(&plain), text);
            }
        }
    }
}
