//! What a peer that listens has in its table (RFC 7541, section 2.3.2), and whether a field is worth a place there.
//!
//! The peer keeps the fields; here only their sizes are kept, in the order in which they went in, and for each name the
//! few values that came last, with their places in that order. An entry's number follows from how many went in behind
//! it, so that nothing is moved when one goes in.
//!
//! **What goes in.** What comes again, which only experience tells: the first values of a name go in, until they turn out
//! to change; from then on only a value that comes twice in a row. Of names whose values are one request's own, or a
//! second's, only the name goes in. What is secret never does, and says so (section 7.1.3).

use super::field::{OVERHEAD, of_connection};
use super::number::{put_number, put_plain, put_short};
use super::table::{DEFAULT_SIZE, STATIC, place_of};
use http::HeaderName;
use std::collections::VecDeque;

/// How many places there are for names, and in how many of them one may stand.
const PLACES: usize = 64;
const PROBES: usize = 4;
/// How many values of a name are remembered.
const VALUES: usize = 4;
/// How much a name's values may have changed before they go in at their first coming no more; each change counts
/// `CHANGE`, and each time that one comes again takes one off.
const MAX_CHANGES: u8 = 12;
const CHANGE: u8 = 3;
/// A cookie below so many bytes could be guessed by trying what compresses well.
const SHORT_COOKIE: usize = 20;

/// A place in the order of what went in: the first is 1, and 0 is none.
type Turn = u64;

/// The peer's table, as large as it is here and there.
#[derive(Debug)]
pub(super) struct Known {
    /// What is in it counts so much, the newest first, in bytes.
    sizes: VecDeque<usize>,
    size: usize,
    max: usize,
    /// How many went in, and how many of them left again.
    came: Turn,
    went: Turn,
    /// For each place, which of the names stands there, from 1 on.
    places: [u8; PLACES],
    names: Vec<(HeaderName, Values)>,
}

/// What is done with a name's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// They go in where they come again.
    Learn,
    /// They do not come again.
    Changing,
    /// They are secrets, those below so many bytes.
    Secret(usize),
    /// HTTP/2 has no such field.
    Gone,
    /// HTTP/2 has only one value of it.
    Trailers,
}

/// A name's values.
#[derive(Debug)]
pub(super) struct Values {
    /// Its number in the static table, 0 where it has none.
    fixed: u8,
    rule: Rule,
    changes: u8,
    /// Which value is replaced next.
    next: u8,
    /// When it went in last.
    turn: Turn,
    last: [Value; VALUES],
    /// The last value that did not go in, in short.
    passed: u64,
}

#[derive(Debug, Default)]
struct Value {
    turn: Turn,
    text: Box<[u8]>,
}

impl Values {
    /// Those of a pseudo-header.
    pub(super) fn pseudo(fixed: u8) -> Self {
        Self::new(fixed, Rule::Learn)
    }

    fn new(fixed: u8, rule: Rule) -> Self {
        Self { fixed, rule, changes: 0, next: 0, turn: 0, last: Default::default(), passed: 0 }
    }

    fn of(name: &HeaderName) -> Self {
        let rule = match name.as_str() {
            _ if of_connection(name) => Rule::Gone,
            "te" => Rule::Trailers,
            "authorization" | "proxy-authorization" => Rule::Secret(usize::MAX),
            "cookie" => Rule::Secret(SHORT_COOKIE),
            "date" | "set-cookie" | "x-request-id" | "traceparent" | "grpc-timeout" => Rule::Changing,
            _ => Rule::Learn,
        };
        Self::new(place_of(name), rule)
    }

    /// Whether a value that is not in the table shall go in.
    fn worth(&mut self, text: &[u8]) -> bool {
        if self.changes < MAX_CHANGES {
            self.changes += CHANGE;
            return true;
        }
        let short = short(text);
        std::mem::replace(&mut self.passed, short) == short
    }
}

