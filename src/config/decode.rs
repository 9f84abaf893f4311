//! From a tree to the schema's types, collecting every error instead of stopping at the first.
//!
//! serde stops at the first error, since a type cannot be made without its parts. So each error is recorded with its
//! place, its node is dropped, and reading starts again, until it succeeds or there are too many. Unknown keys
//! need no second reading: they are seen, recorded and stepped over. Each repetition drops at least one node, so the
//! loop ends. A part that had to be dropped leaves a default behind, which `load` never lets take effect; it only
//! lets validation go on and find more.

use super::diagnostic::{Collector, Place, Severity};
use super::suggest::nearest;
use super::tree::{Entry, Kind, Node, Scalar, Value};
use super::words::SECTION_OR_TEXT;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use std::cell::{Cell, RefCell};
use std::fmt::{self, Display};

/// How many nodes may be visited in all: what keeps a huge file with many errors from being read a hundred times.
const MAX_VISITS: usize = 20_000_000;

/// Reads `T` from a tree as far as it can be read, and notes everything that stands against it.
///
/// `elsewhere` says in words where else in the schema a key exists.
pub fn decode<T: DeserializeOwned>(
    root: &Node,
    collector: &mut Collector<'_>,
    elsewhere: &dyn Fn(&str) -> Option<String>,
) -> Option<T> {
    let context = Context { elsewhere, collector: RefCell::new(collector), visits: Cell::new(0) };
    loop {
        match T::deserialize(Reading { node: root, context: &context }) {
            Ok(value) => return Some(value),
            Err(Failure::Reported) if !context.spent() => {}
            Err(failure) => {
                context.report(root, failure);
                return None;
            }
        }
    }
}

struct Context<'a> {
    elsewhere: &'a dyn Fn(&str) -> Option<String>,
    collector: RefCell<&'a mut dyn Sink>,
    visits: Cell<usize>,
}

/// A [`Collector`] of whatever lifetime.
trait Sink {
    fn full(&self) -> bool;
    fn note(&mut self, place: Place, message: String, remedy: Option<String>);
}

impl Sink for Collector<'_> {
    fn full(&self) -> bool {
        Collector::full(self, Severity::Error)
    }

    fn note(&mut self, place: Place, message: String, remedy: Option<String>) {
        self.push(Severity::Error, place, message, remedy);
    }
}

impl Context<'_> {
    fn spent(&self) -> bool {
        self.collector.borrow().full() || self.visits.get() > MAX_VISITS
    }

    fn push(&self, place: Place, message: String, remedy: Option<String>) {
        self.collector.borrow_mut().note(place, message, remedy);
    }

    /// Records what went wrong with `node`, once, and drops it.
    fn report(&self, node: &Node, failure: Failure) -> Failure {
        match failure {
            Failure::Reported => return Failure::Reported,
            Failure::Wrong { message, remedy } => self.push(node.mark(), message, remedy),
            Failure::Misplaced(expected) => {
                let message = format!("{} stands where {expected} belongs", node.described());
                self.push(node.mark(), message, Some(format!("write {expected}")));
            }
            Failure::NotAnAddress => {
                let message = format!("{} is not an IP address and a port", node.described());
                self.push(node.mark(), message, Some(not_an_address(node)));
            }
            // The key is there, and was reported: its absence is no second error.
            Failure::Missing(key) if node.entry(key).is_some() => {}
            Failure::Missing(key) => {
                self.push(node.mark(), format!("`{key}` is missing"), Some(format!("add `{key}: ...`")))
            }
        }
        node.dropped.set(true);
        Failure::Reported
    }

    /// Records a key that the section does not have, with the one that was probably meant.
    fn unknown(&self, entry: &Entry, known: &[&str]) {
        let key = &entry.key;
        if self.collector.borrow().full() {
            entry.node.dropped.set(true);
            return self.push(entry.key_place, String::new(), None);
        }
        let remedy = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match (self.elsewhere)(key) {
                Some(elsewhere) => elsewhere,
                None => format!("the keys here are {}", listed(known)),
            },
        };
        self.push(entry.key_place, format!("unknown key `{key}`"), Some(remedy));
        entry.node.dropped.set(true);
    }
}

