//! What the screen shows, drawn from the stage alone, so that a test can draw it without a terminal.
//!
//! A wide terminal has the graph and the log on the left and the p99 lines on the right, a narrow one below each
//! other; a low one loses the log first, then the lines. What is not known is shown as `-`. Health and trouble are words first and colours
//! second.

use super::fleet::{POLICIES, policy_key};
use super::record::{Figures, Sample, percentile};
use super::report::{millis, percent};
use super::stage::{Shown, Stage};
use super::story::Event;
use super::watch::View;
use crate::config::Policy;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Cell, Chart, Dataset, GraphType, Paragraph, Row, Table};

/// From this width on, graph and lines lie side by side.
const WIDE: u16 = 130;
/// The graph's lines beside its instances: the frame, the heads.
const GRAPH_FRAME: u16 = 6;
/// How every reason begins, which other columns show already.
const PREDICTED: &str = " at its fair share";
/// The width of a weight's bar, in cells.
const BAR: usize = 10;
/// What is called 'now': so many seconds of requests.
const RECENT_S: f64 = 3.0;
/// The lines show at most so much of the past.
const LINES_S: f64 = 60.0;
/// A point of the lines stands for so many seconds of requests.
const BIN_S: f64 = 1.0;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, stage: &Stage, now_s: f64) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(8), Constraint::Length(1)]).areas(frame.area());
    let graph_rows = (stage.catalogs.len() + stage.storages.len()) as u16 + GRAPH_FRAME;
    let (graph, lines, log) = if body.width >= WIDE {
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(body);
        let [graph, log] = Layout::vertical([Constraint::Length(graph_rows), Constraint::Min(0)]).areas(left);
        (graph, right, log)
    } else {
        let log = if body.height >= graph_rows + 15 { 6 } else { 0 };
        let [graph, lines, log] =
            Layout::vertical([Constraint::Length(graph_rows), Constraint::Min(0), Constraint::Length(log)]).areas(body);
        (graph, lines, log)
    };
    draw_head(frame, head, stage, now_s);
    draw_graph(frame, graph, stage, now_s);
    draw_lines(frame, lines, stage, now_s);
    draw_log(frame, log, stage);
    let look = format!(" q leave   look inside: http://{admin}/   pathloom top --admin {admin}", admin = stage.admin);
    frame.render_widget(Line::from(look).dim(), foot);
}

fn color_of(policy: Policy) -> Color {
    match policy {
        Policy::Model => Color::Cyan,
        Policy::LeastRequest => Color::Yellow,
        _ => Color::Magenta,
    }
}

