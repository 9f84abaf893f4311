//! What happens next: events by time, and by the order of their making within the same nanosecond.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What happens. The numbers are indices: of sources, visits, hosts, instances, probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request enters.
    Enter(u32),
    /// A source looks again when its next request enters: its load was too low to say.
    Look(u32),
    /// A call reaches its instance.
    Arrive(u32),
    /// A host may have done some work.
    Work(u32),
    /// An answer reaches its caller.
    Answer(u32),
    /// An instance begins to stand still.
    Pause(u32),
    /// It goes on.
    Resume(u32),
    /// A probe reaches its instance.
    Probe(u32),
    /// A probe's answer is back.
    Probed(u32),
    /// Faults begin or end, instances join or leave.
    Change,
    /// A quarter of a second has passed.
    Beat,
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest: the heap yields it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The planned events.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    heap: BinaryHeap<Planned>,
    made: u64,
}

impl Queue {
    /// Plans an event.
    pub fn plan(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.heap.push(Planned { at, order: self.made, event });
    }

    /// The next event up to a moment, with its time.
    pub fn next(&mut self, until: u64) -> Option<(u64, Event)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|p| (p.at, p.event))
    }
}
