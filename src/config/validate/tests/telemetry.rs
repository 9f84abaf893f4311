//! What is reported, and where to.

use super::*;
use crate::config::units::{ByteSize, Share};
use crate::config::validate::telemetry::{MAX_HEADER_VALUE, MAX_HEADERS};
use crate::config::{Otlp, Propagator, Traces};

#[test]
fn record() {
    error("telemetry.record.to: ", |c| c.telemetry.record.to.clear());
    fine(|c| c.telemetry.record.to = "/var/lib/pathloom/recording".into());
    for window in [1_000, 3_600_000] {
        fine(|c| c.telemetry.record.window = ms(window));
    }
    for window in [0, 999, 3_600_001] {
        error("telemetry.record.window: ", |c| c.telemetry.record.window = ms(window));
    }
    fine(|c| c.telemetry.record.rotate = ByteSize(1_024));
    error("telemetry.record.rotate: ", |c| c.telemetry.record.rotate = ByteSize(1_023));
    fine(|c| c.telemetry.record.keep = ByteSize(256 << 20));
    error("telemetry.record.keep: ", |c| c.telemetry.record.keep = ByteSize((256 << 20) - 1));
}

#[test]
fn telemetry() {
    error("telemetry.access_log.to: ", |c| c.telemetry.access_log.to.clear());
    error("telemetry.idle_links: ", |c| c.telemetry.idle_links = ms(0));
    for rate in [-0.1, 1.1, f64::NAN] {
        error("telemetry.traces.sample: ", |c| c.telemetry.traces.sample = Share(rate));
    }
    for log in ["info", "off", "WARN", "pathloom=debug,info", "info,hyper::proto=warn", "pathloom[request]=trace"] {
        fine(|c| c.telemetry.log = log.into());
    }
    for (log, expected) in [
        ("", "the log's filter is empty"),
        ("inof", "`inof` is not a log level / did you mean `info`?"),
        ("warning", "did you mean `warn`?"),
        ("pathloom=verbose", "`verbose` is not a log level"),
        ("info,a=b=c", "`c` is not a log level"),
        ("info,,debug", "is not a log level"),
        ("pathloom[=info", "is not a log filter"),
    ] {
        error(expected, |c| c.telemetry.log = log.into());
    }
    for otlp in [
        "",
        "http://127.0.0.1:4318/v1/traces",
        "https://collector.example/v1/traces",
        "http://[::1]:4318/x",
        "http://a:65535/x",
    ] {
        fine(|c| c.telemetry.traces.otlp = otlp.into());
    }
    for otlp in [
        "127.0.0.1:4318",
        "grpc://a/b",
        "http://",
        "http:///v1",
        "http://a:0/x",
        "http://a:65536/x",
        "http://a:b/x",
        "http://a b/x",
        "http://u:p@a/x",
        "http://*.a/x",
    ] {
        error("is not a collector's URL", |c| c.telemetry.traces.otlp = otlp.into());
    }
    for otlp in ["http://127.0.0.1:4317", "http://collector:4317/", "http://[::1]"] {
        fine(|c| {
            c.telemetry.traces.otlp = otlp.into();
            c.telemetry.traces.protocol = Otlp::Grpc;
        });
    }
    for (otlp, doubt) in [
        ("http://a:4318", "4318 is by custom the port of OTLP over HTTP"),
        ("http://a:4317/v1/traces", "gRPC has a path of its own, and this one is not used / write `http://a:4317`"),
    ] {
        warning(doubt, |c| {
            c.telemetry.traces.otlp = otlp.into();
            c.telemetry.traces.protocol = Otlp::Grpc;
        });
    }
    error("no header carries a trace", |c| c.telemetry.traces.propagators = vec![]);
    error("a propagator is there twice", |c| {
        c.telemetry.traces.propagators = vec![Propagator::B3, Propagator::TraceContext, Propagator::B3];
    });
    fine(|c| c.telemetry.traces.propagators = Propagator::ALL.to_vec());
    warning("4317 is by custom the port of OTLP over gRPC", |c| {
        c.telemetry.traces.otlp = "http://a:4317/v1/traces".into()
    });
    warning("the URL has no path, and is used as it stands / write `http://a:4318/v1/traces`", |c| {
        c.telemetry.traces.otlp = "http://a:4318".into()
    });
}

