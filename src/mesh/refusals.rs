//! What the log says about what is refused: who sent it and why, at its default level.
//!
//! Whoever can reach the mesh's port can send as much of it as the network takes, so a line is written for the first
//! of each reason and then for one a minute, with the number of those in between; all of them are in
//! `pathloom_mesh_refused_total`, and in the log at `debug`. Nothing is kept of who they were: three numbers for each reason,
//! however many peers there are.
//!
//! **What came before is no warning at first.** A message that is sealed with the mesh's key, timely, and has come before
//! was taken in then, and its second copy is dropped: nothing is lost. Networks with two paths repeat datagrams, those that reorder
//! them deliver some behind the window (`seal`), and a NATS server sends what belongs to two subscriptions twice, for the moment
//! in which a node that has just started, or wants to hear of other services, makes the second one. So `replayed` is
//! said as information. Only where it comes more often than `MANY_PER_S` for `LONG` lines in a row it is a warning, as it is then an
//! alert (`PathloomMeshRefuses`): somebody plays back what was recorded, or the network repeats all the time.

use super::refused::Refused;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a reason is not warned of again.
const EVERY: Duration = Duration::from_secs(60);

/// As often as this a message that was here before is more than a network's hiccup: what the alert asks for, too.
const MANY_PER_S: f64 = 0.1;
/// So many lines in a row, and as many minutes, it may come as often before it is a warning.
const LONG: u64 = 10;

/// When each reason was told of, and how many there were since.
#[derive(Debug)]
pub struct Refusals {
    began: Instant,
    /// When it may be told of again, in milliseconds since `began`.
    again_ms: [AtomicU64; Refused::ALL.len()],
    unsaid: [AtomicU64; Refused::ALL.len()],
    /// How many lines in a row told of many.
    in_a_row: [AtomicU64; Refused::ALL.len()],
}

/// A line that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    /// How many there were since the last one that were not told of.
    unsaid: u64,
    /// How many lines in a row told of many, this one included.
    in_a_row: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        let zeros = || [const { AtomicU64::new(0) }; Refused::ALL.len()];
        Self { began: Instant::now(), again_ms: zeros(), unsaid: zeros(), in_a_row: zeros() }
    }
}

impl Refusals {
    /// Tells of something that was refused just now. `from` says whose it was: an address, a node or a subject.
    pub fn tell(&self, refused: Refused, from: impl FnOnce() -> String) {
        self.tell_at(refused, from, self.began.elapsed());
    }

    fn tell_at(&self, refused: Refused, from: impl FnOnce() -> String, now: Duration) {
        let reason = refused.code();
        match self.due(refused, now) {
            Some(Line { unsaid, in_a_row }) if refused == Refused::Replayed && in_a_row < LONG => tracing::info!(
                from = from(),
                reason,
                unsaid,
                "a message of the mesh came once more and is dropped; nothing is lost (after a start, a change of \
                 subscriptions or by a network that repeats; told of once a minute, a warning where it lasts; \
                 pathloom_mesh_refused_total counts all)"
            ),
            Some(Line { unsaid, .. }) => tracing::warn!(
                from = from(),
                reason,
                unsaid,
                "something that came from the mesh is refused: {refused} (warned of once a minute; \
                 pathloom_mesh_refused_total counts all; what to do: proxy-config/TROUBLESHOOTING.md#pathloommeshrefuses)"
            ),
            None => tracing::debug!(from = from(), reason, "something that came from the mesh is refused: {refused}"),
        }
    }

