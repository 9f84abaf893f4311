//! `pathloom explain`: asks a running proxy's `/routing` and prints it for a person.
//!
//! One table for each workload and cluster: what part of the requests each candidate should get and gets, what the model
//! predicts, what was seen, and the reason in words. What the columns mean stands below the tables; `-` is unknown. Nothing is
//! wider than the terminal (`columns`), or than 120 characters where there is none.

use super::canary;
use super::client::{self, AskError, printable};
use super::columns::{self, CALLS, Column, DIFFER, ESTIMATE, INTRINSIC, OBSERVED, PREDICTED, Row, WEIGHT};
use super::discovery;
use super::gateway;
use super::request::{self, RequestError};
use http::StatusCode;
use serde_json::Value;
use std::fmt::Write;

/// Where there are more pairs of workload and cluster than this, those without calls are only counted.
const MAX_IDLE_SHOWN: usize = 4;

/// What to explain.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// Only this cluster.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only this workload.
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// The running proxy's admin address (`admin.listen`), or its Unix socket (`unix:/path`).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", env = "PATHLOOM_ADMIN")]
    pub admin: String,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where one request went, and why: its id (`x-request-id`), or the beginning of it.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new(), conflicts_with_all = ["cluster", "workload", "json"])]
    pub request: Option<String>,
    /// The access log that has the request; `-` reads it from standard input. The file that the running proxy writes when it is not said.
    #[arg(long, value_name = "FILE", requires = "request")]
    pub log: Option<String>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nobody answers, or not as a pathloom does.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The proxy has no such cluster or workload; it names those that it has.
    #[error("{0}")]
    Unknown(String),
    /// The request cannot be found.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Asks, and gives what to print.
///
/// # Errors
/// When nobody answers, or not as it should, or what is asked for does not exist.
pub async fn explain(args: &ExplainArgs) -> Result<String, ExplainError> {
    let address = client::address(&args.admin);
    if let Some(id) = &args.request {
        return Ok(request::explain(id, args.log.as_deref(), &address).await?);
    }
    let (status, body) = client::ask(&address, &target(args)).await?;
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    match (status, value) {
        (StatusCode::OK, Some(value)) if value.get("tables").is_some_and(Value::is_array) => {
            Ok(if args.json { format!("{value:#}\n") } else { render(&value, columns::width()) })
        }
        (StatusCode::NOT_FOUND, Some(value)) if value.get("error").is_some() => {
            Err(ExplainError::Unknown(string(&value, "error")))
        }
        (StatusCode::OK, _) => Err(client::wrong(&address, "its /routing holds no tables").into()),
        (status, _) => Err(client::wrong(&address, format!("{status}: {}", client::beginning(&body))).into()),
    }
}

fn target(args: &ExplainArgs) -> String {
    let filters = [("cluster", &args.cluster), ("workload", &args.workload)];
    let pairs = filters.into_iter().filter_map(|(key, name)| Some(format!("{key}={}", encode(name.as_ref()?))));
    let query: Vec<String> = pairs.collect();
    format!("/routing?{}", query.join("&"))
}

pub(super) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02x}")),
        }
        out
    })
}

/// `/routing`'s answer as a person reads it, in lines of so many characters at most.
#[must_use]
pub fn render(routing: &Value, width: usize) -> String {
    render_for(routing, None, width)
}

/// What the columns mean, for those who ask for help.
#[must_use]
pub fn meanings() -> String {
    let meanings = [
        ("WEIGHT", WEIGHT),
        ("CALLS", CALLS),
        ("", &format!("they differ: {DIFFER}")),
        ("INTRINSIC", INTRINSIC),
        ("PREDICTED", PREDICTED),
        ("OBSERVED", OBSERVED),
        ("ESTIMATE", ESTIMATE),
    ];
    let lines: String = meanings.iter().map(|(title, what)| format!("  {title:<9}  {what}\n")).collect();
    format!("Columns, of each endpoint:\n{lines}")
}

