//! What `top` shows: a head, what is wrong in words, one of six sheets, and the keys.
//!
//! A sheet that is too wide loses its least important columns first; a low screen loses the keys, then the head. Trouble is
//! words first and colours second.

use super::sheet::{Row, Snapshot};
use super::state;
use crate::admin::client::printable;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{self, Paragraph, Table, TableState};
use serde_json::Value;

/// No column is wider than this, in cells, but the last.
const WIDEST: usize = 40;
/// Between two columns.
const GAP: u16 = 2;
/// Below this height the keys are not shown, below `HEAD_FROM` the head is one line.
const KEYS_FROM: u16 = 12;
const HEAD_FROM: u16 = 8;
/// What a printed frame is wide at least: the head's lines.
const PRINTED_WIDTH: u16 = 120;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sheet {
    /// Where requests go, and why.
    Endpoints,
    /// The links with the most calls.
    Links,
    /// What fails, by reason.
    Failures,
    /// What each generation changed, and why.
    Timeline,
    /// Both arms of the model's trial.
    Canary,
    /// The ladder, the model and its engine.
    Model,
}

impl Sheet {
    /// All of them, in the order of their keys.
    pub const ALL: [Sheet; 6] =
        [Self::Endpoints, Self::Links, Self::Failures, Self::Timeline, Self::Canary, Self::Model];
}

/// A column: its title, whether it stands to the right, and how long it is kept where space is short (the least first).
type Column = (&'static str, bool, u8);

const ENDPOINTS: [Column; 13] = [
    ("WORKLOAD", false, 7),
    ("CLUSTER", false, 10),
    ("ENDPOINT", false, 13),
    ("WEIGHT", true, 12),
    ("CALLS", true, 9),
    ("CALLS/s", true, 5),
    ("PREDICTED", true, 4),
    ("SEEN ms", true, 8),
    ("P99 ms", true, 3),
    ("ERRORS", true, 6),
    ("BUSY", true, 2),
    ("HEALTH", false, 11),
    ("WHY", false, 1),
];
const LINKS: [Column; 10] = [
    ("FROM", false, 9),
    ("TO", false, 10),
    ("CALLS/s", true, 8),
    ("SEEN ms", true, 7),
    ("P99 ms", true, 5),
    ("JITTER", true, 4),
    ("ERRORS", true, 6),
    ("BUSY", true, 3),
    ("ATTENTION", true, 2),
    ("AGE s", true, 1),
];
const FAILURES: [Column; 5] =
    [("WORKLOAD", false, 1), ("CLUSTER", false, 3), ("REASON", false, 5), ("A SECOND", true, 4), ("IN ALL", true, 2)];

const TIMELINE: [Column; 6] = [
    ("GENERATION", true, 6),
    ("MADE AT", false, 4),
    ("CAUSE", false, 5),
    ("STEERED BY", false, 3),
    ("TOOK ms", true, 2),
    ("WHAT CHANGED", false, 7),
];
const CANARY: [Column; 11] = [
    ("WORKLOAD", false, 7),
    ("CLUSTER", false, 10),
    ("ARM", false, 11),
    ("POLICY", false, 3),
    ("REQUESTS", true, 6),
    ("SHARE", true, 4),
    ("MEAN ms", true, 9),
    ("P50 ms", true, 2),
    ("P99 ms", true, 8),
    ("FAILED", true, 5),
    ("RATE", true, 1),
];
const MODEL: [Column; 2] = [("WHAT", false, 2), ("IS", false, 1)];

impl Sheet {
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Endpoints => &ENDPOINTS,
            Self::Links => &LINKS,
            Self::Failures => &FAILURES,
            Self::Timeline => &TIMELINE,
            Self::Canary => &CANARY,
            Self::Model => &MODEL,
        }
    }

    /// The one after it.
    pub fn next(self) -> Self {
        Self::ALL.into_iter().cycle().skip_while(|sheet| *sheet != self).nth(1).unwrap_or(self)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Links => "links",
            Self::Failures => "failures",
            Self::Timeline => "generations",
            Self::Canary => "arms of the trial",
            Self::Model => "the ladder and the model",
        }
    }

    /// How it is sorted at first: as it came; failures by their rate.
    fn sorting(self) -> (Option<usize>, bool) {
        match self {
            Self::Endpoints | Self::Timeline | Self::Canary | Self::Model => (None, false),
            Self::Links => (Some(2), true),
            Self::Failures => (Some(3), true),
        }
    }
}

