//! The files that a configuration names and that are not on this machine: `check` mentions them, since `run` would miss them.

use crate::config::{self, Config};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Keys whose values are files that are read.
const READ: [&str; 8] = ["certificate", "key", "bundle", "authorities", "nkey", "credentials", "onnxruntime", "file"];
/// Keys whose values are, or may be, files that are made in a folder that must be there.
const MADE: [&str; 3] = ["handover", "to", "listen"];

/// What is not there, each with its key.
pub fn missing(config: &Config) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    look(&serde_json::to_value(config).unwrap_or_default(), &mut Vec::new(), &mut found);
    found
}

fn look(value: &Value, place: &mut Vec<String>, found: &mut Vec<(String, PathBuf)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                place.push(key.clone());
                look(value, place, found);
                place.pop();
            }
        }
        Value::Array(items) => items.iter().for_each(|item| look(item, place, found)),
        Value::String(text) => {
            found.extend(needed(place, text).filter(|path| !path.exists()).map(|p| (place.join("."), p)))
        }
        _ => {}
    }
}

/// The file or folder that must be there for this value, where it names one.
fn needed(place: &[String], text: &str) -> Option<PathBuf> {
    let [.., home, key] = place else { return None };
    let path = Path::new(text.strip_prefix("unix:").unwrap_or(text));
    let named = path.has_root() || text.contains('/');
    if !named || config::is_free(home) {
        return None;
    }
    if READ.contains(&key.as_str()) {
        return Some(path.to_owned());
    }
    // A recording's folder is made where it is missing.
    let made = MADE.contains(&key.as_str()) && home != "record";
    let folder = path.parent().filter(|_| made)?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_that_are_not_here_are_named_with_their_keys() {
        let here = tempfile::tempdir().unwrap();
        let there = here.path().join("mesh.key");
        std::fs::write(&there, "x").unwrap();
        let yaml = format!(
            "mesh: {{ key: {there:?}, nats: {{ servers: ['nats://n:4222'], nkey: /none/nkey }} }}\n\
             process: {{ handover: {0}/next.sock }}\n\
             admin: {{ listen: 'unix:/none/admin.sock' }}\n\
             telemetry: {{ access_log: {{ to: /none/access.log }}, traces: {{ otlp: 'https://c:4318/v1/traces', headers: {{ key: /none/secret }} }} }}\n\
             clusters: {{ c: {{ discover: [{{ file: /none/endpoints.yaml }}], endpoints: [{{ address: 10.0.0.1:80, metadata: {{ file: /none/fact }} }}] }} }}\n",
            here.path().display()
        );
        let config = config::load_str(&yaml, "t.yaml").unwrap();
        let named: Vec<String> =
            missing(&config).into_iter().map(|(key, path)| format!("{key} {}", path.display())).collect();
        assert_eq!(
            named,
            [
                "admin.listen /none",
                "clusters.c.discover.file /none/endpoints.yaml",
                "mesh.nats.nkey /none/nkey",
                "telemetry.access_log.to /none"
            ]
        );
        assert_eq!(missing(&Config::default()), []);
    }
}