/// The same for a request that went to the endpoint of this address.
pub(super) fn render_for(routing: &Value, chosen: Option<&str>, width: usize) -> String {
    let past = routing.get("past") == Some(&Value::Bool(true));
    let mut out = if past { past_head(routing) } else { head(routing) };
    let tables = routing.get("tables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // A pair that somebody asked for by name is shown whatever its calls; of very few, all are.
    let busy = |t: &Value| t.get("calls_per_second").and_then(Value::as_f64).is_some_and(|calls| calls > 0.0);
    let shown = |t: &&Value| tables.len() <= MAX_IDLE_SHOWN || busy(t);
    let mut left_out: Vec<&str> = Vec::new();
    let mut candidates = false;
    for table in tables.iter().filter(shown) {
        out.push('\n');
        let (text, without) = self::table(table, past, chosen, width);
        out.push_str(&text);
        candidates |= table.get("candidates").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        left_out.extend(without.iter().filter(|title| !left_out.contains(title)).copied().collect::<Vec<_>>());
    }
    let idle = tables.len() - tables.iter().filter(shown).count();
    if idle > 0 {
        let _ = writeln!(
            out,
            "\n{idle} pairs of workload and cluster have no calls; name one with --workload and --cluster to see it."
        );
    }
    if tables.is_empty() {
        out.push_str("\nThere is no cluster and workload to choose for.\n");
    }
    if candidates {
        out.push_str(&legend(chosen.is_some(), &left_out));
    }
    columns::fitted(&out, width)
}

/// What the columns mean, below the tables.
fn legend(chosen: bool, left_out: &[&str]) -> String {
    let mut out = format!(
        "\nWEIGHT: {WEIGHT}. CALLS: {CALLS}; they differ: {DIFFER}.\n\
         INTRINSIC: {INTRINSIC}. PREDICTED: {PREDICTED}. OBSERVED: {OBSERVED}.\n"
    );
    if chosen {
        out.push_str("`>` stands before the endpoint that the request went to.\n");
    }
    if !left_out.is_empty() {
        let _ = writeln!(
            out,
            "Not shown for want of width: {}; a wider terminal and --json have them.",
            left_out.join(", ")
        );
    }
    out
}

/// The head of a generation that is over.
fn past_head(routing: &Value) -> String {
    let generation = routing.get("generation").unwrap_or(&Value::Null);
    format!(
        "generation  {}, made at {}, cause: {}\nrung        {}: {}\nmodel       {}\n",
        cell(generation, "id", 0),
        string(generation, "made_at"),
        string(generation, "cause"),
        string(generation, "rung"),
        string(generation, "rung_reason"),
        model_of(generation)
    )
}

fn model_of(generation: &Value) -> String {
    let model = generation.get("model").filter(|m| !m.is_null());
    model.map_or_else(
        || "none".to_owned(),
        |m| {
            let digest: String = string(m, "digest").chars().take(12).collect();
            format!("{} ({digest}) on {}", string(m, "name"), string(m, "engine"))
        },
    )
}

/// How far its predictions were off, where that is known.
fn error_of(routing: &Value) -> String {
    let off = routing.get("model_error").and_then(Value::as_f64);
    off.map_or_else(String::new, |off| {
        format!("; what it predicted was {:.1}% off what was observed, on average", off * 100.0)
    })
}

fn head(routing: &Value) -> String {
    let mut out = String::new();
    let generation = routing.get("generation").unwrap_or(&Value::Null);
    if generation.is_null() {
        out.push_str("No generation has been published yet: nothing is routed.\n");
    } else {
        let model = model_of(generation);
        let _ = writeln!(
            out,
            "generation  {}, made {} s ago, cause: {}",
            cell(generation, "id", 0),
            cell(generation, "age_s", 1),
            string(generation, "cause")
        );
        let _ = writeln!(out, "rung        {}: {}", string(generation, "rung"), string(generation, "rung_reason"));
        let _ = writeln!(out, "model       {model}{}", error_of(routing));
        if generation.get("expired").and_then(Value::as_bool) == Some(true) {
            out.push_str("EXPIRED     the weights no longer steer; peak EWMA stands in for the model\n");
        }
    }
    let scorer = routing.get("scorer").unwrap_or(&Value::Null);
    let engine = scorer.get("engine").filter(|e| e.is_object()).map_or_else(
        || "none".to_owned(),
        |e| {
            format!(
                "{} {} on {}: {}",
                string(e, "engine"),
                string(e, "version"),
                string(e, "device"),
                string(e, "reason")
            )
        },
    );
    let _ = writeln!(out, "engine      {engine}");
    if let Some(why) = scorer.get("not_ready").and_then(Value::as_str) {
        let _ = writeln!(out, "NO SCORES   {}", printable(why));
    }
    let _ = writeln!(out, "mode        {}", string(routing, "mode"));
    canary::explain_trial(routing, &mut out);
    discovery::explain(routing, &mut out);
    gateway::explain(routing, &mut out);
    let _ = writeln!(out, "node        {}, pathloom {}", string(routing, "node"), string(routing, "version"));
    out
}

/// A column, and what a candidate has in it.
type Told = (Column, fn(&Value) -> String);

/// All of them. Those that are kept least are the first to go where space is short.
const COLUMNS: [Told; 16] = [
    (("ENDPOINT", "", false, 16), |c| string(c, "endpoint")),
    (("WEIGHT", "", true, 15), |c| percent(c.get("share"))),
    (("CALLS", "", true, 13), |c| percent(at(c, "observed", "share"))),
    (("SCORE", "", true, 1), |c| cell(c, "score", 2)),
    (("INTRINSIC", "ms", true, 6), |c| decimal(at(c, "predicted", "intrinsic_ms"), 1)),
    (("PREDICTED", "ms", true, 10), |c| decimal(at(c, "predicted", "mean_ms"), 1)),
    (("OBSERVED", "ms", true, 12), |c| decimal(at(c, "observed", "latency_mean_ms"), 1)),
    (("P99", "ms", true, 5), |c| decimal(at(c, "observed", "latency_p99_ms"), 1)),
    (("JITTER", "ms", true, 2), |c| decimal(at(c, "observed", "jitter_ms"), 1)),
    (("ESTIMATE", "ms", true, 9), |c| decimal(at(c, "estimate", "now_ms"), 1)),
    (("ATTENTION", "", true, 3), |c| percent(c.get("attention"))),
    (("AGE", "s", true, 4), |c| cell(c, "last_sample_age_s", 1)),
    (("ERRORS", "", true, 11), |c| percent(at(c, "observed", "error_rate"))),
    (("BUSY", "now", true, 8), |c| cell(c, "in_flight", 0)),
    (("HEALTH", "", false, 14), |c| string(c, "health")),
    (("REASON", "", false, 0), |c| string(c, "reason")),
];

/// A table, and the titles of the columns that it had no room for; `chosen` is the address of the endpoint that a request went to.
fn table(table: &Value, past: bool, chosen: Option<&str>, width: usize) -> (String, Vec<&'static str>) {
    let mut out = format!(
        "{} -> {}  policy {}, {} calls/s\n",
        string(table, "workload"),
        string(table, "cluster"),
        string(table, "policy"),
        cell(table, "calls_per_second", 1)
    );
    if table.get("panic").and_then(Value::as_bool) == Some(true) {
        out.push_str("  PANIC: so few endpoints are healthy that all get requests\n");
    }
    if let Some(affinity) = affinity(table) {
        let _ = writeln!(out, "  requests with the same {affinity} stay with one endpoint");
    }
    if let Some(hedging) = table.get("hedging").filter(|h| h.is_object()) {
        let outcome = |key| at(hedging, "outcomes", key).and_then(Value::as_u64).unwrap_or_default();
        let (won, lost) = (outcome("won"), outcome("lost"));
        let _ = writeln!(
            out,
            "  without an answer after {} ms a second endpoint is asked, for {} of the requests at most: {won} of {} won",
            cell(hedging, "after_ms", 1),
            percent(hedging.get("share")),
            won + lost
        );
    }
    canary::explain_table(table, &mut out);
    let candidates = table.get("candidates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if candidates.is_empty() {
        out.push_str("  no endpoints\n");
        return (out, Vec::new());
    }
    // What only the present has, or only the past, is left out where nobody has it.
    let known = |value: &fn(&Value) -> String| candidates.iter().any(|c| value(c) != "-");
    let shown: Vec<_> =
        COLUMNS.iter().filter(|((title, ..), value)| known(value) || !(past || *title == "ATTENTION")).collect();
    let row = |c: &Value| Row {
        marked: chosen.is_some() && text(c, "address") == chosen,
        cells: shown.iter().map(|(_, value)| value(c)).collect(),
    };
    let rows: Vec<Row> = candidates.iter().map(row).collect();
    let those: Vec<Column> = shown.iter().map(|(column, _)| *column).collect();
    let (text, left_out) = columns::table(&those, &rows, width);
    out.push_str(&text);
    (out, left_out)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// By what requests stay with an endpoint, where they do.
fn affinity(table: &Value) -> Option<String> {
    let (by, name) = table.get("affinity")?.as_object()?.iter().next()?;
    Some(match name.as_str() {
        Some(name) => format!("{} `{}`", printable(by), printable(name)),
        None => "source address".to_owned(),
    })
}

fn at<'a>(value: &'a Value, outer: &str, inner: &str) -> Option<&'a Value> {
    value.get(outer)?.get(inner)
}

pub(super) fn string(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map_or_else(|| "-".to_owned(), printable)
}

pub(super) fn cell(value: &Value, key: &str, digits: usize) -> String {
    decimal(value.get(key), digits)
}

pub(super) fn decimal(value: Option<&Value>, digits: usize) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
}

pub(super) fn percent(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |v| format!("{:.1}%", v * 100.0))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
pub(super) mod tests;
