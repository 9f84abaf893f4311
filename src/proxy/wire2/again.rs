//! The headers that a peer says again in the same order, made once.
//!
//! Most of what a message costs is to put its headers into a map. The run of indexed headers with which its headers
//! begin is most often the same as last time; then the map is a copy of that one, which costs a third. What is
//! remembered are the entries' turns, which stay the same when others go into the table.

use super::super::seen::Seen;
use super::field::Field;
use super::head::Head;
use super::table::{Table, Turn};
use http::HeaderMap;

/// How many headers a run has that is worth a copy, and how many are looked at.
const LEAST: usize = 3;
const MOST: usize = 32;
/// How many other runs may come until one of them takes the place.
const MAX_MISSES: u8 = 3;
/// How often nothing came again until nobody looks any more.
const GIVE_UP: u8 = 100;

#[derive(Debug, Default)]
pub(super) struct Again {
    /// The run's entries.
    turns: Vec<Turn>,
    /// What they make, once they came twice.
    made: Option<Box<Made>>,
    /// How many other runs came since this one.
    misses: u8,
}

#[derive(Debug)]
pub(super) struct Made {
    pub headers: HeaderMap,
    pub seen: Seen,
    /// What it counts, in bytes.
    pub size: usize,
}

/// What is to be done with a run.
#[derive(Debug)]
pub(super) enum Run<'a> {
    /// So many bytes of the block are this.
    Known(usize, &'a Made),
    /// So many bytes are a run that is to be kept.
    Keep(usize),
    New,
}

impl Again {
    /// Looks at a block from its first header on.
    pub(super) fn look(&mut self, table: &Table, block: &[u8]) -> Run<'_> {
        if self.misses >= GIVE_UP {
            return Run::New;
        }
        let length = self.turns.len();
        let same = block.len() >= length && self.turns.iter().zip(block).all(|(turn, b)| turn_of(table, *b) == *turn);
        if same && length > 0 {
            self.misses = 0;
            return self.made.as_deref().map_or(Run::Keep(length), |made| Run::Known(length, made));
        }
        self.misses += 1;
        if self.made.is_none() || self.misses > MAX_MISSES {
            self.made = None;
            self.turns.clear();
            let header = |byte: &&u8| table.get(usize::from(**byte & 0x7f)).is_some_and(|e| is_header(&e.field));
            let run = block.iter().take(MOST).take_while(header);
            self.turns.extend(run.map(|byte| turn_of(table, *byte)).take_while(|turn| *turn > 0));
            if self.turns.len() < LEAST {
                self.turns.clear();
            }
        }
        Run::New
    }

    /// Keeps what a run made.
    pub(super) fn keep(&mut self, head: &Head, size: usize) {
        self.made = head.kept(size).map(Box::new);
    }
}

pub(super) fn is_header(field: &Field) -> bool {
    matches!(field, Field::Header { .. })
}

/// The turn of the entry that a byte alone stands for; 0 where it stands for none.
fn turn_of(table: &Table, byte: u8) -> Turn {
    if byte < 0x80 || byte == 0xff { 0 } else { table.turn(usize::from(byte & 0x7f)) }
}
