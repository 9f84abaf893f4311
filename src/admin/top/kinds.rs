//! The six sheets of `top`: their columns, how they are sorted at first, and what they mean in words.

use super::sheet::{Row, Snapshot};
use super::state;
use crate::admin::columns::{CALLS, Column, DIFFER, INTRINSIC, OBSERVED, PREDICTED, WEIGHT};
use crate::observe::Reason;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sheet {
    /// Where requests go, and why.
    Endpoints,
    /// The links with the most calls.
    Links,
    /// What fails, by reason.
    Failures,
    /// What each generation changed, and why.
    Timeline,
    /// Both arms of the model's trial.
    Canary,
    /// The ladder, the model and its engine.
    Model,
}

const ENDPOINTS: [Column; 13] = [
    ("WORKLOAD", "", false, 7),
    ("CLUSTER", "", false, 10),
    ("ENDPOINT", "", false, 13),
    ("WEIGHT", "", true, 12),
    ("CALLS", "", true, 9),
    ("CALLS/s", "", true, 4),
    ("PREDICTED", "ms", true, 5),
    ("OBSERVED", "ms", true, 8),
    ("P99", "ms", true, 3),
    ("ERRORS", "", true, 6),
    ("BUSY", "", true, 2),
    ("HEALTH", "", false, 11),
    ("WHY", "", false, 1),
];
const LINKS: [Column; 10] = [
    ("FROM", "", false, 9),
    ("TO", "", false, 10),
    ("CALLS/s", "", true, 8),
    ("OBSERVED", "ms", true, 7),
    ("P99", "ms", true, 5),
    ("JITTER", "ms", true, 4),
    ("ERRORS", "", true, 6),
    ("BUSY", "", true, 3),
    ("ATTENTION", "", true, 2),
    ("AGE", "s", true, 1),
];
const FAILURES: [Column; 5] = [
    ("WORKLOAD", "", false, 1),
    ("CLUSTER", "", false, 3),
    ("A SECOND", "", true, 4),
    ("IN ALL", "", true, 2),
    ("REASON", "", false, 5),
];
const TIMELINE: [Column; 6] = [
    ("GENERATION", "", true, 6),
    ("MADE", "UTC", false, 4),
    ("CAUSE", "", false, 5),
    ("STEERED BY", "", false, 3),
    ("TOOK", "ms", true, 2),
    ("WHAT CHANGED", "", false, 7),
];
const CANARY: [Column; 11] = [
    ("WORKLOAD", "", false, 7),
    ("CLUSTER", "", false, 10),
    ("ARM", "", false, 11),
    ("REQUESTS", "", true, 6),
    ("SHARE", "", true, 4),
    ("MEAN", "ms", true, 9),
    ("P50", "ms", true, 2),
    ("P99", "ms", true, 8),
    ("FAILED", "", true, 5),
    ("RATE", "", true, 1),
    ("POLICY", "", false, 3),
];
const MODEL: [Column; 2] = [("WHAT", "", false, 2), ("IS", "", false, 1)];

impl Sheet {
    /// All of them, in the order of their keys.
    pub const ALL: [Sheet; 6] =
        [Self::Endpoints, Self::Links, Self::Failures, Self::Timeline, Self::Canary, Self::Model];

