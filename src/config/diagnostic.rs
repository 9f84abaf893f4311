//! What is wrong with a file, where, and what to do about it, printed as a compiler would.
//!
//! ```text
//! error: `timeout` is not a key of a cluster
//!   --> proxy.yaml:14:5
//!    |
//! 14 |     timeout: { connect: 1s }
//!    |     ^^^^^^^
//!    = help: did you mean `timeouts`?
//! ```
//!
//! Lines and columns count from 1, columns in characters. A line of 0 stands for the file as a whole. Control
//! characters of the file never reach the terminal, and a long line is shown around its column only.

use super::secret::masked;
use serde::Serialize;
use std::fmt;

/// How much of a long line is shown to either side of its column, in characters.
const SHOWN_AROUND: usize = 60;

/// Whether a finding stops the configuration from taking effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration takes effect, and may not do what was meant.
    Warning,
}

/// One line of the file, as a diagnostic shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// The line's number, from 1.
    pub number: usize,
    /// The line, without its end; cut around the column where it is long, its control characters replaced.
    pub text: String,
    /// How many characters of `text` stand before the mark.
    pub indent: usize,
    /// How many characters are marked; 0 marks none.
    pub marked: usize,
}

/// One finding: what is wrong, where, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the configuration is refused for it.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// The line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The column, from 1, in characters; 0 when the file as a whole is meant.
    pub column: usize,
    /// The lines concerned.
    pub lines: Vec<SourceLine>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it, or what was probably meant.
    pub remedy: Option<String>,
}

/// Every reason for which a configuration was refused, and the warnings beside them. At least one is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Errors(pub Vec<Diagnostic>);

impl Errors {
    /// One, about a file as a whole.
    #[must_use]
    pub fn of_file(name: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self(vec![Source { name, text: "" }.whole(message, Some(remedy.into()))])
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        let file = self.0.first().map_or("", |d| d.file.as_str());
        let count = |severity| self.0.iter().filter(|d| d.severity == severity).count();
        let words = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        write!(f, "{file}: {}", words(count(Severity::Error), "error"))?;
        match count(Severity::Warning) {
            0 => Ok(()),
            n => write!(f, ", {}", words(n, "warning")),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{kind}: {}", printable(&self.message))?;
        let gutter = self.lines.last().map_or(1, |line| line.number.to_string().len());
        write!(f, "{:gutter$}--> {}", "", printable(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        writeln!(f)?;
        if !self.lines.is_empty() {
            writeln!(f, "{:gutter$} |", "")?;
        }
        for line in &self.lines {
            writeln!(f, "{:>gutter$} | {}", line.number, line.text)?;
            if line.marked > 0 {
                writeln!(
                    f,
                    "{:gutter$} | {:indent$}{:^<marked$}",
                    "",
                    "",
                    "",
                    indent = line.indent,
                    marked = line.marked
                )?;
            }
        }
        if let Some(remedy) = &self.remedy {
            writeln!(f, "{:gutter$} = help: {}", "", printable(remedy))?;
        }
        Ok(())
    }
}

/// The text with every control character replaced, so that a file cannot write to somebody's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// A file's text and name, from which diagnostics are cut.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file's name, as it was given.
    pub name: &'a str,
    /// The file's text.
    pub text: &'a str,
}

/// A place in a [`Source`]: bytes `start..end` of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// How many findings of a kind are worth reading; the rest are counted.
pub const MAX_FINDINGS: usize = 100;

/// Collects findings about a source, up to [`MAX_FINDINGS`] of a kind: working out a place takes time, and a file can
/// hold a million mistakes.
#[derive(Debug)]
pub struct Collector<'a> {
    source: Source<'a>,
    found: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

impl<'a> Collector<'a> {
    /// Nothing found yet.
    #[must_use]
    pub fn new(source: Source<'a>) -> Self {
        Self { source, found: Vec::new(), errors: 0, warnings: 0 }
    }

    /// The text that findings are about.
    #[must_use]
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// Notes a finding.
    pub fn push(&mut self, severity: Severity, place: Place, message: impl Into<String>, remedy: Option<String>) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= MAX_FINDINGS {
            self.found.push(self.source.at(severity, place, message, remedy));
        }
    }

    /// Notes a finding that exists already.
    pub fn add(&mut self, diagnostic: Diagnostic) {
        match diagnostic.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        self.found.push(diagnostic);
    }

    /// Whether the configuration is refused.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.errors > 0
    }

