//! What `top` shows: a head, what is wrong in words, one of six sheets (`kinds`), all of the chosen row's reason, and the keys.
//!
//! A sheet that is too wide loses its least important columns first; the reason of the chosen row stands below in full. Sentences
//! go on in the next line where they are wider than the screen. A low screen loses the words on columns, then the keys, then the
//! head. Trouble is words first and colours second.

use super::kinds::Sheet;
use super::sheet::{Row, Snapshot};
use crate::admin::client::printable;
use crate::admin::columns::{self, Column, wrapped};
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
/// Below these heights what columns mean, the chosen row's reason and the keys are not shown, and the head is one line.
const LEGEND_FROM: u16 = 18;
const REASON_FROM: u16 = 14;
const KEYS_FROM: u16 = 12;
const HEAD_FROM: u16 = 8;
/// The most lines of one reason.
const REASON_LINES: usize = 6;

/// All that is on the screen.
#[derive(Debug)]
pub struct Screen {
    /// What is shown.
    pub sheet: Sheet,
    /// Only rows that hold this.
    pub filter: String,
    /// The filter while somebody types it.
    pub typing: Option<String>,
    /// Whether all is said of what the columns mean.
    pub explains: bool,
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
            explains: false,
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
        let number = column.and_then(|c| self.sheet.columns().get(c)).is_some_and(|(_, _, right, _)| *right);
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
        let mut rows = self.sheet.rows(now, self.before.as_ref());
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

    /// One frame as text in lines of so many characters at most: every row, and no keys.
    pub fn printed(&self, width: usize) -> String {
        let mut out = String::new();
        for line in self.head(width).iter().chain(&lines(&self.wrong(), width)) {
            out.push_str(line.to_string().trim_end());
            out.push('\n');
        }
        out.push('\n');
        let rows = self.rows();
        if rows.is_empty() {
            out.push_str(&columns::fitted(&format!("  {}\n", self.nothing()), width));
            return out;
        }
        let shown =
            |row: &Row| columns::Row { marked: false, cells: row.iter().map(|cell| cell.text.clone()).collect() };
        let rows: Vec<columns::Row> = rows.iter().map(shown).collect();
        let (table, left_out) = columns::table(self.sheet.columns(), &rows, width);
        out.push_str(&table);
        out.push('\n');
        out.push_str(&columns::fitted(&self.sheet.meaning(), width));
        if !left_out.is_empty() {
            let titles = left_out.join(", ");
            out.push_str(&columns::fitted(
                &format!("Not shown for want of width: {titles}; a wider terminal has them."),
                width,
            ));
        }
        out
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = self.rows();
        self.rows = rows.len();
        self.move_by(0);
        let area = frame.area();
        let width = usize::from(area.width);
        let (head, wrong) = (self.head(width), lines(&self.wrong(), width));
        let count = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
        let head_lines = if area.height < HEAD_FROM { 1 } else { count(head.len()) };
        let keys = if area.height < KEYS_FROM { 0 } else { 2 };
        // Of much trouble the first lines are enough.
        let wrong_lines = count(wrong.len()).min(area.height / 3);
        let (legend, reason) = (self.legend(width, area.height), self.reason(&rows, width, area.height));
        let parts = [
            Constraint::Length(head_lines),
            Constraint::Length(wrong_lines),
            Constraint::Min(1),
            Constraint::Length(reason.1),
            Constraint::Length(count(legend.len())),
            Constraint::Length(keys),
        ];
        let [head_area, wrong_area, body, reason_area, legend_area, foot] = Layout::vertical(parts).areas(area);
        frame.render_widget(Paragraph::new(head), head_area);
        frame.render_widget(Paragraph::new(wrong), wrong_area);
        self.table(frame, body, &rows);
        frame.render_widget(Paragraph::new(reason.0), reason_area);
        frame.render_widget(Paragraph::new(legend), legend_area);
        frame.render_widget(Paragraph::new(vec![self.sheets(), self.keys(width)]), foot);
    }

