//! Environment variables inside values: `${NAME}`, `${NAME:-default}`, and `$${` for a literal `${`.
//!
//! As in a shell, `:-` also stands in for a variable that is set and empty; its default may hold variables again. A
//! variable without a default that is not set is an error. `$NAME` without braces is ordinary text.

/// How deep defaults may lie in each other.
const MAX_NESTING: usize = 8;
/// How long a value may become.
const MAX_EXPANDED: usize = 1 << 20;

/// Where variables come from: a lookup, so that tests need not change the process's own.
#[derive(Clone, Copy)]
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<String>);

/// A variable that cannot be filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// The reference as written, from its `${`, by which its place is found.
    pub written: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Environment<'_> {
    /// Fills in every variable of a value.
    pub fn expand(&self, text: &str) -> Result<String, Unfilled> {
        let expanded = self.nested(text, 0)?;
        Ok(expanded)
    }

    fn nested(&self, text: &str, depth: usize) -> Result<String, Unfilled> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, reference) = rest.split_at_checked(at).unwrap_or((rest, ""));
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = reference.get(2..).unwrap_or_default();
                continue;
            }
            out.push_str(before);
            let (inside, after) = closed(reference)?;
            out.push_str(&self.one(inside, depth)?);
            if out.len() > MAX_EXPANDED {
                return Err(Unfilled {
                    written: format!("${{{inside}}}"),
                    message: format!(
                        "with its variables filled in, this value is longer than {} KiB",
                        MAX_EXPANDED / 1024
                    ),
                    remedy: "use a shorter value".to_owned(),
                });
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of what stands between the braces.
    fn one(&self, inside: &str, depth: usize) -> Result<String, Unfilled> {
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        let written = || format!("${{{inside}}}");
        let word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !word {
            return Err(Unfilled {
                written: written(),
                message: format!("`{name}` is not the name of an environment variable"),
                remedy: "write `${NAME}` or `${NAME:-default}`; for a literal `${`, write `$${`".to_owned(),
            });
        }
        if depth >= MAX_NESTING {
            return Err(Unfilled {
                written: written(),
                message: format!("defaults lie more than {MAX_NESTING} deep in each other"),
                remedy: "use fewer variables".to_owned(),
            });
        }
        match ((self.0)(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => self.nested(default, depth + 1),
            (None, None) => Err(Unfilled {
                written: written(),
                message: format!("the environment variable `{name}` is not set"),
                remedy: format!("set it, or give it a default: `${{{name}:-value}}`"),
            }),
        }
    }
}

/// Cuts a text that starts with `${` into what its braces hold and what follows them.
fn closed(reference: &str) -> Result<(&str, &str), Unfilled> {
    let mut open = 0_usize;
    let mut last = ' ';
    for (i, c) in reference.char_indices() {
        match c {
            '{' if last == '$' => open += 1,
            '}' if open == 1 => {
                let inside = reference.get(2..i).unwrap_or_default();
                return Ok((inside, reference.get(i + 1..).unwrap_or_default()));
            }
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
        last = c;
    }
    Err(Unfilled {
        written: reference.to_owned(),
        message: "`${` is not closed".to_owned(),
        remedy: "close it with `}`; for a literal `${`, write `$${`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str) -> Result<String, Unfilled> {
        Environment(&|name| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${SET}".to_owned()),
            _ => None,
        })
        .expand(text)
    }

    #[test]
    fn variables_are_filled_in_anywhere() {
        for (text, expected) in [
            ("plain $SET {SET}", "plain $SET {SET}"),
            ("${SET}", "value"),
            ("a-${SET}-${SET}b", "a-value-valueb"),
            ("${UNSET:-local}", "local"),
            ("${UNSET:-}", ""),
            ("${EMPTY:-local}", "local"),
            ("${EMPTY}", ""),
            ("${SET:-local}", "value"),
            ("${UNSET:-${SET}}", "value"),
            ("${UNSET:-a${OTHER:-b}c}d", "abcd"),
            ("$${SET}", "${SET}"),
            ("$${", "${"),
            ("a$${b}${SET}", "a${b}value"),
            ("${UNSET:-10.0.0.0/8:-x}", "10.0.0.0/8:-x"),
            ("${TRICKY}", "${SET}"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error_that_quotes_it() {
        for (text, written, message) in [
            ("a ${UNSET} b", "${UNSET}", "not set"),
            ("${UNSET:-${OTHER}}", "${OTHER}", "not set"),
            ("a ${SET", "${SET", "not closed"),
            ("${}", "${}", "not the name"),
            ("${1A}", "${1A}", "not the name"),
            ("${A-b}", "${A-b}", "not the name"),
        ] {
            let wrong = expand(text).unwrap_err();
            assert_eq!(wrong.written, written, "{text}");
            assert!(wrong.message.contains(message), "{text}: {}", wrong.message);
        }
        let deep = format!("{}x{}", "${A:-".repeat(20), "}".repeat(20));
        assert!(expand(&deep).unwrap_err().message.contains("deep"));
    }

    proptest! {
        #[test]
        fn any_text_expands_or_says_why(text in "[${}:\\-A-Zé ]{0,60}") {
            let _ = expand(&text);
        }

        #[test]
        fn text_without_a_reference_is_unchanged(text in "[^$]{0,60}") {
            prop_assert_eq!(expand(&text), Ok(text));
        }
    }
}
