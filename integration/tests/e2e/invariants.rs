//! `INVARIANTS.md` says which test holds each line: each line has some, and each of them is there.

use std::path::Path;

const LIST: &str = include_str!("../../INVARIANTS.md");

#[test]
fn every_invariant_names_tests_that_exist() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let (mut named, mut wrong) = (0, Vec::new());
    for line in LIST.lines().filter_map(|line| line.trim().strip_prefix("- `")) {
        let (file, name) = line.trim_end_matches('`').split_once(": ").unwrap_or_else(|| panic!("{line}"));
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        // The attribute stands right before a test; what proptest holds, between braces of its own.
        let mut lines = text.lines();
        let mut attribute = false;
        let found = lines.any(|line| {
            let line = line.trim();
            let is_it = line.contains(&format!("fn {name}(")) && attribute;
            attribute = line.starts_with("#[test]")
                || line.starts_with("#[tokio::test")
                || (attribute && line.starts_with('#'));
            is_it
        });
        if !found {
            wrong.push(format!("{file}: {name}"));
        }
        named += 1;
    }
    assert!(wrong.is_empty(), "no such tests: {wrong:#?}");
    assert!(named >= 80, "{named} tests are named");
}

#[test]
fn every_line_of_both_lists_has_a_test() {
    for (section, lines) in [("## The two loops", 15), ("## As the most trusted ones", 9), ("## The process", 2)] {
        let text = LIST.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
        // A line begins with its number and goes on, indented, to the next one's.
        let starts: Vec<usize> = text
            .match_indices('\n')
            .map(|(at, _)| at + 1)
            .filter(|at| text[*at..].starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        assert_eq!(starts.len(), lines, "{section}");
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(text.len());
            assert!(text[*start..end].contains("- `"), "{section}: line {} has no test", n + 1);
        }
    }
}
