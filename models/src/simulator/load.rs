//! How much enters over time: a factor on all entries' rates.
//!
//! The engine takes the factor as constant within a tenth of a second (`SLOT_S`), so any shape can be played exactly
//! as a Poisson process whose rate changes in steps.

use crate::simulator::draw::Draw;

/// How long the engine takes the factor as constant, in seconds.
pub const SLOT_S: f64 = 0.1;

/// A factor over time.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// Always the same.
    Constant(f64),
    /// From each of these seconds on, this factor; sorted. Before the first, the first.
    Steps(Vec<(f64, f64)>),
    /// A day in small: `mean + amplitude x sin(2 pi (t + phase) / period)`.
    Diurnal {
        /// The middle.
        mean: f64,
        /// How far it goes up and down.
        amplitude: f64,
        /// The length of the day in seconds.
        period_s: f64,
        /// Where in the day it begins, in seconds.
        phase_s: f64,
    },
    /// Bursts that come back.
    Bursts {
        /// Between bursts.
        base: f64,
        /// How many times the base a burst is.
        times: f64,
        /// From one burst's begin to the next's, in seconds.
        every_s: f64,
        /// A burst's length in seconds.
        length_s: f64,
        /// When the first begins, in seconds.
        first_s: f64,
    },
    /// Factors of equal steps, over again at the end.
    Profile {
        /// A step in seconds.
        step_s: f64,
        /// The factors.
        factors: Vec<f64>,
    },
}

impl Load {
    /// The factor at a moment.
    #[must_use]
    pub fn factor(&self, time_s: f64) -> f64 {
        let factor = match self {
            Load::Constant(factor) => *factor,
            Load::Steps(steps) => {
                let passed = steps.partition_point(|(from, _)| *from <= time_s);
                steps.get(passed.saturating_sub(1)).map_or(1.0, |(_, factor)| *factor)
            }
            Load::Diurnal { mean, amplitude, period_s, phase_s } => {
                mean + amplitude * (std::f64::consts::TAU * (time_s + phase_s) / period_s.max(1e-3)).sin()
            }
            Load::Bursts { base, times, every_s, length_s, first_s } => {
                let since = time_s - first_s;
                let within = since >= 0.0 && since.rem_euclid(every_s.max(1e-3)) < *length_s;
                if within { base * times } else { *base }
            }
            Load::Profile { step_s, factors } => {
                let step = (time_s / step_s.max(1e-3)) as usize;
                factors.get(step % factors.len().max(1)).copied().unwrap_or(1.0)
            }
        };
        factor.max(0.0)
    }

    /// A profile of rates, such as requests a second in recorded seconds, scaled to a mean factor of `mean`.
    #[must_use]
    pub fn profile(rates: &[f64], step_s: f64, mean: f64) -> Self {
        let present = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        let scale = if present > 0.0 { mean / present } else { 0.0 };
        Load::Profile { step_s, factors: rates.iter().map(|r| r * scale).collect() }
    }

    /// A random load between 0.1 and 1.9.
    pub fn random(draw: &mut Draw) -> Self {
        match draw.whole(0, 9) {
            0..=2 => Load::Constant(draw.uniform(0.1, 1.1)),
            3..=5 => {
                let mut steps = vec![(0.0, draw.uniform(0.1, 1.1))];
                let mut from = 0.0;
                for _ in 0..draw.whole(1, 8) {
                    from += draw.uniform(8.0, 60.0);
                    let most = if draw.chance(0.2) { 1.9 } else { 1.1 };
                    steps.push((from, draw.uniform(0.1, most)));
                }
                Load::Steps(steps)
            }
            6 | 7 => {
                let mean = draw.uniform(0.3, 0.9);
                let amplitude = draw.uniform(0.2, 0.9) * mean;
                let period_s = draw.log_uniform(30.0, 600.0);
                Load::Diurnal { mean, amplitude, period_s, phase_s: draw.uniform(0.0, period_s) }
            }
            _ => {
                let times = draw.uniform(5.0, 10.0);
                let base = draw.uniform(0.1, 1.9 / times);
                let every_s = draw.log_uniform(10.0, 60.0);
                let length_s = draw.log_uniform(0.5, 0.4 * every_s);
                Load::Bursts { base, times, every_s, length_s, first_s: draw.uniform(0.0, every_s) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_says_what_it_was_told() {
        let steps = Load::Steps(vec![(0.0, 0.5), (10.0, 1.5)]);
        assert_eq!((steps.factor(9.9), steps.factor(10.0)), (0.5, 1.5));
        let bursts = Load::Bursts { base: 0.2, times: 5.0, every_s: 10.0, length_s: 1.0, first_s: 3.0 };
        assert_eq!(
            (bursts.factor(2.9), bursts.factor(3.5), bursts.factor(4.1), bursts.factor(13.2)),
            (0.2, 1.0, 0.2, 1.0)
        );
        let profile = Load::profile(&[1.0, 3.0], 1.0, 0.8);
        assert_eq!((profile.factor(0.5), profile.factor(1.5), profile.factor(2.5)), (0.4, 1.2000000000000002, 0.4));
        let day = Load::Diurnal { mean: 0.6, amplitude: 0.3, period_s: 40.0, phase_s: 0.0 };
        assert!((day.factor(10.0) - 0.9).abs() < 1e-9 && (day.factor(30.0) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn random_loads_stay_between_a_tenth_and_nineteen_tenths() {
        let mut draw = Draw::new(5);
        for _ in 0..500 {
            let load = Load::random(&mut draw);
            for t in 0..300 {
                let factor = load.factor(f64::from(t));
                assert!((0.02..=1.91).contains(&factor), "{factor} in {load:?}");
            }
        }
    }
}
