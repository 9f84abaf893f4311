//! `/requests`: the last requests, each as its access log line says it, the newest first; and one of them by its id, with what
//! its reason means and what made the generation that chose for it. (That generation's candidates: `past`.)
//!
//! The lines are those that the access log's writer keeps (`observe::Recent`), so nothing is remembered on the request path, and
//! nothing at all where the log is off. A request that is not among them is looked for in the log's file, where it has one,
//! in its last [`MAX_TAIL`] bytes.

use super::history;
use super::request::{self, Found};
use super::state::AdminState;
use crate::observe::Reason;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};

/// How many requests are given where nobody says how many, and at most.
const DEFAULT_LAST: usize = 100;
const MAX_LAST: usize = 1_000;
/// How much of a log file is searched, from its end, in bytes.
const MAX_TAIL: u64 = 64 * 1024 * 1024;
/// How many ids are named where several begin as was asked.
const MAX_NAMED: usize = 10;

/// Which requests are wanted; none of them said is all.
#[derive(Debug, Default, Clone)]
pub struct Wanted {
    /// How many.
    pub last: Option<usize>,
    /// To this cluster.
    pub cluster: Option<String>,
    /// Of this workload.
    pub workload: Option<String>,
    /// Only those that failed, by a reason or by a status of 500 or above.
    pub failed: bool,
}

impl Wanted {
    fn wants(&self, line: &Value) -> bool {
        let is = |key: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|w| line.get(key).and_then(Value::as_str) == Some(w.as_str()))
        };
        is("cluster", &self.cluster) && is("workload", &self.workload) && (!self.failed || failed(line))
    }
}

/// Whether a request went wrong.
fn failed(line: &Value) -> bool {
    let reason = line.get("reason").and_then(Value::as_str).unwrap_or_default();
    let grpc = line.get("grpc_status").and_then(Value::as_u64).unwrap_or_default();
    !matches!(reason, "" | "redirected")
        || grpc != 0
        || line.get("status").and_then(Value::as_u64).is_some_and(|s| s >= 500)
}

/// Where the log goes and how it is written, as the configuration in force has it.
fn log(state: &AdminState) -> (String, String) {
    let config = state.config.load();
    let of = |key: &str| {
        let value = config.json.pointer(&format!("/telemetry/access_log/{key}")).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    (of("to"), of("format"))
}

/// Why there may be none, in words.
fn why_none(to: &str, format: &str) -> Option<&'static str> {
    match (to, format) {
        ("off", _) => Some("the access log is off (`telemetry.access_log.to`), so no request is remembered"),
        (_, "text") => Some(
            "the access log is written as text; requests are told from it as JSON (`telemetry.access_log.format: json`)",
        ),
        _ => None,
    }
}

/// The last requests.
pub fn last(state: &AdminState, wanted: &Wanted) -> Value {
    let kept = (state.recent)();
    let count = wanted.last.unwrap_or(DEFAULT_LAST).min(MAX_LAST);
    let lines = kept.rsplit(|b| *b == b'\n').filter(|line| line.first() == Some(&b'{'));
    let lines = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut requests: Vec<Value> = lines.filter(|line| wanted.wants(line)).take(count).collect();
    // Those of one core are in order, those of several are not.
    requests.sort_by(|a, b| time(b).cmp(time(a)));
    let (to, format) = log(state);
    json!({
        "kept": kept.iter().filter(|b| **b == b'\n').count(),
        "note": why_none(&to, &format),
        "access_log": { "to": to, "format": format },
        "requests": requests,
    })
}

fn time(line: &Value) -> &str {
    line.get("time").and_then(Value::as_str).unwrap_or_default()
}

/// One request, by its id or the beginning of it.
///
/// # Errors
/// When it is not known, or several are: what to answer instead.
pub fn one(state: &AdminState, id: &str) -> Result<Value, Value> {
    let (to, format) = log(state);
    let mut found = request::find((state.recent)().as_slice(), id).unwrap_or_default();
    let mut place = "memory";
    if found.lines.is_empty()
        && !matches!(to.as_str(), "" | "off" | "stdout" | "stderr")
        && let Ok(in_file) = in_file(&to, id)
    {
        (found, place) = (in_file, to.as_str());
    }
    let [line] = found.lines.as_slice() else {
        return Err(unknown(&found, id, &to, &format));
    };
    let code = line.get("reason").and_then(Value::as_str).unwrap_or_default();
    let meaning = Reason::ALL.iter().find(|r| r.code() == code).map(|r| r.meaning().trim());
    let generation = line.get("generation").and_then(Value::as_u64);
    let then = generation.and_then(|generation| state.control.history.steered(generation, Some(time(line))));
    Ok(json!({
        "request": line,
        "found_in": place,
        "chosen_by": request::chosen_by(line),
        "meaning": meaning,
        "help": meaning.map(|_| format!("proxy-config/TROUBLESHOOTING.md#{code}")),
        "generation": state.published.load().id,
        "then": then.as_deref().map(history::json),
    }))
}

fn in_file(path: &str, id: &str) -> io::Result<Found> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(MAX_TAIL);
    // The first line may be cut; it is then no JSON, and passed over.
    file.seek(SeekFrom::Start(begin))?;
    request::find(BufReader::new(file), id)
}

