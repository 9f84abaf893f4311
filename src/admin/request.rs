//! `pathloom explain --request ID`: where one request went, and why.
//!
//! What is true of a request that is over stands in its access log line, written when it ended: the generation and the policy
//! that chose, the endpoint, how many were tried, what was expected and what came. The line is found by the request's id, in the
//! file that the proxy writes or in any other, or, where it writes to a standard output, among the last lines that it keeps
//! (`/requests`). Beside it stands the table that chose, as it was then: the proxy keeps those of its last generations (`past`,
//! `control::archive`). Where it is no longer kept, that is said, and the table that chooses now is shown.
//!
//! What this deliberately does not do: remember decisions on the request path. How many requests were under way and what each
//! local estimate was at that moment is gone with the moment; the line has the estimate of the endpoint that was chosen.

use super::client::{self, AskError, printable};
use super::columns;
use super::explain::{encode, render_for};
use crate::observe::Reason;
use http::StatusCode;
use serde_json::Value;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// A line that is longer than this is none of ours.
const MAX_LINE: u64 = 1 << 20;

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Which log it is cannot be found out.
    #[error("{0}; give the access log with `--log FILE`")]
    Ask(#[from] AskError),
    /// The proxy writes its log to nowhere that could be read.
    #[error(
        "the access log goes to {0} (`telemetry.access_log.to`): give it with `--log FILE`, or `--log -` to read it from standard input"
    )]
    NoFile(String),
    /// The proxy writes no log, and so remembers no request.
    #[error(
        "the access log is off (`telemetry.access_log.to: off`), so nothing is known of single requests: set it to `stdout` or a file, \
         which a reload is enough for, or give the log of another time with `--log FILE`"
    )]
    Off,
    /// The proxy remembers no such request, and its log goes to no file.
    #[error("{0}; `--log FILE` looks into an access log, `--log -` reads it from standard input")]
    Unknown(String),
    /// The log cannot be read.
    #[error("cannot read the access log {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No line has the id.
    #[error(
        "no line of {path} has the request id {id}{}",
        if *json {
            ": another sidecar may have served it (`--admin ADDRESS`), or its line is in an older file (`--log FILE`, `--log -` for standard input)"
        } else {
            "; it has no line in JSON (`telemetry.access_log.format: json`)"
        }
    )]
    NotFound {
        /// Which log.
        path: String,
        /// The id.
        id: String,
        /// Whether any line was JSON.
        json: bool,
    },
    /// Several ids begin so.
    #[error("{count} requests of {path} have ids that begin with {id}: give more of it")]
    Several {
        /// Which log.
        path: String,
        /// The beginning.
        id: String,
        /// How many.
        count: usize,
    },
}

/// Finds the request, and says what is known of it.
///
/// # Errors
/// When there is no log to be read, or the request is not in it. That nobody answers at the admin port is none, where the
/// log is named.
pub async fn explain(id: &str, log: Option<&str>, address: &str) -> Result<String, RequestError> {
    let path = match log {
        Some(path) => path.to_owned(),
        None => match written_to(address).await {
            Err(RequestError::NoFile(_)) => {
                let line = remembered(id, address).await?;
                return Ok(format!("{}\n{}", told(&line), choice(&line, address).await));
            }
            written => written?,
        },
    };
    let failed = |source| RequestError::Read { path: path.clone(), source };
    let found = match path.as_str() {
        "-" => find(io::stdin().lock(), id),
        file => find(BufReader::new(File::open(file).map_err(failed)?), id),
    };
    let found = found.map_err(failed)?;
    let line = match found.lines.as_slice() {
        [] => return Err(RequestError::NotFound { path, id: printable(id), json: found.json }),
        [line] => line,
        lines => return Err(RequestError::Several { path, id: printable(id), count: lines.len() }),
    };
    let mut out = told(line);
    out.push('\n');
    out.push_str(&choice(line, address).await);
    Ok(out)
}

/// Where the running proxy writes its access log.
async fn written_to(address: &str) -> Result<String, RequestError> {
    let (_, body) = client::ask(address, "/config?format=json").await?;
    let config: Option<Value> = serde_json::from_slice(&body).ok();
    let to = config.as_ref().and_then(|c| c.pointer("/config/telemetry/access_log/to")).and_then(Value::as_str);
    match to {
        Some("off") => Err(RequestError::Off),
        Some(to @ ("stdout" | "stderr")) => Err(RequestError::NoFile(to.to_owned())),
        Some(file) => Ok(file.to_owned()),
        None => Err(client::wrong(address, "its /config names no access log").into()),
    }
}

