//! The plan of the house as a test: a room imports only rooms that come before it here, so no two import each other.

use std::path::{Path, PathBuf};

const ROOMS: [&str; 21] = [
    "config",
    "links",
    "observe",
    "discovery",
    "capture",
    "identity",
    "secure",
    "workload_api",
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
const FORBIDDEN: [(&str, &[&str]); 15] = [
    ("admission", &["pingora", "ort::", "tokio::"]),
    ("discovery", &["pingora", "ort::"]),
    ("links", &["pingora", "ort::", "tokio::"]),
    ("graph", &["pingora", "ort::", "tokio::"]),
    ("balance", &["pingora", "ort::", "tokio::"]),
    ("record", &["pingora", "ort::", "tokio::"]),
    // Whatever carries what was seen, only `links` know what it means.
    ("mesh", &["pingora", "ort::", "crate::graph", "crate::balance", "crate::identity", "crate::route"]),
    ("health", &["pingora", "ort::"]),
    ("identity", &["pingora", "ort::", "tokio::"]),
    ("secure", &["pingora", "ort::"]),
    ("workload_api", &["pingora", "ort::"]),
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

/// What is neither a comment nor an item that only tests have.
fn product(text: &str) -> Vec<String> {
    let (mut lines, mut kept) = (text.lines(), Vec::new());
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        if code != "#[cfg(test)]" {
            if !code.starts_with("//") {
                kept.push(line.to_owned());
            }
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
        // One line, or all to the brace that closes it.
        if item.is_some_and(|item| !item.ends_with([';', '}'])) {
            lines.by_ref().find(|line| line.starts_with(&close));
        }
    }
    kept
}

/// Whether a line names a path, and not another that ends like it.
fn names(line: &str, path: &str) -> bool {
    let in_a_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(in_a_name))
}

/// The lines of a room that are code of the product: neither comments nor tests.
fn code_of(room: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut files);
    files.retain(|f| !f.to_string_lossy().contains("test") && !f.ends_with("fixture.rs"));
    let code = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        product(&text).into_iter().map(move |line| (file.clone(), line))
    };
    files.into_iter().flat_map(code).collect()
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for (place, room) in ROOMS.iter().enumerate() {
        for (file, line) in code_of(room) {
            // Rooms are imported one by one, so that they are found.
            let grouped = names(&line, "crate::{");
            for later in &ROOMS[place + 1..] {
                let ends = ["::", ";", ")", ">", " "].iter().any(|end| names(&line, &format!("crate::{later}{end}")));
                if ends || grouped {
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
            let around = |never: &str| names(&line, &never.replace("crate::", "super::"));
            let known = never.iter().find(|never| names(&line, never) || around(never));
            assert!(known.is_none(), "{}: {}", file.display(), line.trim());
        }
    }
}

#[test]
fn what_is_looked_at_is_the_product_and_all_of_it() {
    let text = "use a;\n// b\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod x;\n\
                impl A {\n    #[cfg(test)]\n    fn c() {\n        d\n    }\n    e\n}\n#[cfg(test)]\nmod tests {\n    f\n}\ng\n";
    assert_eq!(product(text), ["use a;", "impl A {", "    e", "}", "g"]);
    assert!(names("fn f(_: &crate::scorer::Scorer)", "crate::scorer") && names("ort::init()", "ort::"));
    assert!(!names("report::write()", "ort::"));
}
