//! The plot of a run: an SVG with the p99 of each policy over time, and below it, for each policy, where the requests went.
//!
//! All panels share the time axis and the chapters' shading: troubles grey, the others white, each named at the top.
//! Colours are Okabe and Ito's, which colour-blind people can tell apart; policies and replicas use different ones, and
//! our policy's line is wider, so that it can be told without colour. The p99 axis is logarithmic, since what
//! is of interest is how many times longer. A point stands for the requests that were due within `window_s` around it.

use super::fleet::{POLICIES, policy_key};
use super::record::{CATALOGS, Figures, Record};
use super::report::catalog_names;
use super::story::{Event, Story};
use crate::config::Policy;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WIDTH: u32 = 1160;
const HEIGHT: u32 = 1000;
/// The right-hand column, which holds the legends.
const LEGEND: u32 = 168;
const TITLE: u32 = 64;
const MARGIN: u32 = 12;
/// The width of the axis' figures and name.
const AXIS: u32 = 64;
/// Where the p99 axis has lines, as multiples of the powers of ten.
const TICKS: [f64; 4] = [1.0, 2.0, 3.0, 5.0];
const LATENCY_PANEL: u32 = 400;
/// A window holds at least this many seconds of requests: with fewer, a p99 is only their slowest.
const MIN_WINDOW_S: f64 = 1.0;
/// A window is this part of the whole, if that is longer.
const WINDOW_PART: f64 = 60.0;
/// Points to a window: windows overlap, so that a change is not hidden by where a window happens to begin.
const POINTS_A_WINDOW: f64 = 3.0;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const TROUBLE: RGBColor = RGBColor(240, 240, 240);
const REPLICAS: [RGBColor; CATALOGS] =
    [RGBColor(0, 158, 115), RGBColor(213, 94, 0), RGBColor(86, 180, 233), RGBColor(90, 60, 150)];

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn style_of(policy: Policy) -> (RGBColor, u32) {
    match policy {
        Policy::Model => (RGBColor(0, 114, 178), 3),
        Policy::LeastRequest => (RGBColor(230, 159, 0), 2),
        _ => (RGBColor(204, 102, 151), 2),
    }
}

fn name_of(policy: Policy) -> String {
    policy_key(policy).replace('_', " ")
}

/// A stretch of time around a moment, and the figures of the requests in it.
struct Point {
    at_s: f64,
    figures: Figures,
}

fn window_s(story: Story) -> f64 {
    (story.length.as_secs_f64() / WINDOW_PART).max(MIN_WINDOW_S)
}

fn points(record: &Record, story: Story) -> Vec<Point> {
    let (window_s, length_s) = (window_s(story), story.length.as_secs_f64());
    let step_s = window_s / POINTS_A_WINDOW;
    let all = record.all();
    (0..=(length_s / step_s) as usize)
        .map(|i| {
            let at_s = i as f64 * step_s;
            let within = |due_s: f64| (due_s - at_s).abs() < window_s / 2.0;
            let samples: Vec<_> = all.iter().filter(|s| within(s.due_s)).copied().collect();
            Point { at_s, figures: Figures::of(&samples) }
        })
        .collect()
}

