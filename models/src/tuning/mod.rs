//! The plots of `proxy-config/TUNING.md`: what a key of the configuration does to where requests go.
//!
//! Two kinds. `of_the_code` asks the sidecar's own code (its slow loop, weights, links, health, pick, gates, budgets, what
//! nodes tell each other) what it makes of made-up inputs, for several values of a key; nothing is drawn that the code does
//! not say. Where a service or callers are needed they are made up as simply as the key allows, under a seed, so that each
//! drawing is the same as the last: a test holds the committed files to that. `runs` plays the sidecar's pick in the
//! simulator with a key varied, over several seeds.
//!
//! One room for each part of the guide; a room gives its plots (`Plot`), and its tests hold what the guide says of them.

mod admission;
mod bench;
mod ejection;
mod endpoints;
mod health;
mod hedging;
mod ladder;
mod mesh;
mod retries;
mod runs;
mod trial;
mod tries;
mod weights;

#[cfg(test)]
mod tests;

pub use runs::{VARIED, Varied, of_results, of_runs, runs};

use crate::plot::{self, Axis, Bars, Series};
use crate::{Error, Result};
use pathloom::control::weights::Limits;
use pathloom::links::Time;
use std::path::Path;

/// The configuration's own defaults of the guards, a tick a second.
const DEFAULT: Limits = Limits { temperature: 1.0, floor: 0.02, max_step: 0.2, dead_band: 0.02 };

/// A plot that is yet to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// The file's name, without its ending.
    pub name: &'static str,
    title: String,
    x: Axis<'static>,
    shape: Shape,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Lines(Axis<'static>, Vec<Series>),
    /// Bars by category.
    Bars(Vec<String>, Vec<Bars>),
}

impl Plot {
    fn lines(
        name: &'static str,
        title: impl Into<String>,
        x: Axis<'static>,
        y: Axis<'static>,
        series: Vec<Series>,
    ) -> Self {
        Self { name, title: title.into(), x, shape: Shape::Lines(y, series) }
    }

    fn bars(
        name: &'static str,
        title: impl Into<String>,
        x: Axis<'static>,
        categories: Vec<String>,
        series: Vec<Bars>,
    ) -> Self {
        Self { name, title: title.into(), x, shape: Shape::Bars(categories, series) }
    }

    /// Draws it into a folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn draw(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.svg", self.name));
        match &self.shape {
            Shape::Lines(y, series) => plot::lines(&path, &self.title, self.x, *y, series),
            Shape::Bars(categories, series) => plot::bars(&path, &self.title, self.x, categories, series),
        }
    }

    /// The lines; none where it has bars.
    #[cfg(test)]
    fn series(&self) -> &[Series] {
        match &self.shape {
            Shape::Lines(_, series) => series,
            Shape::Bars(..) => &[],
        }
    }

    /// The value of each category's bar, by the series' name.
    #[cfg(test)]
    fn bar(&self, category: &str, series: &str) -> f64 {
        let Shape::Bars(categories, all) = &self.shape else { return f64::NAN };
        let row = categories.iter().position(|c| c.starts_with(category));
        let of = all.iter().find(|s| s.name.starts_with(series));
        row.and_then(|row| of?.bars.get(row)).map_or(f64::NAN, |bar| bar.value)
    }
}

/// Everything that the sidecar's code says of made-up inputs, room by room.
///
/// # Errors
/// When a made-up configuration is none.
pub fn plots() -> Result<Vec<Plot>> {
    let rooms = [
        ejection::plots()?,
        retries::plots()?,
        admission::plots(),
        health::plots(),
        hedging::plots()?,
        weights::plots(),
        ladder::plots()?,
        trial::plots(),
        mesh::plots(),
        endpoints::plots()?,
    ];
    Ok(rooms.into_iter().flatten().collect())
}

/// Draws what the sidecar's code makes of made-up inputs.
///
/// # Errors
/// When a file cannot be written.
pub fn of_the_code(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
    plots()?.iter().try_for_each(|plot| plot.draw(folder))
}

/// Values from `low` to `high`, equally far apart on a logarithmic axis.
fn logarithmic(low: f64, high: f64) -> impl Iterator<Item = f64> {
    spread(low, high, 120)
}

/// So many steps from `low` to `high`, equally far apart on a logarithmic axis.
fn spread(low: f64, high: f64, steps: u32) -> impl Iterator<Item = f64> {
    (0..=steps).map(move |i| low * (high / low).powf(f64::from(i) / f64::from(steps)))
}

/// The moment so many seconds after the beginning.
fn seconds(s: f64) -> Time {
    Time((s * 1e9) as u64)
}

/// The value below which a share `q` of the values lies; NaN for none.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}
