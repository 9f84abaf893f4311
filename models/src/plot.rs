//! Plots as SVG: lines, bars with error bars, predicted against observed.
//!
//! All share one look: a white ground (so that they read alike on light and dark pages), a title, named axes with units,
//! round ticks, and a legend on the right. Colours are Okabe and Ito's, which colour-blind people can tell apart; from the
//! eighth series on the line is dashed. A value that is not a number, or not positive on a logarithmic axis, is left out.
//!
//! ```text
//! plot::lines(path, "Training", Axis::linear("step"), Axis::logarithmic("loss"), &[Series::new("train", points)])?;
//! ```

use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: i32 = 900;
const HEIGHT: i32 = 460;
const TOP: i32 = 48;
const BOTTOM: i32 = 56;
const LEFT: i32 = 78;
const RIGHT: i32 = 18;
/// The height of a bar, and what is left between two groups.
const BAR: i32 = 13;
const GAP: i32 = 12;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(226, 226, 226);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 102, 151),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 60, 150),
    RGBColor(120, 120, 120),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// An axis: its name with its unit, and its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis<'a> {
    name: &'a str,
    logarithmic: bool,
}

impl<'a> Axis<'a> {
    /// Equal steps are equally long.
    #[must_use]
    pub fn linear(name: &'a str) -> Self {
        Self { name, logarithmic: false }
    }

    /// Equal factors are equally long.
    #[must_use]
    pub fn logarithmic(name: &'a str) -> Self {
        Self { name, logarithmic: true }
    }

    fn holds(self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }
}

/// A named line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points (x, y), in order.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A line.
    #[must_use]
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }
}

/// A bar's value and the interval around it, where there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Its length; NaN for none.
    pub value: f64,
    /// The ends of the error bar.
    pub interval: Option<(f64, f64)>,
}

/// Bars of one colour, one for each category.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// Their name in the legend.
    pub name: String,
    /// For each category.
    pub bars: Vec<Bar>,
}

