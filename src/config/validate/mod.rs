//! What a configuration must be beyond its shape: names that lead somewhere, shares that add up, times that make sense.
//!
//! A finding names the key that it is about by its path, so that the same rules judge a file, where the path becomes a
//! line and a column, and a configuration that was built in code. An error is what cannot work, or would do something
//! other than it says. A warning is what works and was probably not meant.
//!
//! Nothing here looks at the world: whether a file exists or a port is free is found out by whoever opens it.

mod admission;
mod connections;
mod discover;
mod files;
mod gateway;
mod identity;
mod mesh;
mod nats;
mod resilience;
mod settings;
mod sharing;
mod steering;
mod syntax;
mod telemetry;
#[cfg(test)]
mod tests;
mod traffic;

pub use discover::{endpoints, is_fact};
pub use syntax::plain_path;

use super::diagnostic::Severity;
use super::schema::Config;

/// One finding about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the configuration is refused for it.
    pub severity: Severity,
    /// The key that it is about.
    pub path: Path,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Another part of the configuration without which there might be nothing to find.
    pub rests_on: Option<Path>,
}

/// Where in a configuration: the keys and positions that lead there from its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path {
    /// The way from the root.
    pub steps: Vec<Step>,
    /// Whether the last key itself is meant, and not its value.
    pub on_key: bool,
}

/// One step into a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a section.
    Key(String),
    /// A position in a list, from 0.
    Index(usize),
}

impl Path {
    fn of(keys: &[&str]) -> Self {
        Self { steps: keys.iter().map(|key| Step::Key((*key).to_owned())).collect(), on_key: false }
    }

    fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.steps.push(Step::Key(key.to_owned()));
        path
    }

    fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.steps.push(Step::Index(index));
        path
    }

    fn name(&self) -> Self {
        Self { on_key: true, ..self.clone() }
    }
}

impl std::fmt::Display for Path {
    /// `clusters.catalog.endpoints[1].address`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, path: Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Error, path, message.into(), remedy.into());
    }

    fn warning(&mut self, path: Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Warning, path, message.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, path: Path, message: String, remedy: String) {
        self.0.push(Finding { severity, path, message, remedy, rests_on: None });
    }

    /// Says what else the last finding rests on.
    fn resting_on(&mut self, path: Path) {
        if let Some(last) = self.0.last_mut() {
            last.rests_on = Some(path);
        }
    }

    /// An error where a check of [`syntax`] failed.
    fn check(&mut self, path: Path, result: Result<(), syntax::Wrong>) {
        if let Err(wrong) = result {
            self.error(path, wrong.message, wrong.remedy);
        }
    }
}

/// Everything that stands against a configuration, and everything about it that was probably not meant.
#[must_use]
pub fn validate(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    settings::check(config, &mut findings);
    telemetry::check(&config.telemetry, &mut findings);
    mesh::check(config, &mut findings);
    admission::check(config, &mut findings);
    identity::check(config, &mut findings);
    connections::check(config, &mut findings);
    sharing::check(config, &mut findings);
    gateway::check(config, &mut findings);
    findings.0
}
