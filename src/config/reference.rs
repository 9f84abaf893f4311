//! What the schema says of itself: every key with its default and its one sentence.
//!
//! The sentences are the doc comments of `schema`, so that the JSON schema, `proxy-config/reference.yaml` and the
//! README's table cannot say different things. Their order is that of the structs. A test holds the files in
//! `proxy-config/` to what is generated here; `PATHLOOM_BLESS=1` rewrites them.

use super::admission::{Priority, PriorityClass, RateLimit};
use super::diagnostic::{Collector, Source};
use super::environment::Environment;
use super::schema::{Allow, Cluster, Config, Discover, Endpoint, Port, Route, Workload};
use super::tree::{self, Entry, Node, Value};
use super::units::Rate;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::OnceLock;

/// How wide a comment may become.
const WIDTH: usize = 118;
/// What stands for a name that the operator chooses, in [`Key::path`].
const ANY_NAME: &str = "<name>";

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it stands: `clusters.<name>.endpoints[].address`.
    pub path: String,
    /// Its default as YAML; `None` where it has to be written.
    pub default: Option<String>,
    /// Its sentence of documentation.
    pub doc: String,
    /// The words that can stand there, each with its sentence, where only certain words can.
    pub words: Vec<(String, String)>,
    /// Whether it is a section or a list of sections, whose keys follow.
    pub section: bool,
}

impl Config {
    /// The effective configuration as YAML, every default included. It can be loaded again.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        match serde_saphyr::to_string(self) {
            // What looks like a variable is text by now.
            Ok(yaml) => yaml.replace("${", "$${"),
            Err(error) => format!("# This configuration cannot be written as YAML: {error}\n"),
        }
    }
}

/// The JSON schema of a configuration file, for editors.
#[must_use]
pub fn json_schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text.push('\n');
    text
}

/// Every key, in the order of the schema.
pub fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut walk = Walk { root: schema(), keys: Vec::new(), out: String::new(), text: example().to_yaml() };
        walk.document();
        walk.keys
    })
}

/// `proxy-config/reference.yaml`: an example of everything, each key with its default and its sentence.
#[must_use]
pub fn reference_yaml() -> String {
    let mut walk = Walk { root: schema(), keys: Vec::new(), out: String::new(), text: example().to_yaml() };
    walk.document();
    format!(
        "# Every key of the configuration, with its default and what it means. Generated from `src/config/schema.rs`.\n\
         # Nothing here has to be written but what is meant to differ: see quickstart.yaml for a short one.\n\
         # yaml-language-server: $schema=./pathloom.schema.json\n{}",
        walk.out
    )
}

/// The keys as a Markdown table, for the README.
#[must_use]
pub fn key_table_markdown() -> String {
    let mut out = String::from("| Key | Default | Meaning |\n| --- | --- | --- |\n");
    for key in keys() {
        let default = match &key.default {
            None => "required".to_owned(),
            Some(_) if key.section => String::new(),
            Some(default) if default == "null" => "none".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let words: Vec<String> = key.words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let words = if words.is_empty() { String::new() } else { format!(" One of {}.", words.join(", ")) };
        let _ = writeln!(out, "| `{}` | {default} | {}{words} |", key.path, key.doc.replace('|', "\\|"));
    }
    out
}

/// Where else in the schema a key exists, in words.
pub(super) fn elsewhere(written: &str) -> Option<String> {
    let homes: Vec<String> = keys()
        .iter()
        .filter_map(|key| {
            let (home, name) = key.path.rsplit_once('.')?;
            (name == written).then(|| format!("`{home}`"))
        })
        .collect();
    (!homes.is_empty()).then(|| format!("`{written}` is a key of {}", homes.join(" and of ")))
}

fn schema() -> Json {
    let mut schema = schemars::schema_for!(Config).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), "Pathloom's configuration".into());
    }
    schema
}