/// All that is on the screen.
#[derive(Debug)]
pub struct Screen {
    /// What is shown.
    pub sheet: Sheet,
    /// Only rows that hold this.
    pub filter: String,
    /// The filter while somebody types it.
    pub typing: Option<String>,
    /// Printed as text: no keys, nothing chosen.
    pub plain: bool,
    address: String,
    now: Option<Snapshot>,
    before: Option<Snapshot>,
    trouble: Option<String>,
    sorted: (Option<usize>, bool),
    chosen: TableState,
    rows: usize,
}

impl Screen {
    /// A screen without anything to show yet.
    pub fn new(sheet: Sheet, filter: String, address: String) -> Self {
        Self {
            sheet,
            filter,
            typing: None,
            plain: false,
            address,
            now: None,
            before: None,
            trouble: None,
            sorted: sheet.sorting(),
            chosen: TableState::default().with_selected(0),
            rows: 0,
        }
    }

    /// Takes what was seen, or why nothing was.
    pub fn take(&mut self, seen: Result<Snapshot, String>) {
        match seen {
            Ok(snapshot) => {
                self.before = self.now.replace(snapshot);
                self.trouble = None;
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// Shows another sheet.
    pub fn turn_to(&mut self, sheet: Sheet) {
        if self.sheet != sheet {
            (self.sheet, self.sorted) = (sheet, sheet.sorting());
            self.chosen.select(Some(0));
        }
    }

    /// Sorts by the column so many to the right; before the first one stands the order in which rows came.
    pub fn sort_by_next(&mut self, by: isize) {
        let places = self.sheet.columns().len() as isize + 1;
        let place = self.sorted.0.map_or(0, |column| column as isize + 1);
        let next = (place + by).rem_euclid(places);
        let column = usize::try_from(next - 1).ok();
        let number = column.and_then(|c| self.sheet.columns().get(c)).is_some_and(|(_, right, _)| *right);
        // Of numbers the largest are of interest.
        self.sorted = (column, number);
    }

    /// The other way round.
    pub fn reverse(&mut self) {
        self.sorted.1 = !self.sorted.1;
    }

    /// Chooses the row so many below.
    pub fn move_by(&mut self, by: isize) {
        let last = self.rows.saturating_sub(1);
        let row = self.chosen.selected().unwrap_or(0).saturating_add_signed(by).min(last);
        self.chosen.select(Some(row));
    }

    fn rows(&self) -> Vec<Row> {
        let Some(now) = &self.now else { return Vec::new() };
        let mut rows = match self.sheet {
            Sheet::Endpoints => now.endpoints(),
            Sheet::Links => now.links.clone(),
            Sheet::Failures => now.failing(self.before.as_ref()),
            Sheet::Timeline => state::timeline(&now.routing),
            Sheet::Canary => state::arms(&now.routing),
            Sheet::Model => state::model(&now.routing),
        };
        let wanted: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let holds = |row: &Row, word: &str| row.iter().any(|cell| cell.text.to_lowercase().contains(word));
        rows.retain(|row| wanted.iter().all(|word| holds(row, word)));
        if let (Some(column), down) = self.sorted {
            let order = |a: &Row, b: &Row| match (a.get(column), b.get(column)) {
                (Some(a), Some(b)) if down => b.compare(a),
                (Some(a), Some(b)) => a.compare(b),
                _ => std::cmp::Ordering::Equal,
            };
            rows.sort_by(order);
        }
        rows
    }

    /// How large a printed frame is: everything fits.
    pub fn needs(&self) -> (u16, u16) {
        let rows = self.rows();
        let widths = widths(self.sheet.columns(), &rows);
        let width: usize = widths.iter().map(|w| w + usize::from(GAP)).sum();
        let above: Vec<Line<'_>> = [self.head(), self.wrong()].concat();
        let width = above.iter().map(Line::width).max().unwrap_or(0).max(width);
        let head = above.len();
        let cells = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        (cells(width).max(PRINTED_WIDTH), cells(head + rows.len() + 2).max(KEYS_FROM))
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = self.rows();
        self.rows = rows.len();
        self.move_by(0);
        let area = frame.area();
        let (head, wrong) = (self.head(), self.wrong());
        let count = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
        let head_lines = if area.height < HEAD_FROM { 1 } else { count(head.len()) };
        let keys = u16::from(area.height >= KEYS_FROM && !self.plain);
        // Of much trouble the first lines are enough.
        let wrong_lines = count(wrong.len()).min(if self.plain { u16::MAX } else { area.height / 4 });
        let parts = [
            Constraint::Length(head_lines),
            Constraint::Length(wrong_lines),
            Constraint::Min(1),
            Constraint::Length(keys),
        ];
        let [head_area, wrong_area, body, foot] = Layout::vertical(parts).areas(area);
        frame.render_widget(Paragraph::new(head), head_area);
        frame.render_widget(Paragraph::new(wrong), wrong_area);
        self.table(frame, body, &rows);
        frame.render_widget(self.keys(), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let Some(now) = &self.now else { return vec![Line::from(" nothing was heard yet")] };
        let routing = &now.routing;
        let word = |pointer: &str| words(routing, pointer);
        let number = |pointer: &str, digits: usize| {
            let value = routing.pointer(pointer).and_then(Value::as_f64);
            value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
        };
        let rate = now.rate(self.before.as_ref()).map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"));
        let model = format!("{} on {}", word("/generation/model/name"), word("/generation/model/engine"));
        vec![
            Line::from(vec![
                " pathloom top ".bold(),
                format!(" {} at {}, {}", word("/node"), printable(&self.address), word("/version")).into(),
                "   requests/s ".dim(),
                rate.into(),
                "   mode ".dim(),
                word("/mode").into(),
            ]),
            Line::from(vec![
                " generation ".dim(),
                number("/generation/id", 0).into(),
                format!(" ({}, {} s old)", word("/generation/cause"), number("/generation/age_s", 1)).into(),
                "   steered by ".dim(),
                rung(&word("/generation/rung")),
                "   model ".dim(),
                model.into(),
                "   error ".dim(),
                number("/model_error", 2).into(),
            ]),
        ]
    }

    /// What is wrong, a line each.
    fn wrong(&self) -> Vec<Line<'static>> {
        let mut found: Vec<String> = Vec::new();
        if let Some(why) = &self.trouble {
            found.push(format!("NO ANSWER: {} (below is the last one)", printable(why)));
        }
        let Some(now) = &self.now else { return lines(found) };
        let routing = &now.routing;
        if routing.get("generation").is_none_or(Value::is_null) {
            found.push("NOTHING ROUTED: no generation has been published yet".to_owned());
        }
        if routing.pointer("/generation/expired") == Some(&Value::Bool(true)) {
            found.push("EXPIRED: the weights no longer steer; peak EWMA stands in for the model".to_owned());
        }
        let rung = words(routing, "/generation/rung");
        if !matches!(rung.as_str(), "model" | "-") {
            found.push(format!("NOT THE MODEL: {rung}, because {}", words(routing, "/generation/rung_reason")));
        }
        if let Some(why) = routing.pointer("/scorer/not_ready").and_then(Value::as_str) {
            found.push(format!("NO SCORES: {}", printable(why)));
        }
        if let Some(refused) = routing.get("reload_refused").and_then(|r| r.get("text")).and_then(Value::as_str) {
            let (count, first) = (refused.lines().count(), refused.lines().next().unwrap_or_default());
            let more = if count > 1 { format!(" (1 of {count} lines; `/config` has all)") } else { String::new() };
            let at = words(routing, "/reload_refused/at");
            found.push(format!("CONFIGURATION REFUSED at {at}, the one before it stays: {}{more}", printable(first)));
        }
        if routing.pointer("/canary/retreat").is_some_and(Value::is_object) {
            let (code, reason) = (words(routing, "/canary/retreat/code"), words(routing, "/canary/retreat/reason"));
            found.push(format!("TRIAL LOST: {reason} ({code})"));
        }
        if let Some(why) = routing.pointer("/identity/alarm/text").and_then(Value::as_str) {
            found.push(format!("IDENTITY: {}", printable(why)));
        }
        let sources = routing.get("discovery").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for source in sources.iter().filter(|s| words(s, "/state") == "failing") {
            let [cluster, from, why] = ["/cluster", "/source", "/reason"].map(|key| words(source, key));
            let for_s = source.get("failing_for_s").and_then(Value::as_f64).unwrap_or_default();
            found.push(format!("DISCOVERY: {from} fails to say where {cluster} is, for {for_s:.0} s: {why}; its last endpoints are kept"));
        }
        let tables = routing.get("tables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for table in tables.iter().filter(|t| t.get("panic") == Some(&Value::Bool(true))) {
            let pair = (words(table, "/workload"), words(table, "/cluster"));
            found.push(format!("PANIC: {} -> {}: so few are healthy that all get requests", pair.0, pair.1));
        }
        lines(found)
    }

    fn table(&mut self, frame: &mut Frame<'_>, area: Rect, rows: &[Row]) {
        let columns = self.sheet.columns();
        let all = widths(columns, rows);
        let kept = fitting(columns, &all, usize::from(area.width));
        let title = |i: usize| {
            let (title, _, _) = columns.get(i).copied().unwrap_or_default();
            let mark = match self.sorted {
                (Some(column), true) if column == i => "▾",
                (Some(column), false) if column == i => "▴",
                _ => "",
            };
            let mark = if self.plain { "" } else { mark };
            aligned(format!("{title}{mark}"), columns.get(i))
        };
        let cell = |row: &Row, i: usize| {
            let Some(cell) = row.get(i) else { return widgets::Cell::default() };
            let style = if cell.bad { Style::new().red() } else { Style::new() };
            aligned(cell.text.clone(), columns.get(i)).style(style)
        };
        let shown = rows.iter().map(|row| widgets::Row::new(kept.iter().map(|(i, _)| cell(row, *i))));
        let widths = kept.iter().map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
        let head = widgets::Row::new(kept.iter().map(|(i, _)| title(*i))).style(Style::new().dim());
        let table = Table::new(shown, widths).header(head).column_spacing(GAP);
        if self.plain {
            frame.render_widget(table, area);
        } else {
            frame.render_stateful_widget(table.row_highlight_style(Style::new().reversed()), area, &mut self.chosen);
        }
    }

    fn keys(&self) -> Line<'static> {
        if let Some(text) = &self.typing {
            return Line::from(format!(" only rows with: {text}▏  (enter keeps it, esc clears it)"));
        }
        let filter = match self.filter.as_str() {
            "" => String::new(),
            words => format!(" with `{words}`"),
        };
        let text = format!(
            " {}: {} rows{filter}   tab 1 to 6 sheets   ←→ sort   r reverse   ↑↓ move   / filter   q leave",
            self.sheet.title(),
            self.rows
        );
        Line::from(text).dim()
    }
}

fn rung(name: &str) -> Span<'static> {
    let color = if name == "model" { Color::Green } else { Color::Yellow };
    Span::styled(name.replace('_', " "), color)
}

fn words(value: &Value, pointer: &str) -> String {
    let text = value.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty());
    text.map_or_else(|| "-".to_owned(), printable)
}