    /// The line that it is time for, so long after the beginning.
    fn due(&self, refused: Refused, now: Duration) -> Option<Line> {
        let place = refused as usize;
        let (again_ms, unsaid) = (self.again_ms.get(place)?, self.unsaid.get(place)?);
        let (now_ms, from_ms) = (now.as_millis() as u64, again_ms.load(Relaxed));
        let (every_ms, row) = (EVERY.as_millis() as u64, self.in_a_row.get(place)?);
        // Of two threads one tells.
        if now_ms >= from_ms && again_ms.compare_exchange(from_ms, now_ms + every_ms, Relaxed, Relaxed).is_ok() {
            let unsaid = unsaid.swap(0, Relaxed);
            // The very first line is about one.
            let passed_s = now_ms.saturating_sub(from_ms.saturating_sub(every_ms)) as f64 / 1e3;
            let many = from_ms > 0 && (unsaid + 1) as f64 > MANY_PER_S * passed_s;
            let in_a_row = if many { row.load(Relaxed).saturating_add(1) } else { 0 };
            row.store(in_a_row, Relaxed);
            return Some(Line { unsaid, in_a_row });
        }
        unsaid.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::observe::log::for_tests::Lines;

    /// The lines that somebody sees who has not changed the log's level.
    pub fn logged(what: impl FnOnce()) -> Vec<String> {
        let page = Lines::default();
        let writer = page.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false);
        tracing::subscriber::with_default(lines.with_writer(move || writer.clone()).finish(), what);
        page.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_of_each_reason_is_named_in_a_warning_and_a_flood_is_one_line() {
        let refusals = Refusals::default();
        let lines = logged(|| {
            for port in 0..1_000 {
                refusals.tell(Refused::Forged, || format!("10.0.0.9:{port}"));
                refusals.tell(Refused::Version, || "node-7".to_owned());
            }
        });
        let [forged, version] = &lines[..] else { panic!("{lines:?}") };
        for (line, words) in [
            (forged, ["WARN", "10.0.0.9:0", "forged", "not sealed with the mesh's key"]),
            (version, ["WARN", "node-7", "version", "of another version"]),
        ] {
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }

    #[test]
    fn a_minute_later_it_is_told_of_again_with_how_many_there_were() {
        let (refusals, at) = (Refusals::default(), Duration::from_millis);
        let due = |refused, ms| refusals.due(refused, at(ms)).map(|line| line.unsaid);
        assert_eq!(due(Refused::Forged, 5), Some(0));
        assert_eq!(due(Refused::Forged, 6), None);
        assert_eq!(due(Refused::Stale, 7), Some(0), "each reason by itself");
        assert_eq!(due(Refused::Forged, 60_004), None);
        assert_eq!(due(Refused::Forged, 60_005), Some(2));
        assert_eq!(due(Refused::Forged, 60_006), None);
        assert_eq!(due(Refused::Forged, 200_000), Some(1));
    }

    /// `each` messages of a reason at the beginning of each of so many minutes.
    fn minutes(refusals: &Refusals, refused: Refused, minutes: std::ops::Range<u64>, each: u64) -> Vec<String> {
        logged(|| {
            for (minute, n) in minutes.flat_map(|minute| (0..each).map(move |n| (minute, n))) {
                refusals.tell_at(refused, || "10.0.0.9:7946".to_owned(), Duration::from_millis(minute * 60_000 + n));
            }
        })
    }

    #[test]
    fn what_came_before_is_information_and_a_warning_only_where_that_lasts() {
        let refusals = Refusals::default();
        // A node that subscribes anew, and a network that repeats something now and then.
        let burst = minutes(&refusals, Refused::Replayed, 0..1, 500);
        let [first] = &burst[..] else { panic!("{burst:?}") };
        for word in ["INFO", "10.0.0.9:7946", "replayed", "nothing is lost", "pathloom_mesh_refused_total"] {
            assert!(first.contains(word), "{word}: {first}");
        }
        let seldom = minutes(&refusals, Refused::Replayed, 1..40, 6);
        assert!(seldom.len() == 39 && seldom.iter().all(|line| line.contains("INFO")), "{seldom:?}");
        let often = minutes(&refusals, Refused::Replayed, 40..60, 7);
        let warned = often.iter().position(|line| line.contains("WARN")).unwrap_or(often.len());
        assert_eq!((warned, often.len()), (10, 20), "{often:?}");
        assert!(often[warned..].iter().all(|line| line.contains("WARN") && line.contains("seen before")), "{often:?}");
        let over = minutes(&refusals, Refused::Replayed, 100..102, 1);
        assert!(over.iter().all(|line| line.contains("INFO")), "{over:?}");
        // Of all other reasons the first one is a warning.
        for refused in Refused::ALL.into_iter().filter(|refused| *refused != Refused::Replayed) {
            let lines = minutes(&refusals, refused, 0..2, 1);
            assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("WARN")), "{lines:?}");
        }
    }
}