    /// Its columns; the last one may be as long as its words.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Endpoints => &ENDPOINTS,
            Self::Links => &LINKS,
            Self::Failures => &FAILURES,
            Self::Timeline => &TIMELINE,
            Self::Canary => &CANARY,
            Self::Model => &MODEL,
        }
    }

    /// The one after it.
    pub(super) fn next(self) -> Self {
        Self::ALL.into_iter().cycle().skip_while(|sheet| *sheet != self).nth(1).unwrap_or(self)
    }

    /// Its name beside its key.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Links => "links",
            Self::Failures => "failures",
            Self::Timeline => "generations",
            Self::Canary => "trial",
            Self::Model => "model",
        }
    }

    /// How it is sorted at first: as it came; links by their calls, failures by their rate.
    pub(super) fn sorting(self) -> (Option<usize>, bool) {
        match self {
            Self::Endpoints | Self::Timeline | Self::Canary | Self::Model => (None, false),
            Self::Links | Self::Failures => (Some(2), true),
        }
    }

    pub(super) fn rows(self, now: &Snapshot, before: Option<&Snapshot>) -> Vec<Row> {
        match self {
            Self::Endpoints => now.endpoints(),
            Self::Links => now.links.clone(),
            Self::Failures => now.failing(before),
            Self::Timeline => state::timeline(&now.routing),
            Self::Canary => state::arms(&now.routing),
            Self::Model => state::model(&now.routing),
        }
    }

    /// What its columns mean, as short as a narrow screen wants it.
    pub(super) fn legend(self) -> &'static str {
        match self {
            Self::Endpoints => "WEIGHT by the generation, CALLS got in 10 s (? why they differ)",
            Self::Links => "of about the last 10 s; BUSY: under way now; ? all words",
            Self::Failures => "A SECOND: since the last look; IN ALL: since the process began",
            Self::Timeline => "newest first; CAUSE interval: the regular tick; ? all words",
            Self::Canary => "model: its requests; against: those of the other policy; ? all words",
            Self::Model => "the ladder, best step first; ? all words",
        }
    }

    /// What its columns mean, in full.
    pub(super) fn meaning(self) -> String {
        match self {
            Self::Endpoints => format!(
                "WEIGHT: {WEIGHT}. CALLS: {CALLS}; they differ: {DIFFER}. The weight follows the intrinsic latency in WHY: \
                 {INTRINSIC}. PREDICTED: {PREDICTED}. OBSERVED: {OBSERVED}. BUSY: requests under way from here, now."
            ),
            Self::Links => "What was seen on each link in about the last 10 s, by this proxy or by a node that told it. OBSERVED: \
                            the mean latency. BUSY: requests under way. ATTENTION: how much the model looks at the link, of all \
                            that leave its source. AGE: since the last sample. Links without calls are candidates that got none."
                .to_owned(),
            Self::Failures => "Failed requests by their reason, as in the access log, the header proxy-status and \
                               pathloom_request_failures_total; what to do about each stands in proxy-config/TROUBLESHOOTING.md."
                .to_owned(),
            Self::Timeline => "What each generation changed, the newest first. CAUSE: what made it, interval is the regular tick. \
                               STEERED BY: the step of the ladder. TOOK: its making. `-`: no weight moved by half a percent."
                .to_owned(),
            Self::Canary => "Both arms of the model's trial: `model` are the requests that the model steers, `against` those that the \
                             named policy does. SHARE: of the pair's requests. RATE: of the failed ones."
                .to_owned(),
            Self::Model => "The ladder, best step first: a step that cannot steer gives way to the one below, and takes over again by \
                            itself. The model's error is what it predicted against what was then observed, by factors."
                .to_owned(),
        }
    }

    /// What to say where it has no rows.
    pub(super) fn empty(self, mode: &str) -> String {
        match self {
            Self::Endpoints => {
                "no endpoint is known: the configuration names none, or discovery has found none (`pathloom explain`)"
                    .to_owned()
            }
            Self::Links => "no link is known yet: the first generation makes them".to_owned(),
            Self::Failures => "nothing has failed since the process began".to_owned(),
            Self::Timeline => "no generation has been published yet".to_owned(),
            Self::Canary => format!("the model is on no trial: `model.mode` is `{mode}`, and `canary` begins one"),
            Self::Model => "nothing is known of the model yet".to_owned(),
        }
    }

    /// All of a row's last column, and what is to be said to it; nothing where there is nothing to say.
    pub(super) fn detail(self, row: &Row) -> Option<String> {
        let last = row.last().map(|cell| cell.text.as_str()).filter(|text| *text != "-")?;
        match self {
            Self::Failures => {
                let known = Reason::ALL.iter().find(|reason| reason.code() == last)?;
                Some(format!("{last}: {} What to do: proxy-config/TROUBLESHOOTING.md#{last}", known.meaning().trim()))
            }
            Self::Links | Self::Canary => None,
            Self::Endpoints => Some(format!("{}: {last}", row.get(2)?.text)),
            Self::Timeline | Self::Model => Some(format!("{}: {last}", row.first()?.text)),
        }
    }
}
