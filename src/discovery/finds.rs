//! What is known of a source at any moment: the last good listing, and why there is no newer one.
//!
//! ```text
//! waiting --good--> working --failed--> failing (the last good listing stays) --good--> working
//!    \-------------failed--------------^   (there is nothing yet)
//! ```
//! This is the one place where the last good endpoints are kept: whatever goes wrong with a source, it can only say that it
//! failed, never that there are no endpoints any more. The log gets one line when a source begins to fail and one when it
//! works again, however often it is tried between.

use super::listing::{Ignored, Listing, Readiness, told};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Why a source has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody answered in time.
    Timeout,
    /// Nobody could be reached.
    Unreachable,
    /// The server said that it could not answer.
    ServerFailure,
    /// The name, or the service, does not exist.
    NoSuchName,
    /// The name has no records of the kind that is asked for.
    NoRecords,
    /// The server does not let this proxy ask.
    Denied,
    /// The answer, or the file, cannot be understood.
    Invalid,
    /// There is nothing to ask: no file, no server known.
    Unavailable,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Unreachable,
        Self::ServerFailure,
        Self::NoSuchName,
        Self::NoRecords,
        Self::Denied,
        Self::Invalid,
        Self::Unavailable,
    ];

    /// Its code in metrics, logs and `/routing`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::ServerFailure => "server_failure",
            Self::NoSuchName => "no_such_name",
            Self::NoRecords => "no_records",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
        }
    }
}

/// That a source fails, why, and since when.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// The reason's code.
    pub fault: Fault,
    /// The reason in words.
    pub text: String,
    /// When it began.
    pub since: Instant,
}

/// What is known of a source.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The last good listing.
    pub listing: Option<Arc<Listing>>,
    /// When it was last known to be right.
    pub good_at: Option<Instant>,
    /// Why there is no newer one.
    pub trouble: Option<Trouble>,
    /// Good answers that changed something.
    pub changed: u64,
    /// Good answers that changed nothing.
    pub same: u64,
    /// Failures by their fault.
    pub failures: [u64; Fault::ALL.len()],
}

impl Report {
    /// Whether the source has said anything yet.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.listing.is_some() || self.trouble.is_some()
    }

    /// How old what is used is: the time since somebody last said so. What is watched is told of changes, so it is of this
    /// moment while the watch goes on.
    #[must_use]
    pub fn age(&self, watched: bool, now: Instant) -> Option<Duration> {
        let good_at = self.good_at?;
        let known_until = match &self.trouble {
            None if watched => now,
            Some(trouble) if watched => trouble.since.max(good_at),
            _ => good_at,
        };
        Some(now.saturating_duration_since(known_until))
    }
}

/// Where a source tells what it finds.
#[derive(Debug)]
pub struct Finds {
    source: String,
    report: watch::Sender<Report>,
    /// Rung when others should look.
    news: Arc<Notify>,
}

impl Finds {
    /// For the source of this name, and where to look for what it tells; `news` is rung each time that changes something.
    #[must_use]
    pub fn new(source: String, news: Arc<Notify>) -> (Self, watch::Receiver<Report>) {
        let (report, told) = watch::channel(Report::default());
        (Self { source, report, news }, told)
    }

    /// These are all endpoints.
    pub fn good(&self, listing: Listing) {
        self.tell(Some(listing), None);
    }

    /// These are all endpoints, as far as could be found out.
    pub fn partly(&self, listing: Listing, fault: Fault, text: impl std::fmt::Display) {
        self.tell(Some(listing), Some((fault, told(text))));
    }

    /// Nothing could be found out.
    pub fn failed(&self, fault: Fault, text: impl std::fmt::Display) {
        self.tell(None, Some((fault, told(text))));
    }

    /// What was told last is still so.
    pub fn still_good(&self) {
        self.tell(None, None);
    }

    fn tell(&self, listing: Option<Listing>, trouble: Option<(Fault, String)>) {
        let now = Instant::now();
        let mut news = false;
        self.report.send_modify(|report| {
            news |= !report.has_spoken();
            match listing {
                Some(listing) if report.listing.as_deref() == Some(&listing) => {
                    report.same += 1;
                    report.good_at = Some(now);
                }
                Some(listing) => {
                    news = true;
                    report.changed += 1;
                    report.good_at = Some(now);
                    self.log_listing(report.listing.as_deref(), &listing);
                    report.listing = Some(Arc::new(listing));
                }
                None if trouble.is_none() && report.listing.is_some() => report.good_at = Some(now),
                None => {}
            }
            self.log_trouble(report, trouble.as_ref(), now);
            report.trouble = trouble.map(|(fault, text)| {
                if let Some(count) =
                    Fault::ALL.iter().position(|f| *f == fault).and_then(|i| report.failures.get_mut(i))
                {
                    *count += 1;
                }
                Trouble { fault, text, since: report.trouble.as_ref().map_or(now, |t| t.since) }
            });
        });
        if news {
            self.news.notify_one();
        }
    }

