//! What the sets of captured pods are to hold, and when they are written: decisions alone, without a clock or a kernel.
//!
//! | the proxy | the pods | the sets |
//! | --- | --- | --- |
//! | not asked yet | | stay as they are |
//! | answers | not known yet | stay as they are |
//! | answers | known | hold the pods that want to be captured |
//! | does not answer, [`FAILURES`] times in a row | | are empty: what pods open goes its own way |
//!
//! What they hold is written anew every [`REFRESH`], since the kernel forgets an address after two minutes: so a capture
//! whose agent died ends by itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many times in a row the proxy may not answer before nothing is captured any more. One alone may be a busy machine.
pub const FAILURES: u32 = 2;
/// How often what the sets hold is written anew: an address stays through three that fail.
pub const REFRESH: Duration = Duration::from_secs(30);

/// What is known, and what was written last.
#[derive(Debug, Default)]
pub struct Keeper {
    answers: Option<bool>,
    failures: u32,
    pods: Option<BTreeSet<IpAddr>>,
    written: Option<(BTreeSet<IpAddr>, Instant)>,
}

impl Keeper {
    /// The proxy answered, or did not. Gives whether it is held for another than before.
    pub fn proxy(&mut self, answered: bool) -> bool {
        let before = self.answers;
        if answered {
            (self.failures, self.answers) = (0, Some(true));
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= FAILURES {
                self.answers = Some(false);
            }
        }
        before != self.answers
    }

    /// These pods want to be captured.
    pub fn pods(&mut self, addresses: BTreeSet<IpAddr>) {
        self.pods = Some(addresses);
    }

    /// What the sets are to hold; none where they are to stay as they are.
    fn wanted(&self) -> Option<BTreeSet<IpAddr>> {
        match self.answers {
            Some(true) => self.pods.clone(),
            Some(false) => Some(BTreeSet::new()),
            None => None,
        }
    }

    /// What is to be written now; none where nothing is.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<BTreeSet<IpAddr>> {
        let wanted = self.wanted()?;
        let held = self
            .written
            .as_ref()
            .is_some_and(|(written, at)| *written == wanted && now.saturating_duration_since(*at) < REFRESH);
        (!held).then_some(wanted)
    }

    /// It was written.
    pub fn written(&mut self, addresses: BTreeSet<IpAddr>, now: Instant) {
        self.written = Some((addresses, now));
    }

    /// Nobody knows what the sets hold.
    pub fn unknown(&mut self) {
        self.written = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(list: [&str; N]) -> BTreeSet<IpAddr> {
        list.map(|address| address.parse().unwrap()).into()
    }

    /// One that has written what is due.
    fn settled(keeper: &mut Keeper, now: Instant) -> Option<BTreeSet<IpAddr>> {
        let due = keeper.due(now)?;
        keeper.written(due.clone(), now);
        Some(due)
    }

    #[test]
    fn the_sets_stay_as_they_are_until_both_proxy_and_pods_are_known() {
        let now = Instant::now();
        let mut keeper = Keeper::default();
        assert_eq!(keeper.due(now), None);
        keeper.pods(addresses(["10.0.0.1"]));
        assert_eq!(keeper.due(now), None, "nobody knows whether the proxy answers");
        let mut keeper = Keeper::default();
        assert!(keeper.proxy(true));
        assert_eq!(keeper.due(now), None, "no pod is known, which is not that there are none");
        keeper.pods(addresses([]));
        assert_eq!(keeper.due(now), Some(addresses([])));
    }

    #[test]
    fn what_was_written_is_written_again_when_it_changes_and_before_the_kernel_forgets_it() {
        let start = Instant::now();
        let mut keeper = Keeper::default();
        keeper.proxy(true);
        keeper.pods(addresses(["10.0.0.1"]));
        assert_eq!(settled(&mut keeper, start), Some(addresses(["10.0.0.1"])));
        keeper.pods(addresses(["10.0.0.1"]));
        assert_eq!(settled(&mut keeper, start + REFRESH - Duration::from_millis(1)), None, "nothing is new");
        assert_eq!(settled(&mut keeper, start + REFRESH), Some(addresses(["10.0.0.1"])));
        keeper.pods(addresses(["fd00::1"]));
        assert_eq!(settled(&mut keeper, start + REFRESH), Some(addresses(["fd00::1"])));
        keeper.unknown();
        assert_eq!(settled(&mut keeper, start + REFRESH), Some(addresses(["fd00::1"])));
        assert!(REFRESH * 4 <= Duration::from_secs(crate::capture::rules::STAYS_S), "three may fail");
    }

    #[test]
    fn nobody_is_captured_while_the_proxy_does_not_answer() {
        let now = Instant::now();
        let mut keeper = Keeper::default();
        keeper.proxy(true);
        keeper.pods(addresses(["10.0.0.1"]));
        settled(&mut keeper, now);
        assert!(!keeper.proxy(false) && keeper.due(now).is_none(), "once may be chance");
        assert!(!keeper.proxy(true) && !keeper.proxy(false) && keeper.due(now).is_none(), "and so may be once more");
        assert!(keeper.proxy(false));
        assert_eq!(settled(&mut keeper, now), Some(addresses([])));
        keeper.pods(addresses(["10.0.0.2"]));
        assert_eq!(settled(&mut keeper, now), None, "whatever pods there are");
        assert!(!keeper.proxy(false) && keeper.proxy(true));
        assert_eq!(settled(&mut keeper, now), Some(addresses(["10.0.0.2"])));
    }

    #[test]
    fn a_proxy_that_never_answered_captures_nobody_even_of_those_that_another_agent_wrote() {
        let now = Instant::now();
        let mut keeper = Keeper::default();
        assert!(!keeper.proxy(false) && keeper.due(now).is_none());
        assert!(keeper.proxy(false));
        assert_eq!(keeper.due(now), Some(addresses([])));
    }
}
