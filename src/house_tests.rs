//! The plan of the house as a test: a room imports only rooms that come before it here, so no two import each other.

use std::path::{Path, PathBuf};

const ROOMS: [&str; 18] = [
    "config",
    "capture",
    "links",
    "observe",
    "identity",
    "route",
    "admission",
    "balance",
    "graph",
    "mesh",
    "record",
    "health",
    "scorer",
    "proxy",
    "control",
    "admin",
    "demo",
    "app",
];

/// What a room must never know, whatever its place.
const FORBIDDEN: [(&str, &[&str]); 12] = [
    ("admission", &["pingora", "ort::", "tokio::"]),
    ("links", &["pingora", "ort::", "tokio::"]),
    ("graph", &["pingora", "ort::", "tokio::"]),
    ("balance", &["pingora", "ort::", "tokio::"]),
    ("record", &["pingora", "ort::", "tokio::"]),
    // Whatever carries what was seen, only `links` know what it means.
    ("mesh", &["pingora", "ort::", "crate::graph", "crate::balance", "crate::identity", "crate::route"]),
    ("health", &["pingora", "ort::"]),
    ("identity", &["pingora", "ort::", "tokio::"]),
    ("route", &["pingora", "ort::", "tokio::"]),
    ("scorer", &["pingora"]),
    // A request never waits for an inference: whoever serves it does not know that there is one.
    ("proxy", &["crate::scorer", "crate::graph", "ort::"]),
    ("control", &["pingora", "ort::"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The lines of a room that are code of the product: neither comments nor tests.
fn code_of(room: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut files);
    files.retain(|f| !f.to_string_lossy().contains("test") && !f.ends_with("fixture.rs"));
    let code = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let lines: Vec<_> = product
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .map(|l| (file.clone(), l.to_owned()))
            .collect();
        lines
    };
    files.into_iter().flat_map(code).collect()
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for (place, room) in ROOMS.iter().enumerate() {
        for (file, line) in code_of(room) {
            for later in &ROOMS[place + 1..] {
                if line.contains(&format!("crate::{later}::")) || line.contains(&format!("crate::{later};")) {
                    wrong.push(format!("{}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rooms_do_not_know_what_they_must_never_know() {
    for (room, never) in FORBIDDEN {
        for (file, line) in code_of(room) {
            let known = never.iter().find(|n| line.contains(&format!("use {n}")) || line.contains(&format!(" {n}")));
            assert!(known.is_none(), "{}: {}", file.display(), line.trim());
        }
    }
}
