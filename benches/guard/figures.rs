//! The committed figures, and the verdict on new ones.

use super::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// How much a figure of the in-process counts may grow. They repeat to within a tenth of this.
const MARGIN: f64 = 0.03;
/// How much a whole request may grow: it holds the C library's and the kernel's chances, too.
const REQUEST_MARGIN: f64 = 0.05;

/// `benches/guard.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    /// `rustc --version` of the compiler that built what was counted.
    rustc: String,
    /// The architecture that it was built for.
    arch: String,
    /// User instructions, by name.
    instructions: BTreeMap<String, Figure>,
}

/// One figure.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Figure {
    /// User instructions of one pick, one tick, one request.
    count: u64,
    /// By how much of itself it may grow before the guard fails.
    margin: f64,
}

fn rustc() -> Result<String, Error> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Figures {
    /// The committed figures; none when there is no such file.
    pub fn read(file: &Path) -> Result<Option<Self>, Error> {
        if !file.is_file() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&std::fs::read(file)?)?))
    }

    /// New figures in the place of what was committed, with the margins that were committed. Figures that were not
    /// counted this time stay, unless the compiler is another one: then they mean nothing any more.
    pub fn of(committed: Option<Self>, counted: Vec<(String, u64)>) -> Result<Self, Error> {
        let (rustc, arch) = (rustc()?, std::env::consts::ARCH.to_owned());
        let before = committed.filter(|c| c.rustc == rustc && c.arch == arch).map(|c| c.instructions);
        let mut instructions = before.unwrap_or_default();
        for (name, count) in counted {
            let margin = if name == super::request::NAME { REQUEST_MARGIN } else { MARGIN };
            instructions.entry(name).or_insert(Figure { count, margin }).count = count;
        }
        Ok(Self { rustc, arch, instructions })
    }

    /// Writes them.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        Ok(std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Why figures counted here cannot be compared with these.
    pub fn counted_elsewhere(&self) -> Option<String> {
        let here = rustc().unwrap_or_else(|error| format!("an unknown compiler ({error})"));
        if here != self.rustc {
            return Some(format!("the figures were counted with {}, this is {here}", self.rustc));
        }
        let arch = std::env::consts::ARCH;
        (arch != self.arch).then(|| format!("the figures were counted on {}, this is {arch}", self.arch))
    }

    /// Whether a figure is committed, and this count not beyond its margin.
    pub fn is_within(&self, name: &str, count: u64) -> bool {
        self.instructions.get(name).is_some_and(|figure| count as f64 <= figure.count as f64 * (1.0 + figure.margin))
    }

    /// A table of all figures, and whether each is within its margin.
    pub fn judge(&self, counted: &[(String, u64)]) -> (String, bool) {
        let (mut report, mut within, mut faster) = (String::new(), true, false);
        let _ =
            writeln!(report, "{:<28} {:>13} {:>13} {:>8} {:>7}", "instructions", "counted", "committed", "", "margin");
        for (name, count) in counted {
            let Some(figure) = self.instructions.get(name) else {
                within = false;
                let _ = writeln!(report, "{name:<28} {count:>13}  not committed: `make guard ARGS=--bless`");
                continue;
            };
            let change = *count as f64 / figure.count as f64 - 1.0;
            let verdict = if !self.is_within(name, *count) {
                within = false;
                "  BEYOND ITS MARGIN"
            } else if change < -figure.margin {
                faster = true;
                "  less"
            } else {
                ""
            };
            let (percent, margin) = (change * 100.0, figure.margin * 100.0);
            let _ = writeln!(
                report,
                "{name:<28} {count:>13} {:>13} {percent:>+7.1}% {margin:>6.1}%{verdict}",
                figure.count
            );
        }
        if faster {
            report += "guard: some figures are better than what was committed: `make guard ARGS=--bless` keeps that\n";
        }
        if !within {
            report += "guard: FAILED. Find what grew with callgrind_annotate, or, where it is worth its price, say so in the\n";
            report += "guard: commit that blesses it: make guard ARGS=--bless\n";
        }
        (report, within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(count: u64) -> Figures {
        let instructions = [("pick".to_owned(), Figure { count, margin: 0.03 })].into();
        Figures { rustc: rustc().unwrap(), arch: std::env::consts::ARCH.into(), instructions }
    }

    #[test]
    fn a_figure_beyond_its_margin_fails_and_one_within_does_not() {
        let judged = |count| figures(1000).judge(&[("pick".into(), count)]).1;
        assert!(judged(1030) && judged(1000) && judged(500));
        assert!(!judged(1031));
    }

    #[test]
    fn what_was_never_committed_fails() {
        let (report, within) = figures(1000).judge(&[("tick".into(), 1)]);
        assert!(!within && report.contains("not committed"), "{report}");
    }

    #[test]
    fn figures_of_another_compiler_or_architecture_are_not_compared() {
        assert_eq!(figures(1).counted_elsewhere(), None);
        let other = Figures { rustc: "rustc 1.0.0".into(), ..figures(1) };
        assert!(other.counted_elsewhere().is_some_and(|why| why.contains("rustc 1.0.0")));
        let other = Figures { arch: "pdp11".into(), ..figures(1) };
        assert!(other.counted_elsewhere().is_some_and(|why| why.contains("pdp11")));
    }

    #[test]
    fn blessing_a_part_keeps_the_rest_unless_the_compiler_changed() {
        let blessed = Figures::of(Some(figures(1)), vec![("tick".into(), 5)]).unwrap();
        assert_eq!(blessed.instructions.len(), 2);
        let old = Figures { rustc: "rustc 1.0.0".into(), ..figures(1) };
        assert_eq!(Figures::of(Some(old), vec![("tick".into(), 5)]).unwrap().instructions.len(), 1);
    }
}