    /// Once when it begins, once when it ends.
    fn log_trouble(&self, before: &Report, trouble: Option<&(Fault, String)>, now: Instant) {
        let source = &self.source;
        match (&before.trouble, trouble) {
            (None, Some((fault, text))) => {
                let kept = before.listing.as_ref().map_or(0, |listing| listing.found().len());
                let reason = fault.code();
                tracing::warn!(source, reason, kept, "discovery fails, the last good endpoints stay: {text}");
            }
            (Some(was), None) => {
                let after_s = now.saturating_duration_since(was.since).as_secs();
                tracing::info!(source, after_s, "discovery works again");
            }
            (Some(was), Some((fault, text))) if was.fault != *fault => {
                tracing::debug!(source, reason = fault.code(), "discovery still fails: {text}");
            }
            _ => {}
        }
    }

    fn log_listing(&self, before: Option<&Listing>, listing: &Listing) {
        let source = &self.source;
        let (ready, terminating) = (listing.count(Readiness::Ready), listing.count(Readiness::Terminating));
        tracing::info!(source, all = listing.found().len(), ready, terminating, "discovered endpoints changed");
        let left_out = listing.left_out();
        if left_out.is_empty() || before.is_some_and(|before| before.left_out() == left_out) {
            return;
        }
        let named = left_out.named();
        match left_out.count(Ignored::TooMany) {
            0 => tracing::warn!(source, "some of what was discovered is no endpoint and left out: {named}"),
            beyond => tracing::error!(
                source,
                beyond,
                "there are more endpoints than `discover[].most` lets in, the others are left out: {named}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::{Gathering, bare};
    use super::*;

    fn listing(ports: &[u16]) -> Listing {
        let mut gathering = Gathering::default();
        ports.iter().for_each(|p| gathering.add(bare(([10, 0, 0, 1], *p).into()), Readiness::Ready));
        gathering.finish(100)
    }

    fn finds() -> (Finds, watch::Receiver<Report>) {
        Finds::new("dns catalog.shop:80".to_owned(), Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_keeps_what_it_told_last() {
        let (finds, told) = finds();
        finds.failed(Fault::Timeout, "nobody answers");
        assert!(told.borrow().listing.is_none() && told.borrow().has_spoken());
        finds.good(listing(&[1, 2]));
        assert!(told.borrow().trouble.is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        finds.failed(Fault::ServerFailure, "SERVFAIL");
        tokio::time::advance(Duration::from_secs(5)).await;
        finds.failed(Fault::Timeout, "nobody answers");
        let report = told.borrow().clone();
        assert_eq!(report.listing.as_deref(), Some(&listing(&[1, 2])));
        let trouble = report.trouble.clone().unwrap();
        assert_eq!(
            (trouble.fault, trouble.since.elapsed()),
            (Fault::Timeout, Duration::from_secs(5)),
            "as of its beginning"
        );
        assert_eq!(report.age(false, Instant::now()), Some(Duration::from_secs(10)));
        assert_eq!(
            report.age(true, Instant::now()),
            Some(Duration::from_secs(5)),
            "what is watched was right until it failed"
        );
        assert_eq!((report.failures[0], report.failures[2]), (2, 1));
        finds.good(listing(&[1, 2]));
        assert_eq!((told.borrow().same, told.borrow().changed), (1, 1));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(told.borrow().age(true, Instant::now()), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_reached_again_and_has_nothing_new_works_again() {
        let (finds, told) = finds();
        finds.still_good();
        assert!(!told.borrow().has_spoken(), "nothing was told yet");
        finds.good(listing(&[1]));
        finds.failed(Fault::Unreachable, "refused");
        finds.still_good();
        assert!(told.borrow().trouble.is_none() && told.borrow().listing.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_woken_when_there_is_something_new_and_only_then() {
        let news = Arc::new(Notify::new());
        let (finds, _told) = Finds::new("x".to_owned(), news.clone());
        let woken = async || tokio::time::timeout(Duration::from_secs(1), news.notified()).await.is_ok();
        finds.failed(Fault::Timeout, "the first word");
        assert!(woken().await);
        finds.failed(Fault::Timeout, "again");
        assert!(!woken().await);
        finds.good(listing(&[1]));
        assert!(woken().await);
        finds.good(listing(&[1]));
        assert!(!woken().await);
    }

    #[test]
    fn each_fault_has_a_code_of_its_own() {
        let codes: std::collections::BTreeSet<_> = Fault::ALL.iter().map(|f| f.code()).collect();
        assert_eq!(codes.len(), Fault::ALL.len());
    }
}