    /// Who is asked and what steers it: as many facts a line as there is room for.
    fn head(&self, width: usize) -> Vec<Line<'static>> {
        let Some(now) = &self.now else { return vec![Line::from(" nothing was heard yet")] };
        let routing = &now.routing;
        let word = |pointer: &str| words(routing, pointer);
        let number = |pointer: &str, digits: usize| {
            let value = routing.pointer(pointer).and_then(Value::as_f64);
            value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
        };
        let rate = now.rate(self.before.as_ref()).map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"));
        let off = routing.pointer("/model_error").and_then(Value::as_f64);
        let off = off.map_or_else(|| "-".to_owned(), |off| format!("{:.0}%", off * 100.0));
        let age = format!(
            "{} ({}, {} s old)",
            number("/generation/id", 0),
            word("/generation/cause"),
            number("/generation/age_s", 1)
        );
        let facts: [Vec<Span<'static>>; 8] = [
            vec![
                "pathloom top ".bold(),
                format!("{} at {}, {}", word("/node"), printable(&self.address), word("/version")).into(),
            ],
            vec!["requests/s ".dim(), rate.into()],
            vec!["mode ".dim(), word("/mode").into()],
            vec!["generation ".dim(), age.into()],
            vec!["steered by ".dim(), rung(&word("/generation/rung"))],
            vec!["model ".dim(), word("/generation/model/name").into()],
            vec!["on ".dim(), word("/generation/model/engine").into()],
            vec!["predictions off by ".dim(), off.into()],
        ];
        let mut lines: Vec<Line<'static>> = Vec::new();
        for (place, fact) in facts.into_iter().enumerate() {
            let wide: usize = fact.iter().map(Span::width).sum();
            // What is asked stands in the first line, what steers it below.
            match lines.last_mut().filter(|line| place != 3 && line.width() + 3 + wide <= width) {
                Some(line) => {
                    line.push_span("   ");
                    fact.into_iter().for_each(|span| line.push_span(span));
                }
                None => lines.push(Line::from([vec![" ".into()], fact].concat())),
            }
        }
        lines
    }

    /// What the columns mean: a line, or all of it where somebody asked.
    fn legend(&self, width: usize, height: u16) -> Vec<Line<'static>> {
        let said = match (self.explains, height >= LEGEND_FROM) {
            (true, _) => self.sheet.meaning(),
            (false, true) => self.sheet.legend().to_owned(),
            (false, false) => return Vec::new(),
        };
        let room = width.saturating_sub(1);
        wrapped(&said, room).into_iter().map(|line| Line::from(format!(" {line}")).dim()).collect()
    }

    /// All of the chosen row's reason, and how many lines it may take: as many as the longest does, so that nothing jumps.
    fn reason(&self, rows: &[Row], width: usize, height: u16) -> (Vec<Line<'static>>, u16) {
        if height < REASON_FROM {
            return (Vec::new(), 0);
        }
        let said = |row: &Row| wrapped(&self.sheet.detail(row).unwrap_or_default(), width.saturating_sub(3));
        let most = rows
            .iter()
            .map(|row| if self.sheet.detail(row).is_some() { said(row).len() } else { 0 })
            .max()
            .unwrap_or(0);
        let chosen = self.chosen.selected().and_then(|place| rows.get(place)).map(said).unwrap_or_default();
        let line =
            |(place, text): (usize, String)| Line::from(format!(" {} {text}", if place == 0 { "▸" } else { " " }));
        let shown = chosen.into_iter().filter(|text| !text.is_empty()).enumerate().map(line).collect();
        (shown, u16::try_from(most.min(REASON_LINES)).unwrap_or(u16::MAX))
    }

    /// What stands in the place of rows where there are none.
    fn nothing(&self) -> String {
        let mode = self.now.as_ref().map_or_else(|| "-".to_owned(), |now| words(&now.routing, "/mode"));
        match self.filter.as_str() {
            "" => self.sheet.empty(&mode),
            filter => format!("no row holds `{filter}`"),
        }
    }

    /// What is wrong, a sentence each.
    fn wrong(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        if let Some(why) = &self.trouble {
            found.push(format!("NO ANSWER: {} (below is the last one)", printable(why)));
        }
        let Some(now) = &self.now else { return found };
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
        found
    }

    fn table(&mut self, frame: &mut Frame<'_>, area: Rect, rows: &[Row]) {
        if rows.is_empty() && self.now.is_some() {
            let said = wrapped(&self.nothing(), usize::from(area.width).saturating_sub(1));
            let said: Vec<Line<'_>> = said.into_iter().map(|line| Line::from(format!(" {line}"))).collect();
            return frame.render_widget(Paragraph::new(said), area);
        }
        let columns = self.sheet.columns();
        let all = widths(columns, rows);
        let kept = fitting(columns, &all, usize::from(area.width));
        let title = |i: usize| {
            let mark = match self.sorted {
                (Some(column), true) if column == i => "▾",
                (Some(column), false) if column == i => "▴",
                _ => "",
            };
            aligned(format!("{}{mark}", columns.get(i).map(heading).unwrap_or_default()), columns.get(i))
        };
        let cell = |row: &Row, i: usize| {
            let Some(cell) = row.get(i) else { return widgets::Cell::default() };
            let style = if cell.bad { Style::new().red() } else { Style::new() };
            let text = if i + 1 == columns.len() { cell.text.clone() } else { columns::shortened(&cell.text, WIDEST) };
            aligned(text, columns.get(i)).style(style)
        };
        let shown = rows.iter().map(|row| widgets::Row::new(kept.iter().map(|(i, _)| cell(row, *i))));
        let widths = kept.iter().map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
        let head = widgets::Row::new(kept.iter().map(|(i, _)| title(*i))).style(Style::new().dim());
        let table = Table::new(shown, widths).header(head).column_spacing(GAP);
        frame.render_stateful_widget(table.row_highlight_style(Style::new().reversed()), area, &mut self.chosen);
    }

    /// The sheets with their keys; that which is shown stands out.
    fn sheets(&self) -> Line<'static> {
        let name = |(key, sheet): (usize, Sheet)| {
            let span = Span::from(format!(" {key} {} ", sheet.title()));
            if sheet == self.sheet { span.reversed() } else { span.dim() }
        };
        Line::from((1..).zip(Sheet::ALL).map(name).collect::<Vec<_>>())
    }

    fn keys(&self, width: usize) -> Line<'static> {
        if let Some(text) = &self.typing {
            return Line::from(format!(" only rows with: {text}▏  (enter keeps it, esc clears it)"));
        }
        let filter = match self.filter.as_str() {
            "" => String::new(),
            words => format!(" with `{}`", columns::shortened(words, 20)),
        };
        let rows = if self.rows == 1 { "row" } else { "rows" };
        let count = format!(" {} {rows}{filter}", self.rows);
        let long = format!("{count}   tab sheets   ←→ sort   r reverse   ↑↓ choose   / filter   ? words   q leave");
        if long.chars().count() <= width {
            return Line::from(long).dim();
        }
        Line::from(format!(" q leave  ? words  / filter  ↑↓ ←→ r sort {count}")).dim()
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

