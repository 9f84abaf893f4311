//! How far a node can hear: what it gets is bounded, too.
//!
//! A node sends as much as its budget has room for, however many hear it; but what it hears grows with its neighbourhood, which
//! is wide where many services call each other. So it is looked at how much comes in, and where that is more than
//! `mesh.nats.hear` the node asks for what is one call nearer; once it is far less than that for a while, for what
//! is one call further. What is near matters most, and one call makes the neighbourhood several times as large, so
//! between the two bounds lies enough that it does not go to and fro.

use std::time::{Duration, Instant};

/// So long one step has to show what it does before the next one.
const STEP: Duration = Duration::from_secs(4);
/// So much less than the bound must come in, and for so long, before it is widened.
const FAR_LESS: u64 = 8;
const CALM: Duration = Duration::from_secs(30);

/// How much nearer a node hears than it would.
#[derive(Debug)]
pub struct Narrow {
    most: u64,
    calls: usize,
    /// When it was last looked at, and what had come in until then.
    looked: Option<(Instant, u64)>,
    /// Since when far less comes in.
    calm: Option<Instant>,
}

impl Narrow {
    /// As far as it would, within so many bytes a second.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { most, calls: 0, looked: None, calm: None }
    }

    /// How many calls nearer; at most so many. `heard` is how many bytes have come in so far.
    pub fn look(&mut self, heard: u64, most_calls: usize, now: Instant) -> usize {
        let (since, before) = *self.looked.get_or_insert((now, heard));
        let passed = now.saturating_duration_since(since);
        if passed >= STEP {
            let rate = (heard.saturating_sub(before) as f64 / passed.as_secs_f64()) as u64;
            self.looked = Some((now, heard));
            if rate > self.most {
                self.calls += 1;
            }
            let calm_since = *self.calm.get_or_insert(since);
            if rate > self.most / FAR_LESS {
                self.calm = None;
            } else if now.saturating_duration_since(calm_since) >= CALM {
                self.calls = self.calls.saturating_sub(1);
                self.calm = None;
            }
        }
        self.calls = self.calls.min(most_calls);
        self.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_hears_nearer_while_too_much_comes_in_and_further_once_far_less_does() {
        let (mut narrow, begun, mut heard) = (Narrow::new(1_000), Instant::now(), 0);
        let mut second = 0;
        let mut pass = |seconds: u64, rate: u64| {
            let mut calls = 0;
            for _ in 0..seconds {
                second += 1;
                heard += rate;
                calls = narrow.look(heard, 4, begun + Duration::from_secs(second));
            }
            calls
        };
        assert_eq!(pass(60, 1_000), 0, "as much as may come in");
        assert_eq!(pass(9, 1_001), 2, "one step each four seconds");
        assert_eq!(pass(60, 126), 2, "less, but one call more may bring several times as much");
        assert_eq!(pass(28, 100), 2);
        assert_eq!(pass(12, 100), 1, "far less, for half a minute");
        assert_eq!(pass(80, 0), 0);
        assert_eq!(pass(60, 1_000_000), 4, "never nearer than there is anything to hear");
    }
}
