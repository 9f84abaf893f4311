//! A YAML file as a tree whose every node knows its place in the text.
//!
//! serde-saphyr parses; this module keeps what it says about places. Scalars stay as they are written (`1.0` remains
//! `1.0`), because only the schema knows whether text or a number belongs there. Repeated keys are found here, all of
//! them; environment variables are filled in here, after parsing, so a variable's value can never become YAML.
//!
//! What a file may cost is bounded: its depth, its nodes, and what its aliases unfold to.

use super::diagnostic::{Collector, Diagnostic, Place, Severity, Source};
use super::environment::Environment;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

/// How deep sections may lie in each other. The schema needs six.
const MAX_DEPTH: usize = 16;
/// The stack for parsing, on a thread of its own: in an unoptimised build serde-saphyr takes about 85 KiB for each level
/// of depth, and a caller's thread may have little left.
const STACK: usize = 8 * 1024 * 1024;
/// How many values a file may hold, those that aliases stand for included.
const MAX_NODES: usize = 1_000_000;

/// A value and its place.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
    /// Set once something about the node was reported: it is then read as if it were not there.
    pub dropped: Cell<bool>,
}

#[derive(Debug)]
pub enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a section, and its value.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

/// A value that is neither list nor section.
#[derive(Debug)]
pub struct Scalar {
    /// As written, without quotes.
    pub text: String,
    /// What YAML takes it for.
    pub kind: Kind,
    /// Whether an environment variable had its say.
    pub expanded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Text,
    Bool(bool),
    Whole(i128),
    Real(f64),
}

impl Scalar {
    /// What plain text without quotes would be taken for.
    pub fn classify(text: &str) -> Kind {
        let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
            && text.contains(|c: char| c.is_ascii_digit());
        match text {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            _ => match text.parse() {
                Ok(whole) => Kind::Whole(whole),
                Err(_) => text.parse().ok().filter(|_| numeric).map_or(Kind::Text, Kind::Real),
            },
        }
    }
}

impl Node {
    /// The value of `key`, where this is a section that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The `index`th item that was not dropped, where this is a list.
    pub fn item(&self, index: usize) -> Option<&Node> {
        match &self.value {
            Value::List(items) => items.iter().filter(|item| !item.dropped.get()).nth(index),
            _ => None,
        }
    }

    /// Whether anything was reported about this node or one below it.
    pub fn tainted(&self) -> bool {
        self.dropped.get()
            || match &self.value {
                Value::List(items) => items.iter().any(Self::tainted),
                Value::Map(entries) => entries.iter().any(|entry| entry.node.tainted()),
                Value::Null | Value::Scalar(_) => false,
            }
    }

    /// What the node is, for a sentence that begins with it.
    pub fn described(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section with keys".to_owned(),
            Value::Scalar(Scalar { text, .. }) if text.chars().count() > 60 => "a long text".to_owned(),
            Value::Scalar(Scalar { text, .. }) => format!("`{text}`"),
        }
    }

    /// What a diagnostic about the node underlines: a section without braces has no text of its own, so its first key.
    pub fn mark(&self) -> Place {
        match &self.value {
            Value::Map(entries) if self.place.start == self.place.end => {
                entries.first().map_or(self.place, |entry| entry.key_place)
            }
            Value::List(items) if self.place.start == self.place.end => items.first().map_or(self.place, Self::mark),
            _ => self.place,
        }
    }
}

/// Parses the collector's text, and notes what is wrong with it; without a tree, something is.
pub fn parse(collector: &mut Collector<'_>, environment: Environment<'_>) -> Option<Node> {
    let source = collector.source();
    match on_own_stack(source.text) {
        Ok(raw) => {
            let mut builder = Builder { source, environment, collector };
            Some(builder.node(raw))
        }
        Err(error) => {
            collector.add(syntax(source, &error));
            None
        }
    }
}

/// Why a text is no YAML, in the parser's words, and where.
struct Unparsed {
    message: String,
    at: Option<(usize, usize)>,
}

