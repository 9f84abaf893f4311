//! The process's clock: nanoseconds since a base that everything shares, so that a `Time` means the same everywhere;
//! and the date, for people.

use crate::links::Time;
use http::HeaderValue;
use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads `Time`. Copies of one clock agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Instant,
}

impl Clock {
    /// A clock that starts at zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// The moment.
    #[must_use]
    pub fn now(&self) -> Time {
        // 584 years fit.
        Time(self.base.elapsed().as_nanos() as u64)
    }

    /// The runtime's name for a moment.
    pub(super) fn instant(&self, at: Time) -> tokio::time::Instant {
        // A moment too far away to be named is as good as a year from now.
        let far = Duration::from_secs(31_536_000);
        let base = tokio::time::Instant::from_std(self.base);
        base.checked_add(Duration::from_nanos(at.0)).unwrap_or_else(|| tokio::time::Instant::now() + far)
    }
}

/// The date, for an answer that has none of its own (RFC 9110, section 6.6.1); its text is made once a second.
#[derive(Debug)]
pub(super) struct Date(RefCell<(u64, HeaderValue)>);

impl Default for Date {
    fn default() -> Self {
        Self(RefCell::new((0, HeaderValue::from_static(""))))
    }
}

impl Date {
    pub(super) fn now(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut known = self.0.borrow_mut();
        if known.0 != second {
            let text = HeaderValue::from_str(&httpdate::fmt_http_date(now));
            *known = (second, text.unwrap_or_else(|_| HeaderValue::from_static("")));
        }
        known.1.clone()
    }
}