/// Lines, several in one chart.
///
/// # Errors
/// When the file cannot be written.
pub fn lines(path: &Path, title: &str, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> Result<()> {
    let legend = if series.len() > 1 { 190 } else { 0 };
    let frame = (LEFT, TOP, WIDTH - RIGHT - legend, HEIGHT - BOTTOM);
    draw(path, HEIGHT, title, |area| {
        let points = series.iter().flat_map(|s| &s.points).filter(|(a, b)| x.holds(*a) && y.holds(*b));
        let (xs, ys): (Vec<f64>, Vec<f64>) = points.copied().unzip();
        let (across, up) = (Scale::of(x, &xs, frame.0, frame.2), Scale::of(y, &ys, frame.3, frame.1));
        axes(area, frame, Some((x, &across)), Some((y, &up)))?;
        // The first on top of the others.
        for (i, s) in series.iter().enumerate().rev() {
            for part in s.points.split(|(a, b)| !x.holds(*a) || !y.holds(*b)).filter(|p| !p.is_empty()) {
                let at: Vec<(i32, i32)> = part.iter().map(|(a, b)| (across.at(*a), up.at(*b))).collect();
                stroke(area, &at, i)?;
            }
        }
        let names = series.iter().filter(|_| legend > 0).map(|s| s.name.as_str());
        for (i, name) in names.enumerate() {
            let (left, height) = (frame.2 + 14, TOP + 10 + 20 * i as i32);
            stroke(area, &[(left, height), (left + 26, height)], i)?;
            say(area, name, (left + 34, height), text(13), HPos::Left)?;
        }
        Ok(())
    })
}

/// Cumulated distributions: each series has (value, share of the cases at most that).
///
/// # Errors
/// When the file cannot be written.
pub fn distributions(path: &Path, title: &str, x: Axis<'_>, of: &str, series: &[Series]) -> Result<()> {
    lines(path, title, x, Axis::linear(of), series)
}

/// Predicted against observed, both logarithmic, with the line where they are equal.
///
/// # Errors
/// When the file cannot be written.
pub fn scatter(path: &Path, title: &str, x: &str, y: &str, points: &[(f64, f64)]) -> Result<()> {
    let (x, y) = (Axis::logarithmic(x), Axis::logarithmic(y));
    let side = WIDTH - LEFT - RIGHT - 320;
    let frame = (LEFT, TOP, LEFT + side, TOP + side);
    draw(path, TOP + side + BOTTOM, title, |area| {
        let known: Vec<(f64, f64)> = points.iter().copied().filter(|(a, b)| x.holds(*a) && y.holds(*b)).collect();
        let all: Vec<f64> = known.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let (across, up) = (Scale::of(x, &all, frame.0, frame.2), Scale::of(y, &all, frame.3, frame.1));
        axes(area, frame, Some((x, &across)), Some((y, &up)))?;
        let [colour, other, ..] = COLOURS;
        for (a, b) in &known {
            area.draw(&Circle::new((across.at(*a), up.at(*b)), 2, colour.mix(0.35).filled()))?;
        }
        area.draw(&PathElement::new([(frame.0, frame.3), (frame.2, frame.1)], other.stroke_width(2)))?;
        say(area, "equal", (frame.2 + 12, frame.1 + 8), text(13), HPos::Left)?;
        say(area, &format!("{} candidates", known.len()), (frame.2 + 12, frame.1 + 28), text(13), HPos::Left)?;
        Ok(())
    })
}

/// Horizontal bars with error bars: for each category one bar of each series. As high as it needs to be.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(path: &Path, title: &str, x: Axis<'_>, categories: &[String], series: &[Bars]) -> Result<()> {
    let longest = categories.iter().map(|c| c.chars().count()).max().unwrap_or(0) as i32;
    let left = (longest * 8 + 24).clamp(LEFT, 340);
    let group = BAR * series.len().max(1) as i32 + GAP;
    let legend = if series.len() > 1 { 22 } else { 0 };
    let height = TOP + legend + group * categories.len().max(1) as i32 + BOTTOM;
    let frame = (left, TOP + legend, WIDTH - RIGHT - 64, height - BOTTOM);
    draw(path, height, title, |area| {
        let ends = |b: &Bar| [Some(b.value), b.interval.map(|i| i.0), b.interval.map(|i| i.1)];
        let mut values: Vec<f64> = series.iter().flat_map(|s| &s.bars).flat_map(ends).flatten().collect();
        values.retain(|v| x.holds(*v));
        if !x.logarithmic {
            // Lengths of bars are compared, so they begin at zero.
            values.push(0.0);
        }
        let across = Scale::of(x, &values, frame.0, frame.2);
        axes(area, frame, Some((x, &across)), None)?;
        let zero = if x.logarithmic { frame.0 } else { across.at(0.0) };
        for (row, category) in categories.iter().enumerate() {
            let top = frame.1 + group * row as i32 + GAP / 2;
            say(area, category, (left - 8, top + (group - GAP) / 2), text(13), HPos::Right)?;
            for (i, s) in series.iter().enumerate() {
                let Some(bar) = s.bars.get(row).filter(|b| x.holds(b.value)) else { continue };
                let (y, end) = (top + BAR * i as i32, across.at(bar.value));
                let colour = COLOURS.get(i % COLOURS.len()).copied().unwrap_or(INK);
                let (from, to) = (zero.min(end), zero.max(end));
                area.draw(&Rectangle::new([(from, y + 1), (to, y + BAR - 1)], colour.mix(0.85).filled()))?;
                let mut right = to;
                if let Some((low, high)) = bar.interval.filter(|(l, h)| x.holds(*l) && x.holds(*h)) {
                    let (low, high, middle) = (across.at(low), across.at(high), y + BAR / 2);
                    area.draw(&PathElement::new([(low, middle), (high, middle)], INK))?;
                    for end in [low, high] {
                        area.draw(&PathElement::new([(end, middle - 3), (end, middle + 3)], INK))?;
                    }
                    right = right.max(high);
                }
                say(area, &short(bar.value), (right + 6, y + BAR / 2), text(11), HPos::Left)?;
            }
        }
        let mut across = left;
        for (i, s) in series.iter().enumerate().filter(|_| legend > 0) {
            let colour = COLOURS.get(i % COLOURS.len()).copied().unwrap_or(INK);
            area.draw(&Rectangle::new([(across, TOP - 4), (across + 14, TOP + 8)], colour.mix(0.85).filled()))?;
            say(area, &s.name, (across + 20, TOP + 2), text(13), HPos::Left)?;
            across += 40 + s.name.chars().count() as i32 * 8;
        }
        Ok(())
    })
}

/// Draws and writes a file.
fn draw(path: &Path, height: i32, title: &str, inside: impl FnOnce(&Area<'_>) -> Drawn) -> Result<()> {
    let mut svg = String::new();
    let drawn = || -> Drawn {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let bold = ("sans-serif", 17.0 * 1.24, FontStyle::Bold).into_font().color(&INK);
        area.draw(&Text::new(title.to_string(), (16, 14), bold))?;
        inside(&area)?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|e| Error::Format(format!("{}: {e}", path.display())))?;
    crate::cli::write(path, svg.as_bytes())
}

/// From values to places.
#[derive(Debug, Clone, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: i32,
    to: i32,
    ticks: Vec<f64>,
}

impl Scale {
    fn of(axis: Axis<'_>, values: &[f64], from: i32, to: i32) -> Self {
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let (low, high) = match axis.logarithmic {
            _ if values.is_empty() => (1.0, 10.0),
            true => (low / 1.1, high * 1.1),
            // A little room above, and below where it does not begin at zero.
            false => {
                let room = if high > low { (high - low) * 0.04 } else { high.abs().max(1.0) * 0.1 };
                (if low == 0.0 { low } else { low - room }, if high == 0.0 { high } else { high + room })
            }
        };
        let ticks = if axis.logarithmic { decades(low, high) } else { steps(low, high) };
        Self { low, high, logarithmic: axis.logarithmic, from, to, ticks }
    }

