//! The story that all arms live through at the same time: which chapter follows which, and what happens at its start.
//!
//! A chapter's length is a share of the whole, so that `--for 20s` tells the same story faster. Whatever a chapter
//! changes, the next but one undoes: each trouble is followed by a chapter in which nothing is wrong, long enough to
//! see the weights come back.

use std::time::Duration;

/// How many times slower a replica in trouble is. Ten times the healthy time is far outside what any healthy replica
/// does, and yet no failure: nothing times out, so nothing but latency tells.
pub const SLOWDOWN: u32 = 10;
/// The shortest story: below it, chapters are shorter than the sidecar's tick.
pub const MIN_LENGTH: Duration = Duration::from_secs(10);
/// The longest story: every request's latency is kept.
pub const MAX_LENGTH: Duration = Duration::from_secs(3600);
/// Which catalog replica turns slow, counted from zero.
pub const SLOW_CATALOG: usize = 1;
/// Which storage replica turns slow, counted from zero: the only one that `FAR_CATALOGS` can call.
pub const SLOW_STORAGE: usize = 2;
/// The catalog replicas from which the slow storage replica is reached.
pub const FAR_CATALOGS: [usize; 2] = [2, 3];
/// Which catalog replica crashes, counted from zero.
pub const CRASHING_CATALOG: usize = 0;

/// What happens when a chapter begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    Nothing,
    /// The catalog replica `SLOW_CATALOG` turns `SLOWDOWN` times slower.
    SlowCatalog,
    /// The storage replica `SLOW_STORAGE` turns `SLOWDOWN` times slower.
    SlowStorage,
    /// Everybody is as fast as at the start.
    Heal,
    /// The catalog replica `CRASHING_CATALOG` crashes.
    Crash,
    /// It returns, on the same address.
    Return,
}

/// A part of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chapter {
    /// Its name in the JSON summary.
    pub key: &'static str,
    /// What is going on, in a few words.
    pub title: &'static str,
    /// The same in a few short lines, for the plot.
    pub label: &'static [&'static str],
    /// Its share of the whole, in percent.
    pub percent: u32,
    /// What happens when it begins.
    pub event: Event,
}

const fn chapter(
    key: &'static str,
    title: &'static str,
    label: &'static [&'static str],
    percent: u32,
    event: Event,
) -> Chapter {
    Chapter { key, title, label, percent, event }
}

/// The chapters in their order.
pub const CHAPTERS: [Chapter; 7] = [
    chapter("well", "all is well", &["all well"], 12, Event::Nothing),
    chapter("slow_catalog", "catalog-2 is ten times slower", &["catalog-2", "10x slower"], 18, Event::SlowCatalog),
    chapter("catalog_healed", "catalog-2 has healed", &["healed"], 10, Event::Heal),
    // The longest: what is to be shown is not only that traffic leaves, but that it stays away.
    chapter(
        "two_hop",
        "storage-3 is ten times slower: two hops away, behind catalog-3 and -4 only",
        &["storage-3 10x slower,", "two hops away"],
        25,
        Event::SlowStorage,
    ),
    chapter("storage_healed", "storage-3 has healed", &["healed"], 12, Event::Heal),
    chapter("crash", "catalog-1 has crashed", &["catalog-1", "crashed"], 10, Event::Crash),
    chapter("returned", "catalog-1 is back", &["back"], 13, Event::Return),
];

/// The chapters on a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Story {
    /// How long the whole takes.
    pub length: Duration,
}

/// A chapter's place on the clock, in seconds since the story's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// When it begins.
    pub from_s: f64,
    /// When the next begins, or the story ends.
    pub to_s: f64,
}

impl Span {
    /// Whether a moment is in it.
    #[must_use]
    pub fn holds(&self, at_s: f64) -> bool {
        self.from_s <= at_s && at_s < self.to_s
    }
}

impl Story {
    /// A story of this length.
    ///
    /// # Errors
    /// When it is shorter than `MIN_LENGTH` or longer than `MAX_LENGTH`.
    pub fn new(length: Duration) -> Result<Self, String> {
        if length < MIN_LENGTH || length > MAX_LENGTH {
            return Err(format!(
                "a demo can last from {} seconds to {} minutes",
                MIN_LENGTH.as_secs(),
                MAX_LENGTH.as_secs() / 60
            ));
        }
        Ok(Self { length })
    }

    /// Each chapter with its place on the clock.
    pub fn chapters(self) -> impl Iterator<Item = (Chapter, Span)> {
        let length_s = self.length.as_secs_f64();
        CHAPTERS.into_iter().scan(0, move |percent, chapter| {
            let from = f64::from(*percent) / 100.0;
            *percent += chapter.percent;
            Some((chapter, Span { from_s: from * length_s, to_s: f64::from(*percent) / 100.0 * length_s }))
        })
    }

    /// The chapter at a moment, and where it lies; the last one after the end.
    #[must_use]
    pub fn at(self, at_s: f64) -> Option<(Chapter, Span)> {
        self.chapters().find(|(_, span)| span.holds(at_s)).or_else(|| self.chapters().last())
    }

    /// The chapter that an event begins.
    #[must_use]
    pub fn of(self, event: Event) -> Option<(Chapter, Span)> {
        self.chapters().find(|(chapter, _)| chapter.event == event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chapters_fill_the_story_without_a_gap() {
        let story = Story::new(Duration::from_secs(60)).unwrap();
        let spans: Vec<Span> = story.chapters().map(|(_, span)| span).collect();
        assert_eq!((spans[0].from_s, spans.last().unwrap().to_s), (0.0, 60.0));
        assert!(spans.windows(2).all(|w| w[0].to_s == w[1].from_s && w[0].from_s < w[0].to_s));
        assert_eq!(CHAPTERS.iter().map(|c| c.percent).sum::<u32>(), 100);
    }

    #[test]
    fn every_trouble_ends_before_the_next_begins() {
        for pair in CHAPTERS.windows(2) {
            match pair[0].event {
                Event::SlowCatalog | Event::SlowStorage => assert_eq!(pair[1].event, Event::Heal),
                Event::Crash => assert_eq!(pair[1].event, Event::Return),
                Event::Nothing | Event::Heal | Event::Return => {}
            }
        }
    }

    #[test]
    fn a_moment_is_in_one_chapter_and_the_end_in_the_last() {
        let story = Story::new(Duration::from_secs(100)).unwrap();
        assert_eq!(story.at(0.0).unwrap().0.key, "well");
        assert_eq!(story.at(11.999).unwrap().0.key, "well");
        assert_eq!(story.at(12.0).unwrap().0.key, "slow_catalog");
        assert_eq!(story.at(1e9).unwrap().0.key, "returned");
        assert_eq!(story.of(Event::SlowStorage).unwrap().1, Span { from_s: 40.0, to_s: 65.0 });
    }

    #[test]
    fn too_short_and_too_long_are_refused() {
        let new = |s| Story::new(Duration::from_secs(s)).is_ok();
        assert_eq!((new(9), new(10), new(3600), new(3601)), (false, true, true, false));
    }
}
