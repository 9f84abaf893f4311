//! What can be judged a section at a time: the process, the listeners, the model.

use super::syntax::{self, MAX_NAME};
use super::{Findings, Path, steering};
use crate::config::schema::{Admin, AdminAddress, Auto, Compare, Config, Guards, Model, Triggers};
use crate::config::units::{ByteSize, Share, Timespan};
use std::time::Duration;

/// More threads than any machine has cores are a mistake.
pub const MAX_THREADS: usize = 1_024;
/// hyper refuses a smaller buffer for a request's head.
pub const MIN_HEADER_BYTES: ByteSize = ByteSize(8 * 1024);
/// A larger head is an attack: each connection may hold one.
pub const MAX_HEADER_BYTES: ByteSize = ByteSize(16 * 1024 * 1024);
/// Reading a request reserves room for each header's place.
pub const MAX_HEADERS: usize = 4_096;
/// The largest value that HTTP/2 has for its limit of streams (RFC 9113, section 6.5.2).
pub const MAX_STREAMS: u32 = u32::MAX >> 1;
/// A tick shorter than this would be spent on itself.
pub const MIN_TICK: Timespan = Timespan(Duration::from_millis(10));
/// Above it the softmax is flat, to any difference that latencies have.
pub const MAX_TEMPERATURE: f64 = 100.0;
/// The longest path of a Unix socket, in bytes (`sockaddr_un`, without the zero at its end).
pub const MAX_SOCKET_PATH: usize = 107;

const ZERO: Timespan = Timespan(Duration::ZERO);

pub fn check(config: &Config, findings: &mut Findings) {
    node(config, findings);
    admin(&config.admin, findings);
    listeners(config, findings);
    model(&config.model, findings);
    if let Auto::Set(threads) = config.process.threads
        && !(1..=MAX_THREADS).contains(&threads)
    {
        let remedy = format!("write `auto`, or a number from 1 to {MAX_THREADS}");
        findings.error(Path::of(&["process", "threads"]), format!("{threads} threads cannot serve"), remedy);
    }
}

fn node(config: &Config, findings: &mut Findings) {
    let name = Path::of(&["node", "name"]);
    if config.node.name.trim().is_empty() {
        findings.error(name, "the node has no name", "name it: `\"${NODE_NAME:-local}\"`");
    } else {
        findings.check(name, syntax::text(&config.node.name, MAX_NAME));
    }
    findings.check(Path::of(&["node", "zone"]), syntax::text(&config.node.zone, MAX_NAME));
}

fn admin(admin: &Admin, findings: &mut Findings) {
    let path = Path::of(&["admin", "listen"]);
    match &admin.listen {
        AdminAddress::Unix(socket) if !socket.is_absolute() => {
            let message = format!("`{}` is not a path from the root", socket.display());
            findings.error(path, message, "write all of it, as in `unix:/run/pathloom/admin.sock`");
        }
        AdminAddress::Unix(socket) if socket.as_os_str().len() > MAX_SOCKET_PATH => {
            let message = format!("{} bytes are too long for a Unix socket", socket.as_os_str().len());
            findings.error(path, message, format!("write a path of at most {MAX_SOCKET_PATH} bytes"));
        }
        AdminAddress::Tcp(listen) if admin.metrics == Some(*listen) && listen.port() != 0 => {
            let message = format!("{listen} is the admin port itself, which answers for the metrics as well");
            findings.error(Path::of(&["admin", "metrics"]), message, "leave it out, or write another address");
        }
        AdminAddress::Unix(_) | AdminAddress::Tcp(_) => {}
    }
}

fn listeners(config: &Config, findings: &mut Findings) {
    let path = Path::of(&["listeners"]);
    let listeners = &config.listeners;
    above_zero(
        &path,
        &[("idle", listeners.idle), ("request_headers", listeners.request_headers), ("detect", listeners.detect)],
        findings,
    );
    if !(MIN_HEADER_BYTES..=MAX_HEADER_BYTES).contains(&listeners.max_header_bytes) {
        let message = format!("`{}` is no size for a request's head", listeners.max_header_bytes);
        findings.error(
            path.key("max_header_bytes"),
            message,
            format!("write `{MIN_HEADER_BYTES}` to `{MAX_HEADER_BYTES}`"),
        );
    }
    if !(1..=MAX_HEADERS).contains(&listeners.max_headers) {
        let message = format!("{} headers are out of range", listeners.max_headers);
        findings.error(path.key("max_headers"), message, format!("write a number from 1 to {MAX_HEADERS}"));
    }
    if listeners.max_connections == 0 {
        findings.error(path.key("max_connections"), "no connection would ever be accepted", "write a number from 1");
    }
    if !(1..=MAX_STREAMS).contains(&listeners.max_streams) {
        let message = format!("{} streams are out of range", listeners.max_streams);
        findings.error(path.key("max_streams"), message, format!("write a number from 1 to {MAX_STREAMS}"));
    }
}

