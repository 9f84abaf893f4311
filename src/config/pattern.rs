//! Regular expressions that routes match by.
//!
//! The syntax is that of the `regex` crate, over bytes and with ASCII classes (`\d` is `[0-9]`): nearly that of RE2, which
//! other proxies use. There is nothing in it that takes more than linear time (no look-around, no references back). A
//! pattern matches a text when it matches all of it: `/v[0-9]+` matches `/v2`, and neither `/v2/a` nor `/a/v2`.
//!
//! Patterns come from who configures and from whoever may write routes in Kubernetes, so everything about them is bounded:
//! their length, what they compile to, and the memory that a search fills. A search takes memory that an earlier one left
//! behind; where another thread has it at this moment, it takes its own and waits for nobody.

use regex::bytes::{Regex, RegexBuilder};

/// How many bytes a pattern may have: what the Gateway API allows of the longest of its own.
pub const MAX_PATTERN: usize = 4_096;
/// How many bytes a pattern may compile to.
const MAX_COMPILED: usize = 128 << 10;
/// How many bytes a search may fill with what it finds out, before it forgets and goes on by slower means.
const MAX_SEARCH: usize = 128 << 10;
/// How deeply groups may be nested.
const MAX_DEPTH: u32 = 50;

/// A regular expression that matches whole texts.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    whole: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadPattern {
    /// There is nothing in it.
    Empty,
    /// It has this many bytes.
    TooLong(usize),
    /// It cannot be read; why, in a few words.
    Unreadable(String),
    /// It compiles to more than it may.
    TooLarge,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than a pattern may be.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.is_empty() {
            return Err(BadPattern::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(BadPattern::TooLong(text.len()));
        }
        // By itself first: `a)|(b` must not get out of the group that it is put into.
        compiled(text)?;
        Ok(Self { text: text.into(), whole: compiled(&format!(r"\A(?:{text})\z"))? })
    }

    /// Whether it matches all of a text.
    #[inline]
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.whole.is_match(text)
    }

    /// The pattern that matches this text and no other.
    #[must_use]
    pub fn escaped(text: &str) -> String {
        regex::escape(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

fn compiled(text: &str) -> Result<Regex, BadPattern> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).size_limit(MAX_COMPILED).dfa_size_limit(MAX_SEARCH).nest_limit(MAX_DEPTH);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => BadPattern::TooLarge,
        other => {
            // The message draws the pattern over several lines; the last one says what is wrong.
            let drawn = other.to_string();
            let said = drawn.lines().last().unwrap_or_default().trim();
            BadPattern::Unreadable(said.trim_start_matches("error: ").to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_all_of_a_text_or_nothing() {
        let matches = |pattern: &str, text: &str| Pattern::new(pattern).unwrap().matches(text.as_bytes());
        for (pattern, text) in [
            ("/v[0-9]+", "/v2"),
            ("/v[0-9]+", "/v123"),
            ("/a|/b/c", "/b/c"),
            ("/a|/ab", "/ab"),
            (r"/\d{2}", "/42"),
            ("(?i)/A", "/a"),
            ("^/a$", "/a"),
            ("/é", "/é"),
            ("/.*", "/"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("/v[0-9]+", "/v2/a"),
            ("/v[0-9]+", "/a/v2"),
            ("/a|/b", "/a/b"),
            ("/a|/b", "x/b"),
            ("(?m)^/a$", "/b\n/a"),
            ("/a", "/a\n"),
            (r"/\d", "/٣"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!(Pattern::new(&Pattern::escaped("a.b(c)")).unwrap().matches(b"a.b(c)"));
        assert!(!Pattern::new(&Pattern::escaped("a.b")).unwrap().matches(b"axb"));
    }

    #[test]
    fn what_cannot_be_read_or_is_too_large_is_no_pattern() {
        assert_eq!(Pattern::new(""), Err(BadPattern::Empty));
        let long = |bytes: usize| Pattern::new(&"a".repeat(bytes));
        assert!(long(1_000).is_ok());
        assert_eq!(long(MAX_PATTERN + 1), Err(BadPattern::TooLong(MAX_PATTERN + 1)));
        for large in ["(?:[a-z]{100}){100}", "(?:.{1,100}){1,100}"] {
            assert_eq!(Pattern::new(large), Err(BadPattern::TooLarge), "{large}");
        }
        for (unreadable, why) in [
            ("[a", "unclosed character class"),
            ("a)|(b", "unopened group"),
            ("(?x)/a # all", "unclosed group"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            (r"\pL", "Unicode"),
        ] {
            let Err(BadPattern::Unreadable(said)) = Pattern::new(unreadable) else { panic!("{unreadable}") };
            assert!(said.contains(why), "{unreadable}: {said}");
        }
        let deep = |groups: usize| Pattern::new(&("(".repeat(groups) + "a" + &")".repeat(groups)));
        assert!(deep(40).is_ok() && matches!(deep(60), Err(BadPattern::Unreadable(_))));
    }
}
