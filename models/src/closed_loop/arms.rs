//! The arms of the comparison: a name, a policy with its parameters, and who scores.

use super::policies::{PathloomRules, Policy, PrequalRules, WeightedRoundRobinRules};
use super::scores::Source;
use crate::{Error, Result};
use pathloom::config::Compare;

/// An arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Its name in tables and JSON.
    pub name: String,
    /// What it is, in one line.
    pub about: &'static str,
    /// How it picks.
    pub policy: Policy,
    /// Who scores; none for rivals that look at no scores.
    pub source: Option<Source>,
    /// Whether it is what a user would pick instead: the best of these is what the product has to beat.
    pub classical: bool,
    /// Whether replicas tell it of themselves, by probes or load reports: then what happens there is in its sight,
    /// however seldom it calls.
    pub told: bool,
}

const ALL: usize = usize::MAX;

/// All arms, with the parameters that won on the tuning seeds (`tuned`).
#[must_use]
pub fn arms() -> Vec<Arm> {
    let classical = |name: &str, about, policy| Arm {
        name: name.into(),
        about,
        policy,
        source: None,
        classical: true,
        told: matches!(policy, Policy::Prequal(_) | Policy::WeightedRoundRobin(_)),
    };
    let ours = |name: &str, about, rules, source| Arm {
        name: name.into(),
        about,
        policy: Policy::Pathloom(rules),
        source: Some(source),
        classical: false,
        told: true,
    };
    let rules = PathloomRules::default();
    vec![
        classical("round-robin", "in turn", Policy::RoundRobin),
        classical("random", "anywhere", Policy::Random),
        classical(
            "least-request",
            "the fewest in flight of five drawn (Envoy's with two, tuned)",
            Policy::LeastRequest(5),
        ),
        classical("least-request-all", "the fewest in flight of all", Policy::LeastRequest(ALL)),
        classical(
            "peak-ewma",
            "Linkerd's, of two drawn, decay 30 s (tuned)",
            Policy::PeakEwma { choices: 2, decay_s: 30.0 },
        ),
        classical(
            "peak-ewma-all",
            "Linkerd's, of all, decay 30 s (tuned)",
            Policy::PeakEwma { choices: ALL, decay_s: 30.0 },
        ),
        classical(
            "prequal",
            "probes, hot and cold (Google), answers kept for 5 s (tuned)",
            Policy::Prequal(PrequalRules { oldest_s: 5.0, ..PrequalRules::default() }),
        ),
        classical(
            "weighted-round-robin",
            "gRPC's, by reported utilisation, penalty 3 (tuned)",
            Policy::WeightedRoundRobin(WeightedRoundRobinRules { penalty: 3.0, ..WeightedRoundRobinRules::default() }),
        ),
        classical("shortest-path", "the least communication cost (OSPF)", Policy::ShortestPath),
        ours(
            "softmax-alone",
            "drawn by the model's weights (`compare: 1`)",
            PathloomRules { compare: Compare::Draw(1), ..rules },
            Source::Model,
        ),
        ours("pathloom-nothing", "the product's pick without any scores", rules, Source::Nothing),
        ours("pathloom-averages", "the product's pick, shared averages in the model's place", rules, Source::Averages),
        ours("pathloom-shrunk", "the same, shrunk by their samples", rules, Source::Shrunk),
        ours("pathloom", "the product's pick with the model", rules, Source::Model),
        ours("pathloom-oracle", "the product's pick with the truth: the bound", rules, Source::Oracle),
    ]
}

/// The parameters that were tried for each rival with any, as arms of their own: they decide what `arms` has.
#[must_use]
pub fn tuned() -> Vec<Arm> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String, policy| {
        all.push(Arm {
            name: format!("{name} {value}"),
            about: "",
            policy,
            source: None,
            classical: true,
            told: false,
        });
    };
    for (name, choices) in [("peak-ewma", 2), ("peak-ewma-all", ALL)] {
        for decay_s in [3.0, 10.0, 30.0, 100.0] {
            add(name, format!("decay={decay_s}"), Policy::PeakEwma { choices, decay_s });
        }
    }
    for choices in [2, 3, 5] {
        add("least-request", format!("choices={choices}"), Policy::LeastRequest(choices));
    }
    for hot in [0.0, 0.5, 0.84] {
        for oldest_s in [1.0, 5.0] {
            let rules = PrequalRules { hot, oldest_s, ..PrequalRules::default() };
            add("prequal", format!("hot={hot} oldest={oldest_s}"), Policy::Prequal(rules));
        }
    }
    for penalty in [1.0, 3.0] {
        for update_s in [1.0, 5.0] {
            let rules = WeightedRoundRobinRules { penalty, update_s, ..WeightedRoundRobinRules::default() };
            add(
                "weighted-round-robin",
                format!("penalty={penalty} update={update_s}"),
                Policy::WeightedRoundRobin(rules),
            );
        }
    }
    all
}

/// What `vary` can change.
const KEYS: [&str; 7] = ["tau", "temperature", "floor", "compare", "max-step", "dead-band", "slow-start"];

/// Each arm of the product's pick as often as there are values: `tau=1,3,10` makes three of it. Rivals stay.
///
/// # Errors
/// When the text is no such list.
pub fn vary(arms: Vec<Arm>, text: &str) -> Result<Vec<Arm>> {
    let wrong = || Error::Format(format!("{text} is no list such as tau=1,3,10; keys: {}", KEYS.join(", ")));
    let (key, values) = text.split_once('=').ok_or_else(wrong)?;
    let mut all = Vec::new();
    for arm in arms {
        let Policy::Pathloom(rules) = arm.policy else {
            all.push(arm);
            continue;
        };
        for value in values.split(',') {
            let mut rules = rules;
            let number = || value.parse::<f32>().map_err(|_| wrong());
            match key {
                "tau" => rules.tau_s = number()?,
                "temperature" => rules.temperature = number()?,
                "floor" => rules.floor = number()?,
                "max-step" => rules.max_step = number()?,
                "dead-band" => rules.dead_band = number()?,
                "slow-start" => rules.slow_start_s = number()?,
                "compare" if value == "all" => rules.compare = Compare::All,
                "compare" if value == "auto" => rules.compare = Compare::Auto,
                "compare" => rules.compare = Compare::Draw(value.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
            let name = format!("{} {key}={value}", arm.name);
            all.push(Arm { name, policy: Policy::Pathloom(rules), ..arm.clone() });
        }
    }
    Ok(all)
}
