//! A section at a time.

use super::*;
use crate::config::units::{ByteSize, Share};
use crate::config::validate::settings;
use crate::config::{Auto, Compare};

#[test]
fn a_sound_configuration_has_no_findings() {
    fine(|_| {});
}

#[test]
fn process_and_node() {
    for threads in [1, settings::MAX_THREADS] {
        fine(|c| c.process.threads = Auto::Set(threads));
    }
    for threads in [0, settings::MAX_THREADS + 1] {
        error("process.threads: ", |c| c.process.threads = Auto::Set(threads));
    }
    fine(|c| c.process.drain = ms(0));
    error("node.name: the node has no name", |c| c.node.name = " ".into());
    fine(|c| c.node.name = "n".repeat(253));
    error("node.name: 254 bytes are too many", |c| c.node.name = "n".repeat(254));
    error("node.zone: a control character", |c| c.node.zone = "a\nb".into());
}

#[test]
fn listeners() {
    error("listeners.idle: ", |c| c.listeners.idle = ms(0));
    fine(|c| c.listeners.idle = ns(1));
    error("listeners.request_headers: ", |c| c.listeners.request_headers = ms(0));
    for bytes in [8 * 1024, 16 * 1024 * 1024] {
        fine(|c| c.listeners.max_header_bytes = ByteSize(bytes));
    }
    for bytes in [0, 8 * 1024 - 1, 16 * 1024 * 1024 + 1] {
        error("listeners.max_header_bytes: ", |c| c.listeners.max_header_bytes = ByteSize(bytes));
    }
    for headers in [1, settings::MAX_HEADERS] {
        fine(|c| c.listeners.max_headers = headers);
    }
    for headers in [0, settings::MAX_HEADERS + 1] {
        error("listeners.max_headers: ", |c| c.listeners.max_headers = headers);
    }
    fine(|c| c.listeners.max_connections = 1);
    error("listeners.max_connections: ", |c| c.listeners.max_connections = 0);
    for streams in [1, settings::MAX_STREAMS] {
        fine(|c| c.listeners.max_streams = streams);
    }
    for streams in [0, settings::MAX_STREAMS + 1] {
        error("listeners.max_streams: ", |c| c.listeners.max_streams = streams);
    }
}

#[test]
fn the_model() {
    error("model.file: no model is named", |c| c.model.file.clear());
    fine(|c| c.model.file = "/models/mine.onnx".into());
    warning("model.file: `mine` does not end in `.onnx`", |c| c.model.file = "mine".into());
    error("model.onnxruntime: ", |c| c.model.onnxruntime = Some("".into()));
    let quick = |c: &mut Config, tick| {
        (c.model.tick, c.model.deadline, c.model.triggers.min_interval) = (tick, ms(1), ms(1));
    };
    fine(|c| quick(c, ms(10)));
    error("model.tick: a tick of 9999999ns is too short", |c| quick(c, ns(9_999_999)));
    error("model.deadline: `deadline` cannot be nothing", |c| c.model.deadline = ms(0));
    fine(|c| c.model.deadline = ms(1_000));
    warning("model.deadline: an inference may take longer (1001ms) than a tick lasts (1s)", |c| {
        c.model.deadline = ms(1_001)
    });
    error("model.decay: ", |c| c.model.decay = ms(0));
    for temperature in [f64::MIN_POSITIVE, 1.0, 100.0] {
        fine(|c| c.model.temperature = temperature);
    }
    for temperature in [0.0, -0.0, -1.0, 100.0_f64.next_up(), f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        error("model.temperature: ", |c| c.model.temperature = temperature);
    }
    for compare in [Compare::Auto, Compare::All, Compare::Draw(1), Compare::Draw(u16::MAX)] {
        fine(|c| c.model.compare = compare);
    }
    error("model.compare: ", |c| c.model.compare = Compare::Draw(0));
}

#[test]
fn guards_and_triggers() {
    let below = Share(1.0_f64.next_down());
    for share in [Share(0.0), below] {
        fine(|c| c.model.guards.floor = share);
        fine(|c| c.model.guards.dead_band = share);
    }
    for share in [Share(1.0), Share(-0.1), Share(f64::NAN)] {
        error("model.guards.floor: ", |c| c.model.guards.floor = share);
        error("model.guards.dead_band: ", |c| c.model.guards.dead_band = share);
    }
    for share in [Share(f64::MIN_POSITIVE), Share(1.0)] {
        fine(|c| c.model.guards.max_step = share);
    }
    for share in [Share(0.0), Share(1.0_f64.next_up()), Share(f64::NAN)] {
        error("model.guards.max_step: ", |c| c.model.guards.max_step = share);
    }
    fine(|c| c.model.guards.expire_after = ns(1_000_000_001));
    error("model.guards.expire_after: ", |c| c.model.guards.expire_after = ms(1_000));
    fine(|c| c.model.guards.slow_start = ms(0));
    for limit in [f64::MIN_POSITIVE, f64::MAX] {
        fine(|c| c.model.guards.max_error = limit);
    }
    for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        error("model.guards.max_error: ", |c| c.model.guards.max_error = limit);
    }
    for factor in [1.0_f64.next_up(), f64::MAX] {
        fine(|c| c.model.triggers.latency_factor = factor);
    }
    for factor in [1.0, 0.0, -4.0, f64::NAN, f64::INFINITY] {
        error("model.triggers.latency_factor: ", |c| c.model.triggers.latency_factor = factor);
    }
    for rate in [0.0, 1.0] {
        fine(|c| c.model.triggers.error_rate = Share(rate));
    }
    for rate in [-0.1, 1.1, f64::NAN] {
        error("model.triggers.error_rate: ", |c| c.model.triggers.error_rate = Share(rate));
    }
    error("model.triggers.min_interval: ", |c| c.model.triggers.min_interval = ms(0));
    fine(|c| c.model.triggers.min_interval = ms(1_000));
    warning("model.triggers.min_interval: ", |c| c.model.triggers.min_interval = ms(1_001));
}
