//! From bytes to a [`Config`].

use super::diagnostic::{Errors, Place, Severity, Source};
use super::schema::Config;

/// Reads a configuration from text; `name` stands for the file in errors.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn load_str(text: &str, name: &str) -> Result<Config, Errors> {
    let source = Source { name, text };
    serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
        let diagnostic = match error.location() {
            Some(location) => {
                let start = source.offset(usize::try_from(location.line()).unwrap_or(1), usize::try_from(location.column()).unwrap_or(1));
                source.at(Severity::Error, Place { start, end: start + 1 }, error.without_snippet().to_string(), None)
            }
            None => source.whole(error.without_snippet().to_string(), None),
        };
        Errors(vec![diagnostic])
    })
}
