//! Values with two forms: a word or a number (`auto` or `4`, `all` or `3`), a word or a length of time (`auto` or `50ms`), a
//! section or its most important key alone.

use super::admission::{Concurrency, OffOr};
use super::schema::{Auto, Compare, HedgeAfter, Record};
use super::units::{ByteSize, Timespan, UnitError, Written};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = WordOrNumber { words: &["auto"], value: PhantomData };
        Ok(match deserializer.deserialize_any(visitor)? {
            Choice::Word(_) => Self::Auto,
            Choice::Number(value) => Self::Set(value),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Auto<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("AutoOr{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": r"^auto$|\$\{" }, value] })
    }
}

impl Serialize for Compare {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::All => serializer.serialize_str("all"),
            Self::Draw(number) => serializer.serialize_u16(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Compare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = WordOrNumber { words: &["auto", "all"], value: PhantomData };
        Ok(match deserializer.deserialize_any(visitor)? {
            Choice::Word("all") => Self::All,
            Choice::Word(_) => Self::Auto,
            Choice::Number(number) => Self::Draw(number),
        })
    }
}

impl JsonSchema for Compare {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Compare".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^(auto|all)$|\$\{" },
            { "type": "integer", "minimum": 1, "maximum": 65535 },
        ] })
    }
}

impl Serialize for Concurrency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Limit(number) => serializer.serialize_u32(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = WordOrNumber { words: &["auto", "off"], value: PhantomData };
        Ok(match deserializer.deserialize_any(visitor)? {
            Choice::Word("auto") => Self::Auto,
            Choice::Word(_) => Self::Off,
            Choice::Number(number) => Self::Limit(number),
        })
    }
}

impl JsonSchema for Concurrency {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Concurrency".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^(auto|off)$|\$\{" },
            { "type": "integer", "minimum": 1, "maximum": 4294967295u32 },
        ] })
    }
}

impl Serialize for OffOr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Set(number) => serializer.serialize_u32(*number),
        }
    }
}

impl<'de> Deserialize<'de> for OffOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = WordOrNumber { words: &["off"], value: PhantomData };
        Ok(match deserializer.deserialize_any(visitor)? {
            Choice::Word(_) => Self::Off,
            Choice::Number(number) => Self::Set(number),
        })
    }
}

impl JsonSchema for OffOr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OffOr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^off$|\$\{" },
            { "type": "integer", "minimum": 1, "maximum": 4294967295u32 },
        ] })
    }
}

impl FromStr for HedgeAfter {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            // Whoever forgot the unit is told of that.
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().map(Self::Set),
            _ => {
                let message = format!("`{text}` is not a length of time, nor a word that stands for one");
                Err(UnitError::new(message, "write `off`, `auto`, or a number and its unit: `50ms`"))
            }
        }
    }
}

impl Serialize for HedgeAfter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Set(time) => time.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HedgeAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "`off`, `auto`, or a length of time such as `50ms`";
        deserializer.deserialize_any(Written { what, value: PhantomData })
    }
}

impl JsonSchema for HedgeAfter {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HedgeAfter".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let time = generator.subschema_for::<Timespan>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": r"^(auto|off)$|\$\{" }, time] })
    }
}

/// The name under which a section is asked for that may be written as text alone.
pub const SECTION_OR_TEXT: &str = "a section, or text alone";

/// Lets a section's schema be text, too.
pub fn or_text(schema: &mut Schema) {
    schema.insert("type".to_owned(), serde_json::json!(["object", "string"]));
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SECTION_OR_TEXT, &["to", "window", "rotate", "keep"], RecordVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folder, or a section with `to`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Record, E> {
        Ok(Record { to: text.to_owned(), ..Record::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Record, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Section {
            to: String,
            window: Timespan,
            rotate: ByteSize,
            keep: ByteSize,
        }
        impl Default for Section {
            fn default() -> Self {
                let Record { to, window, rotate, keep } = Record::default();
                Self { to, window, rotate, keep }
            }
        }
        let Section { to, window, rotate, keep } = Section::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Record { to, window, rotate, keep })
    }
}

enum Choice<T> {
    Word(&'static str),
    Number(T),
}

struct WordOrNumber<T> {
    words: &'static [&'static str],
    value: PhantomData<T>,
}

impl<T> WordOrNumber<T> {
    fn wrong<E: de::Error>(&self, written: &str) -> E {
        let words: Vec<String> = self.words.iter().map(|word| format!("`{word}`")).collect();
        E::custom(format!(
            "`{written}` is not {} or a number\nwrite {} or a whole number such as `4`",
            words.join(", "),
            words.join(", ")
        ))
    }
}

impl<T: TryFrom<u64>> Visitor<'_> for WordOrNumber<T> {
    type Value = Choice<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for word in self.words {
            write!(f, "`{word}`, ")?;
        }
        f.write_str("or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Choice<T>, E> {
        if let Some(word) = self.words.iter().find(|word| **word == text) {
            return Ok(Choice::Word(word));
        }
        match text.parse::<u64>() {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(self.wrong(text)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Choice<T>, E> {
        T::try_from(number).map(Choice::Number).map_err(|_| self.wrong(&number.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Choice<T>, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(self.wrong(&number.to_string())),
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Choice<T>, E> {
        Err(self.wrong(&number.to_string()))
    }
}
