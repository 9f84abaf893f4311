//! What is wrong with a recording: file, line, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// So many errors, and so many warnings, are told; the rest is counted.
pub const MOST_TOLD: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which file or folder.
    pub file: PathBuf,
    /// On which line, from 1; 0 where it is the whole file.
    pub line: u64,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// Errors and warnings, the first of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What makes the recording unusable.
    pub errors: Vec<Finding>,
    /// What was read past.
    pub warnings: Vec<Finding>,
    /// Errors beyond those told.
    pub more_errors: u64,
    /// Warnings beyond those told.
    pub more_warnings: u64,
}

impl Findings {
    /// Notes an error.
    pub fn error(&mut self, file: &Path, line: u64, message: impl Into<String>) {
        note(&mut self.errors, &mut self.more_errors, file, line, message.into());
    }

    /// Notes a warning.
    pub fn warning(&mut self, file: &Path, line: u64, message: impl Into<String>) {
        note(&mut self.warnings, &mut self.more_warnings, file, line, message.into());
    }

    /// All errors as one text, a line each.
    #[must_use]
    pub fn error_text(&self) -> String {
        text(&self.errors, self.more_errors, "errors")
    }

    /// All warnings as one text, a line each; empty without any.
    #[must_use]
    pub fn warning_text(&self) -> String {
        text(&self.warnings, self.more_warnings, "warnings")
    }
}

fn note(to: &mut Vec<Finding>, more: &mut u64, file: &Path, line: u64, message: String) {
    if to.len() < MOST_TOLD {
        to.push(Finding { file: file.to_owned(), line, message });
    } else {
        *more += 1;
    }
}

fn text(all: &[Finding], more: u64, what: &str) -> String {
    let mut lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    if more > 0 {
        lines.push(format!("and {more} more {what}"));
    }
    lines.join("\n")
}