/// The request's line, from those that the proxy remembers.
async fn remembered(id: &str, address: &str) -> Result<Value, RequestError> {
    let (status, body) = client::ask(address, &format!("/requests?id={}", encode(id))).await?;
    let mut answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status, answer.get("error").and_then(Value::as_str)) {
        (StatusCode::OK, None) => Ok(answer.get_mut("request").map(Value::take).unwrap_or_default()),
        (_, Some(error)) => Err(RequestError::Unknown(printable(error))),
        _ => Err(client::wrong(address, client::beginning(&body)).into()),
    }
}

/// What a log has of an id.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub lines: Vec<Value>,
    /// Whether any line was JSON.
    json: bool,
}

/// The lines whose request's id begins so; the one that is exactly it, where there is one.
pub(super) fn find(mut log: impl BufRead, id: &str) -> io::Result<Found> {
    let mut found = Found { lines: Vec::new(), json: false };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = log.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(found);
        }
        found.json |= line.first() == Some(&b'{');
        // Most lines are another's, and need not be understood.
        if id.is_empty() || !line.windows(id.len()).any(|part| part == id.as_bytes()) {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { continue };
        match value.get("request_id").and_then(Value::as_str) {
            // A request that was asked for again under its id: the last one counts.
            Some(whole) if whole == id => found.lines = vec![value],
            Some(longer) if longer.starts_with(id) && !exact(&found, id) => found.lines.push(value),
            _ => {}
        }
    }
}

fn exact(found: &Found, id: &str) -> bool {
    matches!(found.lines.as_slice(), [only] if only.get("request_id").and_then(Value::as_str) == Some(id))
}

fn text(line: &Value, key: &str) -> Option<String> {
    line.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(printable)
}

fn number(line: &Value, key: &str) -> Option<f64> {
    line.get(key).and_then(Value::as_f64)
}

/// What the line says, as wide as the terminal.
fn told(line: &Value) -> String {
    columns::fitted(&story(line), columns::width())
}

/// What the line says, in sentences.
fn story(line: &Value) -> String {
    let or = |key: &str| text(line, key).unwrap_or_else(|| "-".to_owned());
    let mut out = format!("request     {}, {}\n", or("request_id"), or("time"));
    if let Some(trace) = text(line, "trace_id") {
        let _ = writeln!(out, "trace       {trace}");
    }
    let what = match text(line, "method") {
        Some(method) => format!("{method} {}{} ({})", or("host"), or("path"), or("protocol")),
        None => format!("a connection, {} ({})", or("host"), or("protocol")),
    };
    let _ = writeln!(out, "asked       {what}");
    let peer = text(line, "peer").map_or_else(String::new, |peer| format!(", proven to be {peer}"));
    let _ = writeln!(out, "by          {} from {}{peer}", or("workload"), or("client"));
    match text(line, "cluster") {
        Some(cluster) => {
            let _ = writeln!(out, "route       {}, to the cluster {cluster}", or("route"));
        }
        None => out.push_str("route       none: it reached no cluster\n"),
    }
    if let Some(class) = text(line, "class") {
        let _ = writeln!(out, "class       {class}");
    }
    if let Some(endpoint) = text(line, "endpoint") {
        let generation = number(line, "generation").unwrap_or_default();
        let _ = writeln!(out, "endpoint    {endpoint}, chosen by {}", chosen(line, generation));
    }
    let attempts = number(line, "attempts").unwrap_or_default();
    if attempts > 1.0 {
        let _ = writeln!(out, "tried       {attempts:.0} endpoints; this is the last one, and those before it failed");
    }
    if let Some(injected) = text(line, "injected") {
        let _ = writeln!(out, "on purpose  its route's `fault` did this to it: {injected}");
    }
    let status = number(line, "status").map_or_else(|| "no answer".to_owned(), |s| format!("{s:.0}"));
    let grpc = number(line, "grpc_status").map_or_else(String::new, |s| format!(", gRPC status {s:.0}"));
    let ms = |key: &str| number(line, key).map(|ms| format!("{ms:.1} ms"));
    let took = ms("duration_ms").unwrap_or_else(|| "-".to_owned());
    let _ = writeln!(out, "answer      {status}{grpc} after {took}");
    if let Some(upstream) = ms("upstream_ms") {
        let expected = match (ms("expected_ms"), number(line, "expected_ms"), number(line, "upstream_ms")) {
            (Some(text), Some(expected), Some(seen)) if expected > 0.0 => {
                format!("; {text} was expected, so it took {:.1} times as long", seen / expected)
            }
            _ => String::new(),
        };
        let _ = writeln!(out, "upstream    its answer began after {upstream}{expected}");
    }
    if let Some(code) = text(line, "reason") {
        let known = Reason::ALL.iter().find(|r| r.code() == code);
        let meaning = known.map_or("", |r| r.meaning().trim());
        let _ = writeln!(out, "failed      {code}: {meaning}");
        let _ = writeln!(out, "what to do  proxy-config/TROUBLESHOOTING.md#{code}");
    }
    out
}