/// Sentences in red, as wide as the screen.
fn lines(found: &[String], width: usize) -> Vec<Line<'static>> {
    let room = width.saturating_sub(3);
    let sentence = |text: &String| {
        let parts = wrapped(text, room).into_iter().enumerate();
        parts
            .map(|(place, part)| Line::from(format!(" {}{part}", if place == 0 { "" } else { "  " })).red())
            .collect::<Vec<_>>()
    };
    found.iter().flat_map(sentence).collect()
}

fn aligned(text: String, column: Option<&Column>) -> widgets::Cell<'static> {
    let right = column.is_some_and(|(_, _, right, _)| *right);
    widgets::Cell::from(Line::from(text).alignment(if right { Alignment::Right } else { Alignment::Left }))
}

/// A title with its unit.
fn heading((title, unit, _, _): &Column) -> String {
    if unit.is_empty() { (*title).to_owned() } else { format!("{title} {unit}") }
}

/// How wide each column wants to be. The last one may be as long as its words.
fn widths(columns: &[Column], rows: &[Row]) -> Vec<usize> {
    let last = columns.len().saturating_sub(1);
    let width = |i: usize, column: &Column| {
        let longest = rows.iter().filter_map(|row| row.get(i)).map(|c| c.text.chars().count()).max().unwrap_or(0);
        // Room for the mark of the column that is sorted by.
        longest.min(if i == last { usize::MAX } else { WIDEST }).max(heading(column).chars().count() + 1)
    };
    columns.iter().enumerate().map(|(i, column)| width(i, column)).collect()
}

/// The columns that fit, in their order, with their widths: without the least important ones. The very last column may be cut.
fn fitting(columns: &[Column], widths: &[usize], room: usize) -> Vec<(usize, usize)> {
    let last = columns.len().saturating_sub(1);
    // A cut sentence still says something.
    let least = |i: usize, width: usize| if i == last { width.min(WIDEST / 2) } else { width };
    let taken = |kept: &[usize]| -> usize {
        let of = |i: &usize| least(*i, widths.get(*i).copied().unwrap_or(0)) + usize::from(GAP);
        kept.iter().map(of).sum::<usize>().saturating_sub(usize::from(GAP))
    };
    let (kept, _) = columns::fitting(columns, |kept| taken(kept) <= room);
    let wide = |i: usize| widths.get(i).copied().unwrap_or(0);
    // What the others leave, or the table would cut a little from each.
    let others: usize = kept.iter().filter(|i| **i != last).map(|i| wide(*i) + usize::from(GAP)).sum();
    let shown = |i: usize| if i == last { wide(i).min(room.saturating_sub(others)) } else { wide(i) };
    kept.into_iter().map(|i| (i, shown(i))).collect()
}