fn on_own_stack(text: &str) -> Result<Spanned<Raw>, Unparsed> {
    let lost = |why: String| Unparsed { message: why, at: None };
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("config-parse".to_owned()).stack_size(STACK);
        match parser.spawn_scoped(scope, || raw(text)) {
            Ok(parser) => parser.join().unwrap_or_else(|_| Err(lost("the parser failed".to_owned()))),
            Err(error) => Err(lost(format!("no thread to parse it could be started: {error}"))),
        }
    })
}

fn raw(text: &str) -> Result<Spanned<Raw>, Unparsed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES / 10 },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options).map_err(|error| {
        let error = error.without_snippet();
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let at = error.location().map(|location| (number(location.line()), number(location.column())));
        Unparsed { message: error.to_string(), at }
    })
}

/// What the parser says of common mistakes, what is said instead, and the remedy.
const HINTS: [(&str, Option<&str>, &str); 11] = [
    (
        "multiple YAML documents",
        Some("a second YAML document begins here"),
        "keep one: remove the `---` and what follows it",
    ),
    ("budget breached: Depth", Some("sections lie too deep in each other"), "check the brackets and the indentation"),
    ("budget breached", Some("the file holds more than a configuration can"), "check that it is a configuration"),
    (
        "limit exceeded",
        Some("the file's aliases unfold to more than a configuration can hold"),
        "write it without aliases of aliases",
    ),
    ("tag", None, "remove the word that begins with `!`, or quote the value"),
    ("unclosed", None, "close it, or quote the text that it begins"),
    ("unexpected character", None, "quote the value: \"...\""),
    (
        "mapping values are not allowed",
        None,
        "check the indentation here and in the line above, and quote a value that holds `: `",
    ),
    ("indent", None, "check the indentation here and in the line above"),
    ("expected key", None, "check the indentation here and in the line above"),
    ("anchor", None, "define it before, as in `a: &name { ... }`, or quote a text that begins with `*`"),
];

/// A syntax error, with what usually causes it.
fn syntax(source: Source<'_>, error: &Unparsed) -> Diagnostic {
    // Without an alias nothing unfolds: then it is the depth that is too much.
    let deep = error.message.contains("limit exceeded") && !source.text.contains('*');
    let said = if deep { "budget breached: Depth" } else { error.message.as_str() };
    let hint = HINTS.iter().find(|(needle, ..)| said.contains(needle));
    let remedy = hint.map(|(_, _, remedy)| (*remedy).to_owned());
    let message = hint.and_then(|(_, instead, _)| *instead).unwrap_or(&error.message);
    let Some((line, column)) = error.at else {
        return source.whole(format!("this is not YAML that can be read: {message}"), remedy);
    };
    if let Some(start) = leading_tab(source.text, line) {
        let remedy = Some("indent with spaces".to_owned());
        let place = Place { start, end: start + 1 };
        return source.at(Severity::Error, place, "a tab is used for indentation, which YAML forbids", remedy);
    }
    let text = source.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    // Braces mean something to YAML where a value stands among others on a line.
    let variable = text.contains("${").then(|| "quote a value that holds `${...}`: \"${NAME:-default}\"".to_owned());
    let message = message.split(&format!(" at line {line}, column {column}")).next().unwrap_or(message);
    let start = source.offset(line, column);
    let place = Place { start, end: start + 1 };
    source.at(Severity::Error, place, format!("this is not YAML that can be read: {message}"), variable.or(remedy))
}

/// The place of a tab among the white space that begins `line` or the line after it.
fn leading_tab(text: &str, line: usize) -> Option<usize> {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut offset = start;
    for line in text.get(start..)?.split_inclusive('\n').take(2) {
        let white = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line.get(..white)?.find('\t') {
            return Some(offset + tab);
        }
        offset += line.len();
    }
    None
}

/// Turns what serde-saphyr delivers into nodes.
struct Builder<'a, 's> {
    source: Source<'s>,
    environment: Environment<'a>,
    collector: &'a mut Collector<'s>,
}