fn lines(found: Vec<String>) -> Vec<Line<'static>> {
    found.into_iter().map(|text| Line::from(format!(" {text}")).red()).collect()
}

fn aligned(text: String, column: Option<&Column>) -> widgets::Cell<'static> {
    let right = column.is_some_and(|(_, right, _)| *right);
    widgets::Cell::from(Line::from(text).alignment(if right { Alignment::Right } else { Alignment::Left }))
}

/// How wide each column wants to be. The last one may be as long as its words.
fn widths(columns: &[Column], rows: &[Row]) -> Vec<usize> {
    let last = columns.len().saturating_sub(1);
    let width = |i: usize, title: &str| {
        let longest = rows.iter().filter_map(|row| row.get(i)).map(|c| c.text.chars().count()).max().unwrap_or(0);
        // Room for the mark of the column that is sorted by.
        longest.min(if i == last { usize::MAX } else { WIDEST }).max(title.chars().count() + 1)
    };
    columns.iter().enumerate().map(|(i, (title, _, _))| width(i, title)).collect()
}

/// The columns that fit, in their order, with their widths: without the least important ones. The very last column may be cut.
fn fitting(columns: &[Column], widths: &[usize], room: usize) -> Vec<(usize, usize)> {
    let last = columns.len().saturating_sub(1);
    // A cut sentence still says something.
    let least = |i: usize, width: usize| if i == last { width.min(WIDEST / 2) } else { width };
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let taken = |kept: &[usize]| -> usize {
        let of = |i: &usize| least(*i, widths.get(*i).copied().unwrap_or(0)) + usize::from(GAP);
        kept.iter().map(of).sum::<usize>().saturating_sub(usize::from(GAP))
    };
    while kept.len() > 1 && taken(&kept) > room {
        let Some(gone) = kept.iter().copied().min_by_key(|i| columns.get(*i).map_or(0, |(_, _, keep)| *keep)) else {
            break;
        };
        kept.retain(|i| *i != gone);
    }
    let wide = |i: usize| widths.get(i).copied().unwrap_or(0);
    // What the others leave, or the table would cut a little from each.
    let others: usize = kept.iter().filter(|i| **i != last).map(|i| wide(*i) + usize::from(GAP)).sum();
    let shown = |i: usize| if i == last { wide(i).min(room.saturating_sub(others)) } else { wide(i) };
    kept.into_iter().map(|i| (i, shown(i))).collect()
}
