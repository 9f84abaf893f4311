//! Which parts of a connection's task something happened to: the connection itself, or streams of it.
//!
//! Every part has a waker of its own, which notes the part and wakes the task, unless the task is at work: it looks
//! through the notes before it rests. So what parts do to each other in a turn (a stream that answers wakes the
//! connection, which then writes) costs a note and no scheduling.
//!
//! Wakers must be fit for every thread, hence the atomics, and the locks where they do not do; one thread uses them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The streams that are noted as bits; those of the rare busier connection are in a list.
const BITS: usize = 64;

/// The notes of one connection. As a waker it is the connection's own.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    task: Mutex<Option<Waker>>,
    /// The task is at work.
    busy: AtomicBool,
    /// Something happened to the connection.
    connection: AtomicBool,
    first: AtomicU64,
    others: Mutex<Vec<usize>>,
    /// There are others.
    more: AtomicBool,
}

impl Wakes {
    /// The task begins a turn.
    pub(super) fn begin(&self, task: &Waker) {
        self.busy.store(true, Relaxed);
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    /// The task ends a turn. Whether something is left to be looked at.
    pub(super) fn end(&self) -> bool {
        self.busy.store(false, Relaxed);
        self.connection.load(Relaxed) || self.first.load(Relaxed) != 0 || self.more.load(Relaxed)
    }

    /// Whether something happened to the connection; it is forgotten then.
    pub(super) fn take_connection(&self) -> bool {
        self.connection.load(Relaxed) && self.connection.swap(false, Relaxed)
    }

    /// The streams that something happened to: as bits, and the others in exchange for an empty list.
    pub(super) fn take_streams(&self, others: &mut Vec<usize>) -> u64 {
        if self.more.load(Relaxed) && self.more.swap(false, Relaxed) {
            std::mem::swap(others, &mut self.others.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if self.first.load(Relaxed) == 0 { 0 } else { self.first.swap(0, Relaxed) }
    }

    fn rouse(&self) {
        if !self.busy.load(Relaxed)
            && let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            task.wake_by_ref();
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, Relaxed);
        self.rouse();
    }
}

/// One stream's waker.
#[derive(Debug)]
pub(super) struct StreamWake {
    wakes: Arc<Wakes>,
    index: usize,
    /// It is in the list.
    noted: AtomicBool,
}

impl StreamWake {
    pub(super) fn new(wakes: &Arc<Wakes>, index: usize) -> Arc<Self> {
        Arc::new(Self { wakes: wakes.clone(), index, noted: AtomicBool::new(false) })
    }

    /// It was taken from the list.
    pub(super) fn taken(&self) {
        self.noted.store(false, Relaxed);
    }
}

impl Wake for StreamWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.index < BITS {
            let bit = 1 << self.index;
            if self.wakes.first.fetch_or(bit, Relaxed) & bit == 0 {
                self.wakes.rouse();
            }
        } else if !self.noted.swap(true, Relaxed) {
            self.wakes.others.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
            self.wakes.more.store(true, Relaxed);
            self.wakes.rouse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_task_is_woken_when_it_rests_and_finds_what_was_noted_while_it_worked() {
        let (task, wakes) = (Arc::new(Task::default()), Arc::new(Wakes::default()));
        let woken = || task.0.load(Relaxed);
        let streams: Vec<_> = (0..80).map(|index| StreamWake::new(&wakes, index)).collect();
        wakes.begin(&Waker::from(task.clone()));
        [1, 1, 0, 63, 70, 64, 70].into_iter().for_each(|index: usize| streams[index].wake_by_ref());
        wakes.wake_by_ref();
        assert_eq!(woken(), 0);
        assert!(wakes.end(), "what is left makes another turn");
        let mut others = Vec::new();
        assert_eq!(wakes.take_streams(&mut others), 1 << 63 | 3);
        assert_eq!(others, [70, 64], "each once, in order");
        assert!(wakes.take_connection() && !wakes.take_connection());
        assert!(!wakes.end());
        streams[70].wake_by_ref();
        assert_eq!(woken(), 0, "it is still on the list that was taken");
        streams[70].taken();
        streams[70].wake_by_ref();
        assert_eq!(woken(), 1);
        others.clear();
        assert_eq!((wakes.take_streams(&mut others), others), (0, vec![70]));
        streams[5].wake_by_ref();
        streams[5].wake_by_ref();
        assert_eq!(woken(), 2, "once, until it was looked at");
    }
}
