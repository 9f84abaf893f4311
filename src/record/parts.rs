//! The files of a recording: which are there, how large, and which number comes next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Its number; 0 for `nodes.csv.gz`, which has none.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// How large, in bytes.
    pub bytes: u64,
}

/// What part files are called: `nodes-0001.csv.gz`; without a number `nodes.csv.gz`.
#[must_use]
pub fn file_name(table: &str, number: u32) -> String {
    if number == 0 { format!("{table}.csv.gz") } else { format!("{table}-{number:04}.csv.gz") }
}

/// The number of a part file's name; none when it is no part of a recording.
fn number_of(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".csv")?;
    let rest = stem.strip_prefix("nodes").or_else(|| stem.strip_prefix("links"))?;
    match rest.strip_prefix('-') {
        Some(digits) => digits.parse().ok(),
        None => rest.is_empty().then_some(0),
    }
}

/// All parts in a folder, the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn all(folder: &Path) -> io::Result<Vec<Part>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        if let Some(number) = entry.file_name().to_str().and_then(number_of).filter(|_| kind.is_file()) {
            found.push(Part { number, path: entry.path(), bytes: kind.len() });
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        for number in [0, 1, 42, 12_345] {
            assert_eq!(number_of(&file_name("nodes", number)), Some(number));
        }
        assert_eq!(number_of("links.csv"), Some(0));
        for other in ["meta.json", "nodes.txt", "nodes-x.csv", "nodesofold.csv.gz", "links-0001.csv.gz.tmp"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
