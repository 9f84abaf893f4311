//! From bytes to a [`Config`]: read, parse, fill in variables, decode, validate, and say everything at once.
//!
//! A file is read whole, at most [`MAX_BYTES`] of it. Whatever is in it, the outcome is a configuration or a list of
//! diagnostics, never a panic. Where a part of the file could not be read, rules that concern that part are silent:
//! they would only repeat the first error in other words.

use super::decode::decode;
use super::diagnostic::{Collector, Diagnostic, Errors, Place, Severity, Source};
use super::environment::Environment;
use super::reference;
use super::schema::Config;
use super::secret::Veil;
use super::tree::{self, Node};
use super::validate::{Finding, Path, Step, validate};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;

/// The largest file that is read. Ten thousand endpoints take about one.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A configuration that may take effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration, its defaults filled in.
    pub config: Config,
    /// What works, and was probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The SHA-256 of the file's bytes, in hexadecimal: tells whether a file changed.
    pub text_digest: String,
}

/// Reads a configuration from text; `name` stands for the file in errors.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn load_str(text: &str, name: &str) -> Result<Config, Errors> {
    load_bytes(text.as_bytes(), name).map(|loaded| loaded.config)
}

/// Reads a configuration from a file.
///
/// # Errors
/// That the file cannot be read, or everything that is wrong with it.
pub fn load_file(path: impl AsRef<FilePath>) -> Result<Loaded, Errors> {
    let name = path.as_ref().display().to_string();
    match read_file(path.as_ref()) {
        Ok(bytes) => load_bytes(&bytes, &name),
        Err(error) => Err(unreadable(&name, &error)),
    }
}

/// Reads a configuration from a file's bytes; `name` stands for the file in errors.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load_bytes(bytes: &[u8], name: &str) -> Result<Loaded, Errors> {
    load_with(bytes, name, &|variable| std::env::var(variable).ok())
}

/// Reads a configuration with environment variables from `variables`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with(bytes: &[u8], name: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Errors> {
    let remedy = "begin with a workload, a route and a cluster, as in `proxy-config/quickstart.yaml`";
    let text = readable(bytes, name, ("the file holds no configuration", remedy))?;
    let mut collector = Collector::new(Source { name, text });
    let veil = Veil::new(variables);
    let config = build(&mut collector, Environment(&|variable| veil.look_up(variable)));
    let refused = collector.refused();
    let found = veil.over(collector.finish());
    match config {
        Some(config) if !refused => Ok(Loaded { config, warnings: found, text_digest: digest(bytes) }),
        _ => Err(Errors(found)),
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file's bytes: at most one more than [`MAX_BYTES`], so that a file that is too large shows.
pub(super) fn read_file(path: &FilePath) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The error for a file that could not be read.
pub(super) fn unreadable(name: &str, error: &io::Error) -> Errors {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "let the proxy's user read it",
        io::ErrorKind::IsADirectory => "name a file in it",
        _ => "check the path and the file system",
    };
    let source = Source { name, text: "" };
    Errors(vec![source.whole(format!("the file cannot be read: {error}"), Some(remedy.to_owned()))])
}

/// The text of a file, where it is text, is not too much, and is not nothing, of which is said what it is and a remedy.
pub(super) fn readable<'a>(bytes: &'a [u8], name: &str, nothing: (&str, &str)) -> Result<&'a str, Errors> {
    let refuse = |diagnostic| Err(Errors(vec![diagnostic]));
    if bytes.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return refuse(Source { name, text: "" }.whole(message, Some("check that it is a configuration".to_owned())));
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let start = error.valid_up_to();
            let text = str::from_utf8(bytes.get(..start).unwrap_or_default()).unwrap_or_default();
            let byte = bytes.get(start).copied().unwrap_or_default();
            let remedy = "save the file as UTF-8".to_owned();
            let source = Source { name, text };
            let message = format!("the byte 0x{byte:02x} here is not UTF-8 text");
            return refuse(source.at(Severity::Error, Place { start, end: start }, message, Some(remedy)));
        }
    };
    let empty = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if empty {
        return refuse(Source { name, text }.whole(nothing.0, Some(nothing.1.to_owned())));
    }
    Ok(text)
}

/// Everything from text to a validated configuration. What is missing from the result is among the findings.
fn build(collector: &mut Collector<'_>, environment: Environment<'_>) -> Option<Config> {
    let root = tree::parse(collector, environment)?;
    let config: Config = decode(&root, collector, &reference::elsewhere)?;
    for finding in validate(&config) {
        judge(&root, finding, collector);
    }
    Some(config)
}

/// Gives a finding its place in the file; drops it where it only follows from an error that was reported.
pub(super) fn judge(root: &Node, finding: Finding, collector: &mut Collector<'_>) {
    if collector.full(finding.severity) {
        return collector.push(finding.severity, Place::default(), finding.message, None);
    }
    let found = locate(root, &finding.path);
    if found.tainted || finding.rests_on.is_some_and(|path| lost(root, &path)) {
        return;
    }
    collector.push(finding.severity, found.place, finding.message, Some(finding.remedy));
}

/// Whether anything was reported about what a path leads to. A path that the file does not have is not lost.
fn lost(root: &Node, path: &Path) -> bool {
    let mut node = root;
    for step in &path.steps {
        if node.dropped.get() {
            return true;
        }
        let next = match step {
            Step::Key(name) => node.entry(name).map(|entry| &entry.node),
            Step::Index(index) => node.item(*index),
        };
        match next {
            Some(below) => node = below,
            None => return false,
        }
    }
    node.tainted()
}

struct Located {
    place: Place,
    tainted: bool,
}

/// The place of a path, or of the nearest section above it that the file has.
fn locate(root: &Node, path: &Path) -> Located {
    let mut node = root;
    let mut key = None;
    let mut complete = true;
    for step in &path.steps {
        let next = match step {
            Step::Key(name) => node.entry(name).map(|entry| (&entry.node, Some(entry.key_place))),
            Step::Index(index) => node.item(*index).map(|item| (item, None)),
        };
        let Some((below, its_key)) = next else {
            complete = false;
            break;
        };
        (node, key) = (below, its_key);
    }
    let place = match key {
        Some(key) if path.on_key || !complete => key,
        _ => node.mark(),
    };
    Located { place, tainted: node.tainted() }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
