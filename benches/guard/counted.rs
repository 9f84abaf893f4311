//! Runs this program under callgrind, and reads what was counted between the marks.

use super::{Error, mark};
use std::path::Path;
use std::process::Command;

/// Valgrind, to run this very program with callgrind's counts going to `folder`. Add the program's arguments.
pub fn valgrind(folder: &Path) -> Result<Command, Error> {
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", folder.join("count").display()))
        .arg(format!("--dump-before={}", mark::PATTERN))
        .args(["--dump-line=no", "--read-inline-info=no", "--quiet"])
        .arg(std::env::current_exe()?);
    Ok(command)
}

/// The error of a valgrind that could not be started.
pub fn missing(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => "valgrind is missing: sudo apt-get install valgrind".into(),
        _ => error.into(),
    }
}

/// How many instructions were counted up to each mark, from the mark before it.
pub fn between_marks(folder: &Path) -> Result<Vec<u64>, Error> {
    let mut counts = Vec::new();
    loop {
        let file = folder.join(format!("count.{}", counts.len() + 1));
        if !file.is_file() {
            return Ok(counts);
        }
        let text = std::fs::read_to_string(&file)?;
        // The part of this dump alone; `totals` says the same in some versions.
        let count = text.lines().find_map(|line| line.strip_prefix("summary: "));
        let count = count.ok_or_else(|| format!("{} has no summary", file.display()))?;
        counts.push(count.trim().parse()?);
    }
}
