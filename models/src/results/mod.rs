//! `models/RESULTS.md`: written from what the other commands left in `models/results/*.json`, never by hand.
//!
//! Nothing is run or measured here. Each file says by itself what it is (`Kind::of`), with which command, at which commit,
//! when and on which machine it was made. Every sentence that claims something is chosen by the numbers: whether a target is
//! met, who wins and who loses. What is missing is said to be missing.

mod closed_loop;
mod engines;
mod evaluated;
mod replayed;
mod stamp;
mod table;

pub use stamp::{machine, stamped};

use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;
use table::Table;

/// What a file of results holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Of `evaluate`.
    Evaluate,
    /// Of `replay`.
    Replay,
    /// Of `closed-loop`.
    ClosedLoop,
    /// Of `check`.
    Check,
    /// Of something else, such as figures of training.
    Other,
}

impl Kind {
    /// By the keys that only its command writes.
    fn of(value: &Value) -> Self {
        let has = |key: &str| value.get(key).is_some();
        match () {
            () if has("scenarios") => Kind::ClosedLoop,
            () if has("agreements") => Kind::Check,
            () if has("apps") || has("recording") => Kind::Replay,
            () if has("family") && has("model") => Kind::Evaluate,
            () => Kind::Other,
        }
    }
}

/// A file of results.
#[derive(Debug, Clone)]
struct Found {
    /// Its name without folder and ending.
    stem: String,
    value: Value,
}

impl Found {
    fn text(&self, key: &str) -> &str {
        self.value.get(key).and_then(Value::as_str).unwrap_or("not recorded")
    }
}

/// What the page is made of.
struct Page<'a> {
    /// Where the plots go.
    plots: &'a Path,
    /// How the page names that folder.
    link: String,
    out: String,
}

impl Page<'_> {
    fn say(&mut self, text: &str) {
        self.out += text;
        self.out += "\n\n";
    }

    fn table(&mut self, table: &Table) {
        self.out += &table.markdown();
        self.out.push('\n');
    }

    /// Shows a plot that `draw` writes at the path that it is given.
    fn plot(&mut self, name: &str, about: &str, draw: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let file = format!("{name}.svg");
        draw(&self.plots.join(&file))?;
        let link = format!("![{about}]({}/{file})", self.link);
        self.say(&link);
        Ok(())
    }

    /// Shows a plot that another command wrote, where it did.
    fn shown(&mut self, name: &str, about: &str) {
        let file = format!("{name}.svg");
        if self.plots.join(&file).is_file() {
            let link = format!("![{about}]({}/{file})", self.link);
            self.say(&link);
        }
    }

    /// Says with which command a file was made.
    fn made_by(&mut self, found: &Found) {
        let line = format!("Made by `{}` (`{}.json`).", found.text("command"), found.stem);
        self.say(&line);
    }
}

/// Reads `folder/*.json`, writes plots beside them and the page to `out`. Returns how many files it read.
///
/// # Errors
/// When the folder or a file cannot be read, a file is no JSON, or the page cannot be written.
pub fn write(folder: &Path, out: &Path) -> Result<usize> {
    let found = read(folder)?;
    if found.is_empty() {
        return Err(Error::Format(format!(
            "{} holds no results; `make results` runs the commands that write them",
            folder.display()
        )));
    }
    let page = page(&found, folder, &link(folder, out))?;
    crate::cli::write(out, page.as_bytes())?;
    Ok(found.len())
}

/// How a page at `out` names a folder: relative to itself where it lies above it.
fn link(folder: &Path, out: &Path) -> String {
    let beside = out.parent().map_or(folder, |home| folder.strip_prefix(home).unwrap_or(folder));
    if beside.as_os_str().is_empty() { ".".into() } else { beside.display().to_string() }
}

fn read(folder: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::at(folder))? {
        let path = entry.map_err(Error::at(folder))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read(&path).map_err(Error::at(&path))?;
        let value = serde_json::from_slice(&text).map_err(|e| Error::Format(format!("{}: {e}", path.display())))?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(Found { stem, value });
    }
    found.sort_by(|a, b| a.stem.cmp(&b.stem));
    Ok(found)
}

fn page(found: &[Found], plots: &Path, link: &str) -> Result<String> {
    let of = |kind: Kind| found.iter().filter(|f| Kind::of(&f.value) == kind).collect::<Vec<_>>();
    let mut page = Page { plots, link: link.into(), out: String::new() };
    page.say("# Results");
    page.say(
        "Written by `pathloom-models results` from the files in `models/results`; every number and every judgement comes from \
         them. `make results` runs all the commands anew, in order. An interval after ± is half the width of the 95% interval \
         over seeds (Student's t); an interval of a difference is a paired bootstrap over runs. In tables of \
         differences **+** is better for the model, **-** is worse, and **=** is undecided: the interval holds zero.",
    );
    evaluated::sections(&mut page, &of(Kind::Evaluate))?;
    replayed::sections(&mut page, &of(Kind::Replay))?;
    closed_loop::sections(&mut page, &of(Kind::ClosedLoop))?;
    engines::sections(&mut page, &of(Kind::Check));
    page.say("## How the files were made");
    let mut made = Table::new(&["file", "command", "commit", "date", "machine"]);
    for f in found {
        let commit: String = f.text("commit").chars().take(12).collect();
        made.row([
            format!("`{}.json`", f.stem),
            format!("`{}`", f.text("command")),
            commit,
            f.text("date").into(),
            f.text("machine").into(),
        ]);
    }
    page.table(&made);
    Ok(page.out.trim_end().to_string() + "\n")
}

/// A number in a file; NaN where there is none.
fn number(value: &Value, path: &[&str]) -> f64 {
    path.iter().try_fold(value, |v, key| v.get(key)).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// The entries of an object in a file, sorted by name; empty where there is none.
fn entries<'a>(value: &'a Value, key: &str) -> Vec<(&'a str, &'a Value)> {
    let object = value.get(key).and_then(Value::as_object);
    object.map(|o| o.iter().map(|(k, v)| (k.as_str(), v)).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