/// Who chose, in words.
fn chosen(line: &Value, generation: f64) -> String {
    format!("{}, in generation {generation:.0}", chosen_by(line))
}

/// Who chose, by the line's policy.
pub(super) fn chosen_by(line: &Value) -> String {
    match text(line, "policy").as_deref() {
        Some("model") => "the model's weights and the local estimates, the lowest cost of those compared".to_owned(),
        Some("affinity") => "its header, cookie or source address (`affinity`)".to_owned(),
        Some(policy) => format!("the policy {policy}"),
        None => "nobody".to_owned(),
    }
}

/// The table that chose; where it is not kept, why, and how the proxy would choose for such a request now.
async fn choice(line: &Value, address: &str) -> String {
    let (Some(cluster), Some(workload)) = (text(line, "cluster"), text(line, "workload")) else {
        return "It reached no cluster, so there is nothing to choose between.\n".to_owned();
    };
    let pair = format!("cluster={}&workload={}", encode(&cluster), encode(&workload));
    let chosen = text(line, "endpoint");
    let mut before = String::new();
    let then = number(line, "generation");
    if let Some(generation) = then {
        let began = text(line, "time").map_or_else(String::new, |at| format!("&began={}", encode(&at)));
        let target = format!("/routing?generation={generation:.0}{began}&{pair}");
        match tables(address, &target).await {
            Ok(routing) if routing.get("past") == Some(&Value::Bool(true)) => {
                let since = number(&routing, "generations_since").unwrap_or_default();
                let what = format!("The table that chose, as it was then (generations since: {since:.0}):");
                return format!("{what}\n\n{}", render_for(&routing, chosen.as_deref(), columns::width()));
            }
            Ok(routing) if routing.pointer("/generation/id").and_then(Value::as_f64) == then => {
                return format!(
                    "This is the table that chose:\n\n{}",
                    render_for(&routing, chosen.as_deref(), columns::width())
                );
            }
            // A proxy that is older than this program gives the table of now.
            Ok(_) => {}
            Err(why) => before = format!("The table that chose is not known: {why}\n"),
        }
    }
    let routing = match tables(address, &format!("/routing?{pair}")).await {
        Ok(routing) => routing,
        Err(why) => return format!("How it would be chosen now is not known: {why}\n"),
    };
    let current = routing.pointer("/generation/id").and_then(Value::as_f64);
    let since = match (then, current) {
        (Some(then), Some(current)) if current > then => {
            format!("The table that would choose now; {:.0} generations have passed since:", current - then)
        }
        _ => "The table that would choose now, of a process that was started since, or of another proxy:".to_owned(),
    };
    format!("{before}{since}\n\n{}", render_for(&routing, chosen.as_deref(), columns::width()))
}