fn model(model: &Model, findings: &mut Findings) {
    let path = Path::of(&["model"]);
    if model.file.trim().is_empty() {
        findings.error(path.key("file"), "no model is named", "write `builtin`, or the path of an `.onnx` file");
    } else if model.file != "builtin" && !model.file.ends_with(".onnx") {
        let message = format!("`{}` does not end in `.onnx`", model.file);
        findings.warning(path.key("file"), message, "check the path; the model that comes with the proxy is `builtin`");
    }
    if model.onnxruntime.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        findings.error(path.key("onnxruntime"), "the library's path is empty", "write it, or remove the key");
    }
    if model.tick < MIN_TICK {
        findings.error(
            path.key("tick"),
            format!("a tick of {} is too short", model.tick),
            format!("write `{MIN_TICK}` or more"),
        );
    }
    above_zero(&path, &[("deadline", model.deadline), ("decay", model.decay)], findings);
    if model.deadline > model.tick {
        let message = format!("an inference may take longer ({}) than a tick lasts ({})", model.deadline, model.tick);
        findings.warning(path.key("deadline"), message, format!("write `{}` or less", model.tick));
        findings.resting_on(Path::of(&["model", "tick"]));
    }
    if !(model.temperature > 0.0 && model.temperature <= MAX_TEMPERATURE) {
        let message = format!("a temperature of {} has no meaning", model.temperature);
        findings.error(
            path.key("temperature"),
            message,
            format!("write a number above 0, up to {MAX_TEMPERATURE}; 1 is the fair share by speed"),
        );
    }
    if model.compare == Compare::Draw(0) {
        findings.error(
            path.key("compare"),
            "a request that compares no candidate has none to go to",
            "write `auto`, `all` or a number from 1",
        );
    }
    steering::canary(&model.canary, &path.key("canary"), findings);
    guards(&model.guards, model.tick, &path.key("guards"), findings);
    triggers(&model.triggers, model.tick, &path.key("triggers"), findings);
}

fn guards(guards: &Guards, tick: Timespan, path: &Path, findings: &mut Findings) {
    let share = |share: f64| (0.0..=1.0).contains(&share);
    // With a floor of the whole, all weights are equal for ever, and the model says nothing.
    if !(share(guards.floor.0) && guards.floor.0 < 1.0) {
        findings.error(
            path.key("floor"),
            format!("a floor of {} leaves the model nothing to decide", guards.floor),
            "write less than `100%`",
        );
    }
    if !(share(guards.max_step.0) && guards.max_step.0 > 0.0) {
        findings.error(
            path.key("max_step"),
            format!("with a step of {} no weight could ever change", guards.max_step),
            "write more than `0%`, up to `100%`",
        );
    }
    if !(share(guards.dead_band.0) && guards.dead_band.0 < 1.0) {
        let message = format!("with a dead band of {} a weight could never fall", guards.dead_band);
        findings.error(path.key("dead_band"), message, "write less than `100%`");
    }
    if guards.expire_after <= tick {
        let message = format!(
            "a generation would expire after {} before the next tick, after {tick}, replaces it",
            guards.expire_after
        );
        findings.error(path.key("expire_after"), message, format!("write more than `{tick}`, several ticks at best"));
        findings.resting_on(Path::of(&["model", "tick"]));
    }
    if !(guards.max_error.is_finite() && guards.max_error > 0.0) {
        let message = format!("{} is no limit for an error", guards.max_error);
        findings.error(
            path.key("max_error"),
            message,
            "write a number above 0; 1 stands for predictions that are off by as much as they say",
        );
    }
}

fn triggers(triggers: &Triggers, tick: Timespan, path: &Path, findings: &mut Findings) {
    if !(triggers.latency_factor.is_finite() && triggers.latency_factor > 1.0) {
        let message = format!("a latency {} times what was predicted is no reason to hurry", triggers.latency_factor);
        findings.error(path.key("latency_factor"), message, "write a number above 1");
    }
    share(triggers.error_rate, path.key("error_rate"), findings);
    above_zero(path, &[("min_interval", triggers.min_interval)], findings);
    if triggers.min_interval > tick {
        let message =
            format!("ticks are {tick} apart anyway, so that nothing can be triggered before {}", triggers.min_interval);
        findings.warning(path.key("min_interval"), message, format!("write `{tick}` or less"));
        findings.resting_on(Path::of(&["model", "tick"]));
    }
}

/// An error where it is not 0 to 1, which only a configuration that was built in code can be.
pub fn share(share: Share, path: Path, findings: &mut Findings) {
    if !(0.0..=1.0).contains(&share.0) {
        findings.error(path, format!("{share} is not a share"), "write `0%` to `100%`");
    }
}

/// An error for each of the section's times that is nothing.
pub fn above_zero(path: &Path, times: &[(&str, Timespan)], findings: &mut Findings) {
    for (key, _) in times.iter().filter(|(_, time)| *time == ZERO) {
        findings.error(path.key(key), format!("`{key}` cannot be nothing"), "write a length of time above `0s`");
    }
}