fn troubled(event: Event) -> bool {
    matches!(event, Event::SlowCatalog | Event::SlowStorage | Event::Crash)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, stage: &Stage, now_s: f64) {
    let length_s = stage.story.length.as_secs_f64();
    let now_s = now_s.min(length_s);
    let chapter = stage.story.at(now_s).map(|(chapter, _)| chapter);
    let title = chapter.map_or("", |c| c.title);
    let style = if chapter.is_some_and(|c| troubled(c.event)) { Style::new().red() } else { Style::new().green() };
    let width = usize::from(area.width.saturating_sub(2));
    let cell = |i: usize| {
        let at_s = (i as f64 + 0.5) / width as f64 * length_s;
        let trouble = stage.story.at(at_s).is_some_and(|(c, _)| troubled(c.event));
        let symbol = if at_s <= now_s { "█" } else { "░" };
        Span::styled(symbol, if trouble { Color::Red } else { Color::Green })
    };
    let mut bar = vec![Span::raw(" ")];
    bar.extend((0..width).map(cell));
    let lines = vec![
        Line::from(vec![
            " pathloom demo ".bold(),
            format!(" {now_s:.0} s of {length_s:.0} s   ").into(),
            Span::styled(title, style.bold()),
        ]),
        Line::from(bar),
        Line::from(steering(stage.view().as_deref())),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn steering(view: Option<&View>) -> Vec<Span<'static>> {
    let Some(view) = view else { return vec![" the sidecar has not said anything yet".dim()] };
    let words = |s: &str| if s.is_empty() { "-".to_owned() } else { s.replace('_', " ") };
    vec![
        " generation ".dim(),
        format!("{} ({})", view.generation, words(&view.cause)).into(),
        "   steered by ".dim(),
        words(&view.rung).into(),
        "   engine ".dim(),
        words(&view.engine).into(),
        "   off by ".dim(),
        percent(view.model_error).into(),
    ]
}

fn draw_graph(frame: &mut Frame<'_>, area: Rect, stage: &Stage, now_s: f64) {
    let view = stage.view().unwrap_or_default();
    let recent = recent(stage, now_s);
    let mut rows = vec![heading("frontend → catalog")];
    for (i, shown) in stage.catalogs.iter().enumerate() {
        rows.push(row(shown, &view, recent.as_ref().and_then(|r| r.share_of(&[i]))));
    }
    let (east, west) = stage.storages.split_at(super::story::SLOW_STORAGE.min(stage.storages.len()));
    rows.push(heading("catalog-1, catalog-2 → storage"));
    rows.extend(east.iter().map(|shown| row(shown, &view, None)));
    rows.push(heading("catalog-3, catalog-4 → storage"));
    rows.extend(west.iter().map(|shown| row(shown, &view, None)));
    let widths = [
        Constraint::Length(11),
        Constraint::Length(BAR as u16 + 7),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(4),
        Constraint::Length(9),
        Constraint::Min(6),
    ];
    let head = Row::new(["", "weight", "share", "seen", "expected", "busy", "health", "why"]).dim();
    let block = Block::bordered().title(" the mesh under `model` ");
    frame.render_widget(Table::new(rows, widths).header(head).block(block), area);
}

fn heading(text: &'static str) -> Row<'static> {
    Row::new([Cell::from(Line::from(text).bold()).column_span(8)])
}

fn row(shown: &Shown, view: &View, share: Option<f64>) -> Row<'static> {
    let mean = |of: fn(&super::watch::CandidateView) -> Option<f64>| {
        let values: Vec<f64> = view.at(&shown.address).filter(|c| calls(shown, &c.workload)).filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let first = view.at(&shown.address).find(|c| calls(shown, &c.workload));
    let health = first.map_or_else(|| "-".to_owned(), |c| c.health.clone());
    let style = match health.as_str() {
        "healthy" => Style::new().green(),
        "-" => Style::new().dim(),
        _ => Style::new().red(),
    };
    let weight = mean(|c| c.weight);
    let filled = (weight.unwrap_or(0.0) * BAR as f64).round() as usize;
    let bar = format!("{}{} {:>5}", "█".repeat(filled.min(BAR)), "░".repeat(BAR - filled.min(BAR)), percent(weight));
    let busy = view.node(&shown.address).and_then(|n| n.cpu);
    Row::new([
        Cell::from(format!("  {}", shown.name)),
        Cell::from(bar).cyan(),
        Cell::from(percent(share)),
        Cell::from(millis(mean(|c| c.seen_ms))),
        Cell::from(millis(mean(|c| c.predicted_ms))),
        Cell::from(busy.map_or_else(|| "-".into(), |b| format!("{:.0}%", b * 100.0))),
        Cell::from(health).style(style),
        Cell::from(first.map(|c| remark(&c.reason)).unwrap_or_default()),
    ])
}

/// What a candidate's reason says beside its prediction.
fn remark(reason: &str) -> String {
    reason.split_once(PREDICTED).map_or(reason, |(_, rest)| rest.trim_start_matches([';', ' '])).to_owned()
}

/// Whether a workload is one that calls this instance in the demo: every sidecar has tables for all pairs.
fn calls(shown: &Shown, workload: &str) -> bool {
    match shown.name.as_str() {
        "storage-1" | "storage-2" => matches!(workload, "catalog-1" | "catalog-2"),
        "storage-3" => matches!(workload, "catalog-3" | "catalog-4"),
        _ => workload == "frontend",
    }
}

/// The figures of the model's arm of late.
fn recent(stage: &Stage, now_s: f64) -> Option<Figures> {
    Some(Figures::of(&stage.records.first()?.between(now_s - RECENT_S, now_s)))
}

fn draw_lines(frame: &mut Frame<'_>, area: Rect, stage: &Stage, now_s: f64) {
    if area.height < 6 {
        return;
    }
    let length_s = stage.story.length.as_secs_f64().min(LINES_S);
    let from_s = (now_s - length_s).max(0.0);
    let lines: Vec<Vec<(f64, f64)>> =
        stage.records.iter().map(|record| bins(&record.between(from_s, now_s), from_s, now_s)).collect();
    // Half decades: 10, 32, 100, 316 ms.
    let all = || lines.iter().flatten().map(|(_, y)| y * 2.0);
    let (low, high) = (all().fold(2.0f64, f64::min).floor() / 2.0, all().fold(4.0f64, f64::max).ceil() / 2.0);
    let sets = POLICIES.iter().zip(&lines).rev().map(|(policy, line)| {
        let color = color_of(*policy);
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(color).data(line)
    });
    let labels =
        ((low * 2.0) as i32..=(high * 2.0) as i32).map(|e| format!("{:>5.0} ms", 10f64.powf(f64::from(e) / 2.0)));
    let seconds = [from_s, from_s + length_s].map(|s| format!("{s:.0} s"));
    let chart = Chart::new(sets.collect())
        .block(Block::bordered().title(Line::from(legend(stage, now_s))))
        .legend_position(None)
        .x_axis(Axis::default().bounds([from_s, from_s + length_s]).labels(seconds).dim())
        .y_axis(Axis::default().bounds([low, high]).labels(labels).dim());
    frame.render_widget(chart, area);
}

fn legend(stage: &Stage, now_s: f64) -> Vec<Span<'static>> {
    let mut spans = vec![Span::raw(" p99 in ms: ")];
    for (policy, record) in POLICIES.iter().zip(&stage.records) {
        let p99 = Figures::of(&record.between(now_s - RECENT_S, now_s)).p99_ms;
        let p99 = p99.map_or_else(|| "-".into(), |ms| format!("{ms:.0}"));
        let text = format!("{} {p99}  ", policy_key(*policy).replace('_', " "));
        spans.push(Span::styled(text, color_of(*policy)));
    }
    spans
}

/// The p99 of each full bin: its middle in seconds, and the p99's decimal logarithm in ms.
fn bins(samples: &[Sample], from_s: f64, now_s: f64) -> Vec<(f64, f64)> {
    let first = (from_s / BIN_S).floor() as usize;
    let mut bins = vec![Vec::new(); ((now_s / BIN_S).floor() as usize).saturating_sub(first)];
    for sample in samples.iter().filter(|s| s.answered()) {
        let bin = ((sample.due_s / BIN_S).floor() as usize).saturating_sub(first);
        if let Some(bin) = bins.get_mut(bin) {
            bin.push(sample.latency_ms);
        }
    }
    let point = |(i, mut bin): (usize, Vec<f64>)| {
        bin.sort_by(f64::total_cmp);
        Some((((first + i) as f64 + 0.5) * BIN_S, percentile(&bin, 99)?.max(0.1).log10()))
    };
    bins.into_iter().enumerate().filter_map(point).collect()
}

fn draw_log(frame: &mut Frame<'_>, area: Rect, stage: &Stage) {
    if area.height < 3 {
        return;
    }
    let lines = stage.last_lines(usize::from(area.height - 2));
    let lines: Vec<Line<'_>> =
        lines.into_iter().map(|(at_s, text)| Line::from(vec![format!("{at_s:6.1} s  ").dim(), text.into()])).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" what happened ")), area);
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
