//! `/config`: the configuration in force, and whether the last attempt to change it worked.

use super::state::ConfigState;
use crate::observe::rfc3339;
use serde_json::{Value, json};
use std::fmt::Write;

/// As YAML that can be loaded again: the result of the last load stands before it in comments.
pub fn yaml(config: &ConfigState) -> String {
    let mut out = String::new();
    let at = config.loaded_at.map_or_else(|| "never".to_owned(), rfc3339);
    let _ = writeln!(out, "# In force since {at}; {} loaded, {} refused.", config.reloads_ok, config.reloads_failed);
    for warning in &config.warnings {
        comment(&mut out, &warning.to_string());
    }
    if let Some(error) = &config.last_error {
        let _ = writeln!(
            out,
            "# THE LAST RELOAD WAS REFUSED at {}; what follows is the configuration before it.",
            rfc3339(error.at)
        );
        comment(&mut out, &error.errors.to_string());
    }
    out.push_str(&config.yaml);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn comment(out: &mut String, text: &str) {
    // Only line ends could break out of the comment: YAML has three kinds.
    for line in text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        let _ = writeln!(out, "# {line}");
    }
}

/// As JSON, the result of the last load in diagnostics.
pub fn json(config: &ConfigState) -> Value {
    let error = config
        .last_error
        .as_ref()
        .map(|e| json!({ "at": rfc3339(e.at), "text": e.errors.to_string(), "diagnostics": e.errors.0 }));
    json!({
        "loaded_at": config.loaded_at.map(rfc3339),
        "reloads": { "ok": config.reloads_ok, "failed": config.reloads_failed },
        "last_error": error,
        "warnings": config.warnings,
        "config": config.json,
    })
}

/// Why the last attempt to change it was refused, for `/routing`; null where it was not.
pub fn refused(config: &ConfigState) -> Value {
    let refused = config.last_error.as_ref();
    refused.map_or(Value::Null, |e| json!({ "at": rfc3339(e.at), "text": e.errors.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Errors, load_str};
    use std::time::UNIX_EPOCH;

    #[test]
    fn the_yaml_can_be_loaded_again_whatever_the_last_error_said() {
        let config = Config::default();
        let errors = load_str("node: { name: [\"x\n\r evil: 1\"] }\nx\r: 2", "proxy.yaml").unwrap_err();
        let state = ConfigState::default().loaded(&config, errors.0.clone(), UNIX_EPOCH).refused(errors, UNIX_EPOCH);
        let text = yaml(&state);
        assert!(text.starts_with("# In force since 1970-01-01T00:00:00.000Z; 1 loaded, 1 refused.\n"), "{text}");
        assert!(text.contains("# THE LAST RELOAD WAS REFUSED") && text.contains("# error: "), "{text}");
        assert_eq!(load_str(&text, "again").unwrap(), config);
    }

    #[test]
    fn the_json_holds_the_diagnostics() {
        let errors = Errors(load_str("nonsense: 1", "p.yaml").unwrap_err().0);
        let state = ConfigState::default().loaded(&Config::default(), Vec::new(), UNIX_EPOCH);
        assert_eq!((&json(&state)["last_error"], super::refused(&state)), (&Value::Null, Value::Null));
        let state = state.refused(errors, UNIX_EPOCH);
        let refused = json(&state);
        assert_eq!(super::refused(&state)["text"], refused["last_error"]["text"]);
        assert_eq!(refused["last_error"]["diagnostics"][0]["file"], "p.yaml");
        assert_eq!((&refused["reloads"]["failed"], &refused["config"]["node"]["name"]), (&json!(1), &json!("local")));
    }
}