impl Builder<'_, '_> {
    fn node(&mut self, raw: Spanned<Raw>) -> Node {
        let place = place(&raw);
        let dropped = Cell::new(false);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => self.text(text, place, &dropped),
            Raw::Bool(b) => self.plain(place, b.to_string(), Kind::Bool(b)),
            Raw::Whole(n) => self.plain(place, n.to_string(), Kind::Whole(n)),
            Raw::Real(n) => self.plain(place, n.to_string(), Kind::Real(n)),
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Value::Map(self.entries(entries)),
        };
        Node { place, value, dropped }
    }

    /// A value that was written without quotes, and taken for something else than text.
    fn plain(&self, place: Place, otherwise: String, kind: Kind) -> Value {
        let written = self.source.text.get(place.start..place.end).unwrap_or_default();
        let plain = !written.is_empty() && !written.starts_with(['"', '\'', '|', '>']);
        Value::Scalar(Scalar { text: if plain { written.to_owned() } else { otherwise }, kind, expanded: false })
    }

    fn text(&mut self, text: String, place: Place, dropped: &Cell<bool>) -> Value {
        if !text.contains("${") {
            return Value::Scalar(Scalar { text, kind: Kind::Text, expanded: false });
        }
        match self.environment.expand(&text) {
            Ok(text) => Value::Scalar(Scalar { kind: Scalar::classify(&text), text, expanded: true }),
            Err(wrong) => {
                let written = self.source.text.get(place.start..place.end).unwrap_or_default();
                let place = match written.find(&wrong.written) {
                    Some(at) => Place { start: place.start + at, end: place.start + at + wrong.written.len() },
                    None => place,
                };
                self.collector.push(Severity::Error, place, wrong.message, Some(wrong.remedy));
                dropped.set(true);
                Value::Scalar(Scalar { text, kind: Kind::Text, expanded: true })
            }
        }
    }

    fn entries(&mut self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>) -> Vec<Entry> {
        let mut lines: HashMap<String, Place> = HashMap::with_capacity(raw.len());
        let mut entries = Vec::with_capacity(raw.len());
        for (key, value) in raw {
            let key_place = place(&key);
            let node = self.node(value);
            let key = match key.value {
                Raw::Text(text) => text,
                Raw::Bool(_) | Raw::Whole(_) | Raw::Real(_) => {
                    self.source.text.get(key_place.start..key_place.end).unwrap_or_default().to_owned()
                }
                Raw::Null | Raw::List(_) | Raw::Map(_) => {
                    let remedy = Some("write a word before the `:`".to_owned());
                    self.collector.push(Severity::Error, key_place, "a key must be a word", remedy);
                    node.dropped.set(true);
                    String::new()
                }
            };
            if key.contains("${") {
                let remedy = Some("write the key itself; variables stand in values".to_owned());
                self.collector.push(Severity::Error, key_place, "variables are not filled in inside a key", remedy);
                node.dropped.set(true);
            }
            if let Some(first) = lines.get(&key) {
                if !node.dropped.get() {
                    let line = self.source.line(first.start);
                    let remedy = format!("keep one of them: the first is in line {line}");
                    self.collector.push(
                        Severity::Error,
                        key_place,
                        format!("`{key}` is written twice in one section"),
                        Some(remedy),
                    );
                }
                node.dropped.set(true);
            } else {
                lines.insert(key.clone(), key_place);
            }
            entries.push(Entry { key, key_place, node });
        }
        entries
    }
}

fn place<T>(spanned: &Spanned<T>) -> Place {
    let span = spanned.defined.span();
    let start = span.byte_offset().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let length = span.byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    Place { start, end: start.saturating_add(length) }
}

/// What serde-saphyr says about a value, before places and variables are worked out.
#[derive(Debug)]
enum Raw {
    Null,
    Text(String),
    Bool(bool),
    Whole(i128),
    Real(f64),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Whole(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Whole(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Whole(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Real(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
