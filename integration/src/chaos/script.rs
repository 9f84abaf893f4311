//! What goes wrong, and when: a timetable that follows from a seed.
//!
//! Time is cut into windows of equal length. The first two are calm, so that there is something to compare with, and so is
//! the last. In between each kind of trouble comes up once alone, in an order that the seed chooses, and then again with
//! another one beside it, of another area: a link that is cut while the binary is replaced. A trouble begins a little after
//! its window and is over well before the next, so that what fails can be told from what failed before.

use pathloom_integration::random::Random;
use std::fmt;
use std::time::Duration;

/// The services that endpoints offer, in the order of their clusters in the configuration.
pub const SERVICES: [&str; 3] = ["web", "feed", "stock"];
/// On which host each endpoint of a service runs.
pub const PLACES: [&str; 4] = ["b", "c", "d", "d"];
/// On which hosts there are sidecars that take mTLS in.
pub const FAR: [&str; 2] = ["b", "c"];
/// How much of its window a trouble lasts.
const SHARE: f64 = 0.55;
/// How long after its window's beginning it begins, as a share of the window.
const LEAD: f64 = 0.1;

/// Whom a trouble befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The endpoint of a service that answers most at the moment: who gets little is not missed.
    Busiest(usize),
    /// All endpoints of a service.
    Service(usize),
    /// A host, by its name.
    Host(&'static str),
    /// A far sidecar, by its place among `FAR`.
    Far(usize),
    /// The near sidecar.
    Near,
    /// All sidecars.
    Everybody,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Busiest(service) => write!(f, "the busiest of {}", SERVICES[service]),
            Self::Service(service) => write!(f, "all of {}", SERVICES[service]),
            Self::Host(name) => write!(f, "host {name}"),
            Self::Far(far) => write!(f, "far-{}", FAR[far]),
            Self::Near => f.write_str("near"),
            Self::Everybody => f.write_str("all sidecars"),
        }
    }
}

macro_rules! kinds {
    ($($kind:ident = $name:literal, $area:ident, $does:literal, $expected:literal;)+) => {
        /// A kind of trouble.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $does] $kind,)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// Its name, as `--only` takes it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// What it does.
            #[must_use]
            pub fn does(self) -> &'static str {
                match self { $(Self::$kind => $does,)+ }
            }

            /// What is expected while it lasts.
            #[must_use]
            pub fn expected(self) -> &'static str {
                match self { $(Self::$kind => $expected,)+ }
            }

            fn area(self) -> Area {
                match self { $(Self::$kind => Area::$area,)+ }
            }
        }
    };
}

/// What a trouble is a trouble of; two of one area never come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    Outside,
    Sidecar,
}

kinds! {
    Die = "die", Outside, "An endpoint's process is killed and comes back.", "What it was working on and may not be repeated is lost.";
    Freeze = "freeze", Outside, "An endpoint's process is stopped and goes on: the kernel takes connections, nothing answers.", "What was sent to it before that was noticed and may not be repeated is lost.";
    Hang = "hang", Outside, "An endpoint takes connections and reads nothing.", "As when it is frozen.";
    Reset = "reset", Outside, "An endpoint resets each connection on which a request comes.", "Three requests that may not be repeated are lost, and one for each probe.";
    Garbage = "garbage", Outside, "An endpoint answers with noise.", "A request or two until it is left alone, and one for each probe.";
    Trickle = "trickle", Outside, "An endpoint's heads come at once, its bodies a few bytes at a time.", "Those that it has begun to answer are lost, until it is left alone.";
    Unavailable = "unavailable", Outside, "An endpoint answers everything with 503.", "Requests that may not be repeated are lost until it is left alone.";
    Errors = "errors", Outside, "An endpoint answers requests with 500, and health checks as if it were well.", "Few get there: what fails fast is not taken for fast.";
    Slow = "slow", Outside, "An endpoint takes 400 ms longer.", "Nothing fails.";
    Leave = "leave", Outside, "An endpoint closes its listener, finishes what it has, and comes back as another process.", "Nothing fails.";
    Outage = "outage", Outside, "All endpoints of a service are killed, and come back.", "What nobody could have served fails, at once and with a reason; all is well as soon as they are back.";
    Cut = "cut", Outside, "A host's link to the others is cut: what is sent to it vanishes.", "What was under way and may not be repeated is lost.";
    FarDies = "far-dies", Outside, "A far sidecar is killed and comes back.", "What it was working on and may not be repeated is lost.";
    FarUpgrade = "far-upgrade", Outside, "A far sidecar's binary is replaced.", "Nothing fails.";
    Rotate = "rotate", Sidecar, "Every sidecar gets a new certificate, three times.", "Nothing fails.";
    Authority = "authority", Sidecar, "The mesh's authority is replaced: both are believed, certificates are issued anew, the old one is believed no more.", "Nothing fails.";
    BadCertificate = "bad-certificate", Sidecar, "The near sidecar's certificate is overwritten with noise, then put right.", "Nothing fails: the last good one stays, and an alarm is raised.";
    Reload = "reload", Sidecar, "The near sidecar's configuration is replaced ten times: other policies, timeouts, weights.", "Nothing fails.";
    Churn = "churn", Sidecar, "Endpoints leave the near sidecar's configuration and come back.", "Nothing fails.";
    BadConfig = "bad-config", Sidecar, "The near sidecar's configuration is overwritten with a wrong one, then put right.", "Nothing fails: the running one stays.";
    Model = "model", Sidecar, "The near sidecar's model is replaced by another file.", "Nothing fails.";
    BadModel = "bad-model", Sidecar, "The near sidecar's model is overwritten with noise, then put right.", "Nothing fails: the running model stays.";
    ScorerDies = "scorer-dies", Sidecar, "The near sidecar gets a model that is accepted and then fails at each inference, of which its scoring thread dies, again and again.", "Nothing fails: the scoring thread is started anew, with backoff.";
    ScorerHangs = "scorer-hangs", Sidecar, "The near sidecar's scoring thread is frozen in the middle of whatever it does.", "Nothing fails: it is given up, and another one starts.";
    Upgrade = "upgrade", Sidecar, "The near sidecar's binary is replaced: the next process takes the sockets over.", "Nothing fails.";
    Descriptors = "descriptors", Sidecar, "Idle clients take all file descriptors that the near sidecar may have.", "Those who have a connection are served.";
    Memory = "memory", Sidecar, "Clients ask the near sidecar for long answers and read nothing of them, under its limit of memory.", "Nothing fails, and it stays below its limit.";
    Slowloris = "slowloris", Sidecar, "Clients send the near sidecar half a request's head, a byte at a time.", "Nothing fails.";
}