/// What `/routing` says; else why it does not, in words.
async fn tables(address: &str, target: &str) -> Result<Value, String> {
    let (status, body) = client::ask(address, target).await.map_err(|error| error.to_string())?;
    let routing: Option<Value> = serde_json::from_slice(&body).ok();
    match routing {
        Some(routing) if status == StatusCode::OK && routing.get("tables").is_some_and(Value::is_array) => Ok(routing),
        Some(wrong) => Err(text(&wrong, "error").unwrap_or_else(|| client::beginning(&body))),
        None => Err(client::beginning(&body)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    const LOG: &str = concat!(
        "not ours\n",
        r#"{"time":"t1","request_id":"aa11","cluster":"catalog","workload":"frontend","endpoint":"10.0.0.1:80","method":"GET","host":"catalog.shop","path":"/x","protocol":"HTTP/1.1","status":200,"attempts":2,"duration_ms":21.5,"upstream_ms":20.0,"expected_ms":10.0,"generation":41,"policy":"model","reason":""}"#,
        "\n",
        r#"{"time":"t2","request_id":"aa22","method":"GET","host":"nobody.shop","path":"/aa11","protocol":"HTTP/1.1","status":404,"attempts":0,"duration_ms":0.1,"generation":41,"policy":"","reason":"no_route"}"#,
        "\n",
    );

    fn log() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LOG).unwrap();
        file
    }

    async fn explained(id: &str) -> Result<String, RequestError> {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let log = log();
        explain(id, log.path().to_str(), &unused).await
    }

    #[tokio::test]
    async fn a_request_is_told_from_its_line_whoever_answers() {
        let text = explained("aa11").await.unwrap();
        for word in [
            "GET catalog.shop/x",
            "10.0.0.1:80, chosen by the model's weights",
            "generation 41",
            "2 endpoints",
            "200 after 21.5 ms",
            "10.0 ms was expected, so it took 2.0 times as long",
            "is not known: nobody listens",
        ] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        assert!(!text.contains("failed "), "{text}");
    }

    #[tokio::test]
    async fn a_failure_says_what_its_code_means_and_where_help_is() {
        let text = explained("aa2").await.unwrap();
        let words = ["no_route: No route matches the request.", "TROUBLESHOOTING.md#no_route", "it reached no cluster"];
        for word in words {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn an_id_that_is_not_there_or_not_whole_is_an_error() {
        let error = explained("bb").await.unwrap_err().to_string();
        assert!(error.contains("has the request id bb") && !error.contains("JSON"), "{error}");
        assert!(error.contains("--admin ADDRESS") && error.contains("--log FILE"), "{error}");
        let error = explained("aa").await.unwrap_err().to_string();
        assert!(error.starts_with("2 requests of ") && error.contains("give more of it"), "{error}");
        let error = explain("aa", Some("/nonexistent"), "127.0.0.1:1").await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
        let error = explain("aa", None, "127.0.0.1:1").await.unwrap_err().to_string();
        assert!(error.contains("nobody listens") && error.contains("--log FILE"), "{error}");
    }

    #[tokio::test]
    async fn where_the_log_is_off_it_says_how_to_switch_it_on() {
        let state = fixture::published();
        let mut config = (**state.config.load()).clone();
        config.json["telemetry"]["access_log"]["to"] = "off".into();
        state.config.store(std::sync::Arc::new(config));
        let address = super::super::explain::tests::serve_this(state).await.to_string();
        let error = explain("aa11", None, &address).await.unwrap_err().to_string();
        for word in ["the access log is off", "`telemetry.access_log.to: off`", "`stdout`", "--log FILE"] {
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }

    #[tokio::test]
    async fn the_table_that_chose_is_told_from_the_one_that_would_choose_now() {
        let (address, log) = (super::super::explain::tests::serve().await.to_string(), log());
        let text = explain("aa11", log.path().to_str(), &address).await.unwrap();
        assert!(text.contains("This is the table that chose") && text.contains("frontend -> catalog"), "{text}");
        let later = LOG.replace("\"generation\":41", "\"generation\":38");
        std::fs::write(log.path(), later).unwrap();
        let text = explain("aa11", log.path().to_str(), &address).await.unwrap();
        for word in ["3 generations have passed", "The table that would choose now", "generation 38 are not kept"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        let error = explain("aa11", None, &address).await.unwrap_err().to_string();
        assert!(error.contains("no request is known") && error.contains("--log FILE"), "{error}");
        // What the proxy writes to its standard output it still has.
        let text = explain("cafe", None, &address).await.unwrap();
        assert!(text.contains("GET catalog.shop/") && text.contains("This is the table that chose"), "{text}");
    }

    #[tokio::test]
    async fn a_generation_that_is_over_shows_the_candidates_that_it_had() {
        let address = super::super::explain::tests::serve_this(fixture::replaced()).await.to_string();
        let (log, began) = (log(), crate::observe::rfc3339(fixture::at(99)));
        let at = |time: &str| std::fs::write(log.path(), LOG.replace("\"t1\"", &format!("\"{time}\""))).unwrap();
        at(&began);
        let text = explain("aa11", log.path().to_str(), &address).await.unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/request.golden");
        if std::env::var_os("PATHLOOM_BLESS").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert!(
            text == std::fs::read_to_string(golden).unwrap(),
            "run with PATHLOOM_BLESS=1 if this is meant:\n{text}"
        );
        for word in ["as it was then (generations since: 1)", "> 10.0.0.1:80", "10.0.0.3:80", "ATTENTION"] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
        // A line of a generation with the same number, of another process.
        at("2020-01-01T00:00:00.000Z");
        let text = explain("aa11", log.path().to_str(), &address).await.unwrap();
        assert!(text.contains("that was another process") && !text.contains("10.0.0.3:80"), "{text}");
    }
}