fn traces(change: impl FnOnce(&mut Traces)) -> impl FnOnce(&mut Config) {
    |c: &mut Config| {
        c.telemetry.traces.otlp = "https://collector.example/v1/traces".into();
        change(&mut c.telemetry.traces);
    }
}

#[test]
fn a_collector_is_spoken_to_by_tls_with_a_certificate_and_its_key() {
    fine(traces(|t| t.tls.authorities = Some("/m/ca.pem".into())));
    fine(traces(|t| (t.tls.certificate, t.tls.key) = (Some("/m/a.pem".into()), Some("/m/a-key.pem".into()))));
    error(
        "telemetry.traces.tls.certificate!: `certificate` is of no use without `key` / add `key`",
        traces(|t| t.tls.certificate = Some("/m/a.pem".into())),
    );
    error(
        "telemetry.traces.tls.authorities: `authorities` names no file",
        traces(|t| t.tls.authorities = Some("".into())),
    );
    let plain = |t: &mut Traces| {
        t.otlp = "http://127.0.0.1:4318/v1/traces".into();
        t.tls.authorities = Some("/m/ca.pem".into());
    };
    error("telemetry.traces.tls!: no TLS is spoken with a collector at `http://`", traces(plain));
    fine(|c| c.telemetry.traces.tls.authorities = Some("/m/ca.pem".into()));
}

#[test]
fn headers_for_a_collector_can_be_sent_and_are_told_by_their_names_alone() {
    let with = |name: &'static str, value: &str| {
        let value = value.into();
        traces(move |t| drop(t.headers.insert(name.into(), value)))
    };
    fine(with("Authorization", "Bearer a.b-c~d/e+f=="));
    fine(with("x-team", &"a".repeat(MAX_HEADER_VALUE)));
    for (name, value, said) in [
        ("x team", "a", "`x team` is not the name of a header"),
        ("Content-Type", "a", "the exporter writes `Content-Type` by itself"),
        ("grpc-timeout", "1S", "the exporter writes `grpc-timeout` by itself"),
        ("x-team", "", "the header `x-team` is empty"),
        ("x-team", " a", "the header `x-team` holds what cannot be sent"),
        ("x-team", "a\r\nhost: b", "the header `x-team` holds what cannot be sent"),
        ("x-team", "schl\u{fc}ssel", "the header `x-team` holds what cannot be sent"),
    ] {
        error(&format!("telemetry.traces.headers!: {said}"), with(name, value));
    }
    let long = "a".repeat(MAX_HEADER_VALUE + 1);
    error("telemetry.traces.headers!: 8193 bytes are too many for the header `x-team`", with("x-team", &long));
    fine(with("x-bin", "a"));
    let binary = |t: &mut Traces| {
        t.protocol = Otlp::Grpc;
        t.otlp = "https://a:4317".into();
        t.headers.insert("x-bin".into(), "a".into());
    };
    error("telemetry.traces.headers!: gRPC holds the value of `x-bin` for bytes", traces(binary));
    let twice = |t: &mut Traces| t.headers.extend([("X-Team".into(), "a".into()), ("x-team".into(), "b".into())]);
    error("telemetry.traces.headers!: the header `x-team` is there twice", traces(twice));
    let many = |n: usize| traces(move |t| t.headers.extend((0..n).map(|i| (format!("x-{i}"), "a".into()))));
    fine(many(MAX_HEADERS));
    error("telemetry.traces.headers!: 33 headers are more than a collector asks for", many(MAX_HEADERS + 1));
    let open = |to: &'static str| {
        traces(move |t| {
            t.otlp = to.into();
            t.headers.insert("x-team".into(), "a".into());
        })
    };
    warning(
        "telemetry.traces.headers!: whoever is on the way to `c` can read the headers / write `https://`",
        open("http://c:4318/v1/traces"),
    );
    fine(open("http://127.0.0.1:4318/v1/traces"));
    fine(open("http://[::1]:4318/v1/traces"));
}