/// What to write where an IP address and a port should stand.
fn not_an_address(node: &Node) -> String {
    let text = match &node.value {
        Value::Scalar(scalar) => scalar.text.as_str(),
        _ => "",
    };
    match text.rsplit_once(':') {
        Some((host, port)) if host.parse::<std::net::IpAddr>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()) => {
            "a port is a number up to 65535".to_owned()
        }
        Some((host, port)) if !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok() => format!(
            "names are not looked up here: write an IP address; a cluster finds its endpoints by name with `discover: [{{ dns: {host}, port: {port} }}]`"
        ),
        _ => "write both, as in `127.0.0.1:8080` or `[::1]:8080`".to_owned(),
    }
}

/// Names in a row: `a`, `b` and `c`.
pub fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Why a value could not be made.
#[derive(Debug)]
pub enum Failure {
    /// It is in the list already, and its node is dropped.
    Reported,
    /// The node at hand is wrong.
    Wrong { message: String, remedy: Option<String> },
    /// The node at hand is of another kind than what belongs there.
    Misplaced(String),
    /// The node at hand is not an IP address with its port.
    NotAnAddress,
    /// The section at hand lacks a key.
    Missing(&'static str),
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported => f.write_str("an error that was reported"),
            Self::Wrong { message, .. } => f.write_str(message),
            Self::Misplaced(expected) => write!(f, "this is not {expected}"),
            Self::NotAnAddress => f.write_str("not an IP address and a port"),
            Self::Missing(key) => write!(f, "`{key}` is missing"),
        }
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    /// A second line is the remedy.
    fn custom<T: Display>(text: T) -> Self {
        let text = text.to_string();
        let (message, remedy) =
            text.split_once('\n').map_or((text.as_str(), None), |(message, remedy)| (message, Some(remedy)));
        if message.contains("socket address") {
            return Self::NotAnAddress;
        }
        Self::Wrong { message: message.to_owned(), remedy: remedy.map(str::to_owned) }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Misplaced(expected.to_string())
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing(key)
    }
}

fn wrong(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::Wrong { message: message.into(), remedy: Some(remedy.into()) }
}

/// One node as serde's deserializer.
#[derive(Clone, Copy)]
struct Reading<'a> {
    node: &'a Node,
    context: &'a Context<'a>,
}

impl<'a> Reading<'a> {
    fn misplaced(self, expected: &str, remedy: &str) -> Failure {
        wrong(format!("{} stands where {expected} belongs", self.node.described()), remedy)
    }

    fn scalar(self, expected: &str, example: &str) -> Result<&'a Scalar, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::Null => Err(wrong(
                "a value is missing here",
                format!("write {expected} such as `{example}`, or remove the key"),
            )),
            Value::List(_) | Value::Map(_) => {
                Err(self.misplaced(expected, &format!("write {expected} such as `{example}`")))
            }
        }
    }

    fn whole<T: TryFrom<i128>>(self, least: impl Display, most: impl Display) -> Result<T, Failure> {
        let scalar = self.scalar("a whole number", "4")?;
        let number = match scalar.kind {
            Kind::Whole(number) => Some(number),
            Kind::Text => scalar.text.parse().ok(),
            Kind::Bool(_) | Kind::Real(_) => None,
        };
        let Some(number) = number else {
            let digits = scalar.text.bytes().all(|b| b.is_ascii_digit());
            return Err(if digits {
                wrong(
                    format!("`{}` is out of range", scalar.text),
                    "write a number that somebody could mean".to_owned(),
                )
            } else {
                self.misplaced("a whole number", "write digits only, without a unit")
            });
        };
        T::try_from(number).map_err(|_| {
            let most = most.to_string();
            // What the machine can count to is no limit that anybody has set.
            let range =
                if most.len() > 10 { format!(", at least {least}") } else { format!(" from {least} to {most}") };
            wrong(format!("`{}` is out of range", scalar.text), format!("write a whole number{range}"))
        })
    }

    fn real(self) -> Result<f64, Failure> {
        let scalar = self.scalar("a number", "1.5")?;
        match scalar.kind {
            Kind::Real(number) => Ok(number),
            // Counts here are far below 2^53; where they are not, the nearest number is what was meant.
            Kind::Whole(_) | Kind::Text => {
                scalar.text.parse().map_err(|_| self.misplaced("a number", "write a number such as `1.5`"))
            }
            Kind::Bool(_) => Err(self.misplaced("a number", "write a number such as `1.5`")),
        }
    }

    fn visit_entries<V: Visitor<'a>>(
        self,
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Map(entries) => {
                visitor.visit_map(Entries { rest: entries.iter(), value: None, known, context: self.context })
            }
            Value::Null => visitor.visit_map(Entries { rest: [].iter(), value: None, known, context: self.context }),
            Value::List(_) => Err(self.misplaced("a section with keys", "write `key: value` without a leading `- `")),
            Value::Scalar(_) => {
                let keys = known.map(|known| format!(": the keys here are {}", listed(known))).unwrap_or_default();
                let remedy = format!("write its keys below it, indented, or as `{{ key: value }}`{keys}");
                Err(self.misplaced("a section with keys", &remedy))
            }
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ident)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
            visitor.$visit(self.whole::<$type>($type::MIN, $type::MAX)?)
        }
    )*};
}