/// One trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// What happens.
    pub kind: Kind,
    /// To whom.
    pub target: Target,
    /// When, from the load's beginning.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
}

/// A part of the run, with what goes wrong in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// When it begins, from the load's beginning.
    pub from: Duration,
    /// When it ends.
    pub to: Duration,
    /// Nothing, one, or two at a time.
    pub troubles: Vec<Trouble>,
}

/// The timetable for a run of this length.
#[must_use]
pub fn timetable(seed: u64, length: Duration, window: Duration, kinds: &[Kind]) -> Vec<Window> {
    let mut random = Random::new(seed);
    let count = (length.as_secs_f64() / window.as_secs_f64()).round() as usize;
    let calm_at_first = if count > 20 { 2 } else { 1 };
    let mut windows = Vec::new();
    let mut deck: Vec<Vec<Kind>> = Vec::new();
    let mut round = 0;
    for n in 0..count {
        let (from, to) = (window * n as u32, window * (n as u32 + 1));
        let calm = n < calm_at_first || n + 1 == count;
        let mut troubles = Vec::new();
        if !calm {
            if deck.is_empty() {
                deck = deal(kinds, round > 0, &mut random);
                round += 1;
            }
            let (at, lasts) = (from + window.mul_f64(LEAD), window.mul_f64(SHARE));
            for kind in deck.pop().unwrap_or_default() {
                troubles.push(Trouble { kind, target: target(kind, &mut random), at, lasts });
            }
        }
        windows.push(Window { from, to, troubles });
    }
    windows
}

/// All kinds in some order, each alone or beside one of the other area.
fn deal(kinds: &[Kind], in_pairs: bool, random: &mut Random) -> Vec<Vec<Kind>> {
    let of = |area| kinds.iter().copied().filter(|k| k.area() == area).collect::<Vec<_>>();
    let (mut outside, mut sidecar) = (of(Area::Outside), of(Area::Sidecar));
    random.shuffle(&mut outside);
    random.shuffle(&mut sidecar);
    let mut deck: Vec<Vec<Kind>> = if in_pairs {
        let pairs = outside.len().max(sidecar.len());
        (0..pairs).map(|i| outside.get(i).into_iter().chain(sidecar.get(i)).copied().collect()).collect()
    } else {
        outside.into_iter().chain(sidecar).map(|kind| vec![kind]).collect()
    };
    random.shuffle(&mut deck);
    deck
}

fn target(kind: Kind, random: &mut Random) -> Target {
    match kind {
        Kind::Outage => Target::Service(random.below(SERVICES.len())),
        Kind::Cut => Target::Host(["b", "c", "d"][random.below(3)]),
        Kind::FarDies | Kind::FarUpgrade => Target::Far(random.below(FAR.len())),
        Kind::Rotate | Kind::Authority => Target::Everybody,
        kind if kind.area() == Area::Sidecar => Target::Near,
        _ => Target::Busiest(random.below(SERVICES.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);
    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn a_seed_gives_the_same_timetable_again_and_another_one_another() {
        let of = |seed| timetable(seed, TEN_MINUTES, WINDOW, Kind::ALL);
        assert_eq!(of(3), of(3));
        assert!(of(3) != of(4));
    }

    #[test]
    fn in_ten_minutes_each_kind_comes_alone_and_again_with_another() {
        let windows = timetable(1, TEN_MINUTES, WINDOW, Kind::ALL);
        assert_eq!(windows.len(), 60);
        assert!(windows[..2].iter().chain(windows.last()).all(|w| w.troubles.is_empty()));
        for kind in Kind::ALL {
            let with =
                |n: usize| windows.iter().any(|w| w.troubles.len() == n && w.troubles.iter().any(|t| t.kind == *kind));
            assert!(with(1) && with(2), "{}", kind.name());
        }
        for window in &windows {
            for trouble in &window.troubles {
                assert!(trouble.at > window.from && trouble.at + trouble.lasts < window.to);
            }
            if let [a, b] = window.troubles[..] {
                assert!(a.kind.area() != b.kind.area());
            }
        }
    }

    #[test]
    fn names_are_unique_and_a_short_run_has_what_was_asked_for() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        let windows = timetable(1, Duration::from_secs(20), Duration::from_secs(4), &[Kind::Die, Kind::Rotate]);
        let kinds: Vec<_> = windows.iter().flat_map(|w| &w.troubles).map(|t| t.kind).collect();
        assert!(windows.len() == 5 && kinds.contains(&Kind::Die) && kinds.contains(&Kind::Rotate), "{kinds:?}");
    }
}
