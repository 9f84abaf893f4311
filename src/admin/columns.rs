//! Tables and sentences as wide as a terminal, for the commands that print: `explain`, and `top` where it has no screen.
//!
//! What does not fit is shortened in an order: names are cut in their middle, so that what they begin and end with stays; then
//! what matters least is left out, and whoever prints says what. The last column, the reason, is never shortened: where
//! there is no room for it beside the others it stands below its row, and what is longer than a line goes on in the next.
//!
//! Also the meaning of the columns that `explain`, `top`, the dashboard and the README share, in the same words.

use crate::config;
use ratatui::crossterm::terminal;
use std::io::{self, IsTerminal};

/// What is printed is so wide where there is no terminal, in characters.
pub(super) const WIDTH: usize = 120;
/// In a terminal that is narrower than this its own lines are broken: numbers need some room.
const NARROWEST: usize = 60;
/// A name is not cut below this; more than the first only where the line is as wide as `WIDTH`.
const NAMES: [usize; 2] = [24, 48];
/// A reason stands beside its row where it has so much room.
const REASON: usize = 40;
/// Between two columns, and before the first.
const GAP: usize = 2;
/// Before a reason that stands below its row.
const BELOW: usize = 6;

/// What WEIGHT means.
pub const WEIGHT: &str = "the part of the requests that the generation in force gives an endpoint";
/// What CALLS means.
pub const CALLS: &str = "the part that it got of the calls of about the last 10 s";
/// Why the two differ.
pub const DIFFER: &str = "a request takes the cheapest of the candidates compared, estimate x (in flight + 1) / expected success; \
                          affinity, trials, retries, probes and a weight that has just moved do their part";
/// What INTRINSIC means.
pub const INTRINSIC: &str = "predicted latency at the endpoint's fair share of the load, from which its weight follows";
/// What PREDICTED means.
pub const PREDICTED: &str =
    "the mean that the model, when it made the generation, expected for the seconds after it, at the load as it was";
/// What OBSERVED means.
pub const OBSERVED: &str = "the mean of about the last 10 s";
/// What ESTIMATE means.
pub const ESTIMATE: &str = "this proxy's own peak EWMA, which decays towards what the weight says";

/// A column: its title, its unit, whether it stands to the right, and how long it is kept where space is short (the least first).
pub(super) type Column = (&'static str, &'static str, bool, u8);

/// How wide what is printed may be.
pub(super) fn width() -> usize {
    let terminal = io::stdout().is_terminal().then(terminal::size).and_then(Result::ok);
    terminal.map_or(WIDTH, |(columns, _)| usize::from(columns).max(NARROWEST))
}

/// A row of a table, and whether it is marked.
#[derive(Debug)]
pub(super) struct Row {
    /// What stands before it in place of space.
    pub marked: bool,
    /// A text for each column.
    pub cells: Vec<String>,
}

