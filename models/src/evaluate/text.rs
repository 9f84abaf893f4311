//! A summary as text for a terminal.

use super::stats::Difference;
use super::summary::{Line, Summary};
use super::tally::{Figure, Tally};

/// The width of a column of figures.
const COLUMN: usize = 20;

impl Summary {
    /// The figures as text: tables of the main ones with half the width of their 95% interval over seeds, of the
    /// further ones, of the model's differences from its rivals, and of the slices.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.lines().chain([&self.floor]).map(|l| l.name.len()).max().unwrap_or(0);
        let row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
            let cells: String = cells.map(|c| format!(" {c:>COLUMN$}")).collect();
            format!("{name:width$}{cells}\n")
        };
        let head = |figures: &[Figure]| row("", &mut figures.iter().map(|f| f.title().to_string()));
        let plain =
            |line: &Line, tally: &Tally| row(&line.name, &mut Figure::MAIN.iter().map(|f| f.text(tally.value(*f))));
        let mut out = format!(
            "{} samples of {} runs, {} seeds; {} candidates with a next window, {} decisions\n",
            self.samples,
            self.runs,
            self.seeds.len(),
            self.model.pooled.count(Figure::MeanRelativeError),
            self.decisions()
        );
        out += &head(&Figure::MAIN);
        for line in self.lines().chain([&self.floor]) {
            out += &row(&line.name, &mut Figure::MAIN.iter().map(|f| with_spread(line, *f)));
        }
        let further: Vec<Figure> = Figure::ALL.into_iter().filter(|f| !Figure::MAIN.contains(f)).collect();
        let median = |line: &Line| Figure::MeanRelativeError.text(line.errors.median());
        let titles = further.iter().map(|f| f.title().to_string()).chain(["median rel. error".to_string()]);
        out += &format!("\n{}", row("", &mut { titles }));
        for line in self.lines() {
            out += &row(&line.name, &mut further.iter().map(|f| f.text(line.value(*f))).chain([median(line)]));
        }
        out += "\nmodel less rival, 95% interval by run (+ better, - worse, = undecided)\n";
        out += &head(&Figure::MAIN);
        for line in &self.rivals {
            let of = |f: &Figure| line.differences.get(f).map_or("-".to_string(), |d| difference(*f, d));
            out += &row(&line.name, &mut Figure::MAIN.iter().map(of));
        }
        for slice in self.slices() {
            let of = |line: &Line| line.slices.get(&slice).copied().unwrap_or_default();
            let model = of(&self.model);
            let (candidates, decisions) =
                (model.count(Figure::MeanRelativeError), model.count(Figure::DecisionAccuracy));
            out += &format!("\n{}: {candidates} candidates with a next window, {decisions} decisions\n", slice.name());
            for line in self.lines().chain(slice.is_of_label().then_some(&self.floor)) {
                out += &plain(line, &of(line));
            }
        }
        out
    }
}

/// A figure and half the width of its interval over seeds, where there is one.
fn with_spread(line: &Line, figure: Figure) -> String {
    let value = figure.text(line.value(figure));
    let spread = line.intervals.get(&figure).map(|i| (i.high - i.low) / 2.0).filter(|s| s.is_finite());
    spread.map_or(value.clone(), |s| format!("{value} ±{}", figure.text(s).trim_end_matches('%')))
}

fn difference(figure: Figure, d: &Difference) -> String {
    let sign = match () {
        () if d.better => '+',
        () if d.worse => '-',
        () => '=',
    };
    let (low, high) = (figure.text(d.low), figure.text(d.high));
    format!("{sign} [{}, {}]", low.trim_end_matches('%'), high.trim_end_matches('%'))
}