/// A value in short: different ones are rarely the same, and then nothing is lost.
fn short(text: &[u8]) -> u64 {
    let (first, last) = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (text.iter().fold(1, |all, byte| all << 8 | u64::from(*byte)), 0),
    };
    first ^ last.rotate_left(29) ^ (text.len() as u64) << 48
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            sizes: VecDeque::new(),
            size: 0,
            max: DEFAULT_SIZE,
            came: 0,
            went: 0,
            places: [0; PLACES],
            names: Vec::new(),
        }
    }

    /// How large it may be, in bytes.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// How large the table is from here on.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most
            && let Some(size) = self.sizes.pop_back()
        {
            self.size -= size;
            self.went += 1;
        }
    }

    /// Writes a header. `sensitive`: it may go into no table.
    #[inline]
    pub(super) fn header(&mut self, out: &mut Vec<u8>, name: &HeaderName, text: &[u8], sensitive: bool) {
        let Some(at) = self.find(name) else {
            // Too many names at once: this one is written in full.
            let mut values = Values::of(name);
            values.changes = MAX_CHANGES;
            values.rule = if values.rule == Rule::Learn { Rule::Changing } else { values.rule };
            return self.put(out, &mut values, name.as_str(), text, sensitive, false);
        };
        let mut names = std::mem::take(&mut self.names);
        if let Some((_, values)) = names.get_mut(at) {
            self.put(out, values, name.as_str(), text, sensitive, true);
        }
        self.names = names;
    }

    /// Where a name stands among the names, which is a new place for one that is new. `None` where there is none left.
    fn find(&mut self, name: &HeaderName) -> Option<usize> {
        let first = place(name.as_str().as_bytes());
        for probe in 0..PROBES {
            let place = self.places.get_mut((first + probe) % PLACES)?;
            match usize::from(*place).checked_sub(1) {
                Some(at) if self.names.get(at).is_some_and(|(known, _)| known == name) => return Some(at),
                Some(_) => {}
                None => {
                    self.names.push((name.clone(), Values::of(name)));
                    *place = u8::try_from(self.names.len()).ok()?;
                    return Some(self.names.len() - 1);
                }
            }
        }
        // One that left the table makes room.
        let mut probes = (0..PROBES).filter_map(|probe| self.places.get((first + probe) % PLACES));
        let at = probes.find_map(|place| {
            let at = usize::from(*place).checked_sub(1)?;
            self.names.get(at).filter(|(_, values)| values.turn <= self.went).map(|_| at)
        })?;
        *self.names.get_mut(at)? = (name.clone(), Values::of(name));
        Some(at)
    }

    /// Writes a field. `learn`: it may go in.
    #[inline]
    pub(super) fn put(
        &mut self,
        out: &mut Vec<u8>,
        values: &mut Values,
        name: &str,
        text: &[u8],
        sensitive: bool,
        learn: bool,
    ) {
        let secret = match values.rule {
            Rule::Learn | Rule::Changing => sensitive,
            Rule::Secret(below) => sensitive || text.len() < below,
            Rule::Gone => return,
            Rule::Trailers if text != b"trailers" => return,
            Rule::Trailers => false,
        };
        if values.rule != Rule::Changing && !secret {
            let went = self.went;
            if let Some(value) = values.last.iter().find(|value| value.turn > went && *value.text == *text) {
                values.changes = values.changes.saturating_sub(1);
                return put_number(out, 0x80, 7, self.number(value.turn));
            }
        }
        self.literal(out, values, name, text, secret, learn);
    }

    /// Writes a field that is not in the table.
    fn literal(&mut self, out: &mut Vec<u8>, values: &mut Values, name: &str, text: &[u8], secret: bool, learn: bool) {
        let named = match values.fixed {
            0 if values.turn > self.went => self.number(values.turn),
            fixed => usize::from(fixed),
        };
        let size = name.len() + text.len() + OVERHEAD;
        let fits = learn && !secret && size <= self.max / 2;
        // A name without a number gets one.
        let goes_in = fits && (values.rule != Rule::Changing && values.worth(text) || named == 0);
        match (goes_in, secret) {
            (true, _) => put_number(out, 0x40, 6, named),
            (_, false) => put_number(out, 0, 4, named),
            (_, true) => put_number(out, 0x10, 4, named),
        }
        if !goes_in {
            if named == 0 {
                put_plain(out, name.as_bytes());
            }
            return put_plain(out, text);
        }
        if named == 0 {
            put_short(out, name.as_bytes());
        }
        put_short(out, text);
        self.shrink(self.max.saturating_sub(size));
        self.sizes.push_front(size);
        self.size += size;
        self.came += 1;
        values.turn = self.came;
        if values.rule != Rule::Changing
            && let Some(value) = values.last.get_mut(usize::from(values.next))
        {
            *value = Value { turn: self.came, text: text.into() };
            values.next = (values.next + 1) % VALUES as u8;
        }
    }

    /// The number of what went in at a turn.
    fn number(&self, turn: Turn) -> usize {
        STATIC + 1 + usize::try_from(self.came - turn).unwrap_or(usize::MAX)
    }
}

/// Where a name may stand: by its length, its first letter and one near its end, in which names differ most.
fn place(text: &[u8]) -> usize {
    let letter = |at: usize| text.get(at).map_or(0, |b| usize::from(*b));
    (text.len() * 31 + letter(0) * 7 + letter(text.len().saturating_sub(2)) * 3) % PLACES
}
