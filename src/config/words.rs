//! Values that are a word or a number: `auto` or `4`, `all` or `3`.

use super::schema::{Auto, Compare};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

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
