//! Windows: what each link did between two looks, exactly, beside the ticks' fading memory.
//!
//! A reader has cursors of its own, as `history` has, and takes differences of the same counters: it disturbs neither
//! requests nor ticks, and nothing is counted twice or lost between two windows.

use super::history::Cursor;
use super::{LinkCell, LinkKey, Links, Sketch};
use std::collections::HashMap;
use std::sync::Arc;

/// What a link did in one window.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowLink {
    /// Who calls whom.
    pub key: LinkKey,
    /// Calls that ended with an answer or a failure.
    pub calls: u64,
    /// Those that failed, at most `calls`.
    pub errors: u64,
    /// The answers' latencies.
    pub latency: Sketch,
    /// The mean difference of successive latencies in seconds; unknown with fewer than two.
    pub jitter_s: Option<f64>,
}

/// Reads windows.
#[derive(Debug, Default)]
pub struct Windows {
    links: HashMap<LinkKey, Reader>,
}

#[derive(Debug)]
struct Reader {
    cell: Arc<LinkCell>,
    cursors: Box<[Cursor]>,
    /// Failures that were found after their call had been counted, and found no call to belong to yet.
    late: u64,
}

impl Windows {
    /// What all links did since the last call, or since they were made, sorted by key. Links that did nothing are
    /// there, too.
    pub fn take(&mut self, links: &Links) -> Vec<WindowLink> {
        let cells = links.link_cells();
        let mut last = std::mem::take(&mut self.links);
        let mut found = Vec::with_capacity(cells.len());
        for cell in cells {
            // A link that was evicted and came back has a new cell, whose counters begin at zero.
            let known = last.remove(&cell.key).filter(|reader| Arc::ptr_eq(&reader.cell, &cell));
            let mut reader = known.unwrap_or_else(|| Reader {
                cursors: cell.shards.iter().map(|_| Cursor::default()).collect(),
                cell: cell.clone(),
                late: 0,
            });
            found.push(reader.take());
            self.links.insert(cell.key.clone(), reader);
        }
        found
    }
}

impl Reader {
    fn take(&mut self) -> WindowLink {
        let mut latency = Sketch::default();
        let (mut calls, mut errors, mut steps_s, mut steps) = (0, self.late, 0.0, 0);
        for (cursor, shard) in self.cursors.iter_mut().zip(self.cell.shards.iter()) {
            let drained = cursor.drain(shard, &mut latency);
            calls += drained.ended;
            errors += drained.errors;
            steps_s += drained.steps_s;
            steps += drained.steps;
        }
        self.late = errors.saturating_sub(calls);
        WindowLink {
            key: self.cell.key.clone(),
            calls,
            errors: errors.min(calls),
            latency,
            jitter_s: (steps > 0).then(|| steps_s / steps as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeKey, Outcome, Time};
    use super::*;
    use std::time::Duration;

    fn key() -> LinkKey {
        LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b"))
    }

    fn call(cell: &LinkCell, core: usize, latency_s: f32, outcome: Outcome) {
        cell.begin(core, Time(0));
        cell.record(core, Time(0), latency_s, outcome, 0.0, 3.0);
        cell.end(core, Time(0));
    }

    #[test]
    fn windows_hold_each_call_once_whatever_the_ticks_do() {
        let (links, mut windows) = (Links::new(2), Windows::default());
        let cell = links.link(&key(), Time(0));
        call(&cell, 0, 0.010, Outcome::Success);
        call(&cell, 0, 0.030, Outcome::Success);
        call(&cell, 1, 0.020, Outcome::Failure);
        let _ = links.observe(Time(1_000_000_000));
        let first = windows.take(&links).remove(0);
        assert_eq!((first.calls, first.errors, first.latency.count()), (3, 1, 2.0));
        assert!((first.latency.mean().unwrap() - 0.020).abs() < 1e-6);
        assert!((first.jitter_s.unwrap() - 0.020).abs() < 1e-6);
        let _ = links.observe(Time(2_000_000_000));
        call(&cell, 0, 0.040, Outcome::Success);
        let second = windows.take(&links).remove(0);
        assert_eq!((second.calls, second.errors), (1, 0));
        assert!((second.jitter_s.unwrap() - 0.010).abs() < 1e-6, "from the last of the window before");
        let third = windows.take(&links).remove(0);
        assert_eq!((third.calls, third.latency.mean(), third.jitter_s), (0, None, None));
    }

    #[test]
    fn a_failure_found_late_belongs_to_a_window_with_calls() {
        let (links, mut windows) = (Links::new(1), Windows::default());
        let cell = links.link(&key(), Time(0));
        cell.record_late_failure(0);
        assert_eq!(windows.take(&links).remove(0).errors, 0);
        call(&cell, 0, 0.010, Outcome::Success);
        assert_eq!(windows.take(&links).remove(0).errors, 1);
    }

    #[test]
    fn a_link_that_comes_back_begins_anew() {
        let (links, mut windows) = (Links::new(1), Windows::default());
        call(&links.link(&key(), Time(0)), 0, 0.010, Outcome::Success);
        assert_eq!(windows.take(&links).len(), 1);
        links.evict(Time(9_000_000_000), Duration::from_secs(1));
        call(&links.link(&key(), Time(9_000_000_000)), 0, 0.010, Outcome::Success);
        let back = windows.take(&links).remove(0);
        assert_eq!((back.calls, back.latency.count()), (1, 1.0));
    }
}