    fn at(&self, value: f64) -> i32 {
        let of = |v: f64| if self.logarithmic { v.ln() } else { v };
        let share = (of(value) - of(self.low)) / (of(self.high) - of(self.low));
        self.from + (share.clamp(0.0, 1.0) * f64::from(self.to - self.from)).round() as i32
    }
}

/// Round numbers in equal steps, about six.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..first + 20).map(|i| i as f64 * step).take_while(|v| *v <= high).collect()
}

/// Round numbers in equal factors: powers of ten where there are many, else also their double and fivefold.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let many = high / low > 2e3;
    let all = (-12..=12).flat_map(|e| [1.0, 2.0, 5.0].map(|t: f64| t * 10f64.powi(e)));
    let round = |v: &f64| !many || (v.log10() - v.log10().round()).abs() < 1e-9;
    all.filter(|v| (low..=high).contains(v)).filter(round).collect()
}

/// A number as short as it is exact enough to be read.
fn short(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".into(),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.0e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

type Frame = (i32, i32, i32, i32);

fn axes(area: &Area<'_>, frame: Frame, x: Option<(Axis<'_>, &Scale)>, y: Option<(Axis<'_>, &Scale)>) -> Drawn {
    let (left, top, right, bottom) = frame;
    if let Some((axis, scale)) = x {
        for tick in &scale.ticks {
            let at = scale.at(*tick);
            area.draw(&PathElement::new([(at, top), (at, bottom)], GRID))?;
            say(area, &short(*tick), (at, bottom + 14), text(12), HPos::Center)?;
        }
        say(area, axis.name, ((left + right) / 2, bottom + 38), text(13), HPos::Center)?;
    }
    if let Some((axis, scale)) = y {
        for tick in &scale.ticks {
            let at = scale.at(*tick);
            area.draw(&PathElement::new([(left, at), (right, at)], GRID))?;
            say(area, &short(*tick), (left - 8, at), text(12), HPos::Right)?;
        }
        let upright = text(13).transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw(&Text::new(axis.name.to_string(), (18, (top + bottom) / 2), upright))?;
    }
    area.draw(&PathElement::new([(left, top), (left, bottom), (right, bottom)], INK))?;
    Ok(())
}

fn stroke(area: &Area<'_>, points: &[(i32, i32)], series: usize) -> Drawn {
    let colour = COLOURS.get(series % COLOURS.len()).copied().unwrap_or(INK);
    let style = colour.stroke_width(if series == 0 { 3 } else { 2 });
    if series < COLOURS.len() {
        area.draw(&PathElement::new(points.to_vec(), style))?;
    } else {
        area.draw(&plotters::element::DashedPathElement::new(points.to_vec(), 6, 4, style))?;
    }
    Ok(())
}

fn say(area: &Area<'_>, words: &str, at: (i32, i32), style: TextStyle<'static>, anchor: HPos) -> Drawn {
    area.draw(&Text::new(words.to_string(), at, style.pos(Pos::new(anchor, VPos::Center))))?;
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    // The SVG backend writes sizes divided by 1.24.
    ("sans-serif", f64::from(size) * 1.24).into_font().color(&INK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&Path) -> Result<()>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/plot.svg");
        draw(&path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_name_what_they_show_and_break_where_nothing_is_known() {
        let points = vec![(1.0, 0.5), (2.0, f64::NAN), (3.0, 0.25), (4.0, 0.2)];
        let series = [Series::new("train", points), Series::new("validation", vec![(1.0, 0.0), (2.0, 1.0)])];
        let svg = drawn(|p| lines(p, "Learning", Axis::linear("step"), Axis::logarithmic("loss"), &series));
        for word in ["Learning", "step", "loss", "train", "validation"] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn bars_begin_at_zero_and_each_has_its_category_value_and_interval() {
        let bar = |value, interval| Bar { value, interval };
        let series = [Bars { name: "p99".into(), bars: vec![bar(0.5, Some((0.4, 0.6))), bar(f64::NAN, None)] }];
        let names = ["model".to_string(), "ewma".to_string()];
        let svg = drawn(|p| bars(p, "Errors", Axis::linear("error, ms"), &names, &series));
        for word in ["model", "ewma", "error, ms", "0.5"] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(svg.matches("<polyline").count() > 3, "an error bar of three strokes and the axis");
    }

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        assert!(drawn(|p| scatter(p, "Empty", "observed, ms", "predicted, ms", &[])).contains("</svg>"));
        assert!(drawn(|p| bars(p, "Empty", Axis::linear("x"), &[], &[])).contains("</svg>"));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(steps(0.0, 6.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(decades(0.9, 30.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(decades(1e-3, 100.0).len(), 6);
        assert_eq!(short(0.0720), "0.072");
    }
}