/// One of everything that is named or listed, so that each key has a place to be shown.
fn example() -> Config {
    let name = || "example".to_owned();
    let rate = RateLimit { requests: Rate { count: 100, per: 's' }, burst: None };
    let endpoint = Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], 8081)),
        zone: String::new(),
        host: String::new(),
        weight: 1,
        metadata: BTreeMap::new(),
    };
    let discover =
        Discover { dns: Some("catalog.shop".to_owned()), port: Some(Port::Number(8080)), ..Discover::default() };
    Config {
        workloads: BTreeMap::from([(
            name(),
            Workload {
                listen: Some(SocketAddr::from(([127, 0, 0, 1], 15001))),
                rate: Some(rate.clone()),
                allow: vec![Allow::default()],
                ..Workload::default()
            },
        )]),
        routes: vec![Route { cluster: Some(name()), rate: Some(rate), ..Route::default() }],
        clusters: BTreeMap::from([(
            name(),
            Cluster { endpoints: vec![endpoint], discover: vec![discover], ..Cluster::default() },
        )]),
        // One class stands for all: each has the same keys.
        priority: Priority {
            classes: BTreeMap::from([("normal".to_owned(), PriorityClass::default())]),
            ..Priority::default()
        },
        ..Config::default()
    }
}

/// A walk through the example beside its schema: the example gives order and values, the schema the sentences.
struct Walk {
    root: Json,
    keys: Vec<Key>,
    out: String,
    text: String,
}

impl Walk {
    fn document(&mut self) {
        let text = std::mem::take(&mut self.text);
        let mut collector = Collector::new(Source { name: "reference.yaml", text: &text });
        let Some(node) = tree::parse(&mut collector, Environment(&|_| None)) else {
            return;
        };
        let root = self.root.clone();
        if let Value::Map(entries) = &node.value {
            for entry in entries {
                self.out.push('\n');
                self.entry(entry, &root, &text, "", 0, false);
            }
        }
    }

    fn entry(&mut self, entry: &Entry, schema: &Json, text: &str, home: &str, indent: usize, first: bool) {
        let property = schema.get("properties").and_then(|properties| properties.get(&entry.key));
        let (path, below) = match property {
            Some(property) => (join(home, &entry.key), property.clone()),
            None => (join(home, ANY_NAME), schema.get("additionalProperties").cloned().unwrap_or_default()),
        };
        let target = self.resolve(&below);
        if property.is_some() {
            let key = self.key(path.clone(), &entry.key, schema, &below, &target);
            self.comment(&key, indent, first);
            self.keys.push(key);
        } else if !first {
            self.pad(indent);
        }
        let _ = write!(self.out, "{}:", entry.key);
        self.value(&entry.node, &target, text, &path, indent);
    }

