//! One file of a table: its columns by name, its rows' fields as numbers or words, each mistake noted with its line.

use super::findings::Findings;
use csv::StringRecord;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// A percentage where a share belongs is far above this; a share that was measured badly is not.
const MOST_UTILIZATION: f64 = 1.05;

/// A row and where it stands.
pub struct Row<'a> {
    record: &'a StringRecord,
    places: &'a [usize],
    names: &'a [&'static str],
    file: &'a Path,
    /// Its line.
    pub line: u64,
    findings: &'a mut Findings,
    /// Whether an error was noted.
    pub failed: bool,
}

impl Row<'_> {
    /// A field by its column's index in the format.
    pub fn text(&self, column: usize) -> &str {
        self.places.get(column).and_then(|p| self.record.get(*p)).unwrap_or_default().trim()
    }

    /// Notes an error of this row.
    pub fn error(&mut self, message: String) {
        self.failed = true;
        self.findings.error(self.file, self.line, message);
    }

    /// Notes a warning of this row.
    pub fn warning(&mut self, message: String) {
        self.findings.warning(self.file, self.line, message);
    }

    fn name(&self, column: usize) -> &'static str {
        self.names.get(column).copied().unwrap_or_default()
    }

    /// A name that must be there.
    pub fn word(&mut self, column: usize) -> String {
        let text = self.text(column).to_owned();
        if text.is_empty() {
            let name = self.name(column);
            self.error(format!("`{name}` is empty; each row names it"));
        }
        text
    }

    /// A number from zero up; NaN where the field is empty.
    pub fn number(&mut self, column: usize) -> f64 {
        let text = self.text(column);
        if text.is_empty() {
            return f64::NAN;
        }
        let (name, parsed) = (self.name(column), text.parse::<f64>());
        let text = text.to_owned();
        match parsed {
            Err(_) => {
                self.error(format!("`{name}` is `{text}`, which is no number; leave it empty where it is unknown"))
            }
            Ok(v) if !v.is_finite() => {
                self.error(format!("`{name}` is `{text}`, which is not finite; leave it empty where it is unknown"));
            }
            Ok(v) if v < 0.0 => {
                self.error(format!("`{name}` is {text}, which is negative; leave it empty where it is unknown"));
            }
            Ok(v) => return v,
        }
        f64::NAN
    }

    /// A number that must be there.
    pub fn needed(&mut self, column: usize) -> f64 {
        if self.text(column).is_empty() {
            let name = self.name(column);
            self.error(format!("`{name}` is empty; each row has it"));
        }
        self.number(column)
    }

    /// A share from 0 to 1; NaN where the field is empty.
    pub fn share(&mut self, column: usize) -> f64 {
        let (value, name) = (self.number(column), self.name(column));
        if value > MOST_UTILIZATION {
            self.error(format!("`{name}` is {value}; write a share from 0 to 1, where 1 is all there is"));
        } else if value > 1.0 {
            self.warning(format!("`{name}` is {value}, taken as 1"));
            return 1.0;
        }
        value
    }
}

/// Counts the bytes that were read, for a progress bar.
struct Counted<'a, R> {
    inner: R,
    each: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.each)(n as u64);
        Ok(n)
    }
}

/// Reads a file of the given columns, a row at a time.
///
/// Columns may stand in any order, and others are read past with a warning. A gzip file that is cut off is used up to
/// there, with a warning: whoever wrote it was killed. One that is damaged is an error.
pub fn read(
    path: &Path,
    columns: &'static [&'static str],
    findings: &mut Findings,
    progress: &dyn Fn(u64),
    mut each: impl FnMut(&mut Row<'_>),
) {
    let file = match File::open(path) {
        Ok(file) => Counted { inner: BufReader::with_capacity(1 << 17, file), each: progress },
        Err(e) => return findings.error(path, 0, format!("cannot be read: {e}")),
    };
    let zipped = path.extension().is_some_and(|e| e == "gz");
    let input: Box<dyn Read + '_> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut csv = csv::ReaderBuilder::new().buffer_capacity(1 << 17).from_reader(input);
    let header = match csv.headers() {
        Ok(header) => header.clone(),
        Err(e) => return broken(&e, path, 1, zipped, findings),
    };
    let header: Vec<&str> = header.iter().map(|h| h.trim_start_matches('\u{feff}').trim()).collect();
    if header.iter().all(|h| h.is_empty()) {
        // Killed before it wrote a single window.
        return findings.warning(path, 0, "is empty");
    }
    let mut places = Vec::new();
    let mut missing = false;
    for column in columns {
        match header.iter().position(|h| h == column) {
            Some(place) => places.push(place),
            None => {
                missing = true;
                let message = format!("the column `{column}` is missing; add it, its fields may be empty");
                findings.error(path, 1, message);
            }
        }
    }
    for (i, other) in header.iter().enumerate() {
        if !columns.contains(other) {
            findings.warning(path, 1, format!("the column `{other}` is unknown and not read"));
        } else if header.iter().position(|h| h == other) != Some(i) {
            findings.warning(path, 1, format!("the column `{other}` is there twice; the first is read"));
        }
    }
    let mut record = StringRecord::new();
    let mut last_line = 1;
    if missing {
        // A damaged file may look so: that is the better word.
        loop {
            match csv.read_record(&mut record) {
                Ok(true) if zipped => {}
                Ok(_) => return,
                Err(e) if matches!(e.kind(), csv::ErrorKind::Io(_)) => return broken(&e, path, 1, zipped, findings),
                Err(_) if zipped => {}
                Err(_) => return,
            }
        }
    }
    loop {
        match csv.read_record(&mut record) {
            Ok(false) => return,
            Ok(true) => {
                let line = record.position().map_or(0, csv::Position::line);
                last_line = line;
                each(&mut Row {
                    record: &record,
                    places: &places,
                    names: columns,
                    file: path,
                    line,
                    findings,
                    failed: false,
                });
            }
            Err(e) => {
                broken(&e, path, last_line, zipped, findings);
                // After these the reader stands at the next row; after a failed read there is none.
                if !matches!(e.kind(), csv::ErrorKind::UnequalLengths { .. } | csv::ErrorKind::Utf8 { .. }) {
                    return;
                }
            }
        }
    }
}

fn broken(error: &csv::Error, path: &Path, last_line: u64, zipped: bool, findings: &mut Findings) {
    let line = error.position().map_or(last_line, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            findings.error(
                path,
                line,
                format!("the row has {len} fields, the header {expected_len}; complete or remove it"),
            );
        }
        csv::ErrorKind::Utf8 { .. } => {
            findings.error(path, line, "the row is not UTF-8; save the file as UTF-8");
        }
        csv::ErrorKind::Io(e) if zipped && e.kind() == io::ErrorKind::UnexpectedEof => {
            let message = "the file is cut off after this line (was its writer killed?); what comes before is used";
            findings.warning(path, last_line, message);
        }
        csv::ErrorKind::Io(e) if zipped => {
            let message = format!("the gzip data is damaged after this line ({e}); copy the file anew, or remove it");
            findings.error(path, last_line, message);
        }
        _ => findings.error(path, line, format!("cannot be read: {error}")),
    }
}
