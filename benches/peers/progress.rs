//! How far a run is, and how long the rest will take, by the steps that are done.

use std::time::Instant;

pub struct Progress {
    begun: Instant,
    /// What all steps take, about, in seconds.
    all: f64,
    done: f64,
}

impl Progress {
    pub fn new(all: f64) -> Self {
        Self { begun: Instant::now(), all, done: 0.0 }
    }

    /// Says what begins now.
    pub fn says(&self, what: &str) {
        let (passed, left) = (self.seconds(), self.left(self.seconds()));
        eprintln!("peers: {} passed, about {} left: {what}", minutes(passed), minutes(left));
    }

    /// A step is done that was to take so many seconds.
    pub fn done(&mut self, seconds: f64) {
        self.done += seconds;
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// At the pace of what is done; as foreseen, before anything is.
    fn left(&self, passed: f64) -> f64 {
        let pace = if self.done > 0.0 { passed / self.done } else { 1.0 };
        (self.all - self.done).max(0.0) * pace
    }
}

fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_on_at_the_pace_so_far() {
        let mut progress = Progress::new(100.0);
        assert_eq!(progress.left(0.0), 100.0);
        progress.done(20.0);
        assert_eq!(progress.left(40.0), 160.0);
        progress.done(90.0);
        assert_eq!(progress.left(200.0), 0.0);
        assert_eq!(minutes(125.4), "2:05 min");
    }
}