    /// Writes what follows a key's colon.
    fn value(&mut self, node: &Node, schema: &Json, text: &str, path: &str, indent: usize) {
        match &node.value {
            Value::Map(entries) if entries.is_empty() => self.out.push_str(" {}\n"),
            Value::List(items) if items.is_empty() => self.out.push_str(" []\n"),
            Value::Null => self.out.push_str(" null\n"),
            Value::Scalar(_) => {
                let written = text.get(node.place.start..node.place.end).unwrap_or_default();
                let _ = writeln!(self.out, " {written}");
            }
            Value::Map(entries) => {
                self.out.push('\n');
                for entry in entries {
                    self.entry(entry, schema, text, path, indent + 2, false);
                }
            }
            Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Scalar(_))) => {
                let written = |item: &Node| text.get(item.place.start..item.place.end).unwrap_or_default().to_owned();
                let _ = writeln!(self.out, " [{}]", items.iter().map(written).collect::<Vec<_>>().join(", "));
            }
            Value::List(items) => {
                self.out.push('\n');
                let of = self.resolve(schema.get("items").unwrap_or(&Json::Null));
                for item in items {
                    self.pad(indent + 2);
                    self.out.push_str("- ");
                    if let Value::Map(entries) = &item.value {
                        for (i, entry) in entries.iter().enumerate() {
                            self.entry(entry, &of, text, &format!("{path}[]"), indent + 4, i == 0);
                        }
                    }
                }
            }
        }
    }

    fn key(&self, path: String, name: &str, home: &Json, property: &Json, target: &Json) -> Key {
        let required =
            home.get("required").and_then(Json::as_array).is_some_and(|keys| keys.iter().any(|key| key == name));
        let default = (!required).then(|| property.get("default").map_or_else(|| "null".to_owned(), yaml));
        let section = ["properties", "additionalProperties", "items"].iter().any(|shape| {
            let inner = if *shape == "properties" {
                Some(target.clone())
            } else {
                target.get(*shape).map(|inner| self.resolve(inner))
            };
            inner.is_some_and(|inner| inner.get("properties").is_some())
        });
        Key { path, default, doc: sentence(property, target), words: self.words(target), section }
    }

    /// The words of an enum; schemars gives each its own alternative, with its sentence.
    fn words(&self, target: &Json) -> Vec<(String, String)> {
        let listed = target.get("items").map(|items| self.resolve(items));
        let alternatives = listed
            .as_ref()
            .unwrap_or(target)
            .get("oneOf")
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        alternatives
            .iter()
            .filter_map(|one| Some((one.get("const")?.as_str()?.to_owned(), sentence(one, one))))
            .collect()
    }

    /// Follows references, and an optional value to its value.
    fn resolve(&self, schema: &Json) -> Json {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.cloned().unwrap_or_default();
        }
        let alternatives = schema.get("anyOf").and_then(Json::as_array);
        let optional =
            alternatives.filter(|all| all.iter().any(|one| one.get("type").is_some_and(|kind| kind == "null")));
        match optional.and_then(|all| all.iter().find(|one| one.get("type").is_none_or(|kind| kind != "null"))) {
            Some(value) => self.resolve(value),
            None => schema.clone(),
        }
    }

    fn pad(&mut self, indent: usize) {
        let _ = write!(self.out, "{:indent$}", "");
    }

    /// A key's sentence above it. The first key of a list's item has the `- ` before its comment.
    fn comment(&mut self, key: &Key, indent: usize, first: bool) {
        let doc = if key.default.is_none() { format!("{} Required.", key.doc) } else { key.doc.clone() };
        for (i, line) in wrapped(doc.split_whitespace(), WIDTH.saturating_sub(indent + 2)).iter().enumerate() {
            if !(first && i == 0) {
                self.pad(indent);
            }
            let _ = writeln!(self.out, "# {line}");
        }
        for (word, doc) in &key.words {
            for (i, line) in wrapped(format!("{word}: {doc}").split_whitespace(), WIDTH.saturating_sub(indent + 6))
                .iter()
                .enumerate()
            {
                self.pad(indent);
                let _ = writeln!(self.out, "#   {}{line}", if i == 0 { "" } else { "  " });
            }
        }
        self.pad(indent);
    }
}

fn join(home: &str, key: &str) -> String {
    if home.is_empty() { key.to_owned() } else { format!("{home}.{key}") }
}

/// A key's own sentence, else that of its type.
fn sentence(property: &Json, target: &Json) -> String {
    let description = property.get("description").or_else(|| target.get("description")).and_then(Json::as_str);
    description.unwrap_or_default().replace('\n', " ")
}

/// A default as it is written in YAML: JSON, but for the quotes that plain words do without.
fn yaml(value: &Json) -> String {
    match value.as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => match value.as_array().filter(|items| items.iter().all(Json::is_string)) {
            Some(words) => format!("[{}]", words.iter().map(yaml).collect::<Vec<_>>().join(", ")),
            None => value.to_string(),
        },
    }
}