    /// Whether another finding of a kind would only be counted.
    #[must_use]
    pub fn full(&self, severity: Severity) -> bool {
        match severity {
            Severity::Error => self.errors >= MAX_FINDINGS,
            Severity::Warning => self.warnings >= MAX_FINDINGS,
        }
    }

    /// What was found, in the order of the file, with a last one that counts what was left out.
    #[must_use]
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| (d.line, d.column, d.severity));
        for (severity, count, kind) in
            [(Severity::Error, self.errors, "errors"), (Severity::Warning, self.warnings, "warnings")]
        {
            if let Some(more) = count.checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
                let mut rest = self
                    .source
                    .whole(format!("there are {more} more {kind}"), Some("put these right first".to_owned()));
                rest.severity = severity;
                self.found.push(rest);
            }
        }
        self.found
    }
}

impl Source<'_> {
    /// A finding about `place`.
    #[must_use]
    pub fn at(
        &self,
        severity: Severity,
        place: Place,
        message: impl Into<String>,
        remedy: Option<String>,
    ) -> Diagnostic {
        let start = self.floor(place.start);
        let end = self.floor(place.end).max(start);
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = self.line(start);
        let indent = before.get(line_start..).unwrap_or_default().chars().count();
        let marked_text = self.text.get(start..end).unwrap_or_default();
        let marked = marked_text.lines().next().unwrap_or_default().trim_end().chars().count().max(1);
        let whole = self.text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        Diagnostic {
            severity,
            file: self.name.to_owned(),
            line,
            column: indent + 1,
            lines: vec![shown(line, (self.text.get(..line_start).unwrap_or_default(), whole), indent, marked)],
            message: message.into(),
            remedy,
        }
    }

    /// A finding about the file as a whole.
    #[must_use]
    pub fn whole(&self, message: impl Into<String>, remedy: Option<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: self.name.to_owned(),
            line: 0,
            column: 0,
            lines: Vec::new(),
            message: message.into(),
            remedy,
        }
    }

    /// The byte of a line and column, both from 1; past a line's end, the line's end.
    #[must_use]
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let start: usize = self.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let rest = self.text.get(start..).unwrap_or_default();
        let rest = rest.split('\n').next().unwrap_or_default();
        start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(i, _)| i)
    }

    /// The line, from 1, in which a byte stands.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.text.get(..self.floor(offset)).unwrap_or_default().matches('\n').count() + 1
    }

    fn floor(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset.min(self.text.len()))
    }
}

/// Cuts a line, of which is told what stands above it, around its mark, so that a file of one long line stays readable.
fn shown(number: usize, (before, line): (&str, &str), indent: usize, marked: usize) -> SourceLine {
    let line = line.trim_end_matches('\r');
    let hidden = masked(before, line);
    let line = hidden.as_ref();
    let length = line.chars().count();
    // What is marked may be behind what is shown: blanks at the end, or what a mask stands for.
    let indent = indent.min(length);
    let visible = |text: &mut dyn Iterator<Item = char>| -> String {
        text.map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{FFFD}',
            c => c,
        })
        .collect()
    };
    if length <= 2 * SHOWN_AROUND {
        return SourceLine {
            number,
            text: visible(&mut line.chars()),
            indent,
            marked: marked.min(length.saturating_sub(indent).max(1)),
        };
    }
    let from = indent.saturating_sub(SHOWN_AROUND);
    let to = (indent + SHOWN_AROUND).min(length);
    let mut text = visible(&mut line.chars().skip(from).take(to - from));
    let mut indent = indent - from;
    if from > 0 {
        text.insert(0, '…');
        indent += 1;
    }
    if to < length {
        text.push('…');
    }
    SourceLine { number, text: masked("", &text).into_owned(), indent, marked: marked.min(SHOWN_AROUND) }
}
