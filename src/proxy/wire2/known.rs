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
use http::header::{HOST, HeaderMap, HeaderName};
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

/// The peer's table, and what is remembered of each name.
#[derive(Debug)]
pub(super) struct Known {
    pub order: Order,
    /// For each place, which of the names stands there; 0 is none.
    places: [u8; PLACES],
    /// The first is where a message begins, and no name.
    names: Vec<Named>,
}

/// What is in the peer's table, as large as it is here and there.
#[derive(Debug)]
pub(super) struct Order {
    /// What each counts, the newest first, in bytes.
    sizes: VecDeque<usize>,
    size: usize,
    max: usize,
    /// How many went in, and how many of them left again.
    came: Turn,
    went: Turn,
}

#[derive(Debug)]
struct Named {
    name: HeaderName,
    values: Values,
    /// The name that stood behind it last, which is most often the one that stands there now.
    next: u8,
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
    /// It may go in: what went in is found again.
    remembered: bool,
    changes: u8,
    /// Which value is replaced next.
    next: u8,
    /// When it went in last.
    turn: Turn,
    last: Vec<Value>,
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
        Self { fixed, rule, remembered: true, changes: 0, next: 0, turn: 0, last: Vec::new(), passed: 0 }
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

    /// Those of a name beyond all that are remembered.
    fn forgotten(name: &HeaderName) -> Self {
        Self { remembered: false, ..Self::of(name) }
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
        let order = Order { sizes: VecDeque::new(), size: 0, max: DEFAULT_SIZE, came: 0, went: 0 };
        Self { order, places: [0; PLACES], names: Vec::new() }
    }

    /// Writes headers.
    pub(super) fn headers(&mut self, out: &mut Vec<u8>, headers: &HeaderMap) {
        if self.names.is_empty() {
            self.names.reserve_exact(4);
            self.names.push(Named { name: HOST, values: Values::new(0, Rule::Gone), next: 0 });
        }
        let mut before = 0;
        for (name, value) in headers {
            let (text, sensitive) = (value.as_bytes(), value.is_sensitive());
            let guess = self.names.get(before).map_or(0, |named| usize::from(named.next));
            let at = match self.names.get(guess) {
                Some(named) if guess > 0 && named.name == *name => guess,
                _ => self.find(name, before),
            };
            match self.names.get_mut(at) {
                Some(named) if at > 0 => self.order.put(out, &mut named.values, named.name.as_str(), text, sensitive),
                _ => self.order.put(out, &mut Values::forgotten(name), name.as_str(), text, sensitive),
            }
            before = at;
        }
    }

    /// Where a name stands among the names, which is a new place for one that is new. 0 where there is none left.
    #[cold]
    fn find(&mut self, name: &HeaderName, before: usize) -> usize {
        let at = self.stands(name).unwrap_or(0);
        if let (Some(named), Ok(next)) = (self.names.get_mut(before), u8::try_from(at)) {
            named.next = next;
        }
        at
    }

    fn stands(&mut self, name: &HeaderName) -> Option<usize> {
        let first = place(name.as_str().as_bytes());
        for probe in 0..PROBES {
            let place = self.places.get_mut((first + probe) % PLACES)?;
            match usize::from(*place) {
                0 => {
                    *place = u8::try_from(self.names.len()).ok()?;
                    if self.names.len() == self.names.capacity() {
                        // An idle connection holds little more than it needs.
                        self.names.reserve_exact(4);
                    }
                    self.names.push(Named { name: name.clone(), values: Values::of(name), next: 0 });
                    return Some(self.names.len() - 1);
                }
                at if self.names.get(at).is_some_and(|named| named.name == *name) => return Some(at),
                _ => {}
            }
        }
        // One that left the table makes room.
        let went = self.order.went;
        let at = (0..PROBES).find_map(|probe| {
            let at = usize::from(*self.places.get((first + probe) % PLACES)?);
            self.names.get(at).filter(|named| named.values.turn <= went).map(|_| at)
        })?;
        *self.names.get_mut(at)? = Named { name: name.clone(), values: Values::of(name), next: 0 };
        Some(at)
    }
}

impl Order {
    /// How large it may be, in bytes.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// How large it is from here on.
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

    /// Writes a field. `sensitive`: it may go into no table.
    #[inline]
    pub(super) fn put(&mut self, out: &mut Vec<u8>, values: &mut Values, name: &str, text: &[u8], sensitive: bool) {
        let went = self.went;
        if !sensitive && let Some(value) = values.last.iter().find(|value| value.turn > went && *value.text == *text) {
            values.changes = values.changes.saturating_sub(1);
            return put_number(out, 0x80, 7, self.number(value.turn));
        }
        self.literal(out, values, name, text, sensitive);
    }

    /// Writes a field that is not in the table.
    fn literal(&mut self, out: &mut Vec<u8>, values: &mut Values, name: &str, text: &[u8], sensitive: bool) {
        let secret = match values.rule {
            Rule::Learn | Rule::Changing => sensitive,
            Rule::Secret(below) => sensitive || text.len() < below,
            Rule::Gone => return,
            Rule::Trailers if text != b"trailers" => return,
            Rule::Trailers => false,
        };
        let named = match values.fixed {
            0 if values.turn > self.went => self.number(values.turn),
            fixed => usize::from(fixed),
        };
        let size = name.len() + text.len() + OVERHEAD;
        let fits = !secret && values.remembered && size <= self.max / 2;
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
        if values.rule != Rule::Changing {
            let value = Value { turn: self.came, text: text.into() };
            match values.last.get_mut(usize::from(values.next)) {
                Some(oldest) => *oldest = value,
                None => {
                    // Most names have one value, and most connections wait for their next request.
                    values.last.reserve_exact(1);
                    values.last.push(value);
                }
            }
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