/// Words in lines that are no wider than this, in characters, but for words that are.
pub(crate) fn wrapped<'a>(words: impl Iterator<Item = &'a str>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::load::{load_str, load_with};
    use super::*;

    fn held(name: &str, generated: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy-config").join(name);
        if std::env::var_os("PATHLOOM_BLESS").is_some() {
            std::fs::write(&path, generated).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        // Maps of JSON may or may not keep their order, as other crates wish: what counts is what they hold.
        let same = match (serde_json::from_str::<Json>(&file), serde_json::from_str::<Json>(generated)) {
            (Ok(file), Ok(generated)) => file == generated,
            _ => file == generated,
        };
        assert!(
            same,
            "{} is not what the schema says; run the tests with PATHLOOM_BLESS=1 to rewrite it",
            path.display()
        );
    }

    #[test]
    fn the_reference_file_is_what_the_schema_says() {
        held("reference.yaml", &reference_yaml());
    }

    #[test]
    fn the_json_schema_file_is_what_the_schema_says() {
        held("pathloom.schema.json", &json_schema());
    }

    #[test]
    fn the_readme_holds_the_table_of_keys() {
        const MARKS: [&str; 2] = ["<!-- keys: written by `make bless` -->\n", "<!-- end of keys -->"];
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(MARKS[0]).unwrap();
        let (_, after) = rest.split_once(MARKS[1]).unwrap();
        let wanted = [before, MARKS[0], &key_table_markdown(), MARKS[1], after].concat();
        if std::env::var_os("PATHLOOM_BLESS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
            return;
        }
        assert!(text == wanted, "README.md's table of keys is not what the schema says: make bless");
    }

    #[test]
    fn the_reference_loads_without_a_warning_and_says_nothing_but_defaults() {
        let loaded =
            load_with(reference_yaml().as_bytes(), "reference.yaml", &|_| None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config, example());
    }

    #[test]
    fn every_key_has_its_sentence() {
        assert!(keys().len() > 70, "{}", keys().len());
        for key in keys() {
            assert!(key.doc.ends_with('.') && key.doc.len() > 5, "{key:?}");
            assert!(key.words.iter().all(|(_, doc)| doc.ends_with('.')), "{key:?}");
        }
        let required: Vec<&str> =
            keys().iter().filter(|key| key.default.is_none()).map(|key| key.path.as_str()).collect();
        assert_eq!(
            required,
            ["workloads.<name>.rate.requests", "routes[].rate.requests", "clusters.<name>.endpoints[].address"]
        );
    }

    #[test]
    fn the_reference_names_every_property_of_the_schema() {
        fn properties(schema: &Json, found: &mut Vec<String>) {
            match schema {
                Json::Object(object) => {
                    if let Some(Json::Object(own)) = object.get("properties") {
                        found.extend(own.keys().cloned());
                    }
                    object.values().for_each(|inner| properties(inner, found));
                }
                Json::Array(items) => items.iter().for_each(|inner| properties(inner, found)),
                _ => {}
            }
        }
        let mut all = Vec::new();
        properties(&schema(), &mut all);
        assert!(all.len() > 70);
        for name in all {
            assert!(keys().iter().any(|key| key.path.rsplit('.').next() == Some(&name)), "{name}");
        }
    }

    #[test]
    fn a_key_is_found_where_it_belongs() {
        assert_eq!(elsewhere("decay").as_deref(), Some("`decay` is a key of `model`"));
        assert_eq!(elsewhere("frobnicate"), None);
    }

    #[test]
    fn the_effective_configuration_loads_again_and_is_the_same() {
        let mut config = example();
        let text = "a $${literal} \"quoted\" # no comment: é \\ 'x' ".to_owned() + &"long ".repeat(60);
        let endpoint = &mut config.clusters.get_mut("example").unwrap().endpoints[0];
        endpoint.metadata.insert("k".to_owned(), text.clone());
        endpoint.metadata.insert("n".to_owned(), "007".to_owned());
        endpoint.metadata.insert("e".to_owned(), String::new());
        endpoint.metadata.insert("b".to_owned(), "true".to_owned());
        assert_eq!(load_str(&config.to_yaml(), "effective").unwrap_or_else(|e| panic!("{e}")), config);
    }

    #[test]
    fn the_table_has_a_row_for_each_key() {
        let table = key_table_markdown();
        assert_eq!(table.lines().count(), keys().len() + 2);
        assert!(table.contains("| `model.tick` | `1s` | How often weights are computed anew. |"), "{table}");
        assert!(table.contains("| `clusters.<name>.endpoints[].address` | required | Its address. |"), "{table}");
    }
}
