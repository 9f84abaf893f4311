//! What a reload cannot change.
//!
//! Most of a configuration takes effect at once. A few keys are read when the process starts and never again: they
//! shape its threads and every connection, or a library that cannot be unloaded. A reload that
//! changes one of them names it ([`restart_needed`]), and the rest takes effect ([`keep_started`]). The addresses to
//! listen on are not among them: new ones are opened, and removed ones are closed.

use super::schema::Config;

/// Writes both functions from one list, so that what is named is what is kept.
macro_rules! read_at_start {
    ($($path:literal => $($field:ident).+;)*) => {
        /// The keys in which `new` differs from `old` and that take effect at the next start only.
        #[must_use]
        pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
            let mut keys = Vec::new();
            $(if old.$($field).+ != new.$($field).+ {
                keys.push($path);
            })*
            keys
        }

        /// `new`, but for the keys that a reload cannot change, which stay as they are in `old`.
        #[must_use]
        pub fn keep_started(old: &Config, mut new: Config) -> Config {
            $(new.$($field).+.clone_from(&old.$($field).+);)*
            new
        }
    };
}

read_at_start! {
    // It is in the identity under which traces are exported and links are shared.
    "node.name" => node.name;
    "node.zone" => node.zone;
    "admin.listen" => admin.listen;
    "admin.mode" => admin.mode;
    "admin.metrics" => admin.metrics;
    "process.threads" => process.threads;
    "process.drain" => process.drain;
    "process.handover" => process.handover;
    "process.privileges" => process.privileges;
    // The library stays loaded, and its environment with it.
    "model.engine" => model.engine;
    "model.device" => model.device;
    "model.onnxruntime" => model.onnxruntime;
    // Connections that are open keep the limits that they came in with.
    "listeners.idle" => listeners.idle;
    "listeners.request_headers" => listeners.request_headers;
    "listeners.max_header_bytes" => listeners.max_header_bytes;
    "listeners.max_headers" => listeners.max_headers;
    "listeners.detect" => listeners.detect;
    "listeners.max_connections" => listeners.max_connections;
    "listeners.max_streams" => listeners.max_streams;
    "telemetry.record" => telemetry.record;
    "telemetry.traces.sample" => telemetry.traces.sample;
    "telemetry.traces.propagators" => telemetry.traces.propagators;
}

#[cfg(test)]
mod tests {
    use super::super::load::load_str;
    use super::super::reference::keys;
    use super::*;

    fn config(text: &str) -> Config {
        load_str(text, "test.yaml").unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_needs_a_restart_is_named_and_kept_and_the_rest_takes_effect() {
        let old = config("model: { tick: 1s }");
        let new = config(
            "node: { name: other }\nlisteners: { idle: 7s }\nadmin: { listen: 127.0.0.1:9901 }\nprocess: { threads: 3, drain: 1s }\n\
             model: { tick: 2s, engine: embedded, device: cpu, onnxruntime: /lib/x.so }\n\
             telemetry: { log: debug, traces: { otlp: \"http://127.0.0.1:4318/v1/traces\", sample: 5% } }\n\
             workloads: { a: { listen: 127.0.0.1:15001 } }\nroutes: [{ cluster: b }]\nclusters: { b: {} }",
        );
        let named = restart_needed(&old, &new);
        assert_eq!(named.len(), 9, "{named:?}");
        assert!(named.contains(&"process.threads") && named.contains(&"model.onnxruntime"));
        let kept = keep_started(&old, new.clone());
        assert_eq!(restart_needed(&old, &kept), Vec::<&str>::new());
        assert_eq!((kept.process, kept.admin, kept.listeners), (old.process, old.admin, old.listeners));
        assert_eq!(kept.model.engine, old.model.engine);
        assert_eq!(kept.telemetry.traces.otlp, new.telemetry.traces.otlp);
        assert_eq!((kept.workloads, kept.routes, kept.clusters), (new.workloads, new.routes, new.clusters));
        assert_eq!((kept.model.tick, kept.telemetry.log), (new.model.tick, new.telemetry.log));
    }

    #[test]
    fn the_same_configuration_needs_no_restart() {
        assert_eq!(restart_needed(&Config::default(), &Config::default()), Vec::<&str>::new());
    }

    #[test]
    fn every_named_key_exists() {
        let mut all = config(
            "node: { name: a, zone: b }\nadmin: { listen: 127.0.0.1:1, mode: 0660 }\nprocess: { threads: 3, drain: 1s, privileges: inherited }",
        );
        all.model = config("model: { engine: embedded, device: cpu, onnxruntime: x }").model;
        all.telemetry = config("telemetry: { record: /r, traces: { sample: 2%, propagators: [b3] } }").telemetry;
        all.listeners = config(
            "listeners: { idle: 1s, request_headers: 1s, max_header_bytes: 16KiB, max_headers: 7, max_connections: 7, max_streams: 7 }",
        )
        .listeners;
        let named = restart_needed(&Config::default(), &all);
        assert_eq!(named.len(), 19);
        for path in named {
            assert!(keys().iter().any(|key| key.path == path), "{path}");
        }
    }
}
