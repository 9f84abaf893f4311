//! Warnings about what is refused: who sent it and why, in the log at its default level.
//!
//! Whoever can reach the mesh's port can send as much of it as the network takes, so a warning is written for the first
//! of each reason and then for one a minute, with the number of those in between; all of them are in
//! `pathloom_mesh_refused_total`, and in the log at `debug`. Nothing is kept of who they were: two numbers for each reason,
//! however many peers there are.

use super::refused::Refused;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a reason is not warned of again.
const EVERY: Duration = Duration::from_secs(60);

/// When each reason was warned of, and how many there were since.
#[derive(Debug)]
pub struct Refusals {
    began: Instant,
    /// When it may be warned of again, in milliseconds since `began`.
    again_ms: [AtomicU64; Refused::ALL.len()],
    unsaid: [AtomicU64; Refused::ALL.len()],
}

impl Default for Refusals {
    fn default() -> Self {
        let zeros = || [const { AtomicU64::new(0) }; Refused::ALL.len()];
        Self { began: Instant::now(), again_ms: zeros(), unsaid: zeros() }
    }
}

impl Refusals {
    /// Tells of something that was refused just now. `from` says whose it was: an address, a node or a subject.
    pub fn tell(&self, refused: Refused, from: impl FnOnce() -> String) {
        let reason = refused.code();
        match self.due(refused, self.began.elapsed()) {
            Some(unsaid) => tracing::warn!(
                from = from(),
                reason,
                unsaid,
                "something that came from the mesh is refused: {refused} (warned of once a minute; \
                 pathloom_mesh_refused_total counts all)"
            ),
            None => tracing::debug!(from = from(), reason, "something that came from the mesh is refused: {refused}"),
        }
    }

    /// Whether it is time for a warning, so long after the beginning; and how many there were since the last one.
    fn due(&self, refused: Refused, now: Duration) -> Option<u64> {
        let place = refused as usize;
        let (again_ms, unsaid) = (self.again_ms.get(place)?, self.unsaid.get(place)?);
        let (now_ms, from_ms) = (now.as_millis() as u64, again_ms.load(Relaxed));
        let next_ms = now_ms + EVERY.as_millis() as u64;
        // Of two threads one warns.
        if now_ms >= from_ms && again_ms.compare_exchange(from_ms, next_ms, Relaxed, Relaxed).is_ok() {
            return Some(unsaid.swap(0, Relaxed));
        }
        unsaid.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that somebody sees who has not changed the log's level.
    pub fn logged(what: impl FnOnce()) -> Vec<String> {
        let page = Page::default();
        let writer = page.clone();
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false);
        tracing::subscriber::with_default(lines.with_writer(move || writer.clone()).finish(), what);
        let text = page.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
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
    fn a_minute_later_it_is_warned_of_again_with_how_many_there_were() {
        let (refusals, at) = (Refusals::default(), Duration::from_millis);
        assert_eq!(refusals.due(Refused::Forged, at(5)), Some(0));
        assert_eq!(refusals.due(Refused::Forged, at(6)), None);
        assert_eq!(refusals.due(Refused::Stale, at(7)), Some(0), "each reason by itself");
        assert_eq!(refusals.due(Refused::Forged, at(60_004)), None);
        assert_eq!(refusals.due(Refused::Forged, at(60_005)), Some(2));
        assert_eq!(refusals.due(Refused::Forged, at(60_006)), None);
        assert_eq!(refusals.due(Refused::Forged, at(200_000)), Some(1));
    }
}
