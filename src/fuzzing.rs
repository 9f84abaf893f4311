//! Everything that reads what others wrote, as functions of bytes: what `make fuzz` throws mutated input at, and the tests
//! a little of it. None of them may panic, take memory beyond what came in, or accept what must be refused.

use crate::proxy::fuzzing as proxy;

/// A reader of bytes, and bytes from which mutations start.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads.
    pub read: fn(&[u8]),
    /// What is well formed, or nearly.
    pub seeds: &'static [&'static [u8]],
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "configuration",
        read: configuration,
        seeds: &[
            include_bytes!("../proxy-config/quickstart.yaml"),
            b"routes: [{ match: { host: a }, split: { b: 90%, c: 10% } }]\nclusters: { b: {}, c: { endpoints: ['${X:-1.2.3.4:5}'] } }",
        ],
    },
    Target {
        name: "endpoints",
        read: endpoints,
        seeds: &[b"endpoints:\n  - { address: 10.1.2.3:8080, zone: eu-1a }\n  - { address: '[::1]:80', weight: 2, metadata: { a: b } }\n"],
    },
    Target { name: "request1", read: proxy::request1, seeds: REQUESTS },
    Target { name: "answer1", read: proxy::answer1, seeds: ANSWERS },
    Target { name: "client2", read: proxy::client2, seeds: FRAMES },
    Target { name: "endpoint2", read: proxy::endpoint2, seeds: FRAMES },
    Target { name: "proxy_header", read: proxy::proxy_header, seeds: HEADERS },
    Target { name: "first_bytes", read: proxy::first_bytes, seeds: FIRST },
    Target {
        name: "orca",
        read: orca,
        seeds: &[
            b"TEXT cpu_utilization=0.5, rps_fractional=12.5, mem_utilization=1e-3, named_metrics.x=1",
            b"JSON {\"cpu_utilization\": 0.3, \"eps\": 1}",
            b"CQAAAAAAAOA/EQAAAAAAAOA/",
        ],
    },
    Target { name: "report", read: report, seeds: REPORTS },
    Target { name: "model", read: model, seeds: &[include_bytes!("../models/pathloom.onnx")] },
];

const REQUESTS: &[&[u8]] = &[
    b"GET /items/7?a=b HTTP/1.1\r\nHost: catalog.shop\r\nAccept: */*\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"PUT http://a/b HTTP/1.0\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\nhelloGET / HTTP/1.1\r\nhost: b\r\n\r\n",
];

const ANSWERS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 4\r\n\r\nfine",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
    b"HTTP/1.0 404 \r\nconnection: close\r\n\r\nto the end",
];

/// Settings, a request or an answer (`:status` and `:method` stand in the static table), DATA, and what else there is.
const FRAMES: &[&[u8]] = &[
    b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\0\x05\x01\x04\0\0\0\x01\x82\x86\x84\x41\x01a\0\0\x05\0\x01\0\0\0\x01hello",
    b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\x01\0\0\0\x01fine\0\0\x08\x06\0\0\0\0\0pathloom",
    b"\0\0\0\x04\x01\0\0\0\0\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\0\0\x03\x01\0\0\0\0\x03\x82\x86\x84\0\0\x03\x09\x04\0\0\0\x03\x41\x01a\0\0\x05\x02\0\0\0\0\x03\0\0\0\x01\x10",
];

/// PROXY headers of both versions, for both families.
const HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 fd00::1 fd00::2 1000 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x03\xe8\0\x50rest",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b0123456789abcdef0123456789abcdef\x03\xe8\0\x50\x04\0\x04abcd",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
];

/// What clients of several protocols say first.
const FIRST: &[&[u8]] = &[
    b"GET /items HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x030123456789abcdef0123456789abcdef\0\0\x02\x13\x01\x01\0\0\x11\0\0\0\x0d\0\x0b\0\0\x08db.shop.\0\0",
];

fn endpoints(bytes: &[u8]) {
    if let Err(errors) = crate::config::load_endpoints(bytes, "fuzz.yaml") {
        assert!(!errors.to_string().is_empty());
    }
}
/// What another node tells: its head, two names, a link and an instance.
const REPORTS: &[&[u8]] = &[
    b"\x08\x01\x12\x01b\x18\x01\x20\x01\x28\x01\x3a\x01a\x3a\x01c\
      \x42\x1f\x10\x01\x18\x64\x20\x0a\x28\x0a\x30\x0a\x38\xe8\x07\x40\x01\x48\xe8\x07\x50\0\x58\x01\x60\xe8\x07\x68\x64\x72\x02\x01\x02\
      \x4a\x0b\x08\x02\x10\x01\x2d\0\0\0\x3f\x50\x64",
];