/// Draws the records, which are in the order of `POLICIES`.
///
/// # Errors
/// When the drawing library fails.
pub fn draw(story: Story, records: &[Arc<Record>]) -> Result<String, Box<dyn Error>> {
    let points: Vec<Vec<Point>> = records.iter().map(|record| points(record, story)).collect();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let (title, panels) = root.split_vertically(TITLE);
        draw_title(&title, story)?;
        let (latency, shares) = panels.split_vertically(LATENCY_PANEL);
        draw_latency(&latency, story, &points)?;
        let rows = shares.split_evenly((POLICIES.len(), 1));
        for (i, ((row, policy), points)) in rows.iter().zip(POLICIES).zip(&points).enumerate() {
            draw_shares(row, story, policy, points, i + 1 == POLICIES.len())?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Draws and writes the plot.
///
/// # Errors
/// When it cannot be drawn or written.
pub fn write(path: &Path, story: Story, records: &[Arc<Record>]) -> io::Result<()> {
    let svg = draw(story, records).map_err(|e| io::Error::other(e.to_string()))?;
    std::fs::write(path, svg)
}

/// Where a plot goes when nobody says: beside what was built, else among the temporary files.
#[must_use]
pub fn default_path() -> PathBuf {
    const NAME: &str = "pathloom-demo.svg";
    let built = Path::new("target");
    if built.is_dir() {
        let directory = built.join("demo");
        if std::fs::create_dir_all(&directory).is_ok() {
            return directory.join(NAME);
        }
    }
    std::env::temp_dir().join(NAME)
}

fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    // The SVG backend writes sizes divided by 1.24.
    ("sans-serif", f64::from(size) * 1.24).into_font().color(&color)
}

fn draw_title(area: &Area<'_>, story: Story) -> Drawn {
    let bold = ("sans-serif", 20.0 * 1.24, FontStyle::Bold).into_font().color(&INK);
    area.draw(&Text::new("pathloom demo: the same story under three policies, side by side", (20, 14), bold))?;
    let detail = format!(
        "{:.0} s of {:.0} requests a second and policy; a point stands for {:.1} s of requests, latency counts from when a request was due",
        story.length.as_secs_f64(),
        super::fleet::REQUESTS_PER_SECOND,
        window_s(story)
    );
    area.draw(&Text::new(detail, (20, 42), text(13, INK)))?;
    Ok(())
}

fn draw_latency(area: &Area<'_>, story: Story, points: &[Vec<Point>]) -> Drawn {
    let (panel, legend) = area.split_horizontally(WIDTH - LEGEND);
    let values = points.iter().flatten().filter_map(|p| p.figures.p99_ms);
    let (low, high) = values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    let (low, high) = if high > 0.0 { (low.max(0.1) / 1.3, high * 1.6) } else { (1.0, 1000.0) };
    let length_s = story.length.as_secs_f64();
    let mut chart = ChartBuilder::on(&panel)
        .margin_right(8)
        .margin_left(MARGIN)
        .x_label_area_size(24)
        .y_label_area_size(AXIS)
        .build_cartesian_2d(0.0..length_s, low.ln()..high.ln())?;
    for (chapter, span) in story.chapters() {
        if troubled(chapter.event) {
            chart.draw_series([Rectangle::new([(span.from_s, low.ln()), (span.to_s, high.ln())], TROUBLE.filled())])?;
        }
    }
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .y_desc("p99 latency (ms, logarithmic)")
        .x_labels(13)
        .y_labels(8)
        .label_style(text(13, INK))
        .axis_desc_style(text(14, INK))
        .x_label_formatter(&|s| format!("{s:.0}"))
        .disable_y_mesh()
        .y_labels(0)
        .draw()?;
    let beside = text(13, INK).pos(Pos::new(HPos::Right, VPos::Center));
    for tick in ticks(low, high) {
        chart.draw_series([PathElement::new([(0.0, tick.ln()), (length_s, tick.ln())], GRID)])?;
        let (x, y) = chart.backend_coord(&(0.0, tick.ln()));
        panel.draw(&Text::new(tick.to_string(), (x - 8, y - TITLE as i32), beside.clone()))?;
    }
    let centred = text(12, INK).pos(Pos::new(HPos::Center, VPos::Top));
    for (chapter, span) in story.chapters() {
        for (line, words) in chapter.label.iter().enumerate() {
            let down = 0.018 + 0.045 * line as f64;
            let at = ((span.from_s + span.to_s) / 2.0, high.ln() - (high / low).ln() * down);
            chart.draw_series([Text::new(*words, at, centred.clone())])?;
        }
        if span.from_s > 0.0 {
            chart
                .draw_series([PathElement::new([(span.from_s, low.ln()), (span.from_s, high.ln())], INK.mix(0.35))])?;
        }
    }
    // Ours last, on top of the others.
    for (policy, points) in POLICIES.into_iter().zip(points).rev() {
        let (color, width) = style_of(policy);
        let line = points.iter().filter_map(|p| Some((p.at_s, p.figures.p99_ms?.max(low).ln())));
        chart.draw_series(LineSeries::new(line, color.stroke_width(width)))?;
    }
    let entries = POLICIES.into_iter().map(|p| (name_of(p), style_of(p)));
    draw_legend(&legend, "policy", entries)
}

fn draw_shares(area: &Area<'_>, story: Story, policy: Policy, points: &[Point], last: bool) -> Drawn {
    let (panel, legend) = area.split_horizontally(WIDTH - LEGEND);
    let length_s = story.length.as_secs_f64();
    let mut chart = ChartBuilder::on(&panel)
        .margin_right(8)
        .margin_left(MARGIN)
        .margin_top(10)
        .x_label_area_size(if last { 44 } else { 24 })
        .y_label_area_size(AXIS)
        .build_cartesian_2d(0.0..length_s, 0.0..75.0)?;
    for (chapter, span) in story.chapters() {
        if troubled(chapter.event) {
            chart.draw_series([Rectangle::new([(span.from_s, 0.0), (span.to_s, 75.0)], TROUBLE.filled())])?;
        }
    }
    let mut mesh = chart.configure_mesh();
    if last {
        mesh.x_desc("time since the start (s)");
    }
    mesh.bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .y_desc("share (%)")
        .x_labels(13)
        .y_labels(4)
        .label_style(text(13, INK))
        .axis_desc_style(text(14, INK))
        .x_label_formatter(&|s| format!("{s:.0}"))
        .y_label_formatter(&|share| format!("{share:.0}"))
        .draw()?;
    for (_, span) in story.chapters().filter(|(_, span)| span.from_s > 0.0) {
        chart.draw_series([PathElement::new([(span.from_s, 0.0), (span.from_s, 75.0)], INK.mix(0.35))])?;
    }
    for (replica, color) in REPLICAS.into_iter().enumerate() {
        let share = |p: &Point| Some((p.at_s, p.figures.share_of(&[replica])? * 100.0));
        chart.draw_series(LineSeries::new(points.iter().filter_map(share), color.stroke_width(2)))?;
    }
    let heading = format!("under {}", name_of(policy));
    draw_legend(&legend, &heading, catalog_names().zip(REPLICAS.map(|color| (color, 2))))
}

fn draw_legend(area: &Area<'_>, heading: &str, entries: impl Iterator<Item = (String, (RGBColor, u32))>) -> Drawn {
    let bold = ("sans-serif", 13.0 * 1.24, FontStyle::Bold).into_font().color(&INK);
    area.draw(&Text::new(heading.to_owned(), (6, 14), bold))?;
    for (i, (name, (color, width))) in (0i32..).zip(entries) {
        let y = 42 + 22 * i;
        area.draw(&PathElement::new([(6, y), (30, y)], color.stroke_width(width)))?;
        let style = text(13, INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name, (38, y), style))?;
    }
    Ok(())
}

