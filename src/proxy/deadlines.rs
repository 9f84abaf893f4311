//! Deadlines of one core: many are set, few are ever reached.
//!
//! A request sets several deadlines in its life (the answer's head, a pause in a body, the whole request) and nearly
//! always ends before the first. A timer wheel pays for each one twice, when it is registered and when it is taken
//! out. Here a deadline is a slot in one array of moments: setting it is a store, and one task of the core sleeps
//! until the earliest and then scans the array. A connection owns one slot for all its requests.
//!
//! Reached slots are marked, their task is woken, and the task itself finds out what was due: a slot that was moved
//! meanwhile is not due, so a deadline may be pushed back without anybody being told.
//!
//! Precision: `GRANULARITY`, always late, never early. This holds no locks and is for one thread alone.

use super::clock::Clock;
use crate::links::Time;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// Two scans are at least this far apart.
const GRANULARITY: Duration = Duration::from_millis(5);
/// A slot that is set for no moment.
const NEVER: u64 = u64::MAX;
/// A slot whose moment has come.
const REACHED: u64 = 0;

/// All deadlines of a core.
pub(super) struct Deadlines {
    clock: Clock,
    slots: RefCell<Slots>,
    /// When the driver scans next.
    next_scan: Cell<u64>,
    sooner: Notify,
}

#[derive(Default)]
struct Slots {
    at: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Deadlines {
    pub(super) fn new(clock: Clock) -> Rc<Self> {
        Rc::new(Self { clock, slots: RefCell::default(), next_scan: Cell::new(NEVER), sooner: Notify::new() })
    }

    /// Wakes tasks at their deadlines; never ends.
    pub(super) async fn drive(self: Rc<Self>) {
        loop {
            let at = self.next_scan.get();
            if at == NEVER {
                self.sooner.notified().await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.clock.instant(Time(at))) => self.scan(self.clock.now()),
                () = self.sooner.notified() => {}
            }
        }
    }

    fn scan(&self, now: Time) {
        let mut slots = self.slots.borrow_mut();
        let Slots { at, wakers, .. } = &mut *slots;
        let mut earliest = NEVER;
        for (at, waker) in at.iter_mut().zip(wakers.iter()) {
            if *at == REACHED {
                continue;
            }
            if *at <= now.0 {
                *at = REACHED;
                if let Some(waker) = waker {
                    waker.wake_by_ref();
                }
            } else {
                earliest = earliest.min(*at);
            }
        }
        let soonest = (now + GRANULARITY).0;
        self.next_scan.set(if earliest == NEVER { NEVER } else { earliest.max(soonest) });
    }

    /// Wakes every task that has a deadline slot: the core's state changed for all.
    pub(super) fn wake_all(&self) {
        self.slots.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }
}

/// One slot, given back when dropped.
pub(super) struct Deadline {
    all: Rc<Deadlines>,
    slot: usize,
}

impl Deadline {
    pub(super) fn new(all: &Rc<Deadlines>) -> Self {
        let mut slots = all.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.at.push(NEVER);
            slots.wakers.push(None);
            slots.at.len() - 1
        });
        Self { all: all.clone(), slot }
    }

    /// Sets the moment, in place of any before.
    pub(super) fn set(&self, at: Time) {
        if let Some(slot) = self.all.slots.borrow_mut().at.get_mut(self.slot) {
            *slot = at.0.max(1);
        }
        if at.0 < self.all.next_scan.get() {
            self.all.next_scan.set(at.0.max(1));
            self.all.sooner.notify_one();
        }
    }

    /// Sets no moment.
    pub(super) fn clear(&self) {
        if let Some(slot) = self.all.slots.borrow_mut().at.get_mut(self.slot) {
            *slot = NEVER;
        }
    }

    /// Whether the moment came and was not set anew.
    pub(super) fn reached(&self) -> bool {
        self.all.slots.borrow().at.get(self.slot) == Some(&REACHED)
    }

    /// Says whom to wake.
    pub(super) fn register(&self, waker: &Waker) {
        let mut slots = self.all.slots.borrow_mut();
        let before = match slots.wakers.get_mut(self.slot) {
            Some(slot) if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) => slot.replace(waker.clone()),
            _ => return,
        };
        drop(slots);
        // Only now: what a waker's end drops with it may come back here.
        drop(before);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.all.slots.borrow_mut();
        if let Some(at) = slots.at.get_mut(self.slot) {
            *at = NEVER;
        }
        let waker = slots.wakers.get_mut(self.slot).and_then(Option::take);
        slots.free.push(self.slot);
        drop(slots);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_deadline_wakes_its_task_once_and_can_be_pushed_back() {
        let clock = Clock::start();
        let all = Deadlines::new(clock);
        tokio::task::spawn_local(all.clone().drive());
        let deadline = Deadline::new(&all);
        let started = clock.now();
        deadline.set(started + Duration::from_millis(20));
        deadline.set(started + Duration::from_millis(60));
        std::future::poll_fn(|cx| {
            deadline.register(cx.waker());
            if deadline.reached() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        let took = clock.now().since(started);
        assert!(took >= Duration::from_millis(60), "{took:?}");
        deadline.clear();
        assert!(!deadline.reached());
    }

    #[test]
    fn slots_are_used_again() {
        let all = Deadlines::new(Clock::start());
        let first = Deadline::new(&all);
        let slot = first.slot;
        first.set(Time(5));
        drop(first);
        let second = Deadline::new(&all);
        assert_eq!((second.slot, second.reached()), (slot, false));
    }
}