impl<'a> de::Deserializer<'a> for Reading<'a> {
    type Error = Failure;

    whole_numbers! {
        deserialize_i8 visit_i8 i8 deserialize_i16 visit_i16 i16 deserialize_i32 visit_i32 i32 deserialize_i64 visit_i64 i64
        deserialize_u8 visit_u8 u8 deserialize_u16 visit_u16 u16 deserialize_u32 visit_u32 u32 deserialize_u64 visit_u64 u64
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => Err(wrong("a value is missing here", "write one, or remove the key")),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.visit_entries(None, visitor),
            Value::Scalar(scalar) => match scalar.kind {
                // As written, so that an error can quote it.
                Kind::Text | Kind::Real(_) => visitor.visit_str(&scalar.text),
                Kind::Bool(value) => visitor.visit_bool(value),
                Kind::Whole(number) => match (u64::try_from(number), i64::try_from(number)) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => visitor.visit_str(&scalar.text),
                },
            },
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.scalar("`true` or `false`", "true")?.kind {
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Text | Kind::Whole(_) | Kind::Real(_) => {
                Err(self.misplaced("`true` or `false`", "write `true` or `false`"))
            }
        }
    }

    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f64(self.real()?)
    }

    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_f64(self.real()?)
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => {
                Err(wrong("a value is missing here", "write it, write `\"\"` for an empty text, or remove the key"))
            }
            Value::Scalar(scalar) => visitor.visit_str(&scalar.text),
            Value::List(_) | Value::Map(_) => Err(self.misplaced("text", "write one text")),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            // `"${ORT_DYLIB_PATH:-}"`: a variable that is not set leaves the key unset.
            Value::Scalar(scalar) if scalar.expanded && scalar.text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            _ => Err(self.misplaced("nothing", "remove the value")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { rest: items.iter(), context: self.context }),
            Value::Null => visitor.visit_seq(Items { rest: [].iter(), context: self.context }),
            Value::Map(_) | Value::Scalar(_) => {
                Err(self.misplaced("a list", "begin each item with `- `, or write `[a, b]`"))
            }
        }
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.visit_entries(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) if name == SECTION_OR_TEXT => visitor.visit_str(&scalar.text),
            _ => self.visit_entries(Some(known), visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let words = listed(known).replace(" and ", " or ");
        let scalar = self.scalar("a word", known.first().copied().unwrap_or_default())?;
        if known.contains(&scalar.text.as_str()) {
            let word: StrDeserializer<'_, Failure> = scalar.text.as_str().into_deserializer();
            return visitor.visit_enum(word);
        }
        let remedy = match nearest(&scalar.text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? It is one of {words}"),
            None => format!("write one of {words}"),
        };
        Err(wrong(format!("{} is not one of the words that can stand here", self.node.described()), remedy))
    }

    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }
}

fn read<'a, S: DeserializeSeed<'a>>(seed: S, node: &'a Node, context: &'a Context<'a>) -> Result<S::Value, Failure> {
    context.visits.set(context.visits.get() + 1);
    seed.deserialize(Reading { node, context }).map_err(|failure| context.report(node, failure))
}

struct Items<'a> {
    rest: std::slice::Iter<'a, Node>,
    context: &'a Context<'a>,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        match self.rest.find(|node| !node.dropped.get()) {
            Some(node) => read(seed, node, self.context).map(Some),
            None => Ok(None),
        }
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    value: Option<&'a Node>,
    known: Option<&'static [&'static str]>,
    context: &'a Context<'a>,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        for entry in self.rest.by_ref().filter(|entry| !entry.node.dropped.get()) {
            if let Some(known) = self.known.filter(|known| !known.contains(&entry.key.as_str())) {
                self.context.unknown(entry, known);
                continue;
            }
            self.value = Some(&entry.node);
            let key: StrDeserializer<'_, Failure> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        match self.value.take() {
            Some(node) => read(seed, node, self.context),
            None => Err(Failure::Wrong { message: "a value is missing here".to_owned(), remedy: None }),
        }
    }
}