/// A table of this width at most; beside it the titles of the columns that had no room. The last column is the reason.
pub(super) fn table(columns: &[Column], rows: &[Row], width: usize) -> (String, Vec<&'static str>) {
    let Some(((reason, _, _, _), others)) = columns.split_last() else { return Default::default() };
    let longest = if width >= WIDTH { NAMES[1] } else { NAMES[0] };
    let cell = |row: &Row, i: usize| row.cells.get(i).map_or_else(String::new, |text| shortened(text, longest));
    let wide = |(i, (title, unit, _, _)): (usize, &Column)| {
        let cells = rows.iter().map(|row| cell(row, i).chars().count());
        cells.chain([title.chars().count(), unit.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = others.iter().enumerate().map(wide).collect();
    let taken = |kept: &[usize]| kept.iter().map(|i| GAP + widths.get(*i).copied().unwrap_or(0)).sum::<usize>();
    let why = |row: &Row| row.cells.get(others.len()).cloned().unwrap_or_default();
    let said = rows.iter().map(|row| why(row).chars().count()).max().unwrap_or(0);

    let all: Vec<usize> = (0..others.len()).collect();
    let beside = taken(&all) + GAP + said.min(REASON).max(reason.len()) <= width;
    let (kept, left_out) = if beside { (all, Vec::new()) } else { fitting(others, |kept| taken(kept) <= width) };
    let line = |mark: &str, of: &dyn Fn(usize) -> String, last: &str| {
        let mut out = String::new();
        for (place, i) in kept.iter().enumerate() {
            let (wide, right) = (widths.get(*i).copied().unwrap_or(0), others.get(*i).is_some_and(|c| c.2));
            out.push_str(if place == 0 { mark } else { "  " });
            let text = of(*i);
            out.push_str(&if right { format!("{text:>wide$}") } else { format!("{text:<wide$}") });
        }
        out.push_str("  ");
        out.push_str(last);
        out.trim_end().to_owned() + "\n"
    };
    let titles = |i: usize| others.get(i).map_or_else(String::new, |(title, _, _, _)| (*title).to_owned());
    let units = |i: usize| others.get(i).map_or_else(String::new, |(_, unit, _, _)| (*unit).to_owned());
    let mut out = line("  ", &titles, if beside { reason } else { "" });
    if kept.iter().any(|i| !units(*i).is_empty()) {
        out.push_str(&line("  ", &units, ""));
    }
    let room = width.saturating_sub(taken(&kept) + GAP);
    for row in rows {
        let why = why(row);
        let (before, room) = if beside { (taken(&kept) + GAP, room) } else { (BELOW, width - BELOW) };
        let mut reasons = wrapped(&why, room).into_iter();
        let first = if beside { reasons.next().unwrap_or_default() } else { String::new() };
        out.push_str(&line(if row.marked { "> " } else { "  " }, &|i| cell(row, i), &first));
        for more in reasons.filter(|text| !matches!(text.as_str(), "" | "-")) {
            out.push_str(&format!("{:before$}{more}\n", ""));
        }
    }
    (out, left_out)
}

/// The places of the columns that are kept, in their order, and the titles of those that go until the rest fits: the least
/// important ones. One always stays.
pub(super) fn fitting(columns: &[Column], fits: impl Fn(&[usize]) -> bool) -> (Vec<usize>, Vec<&'static str>) {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let mut left_out = Vec::new();
    while kept.len() > 1 && !fits(&kept) {
        let keep = |i: &usize| columns.get(*i).map_or(0, |(_, _, _, keep)| *keep);
        let Some(gone) = kept.iter().copied().min_by_key(keep) else { break };
        kept.retain(|i| *i != gone);
        left_out.extend(columns.get(gone).map(|(title, _, _, _)| *title));
    }
    (kept, left_out)
}

/// A name without its middle, where it is longer than this.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    let count = text.chars().count();
    if count <= longest {
        return text.to_owned();
    }
    // What tells names of a kind apart stands at their end more often.
    let head = longest.saturating_sub(1) / 2;
    let tail = longest.saturating_sub(1 + head);
    text.chars().take(head).chain(['…']).chain(text.chars().skip(count - tail)).collect()
}

/// A sentence in lines that are no wider than this, but for words that are.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    config::wrapped(text.split(' '), width)
}

/// Lines of which those that are wider than this go on below, where their value begins: after a label and two spaces, else
/// a little further to the right than they begin.
pub(super) fn fitted(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if line.chars().count() <= width {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let begins = line.chars().take_while(|c| *c == ' ').count();
        let label: String = line.chars().skip(begins).collect();
        let label = label.split_once("  ").filter(|(label, _)| begins == 0 && label.chars().count() < 12);
        let (hang, first) = match label {
            Some((label, value)) => {
                let gap = value.chars().take_while(|c| *c == ' ').count();
                let hang = label.chars().count() + 2 + gap;
                (hang, line.chars().take(hang).collect::<String>())
            }
            None => (begins + 2, line.chars().take(begins).collect()),
        };
        let rest: String = line.chars().skip(first.chars().count()).collect();
        let mut parts = wrapped(&rest, width.saturating_sub(hang)).into_iter();
        out.push_str(&format!("{first}{}\n", parts.next().unwrap_or_default()));
        parts.for_each(|part| out.push_str(&format!("{:hang$}{part}\n", "")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 5] = [
        ("ENDPOINT", "", false, 9),
        ("WEIGHT", "", true, 8),
        ("SCORE", "", true, 1),
        ("OBSERVED", "ms", true, 5),
        ("REASON", "", false, 0),
    ];

    fn rows(reason: &str) -> Vec<Row> {
        let row = |name: &str, marked| {
            let cells = [name, "75.0%", "4.50", "12.0", reason].map(str::to_owned).to_vec();
            Row { marked, cells }
        };
        vec![row("10.0.0.1:8080", false), row("[fd00:1234:5678:9abc:def0:1234:5678:9abc]:8080", true)]
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn a_reason_stands_beside_its_row_where_there_is_room_and_else_below_it_and_is_never_cut() {
        let reason = "predicted 11.4 ms at its fair share; left as it was: the change is within the dead band";
        for width in [60, 80, 100, 120, 200] {
            let (text, _) = table(&COLUMNS, &rows(reason), width);
            assert!(widest(&text) <= width, "{width}:\n{text}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let (said, all) = (words(reason), words(&text));
            // Beside the numbers of the row, or below: its words in their order, twice.
            let mut left = said.iter().chain(&said).peekable();
            for word in &all {
                let _ = left.next_if_eq(&word);
            }
            assert_eq!(left.count(), 0, "{width}:\n{text}");
            assert!(text.contains("\n> "), "{text}");
        }
        let (text, _) = table(&COLUMNS, &rows(reason), 200);
        assert!(text.lines().next().is_some_and(|line| line.ends_with("REASON")), "{text}");
        assert_eq!(text.lines().count(), 4, "titles, units and two rows:\n{text}");
        let (text, _) = table(&COLUMNS, &rows("short"), 80);
        assert!(text.contains("12.0  short"), "{text}");
    }

    #[test]
    fn where_space_is_short_names_lose_their_middle_and_the_least_important_columns_go_and_are_named() {
        let many: Vec<Column> = COLUMNS[..4].iter().cycle().take(12).copied().chain([COLUMNS[4]]).collect();
        let wide = |row: Row| Row {
            cells: row.cells[..4].iter().cycle().take(12).cloned().chain(["r".into()]).collect(),
            ..row
        };
        let (text, left_out) = table(&many, &rows("r").into_iter().map(wide).collect::<Vec<_>>(), 100);
        assert!(widest(&text) <= 100, "{text}");
        assert!(text.contains("[fd00:1234:…8:9abc]:8080"), "{text}");
        assert_eq!(left_out[..3], ["SCORE"; 3]);
        let (text, left_out) = table(&COLUMNS, &rows("r"), 120);
        assert!(left_out.is_empty() && text.contains("[fd00:1234:5678:9abc:def0:1234:5678:9abc]:8080"), "{text}");
        let (text, left_out) = table(&COLUMNS, &[], 120);
        assert_eq!((text.lines().count(), left_out.len()), (2, 0));
    }

    #[test]
    fn lines_that_are_too_long_go_on_where_their_value_begins() {
        let text = fitted("engine      one two three four\n  zone a: five six seven\nshort\n", 22);
        assert_eq!(text, "engine      one two\n            three four\n  zone a: five six\n    seven\nshort\n");
        assert_eq!(wrapped("averyveryverylongword b", 4), ["averyveryverylongword", "b"]);
        assert_eq!(shortened("abcdefgh", 5), "ab…gh");
    }
}
