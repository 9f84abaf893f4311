//! How important a request is: `P = alpha R + beta T + gamma D`, brought to levels, and to ranks within a level.

use crate::config::{Priority, PriorityClass};
use std::sync::Arc;

/// How many levels of P are told apart.
pub const LEVELS: usize = 128;
/// How many ranks there are in a level: what two hexadecimal digits of a trace's id tell apart.
pub const COHORTS: usize = 256;
/// How many ranks there are.
#[cfg(test)]
pub const RANKS: usize = LEVELS * COHORTS;
/// From so many hops on a request counts as deep as can be.
pub const MAX_DEPTH: usize = 8;

/// A class's position among the configured ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassId(pub u8);

/// Where a request stands: its level of P, and within it its trace's last two digits. Higher goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank(pub u16);

impl Rank {
    /// A level's rank by the hexadecimal digits of a trace's id, of which the last two count.
    #[must_use]
    pub fn new(level: u8, trace_id: &[u8]) -> Self {
        let value = |digit: &u8| match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => 0,
        };
        let cohort = match trace_id {
            [.., high, low] => value(high) * 16 + value(low),
            _ => 0,
        };
        Self(u16::from(level.min((LEVELS - 1) as u8)) * COHORTS as u16 + u16::from(cohort))
    }

    /// The level of P.
    #[must_use]
    pub fn level(self) -> u32 {
        u32::from(self.0) / COHORTS as u32
    }
}

/// P at a level, 0 to 1: what operators see.
#[must_use]
pub fn shown(level: u32) -> f64 {
    f64::from(level) / (LEVELS - 1) as f64
}

/// The level of a P, which may be anything.
fn level(p: f64) -> u8 {
    let clamped = if p.is_finite() { p.clamp(0.0, 1.0) } else { 0.0 };
    (clamped * (LEVELS - 1) as f64).round() as u8
}

/// One class.
#[derive(Debug, Clone, PartialEq)]
struct Class {
    name: Arc<str>,
    /// Its level where the request does not say how deep it is.
    level: u8,
    /// Its levels by depth in hops.
    by_depth: [u8; MAX_DEPTH + 1],
}

/// The configured classes, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Classes {
    all: Box<[Class]>,
    /// The class of who says nothing.
    pub usual: ClassId,
}

impl Classes {
    /// The levels that a configuration's weights give its classes.
    #[must_use]
    pub fn compile(config: &Priority) -> Self {
        let w = &config.weights;
        let whole = w.resources.abs() + w.urgency.abs() + w.depth.abs();
        let class = |(name, class): (&String, &PriorityClass)| {
            let p = |depth: f64| {
                level((w.resources * class.resources.0 + w.urgency * class.urgency.0 + w.depth * depth) / whole)
            };
            let by_depth = std::array::from_fn(|hops| p(hops as f64 / MAX_DEPTH as f64));
            Class { name: name.as_str().into(), level: p(class.depth.0), by_depth }
        };
        let all: Box<[Class]> = config.classes.iter().map(class).collect();
        let usual = all.iter().position(|c| *c.name == *config.default).unwrap_or_default();
        Self { all, usual: ClassId(usual as u8) }
    }

    /// The class of this name.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<ClassId> {
        self.all.iter().position(|c| c.name.as_bytes() == name).map(|i| ClassId(i as u8))
    }

    /// A class's name.
    #[must_use]
    pub fn name(&self, id: ClassId) -> &str {
        self.all.get(usize::from(id.0)).map_or("", |c| &c.name)
    }

    /// The names, by id.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.all.iter().map(|c| &c.name)
    }

    /// A class's level of P, at a depth in hops where that is known.
    #[must_use]
    pub fn level(&self, id: ClassId, depth: Option<u8>) -> u8 {
        let Some(class) = self.all.get(usize::from(id.0)) else { return 0 };
        match depth {
            None => class.level,
            Some(hops) => class.by_depth.get(usize::from(hops).min(MAX_DEPTH)).copied().unwrap_or(class.level),
        }
    }
}
