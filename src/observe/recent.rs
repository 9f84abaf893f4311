//! The access log's last lines, kept for `/requests`: what somebody asks about at three in the morning is a request of a moment
//! ago, and the log itself may have gone to a standard output that cannot be read back.
//!
//! The log's writer hands over what it wrote; a request pays nothing for it. Two blocks take turns: where one is full, the
//! older one is emptied and filled. So between one and two blocks of lines are kept, the oldest first, in the order in
//! which they were written.

use std::sync::{Mutex, PoisonError};

/// Bytes of a block: some 5,000 lines.
const BLOCK: usize = 2 * 1024 * 1024;

/// The last lines.
#[derive(Debug, Default)]
pub struct Recent {
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    older: Vec<u8>,
    newer: Vec<u8>,
}

impl Recent {
    /// Keeps whole lines.
    pub fn keep(&self, lines: &[u8]) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let Blocks { older, newer } = &mut *blocks;
        if newer.len() + lines.len() > BLOCK {
            std::mem::swap(older, newer);
            newer.clear();
        }
        if newer.capacity() == 0 {
            newer.reserve_exact(BLOCK);
        }
        newer.extend_from_slice(lines);
    }

    /// A copy of all of them: whoever reads must not hold the writer up.
    pub fn lines(&self) -> Vec<u8> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        [blocks.older.as_slice(), blocks.newer.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole_and_in_order_and_the_memory_is_bounded() {
        let recent = Recent::default();
        let line = |i: usize| format!("{i:0>1023}\n");
        for i in 0..10_000 {
            recent.keep(line(i).as_bytes());
            assert!(i % 100 != 0 || recent.lines().len() <= 2 * BLOCK);
        }
        let kept = String::from_utf8(recent.lines()).unwrap();
        let numbers: Vec<usize> = kept.lines().map(|l| l.parse().unwrap()).collect();
        assert!(kept.len() > BLOCK, "{}", kept.len());
        assert_eq!(numbers, (10_000 - numbers.len()..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn more_at_once_than_a_block_holds_is_kept_and_then_let_go() {
        let recent = Recent::default();
        recent.keep(&vec![b'x'; 2 * BLOCK]);
        assert_eq!(recent.lines().len(), 2 * BLOCK);
        recent.keep(b"y\n");
        recent.keep(&vec![b'z'; BLOCK]);
        assert!(!recent.lines().contains(&b'x') && recent.lines().starts_with(b"y\n"));
    }
}