fn unknown(found: &Found, id: &str, to: &str, format: &str) -> Value {
    let ids = found.lines.iter().filter_map(|l| l.get("request_id")).take(MAX_NAMED);
    let known: Vec<&Value> = ids.collect();
    let error = match found.lines.len() {
        0 => {
            let more = why_none(to, format).unwrap_or("it is older than what is kept, or went through another proxy");
            format!("no request is known whose id is `{id}` or begins so: {more}")
        }
        count => format!("{count} requests have ids that begin with `{id}`: give more of it"),
    };
    json!({ "error": error, "known": known })
}

#[cfg(test)]
mod tests {
    use super::super::{client, fixture};
    use super::*;
    use crate::config::LogFormat;

    fn state_with(lines: &[&str], to: &str) -> AdminState {
        let mut state = fixture::published();
        let text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        state.recent = Box::new(move || text.clone().into_bytes());
        let mut config = (**state.config.load()).clone();
        config.json = json!({ "telemetry": { "access_log": { "to": to, "format": LogFormat::Json } } });
        state.config.store(config.into());
        state
    }

    fn line(id: &str, second: u32, cluster: &str, reason: &str) -> String {
        let time = format!("2026-01-01T00:00:{second:02}.000Z");
        json!({ "time": time, "request_id": id, "cluster": cluster, "workload": "frontend", "reason": reason, "status": 200, "generation": 7, "policy": "model" }).to_string()
    }

    fn ids(value: &Value) -> Vec<&str> {
        value["requests"].as_array().unwrap().iter().map(|r| r["request_id"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_last_requests_come_first_and_can_be_narrowed() {
        let lines =
            [line("a1", 3, "catalog", ""), line("a2", 1, "catalog", "connect_timeout"), line("a3", 2, "storage", "")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).chain(["words"]).collect();
        let state = state_with(&lines, "stdout");
        let all = last(&state, &Wanted::default());
        assert_eq!((ids(&all), &all["kept"], &all["note"]), (vec!["a1", "a3", "a2"], &json!(4), &Value::Null));
        let some = |wanted: Wanted| last(&state, &wanted);
        assert_eq!(ids(&some(Wanted { failed: true, ..Wanted::default() })), ["a2"]);
        assert_eq!(ids(&some(Wanted { cluster: Some("storage".into()), ..Wanted::default() })), ["a3"]);
        assert_eq!(ids(&some(Wanted { workload: Some("batch".into()), ..Wanted::default() })), [""; 0]);
        assert_eq!(ids(&some(Wanted { last: Some(1), ..Wanted::default() })), ["a3"]);
    }

    #[test]
    fn calls_that_a_grpc_service_answered_with_an_error_count_as_failed() {
        for (line, expected) in [
            (json!({ "status": 200, "grpc_status": 14 }), true),
            (json!({ "status": 200, "grpc_status": 0 }), false),
            (json!({ "status": 503 }), true),
            (json!({ "status": 404 }), false),
            (json!({ "status": 302, "reason": "redirected" }), false),
            (json!({ "status": 404, "reason": "no_route" }), true),
        ] {
            assert_eq!(failed(&line), expected, "{line}");
        }
    }

    #[test]
    fn one_is_told_with_what_its_reason_means_and_what_made_its_generation() {
        let state = state_with(&[&line("aa11", 1, "catalog", "no_route"), &line("bb", 2, "catalog", "")], "stdout");
        state.control.history.add(fixture::change(7));
        let value = one(&state, "aa").unwrap();
        assert_eq!((&value["request"]["request_id"], &value["found_in"]), (&json!("aa11"), &json!("memory")));
        assert_eq!(value["meaning"], "No route matches the request.");
        assert_eq!(value["help"], "proxy-config/TROUBLESHOOTING.md#no_route");
        assert_eq!(value["then"]["cause"], "latency");
        assert!(value["chosen_by"].as_str().unwrap().contains("the model's weights"), "{value}");
        assert_eq!(one(&state, "bb").unwrap()["meaning"], Value::Null);
    }

    #[test]
    fn what_is_no_longer_kept_is_looked_for_in_the_logs_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), line("cc33", 1, "catalog", "") + "\n").unwrap();
        let path = file.path().to_str().unwrap();
        let state = state_with(&[], path);
        assert_eq!(one(&state, "cc").unwrap()["found_in"], path);
    }

    #[test]
    fn what_is_not_known_says_why_and_which_are_meant() {
        let lines = [line("aa1", 1, "catalog", ""), line("aa2", 2, "catalog", "")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let wrong = one(&state_with(&lines, "stdout"), "aa").unwrap_err();
        assert_eq!(
            (&wrong["known"], wrong["error"].as_str().unwrap().contains("give more")),
            (&json!(["aa1", "aa2"]), true)
        );
        let text = |value: Value| client::printable(value["error"].as_str().unwrap());
        assert!(text(one(&state_with(&[], "off"), "aa").unwrap_err()).contains("the access log is off"));
        assert!(text(one(&state_with(&[], "stderr"), "aa").unwrap_err()).contains("another proxy"));
        assert_eq!(
            last(&state_with(&[], "off"), &Wanted::default())["note"].as_str().map(|n| n.contains("off")),
            Some(true)
        );
    }
}