fn configuration(bytes: &[u8]) {
    let no_variables = |_: &str| None;
    match crate::config::load_with(bytes, "fuzz.yaml", &no_variables) {
        // What is right can be written, and is right then, too.
        Ok(loaded) => {
            let written = loaded.config.to_yaml();
            let again = crate::config::load_with(written.as_bytes(), "again.yaml", &no_variables);
            assert!(again.is_ok_and(|again| again.config == loaded.config), "{written}");
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

fn orca(bytes: &[u8]) {
    use crate::links::orca::Report;
    for report in [Report::parse(bytes), Report::parse_binary(bytes)].into_iter().flatten() {
        assert!(report.values().into_iter().flatten().all(|value| value.is_finite() && value >= 0.0), "{report:?}");
    }
}

fn report(bytes: &[u8]) {
    use crate::links::{TOLD_FOR, Time};
    use crate::mesh::{Ledger, wire::Report};
    let Ok(report) = Report::read(bytes) else { return };
    let (made_ms, now, mut ledger) = (report.head.made_ms, Time(1_000_000_000), Ledger::new("me".into()));
    let links = report.links.len();
    if ledger.take(report, now, made_ms, |_| false).is_err() {
        return;
    }
    let told = ledger.told(&[], 0).unwrap_or_default();
    assert!(told.links.len() <= links);
    for stats in told.links.iter().filter_map(|link| link.stats(now)) {
        let values = [stats.latency_mean_s, stats.latency_p99_s, stats.jitter_s, stats.calls_per_second, stats.age_s];
        assert!(values.into_iter().flatten().all(|value| value.is_finite() && value >= 0.0), "{stats:?}");
    }
    ledger.forget(now + 2 * TOLD_FOR);
    assert_eq!(ledger.links(), 0);
}

fn model(bytes: &[u8]) {
    // What it says of a file is a reason, never a panic.
    if let Err(error) = crate::scorer::verify(bytes) {
        assert!(!error.to_string().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, RngExt, SeedableRng};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// How many inputs a test makes of each target whose seeds are short; long ones get fewer.
    const INPUTS: usize = 3_000;
    const BYTES: usize = 6_000_000;

    fn mutated(target: &Target, rng: &mut SmallRng) -> Vec<u8> {
        let seed = |rng: &mut SmallRng| target.seeds[rng.random_range(0..target.seeds.len())];
        let mut bytes = seed(rng).to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=bytes.len());
            let until = rng.random_range(at..=bytes.len().min(at + 64));
            match rng.random_range(0..6) {
                0 => drop(bytes.drain(at..until)),
                1 => {
                    let part = bytes[at..until].to_vec();
                    let to = rng.random_range(0..=bytes.len());
                    drop(bytes.splice(to..to, part));
                }
                2 => bytes[at..until].iter_mut().for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
                3 => {
                    let mut new = vec![0; rng.random_range(0..20)];
                    rng.fill_bytes(&mut new);
                    drop(bytes.splice(at..until, new));
                }
                4 => bytes.truncate(until),
                _ => {
                    let other = seed(rng);
                    let from = rng.random_range(0..=other.len());
                    drop(bytes.splice(at..at, other[from..other.len().min(from + 200)].iter().copied()));
                }
            }
        }
        bytes
    }

    #[test]
    fn what_others_wrote_is_read_or_refused_and_never_a_panic() {
        for target in &TARGETS {
            target.seeds.iter().for_each(|seed| (target.read)(seed));
            let longest = target.seeds.iter().map(|seed| seed.len()).max().unwrap();
            for n in 0..INPUTS.min(BYTES / longest) {
                let bytes = mutated(target, &mut SmallRng::seed_from_u64(n as u64));
                let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&bytes)));
                assert!(read.is_ok(), "{}, input {n}: {}", target.name, bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn make_fuzz_leaves_none_out() {
        let makefile = include_str!("../Makefile");
        let listed = makefile.lines().find_map(|line| line.strip_prefix("FUZZ_TARGETS ?= ")).unwrap();
        assert_eq!(listed.split(' ').collect::<Vec<_>>(), TARGETS.map(|target| target.name));
    }

    #[test]
    fn most_seeds_are_what_they_seem() {
        for seed in REQUESTS.iter().chain(ANSWERS) {
            assert!(seed.windows(4).any(|w| w == b"\r\n\r\n"));
        }
        for seed in REPORTS {
            assert!(crate::mesh::wire::Report::read(seed).is_ok_and(|r| r.links.len() == 1 && r.nodes.len() == 1));
        }
        assert!(TARGETS.iter().all(|target| !target.seeds.is_empty() && !target.name.is_empty()));
    }
}