/// Round latencies between two.
fn ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let decades = -2..=7;
    let all = decades.flat_map(|e| TICKS.into_iter().map(move |t| (t * 10f64.powi(e) * 100.0).round() / 100.0));
    all.filter(move |t| low < *t && *t < high)
}

fn troubled(event: Event) -> bool {
    matches!(event, Event::SlowCatalog | Event::SlowStorage | Event::Crash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::record::Sample;
    use std::time::Duration;

    #[test]
    fn the_plot_names_all_that_it_shows() {
        let story = Story::new(Duration::from_secs(20)).unwrap();
        let record = Arc::new(Record::default());
        for i in 0..2000 {
            let due_s = f64::from(i) / 100.0;
            record.add(Sample { due_s, late_ms: 0.0, latency_ms: 20.0 + due_s, replica: Some(i as usize % 4) });
        }
        let svg = draw(story, &[record.clone(), record.clone(), record]).unwrap();
        for word in [
            "p99 latency",
            "share (%)",
            "time since the start (s)",
            "catalog-4",
            "least request",
            "under model",
            "storage-3",
        ] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(svg.matches("<polyline").count() >= 3 + 3 * 4, "a line for each policy and replica");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "no point lies nowhere");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(15.0, 400.0).collect::<Vec<_>>(), [20.0, 30.0, 50.0, 100.0, 200.0, 300.0]);
        assert_eq!(ticks(0.09, 0.6).collect::<Vec<_>>(), [0.1, 0.2, 0.3, 0.5]);
    }

    #[test]
    fn a_run_without_an_answer_has_a_plot_too() {
        let story = Story::new(Duration::from_secs(20)).unwrap();
        let empty: Vec<Arc<Record>> = (0..3).map(|_| Arc::default()).collect();
        assert!(draw(story, &empty).unwrap().contains("</svg>"));
    }
}
