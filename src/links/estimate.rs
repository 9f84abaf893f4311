//! The local estimate: this proxy's own peak EWMA of a link's latency, which decays towards the model's prediction.
//!
//! `est(t) = prior + (est - prior) x exp(-dt / tau)` (`pick.md`): fresh samples own the recent past, the prior owns
//! what was not seen lately. A sample above the estimate replaces it at once (the peak); one below pulls it down with
//! the weight that its age has, as in a plain EWMA with time constant tau.
//!
//! Value and time are packed in one 64-bit atomic, so a reader never sees one without the other. Two requests that
//! finish in the same instant may lose one of two samples: a sample lost to a race is one fewer of many, while a
//! compare-and-swap loop would make every request pay.

use super::Time;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Beyond this many halvings (8 time constants) a sample no longer counts.
const MAX_HALVINGS: f32 = 8.0 * std::f32::consts::LOG2_E;

/// The estimate at the last sample, and when that was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seconds.
    pub latency_s: f32,
    /// The age of the last sample, in seconds.
    pub age_s: f32,
}

/// A latency estimate shared by all cores of one proxy.
#[derive(Debug)]
pub struct LocalEstimate(AtomicU64);

/// No sample yet: a bit pattern (NaN) that no stored estimate has.
const NONE: u64 = (f32::NAN.to_bits() as u64) << 32;

impl Default for LocalEstimate {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

impl Clone for LocalEstimate {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Relaxed)))
    }
}

impl LocalEstimate {
    /// The last stored value and its age; unknown before the first sample.
    #[must_use]
    pub fn last(&self, now: Time) -> Option<Estimate> {
        let (latency_s, age_ms) = self.stored(now.coarse_ms())?;
        Some(Estimate { latency_s, age_s: age_ms * 1e-3 })
    }

    #[inline]
    fn stored(&self, now_ms: u32) -> Option<(f32, f32)> {
        let packed = self.0.load(Relaxed);
        let latency_s = f32::from_bits((packed >> 32) as u32);
        // Coarse stamps wrap, so an age is a signed difference: one from the future is no age at all.
        let age_ms = (now_ms.wrapping_sub(packed as u32) as i32).max(0);
        if latency_s.is_nan() { None } else { Some((latency_s, age_ms as f32)) }
    }

    /// The estimate at `now`: the last one, decayed towards `prior_s` with time constant `tau_s`.
    #[must_use]
    pub fn at(&self, now: Time, prior_s: f32, tau_s: f32) -> f32 {
        self.faded(&Fading::new(now, tau_s), prior_s)
    }

    /// The same, for many estimates at one moment.
    #[inline]
    #[must_use]
    pub fn faded(&self, fading: &Fading, prior_s: f32) -> f32 {
        match self.stored(fading.now_ms) {
            None => prior_s,
            Some((latency_s, age_ms)) => prior_s + (latency_s - prior_s) * halved(age_ms * fading.halvings_per_ms),
        }
    }

    /// Takes in one latency in seconds. Values that are not finite or negative are ignored.
    pub fn record(&self, now: Time, latency_s: f32, prior_s: f32, tau_s: f32) {
        if !latency_s.is_finite() || latency_s < 0.0 {
            return;
        }
        let fading = Fading::new(now, tau_s);
        let next = match self.stored(fading.now_ms) {
            None => latency_s,
            Some((last, age_ms)) => {
                let keep = halved(age_ms * fading.halvings_per_ms);
                let current = prior_s + (last - prior_s) * keep;
                if latency_s >= current {
                    latency_s
                } else {
                    // The share of a sample grows with the time since the last one; samples that crowd into one
                    // coarse millisecond still count a little, or a busy link would never come down.
                    let keep = keep.min(1.0 - MIN_SAMPLE_SHARE);
                    latency_s + (current - latency_s) * keep
                }
            }
        };
        let next = next.min(MAX_ESTIMATE_S);
        self.0.store((u64::from(next.to_bits()) << 32) | u64::from(now.coarse_ms()), Relaxed);
    }

    /// Forgets all samples.
    pub fn reset(&self) {
        self.0.store(NONE, Relaxed);
    }
}

/// No estimate is longer than this, in seconds, whatever samples and priors say.
const MAX_ESTIMATE_S: f32 = 1e3;
/// The least share that a sample has in the estimate: 1 ms of 3 s.
const MIN_SAMPLE_SHARE: f32 = 3e-4;

/// What all estimates that decay with one time constant have in common at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Fading {
    now_ms: u32,
    halvings_per_ms: f32,
}

impl Fading {
    /// At `now`, with time constant `tau_s` in seconds.
    #[inline]
    #[must_use]
    pub fn new(now: Time, tau_s: f32) -> Self {
        Self { now_ms: now.coarse_ms(), halvings_per_ms: std::f32::consts::LOG2_E * 1e-3 / tau_s }
    }

    /// The moment, as finely as estimates tell time.
    #[inline]
    #[must_use]
    pub fn now_ms(&self) -> u32 {
        self.now_ms
    }
}

/// `2^-y` for `y` from 0 on, within 2e-4 of itself, and 0 beyond `MAX_HALVINGS`.
///
/// A polynomial for the part of `y` around zero, and the whole halvings put into the exponent: a dozen instructions
/// without a branch or a table, since a pick computes it for every candidate that it compares.
#[inline]
fn halved(y: f32) -> f32 {
    // Added to a number below 2^22, this leaves its nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Fitted to the relative error over -0.5..0.5, exact at 0, and without a step from one integer to the next.
    const C: [f32; 3] = [-0.693_282_9, 0.242_210_7, -0.055_008_84];
    // Not `min`, which would care for what is no number, too.
    let bounded = if y < MAX_HALVINGS { y } else { MAX_HALVINGS };
    let rounded = bounded + ROUND;
    let rest = bounded - (rounded - ROUND);
    let near = 1.0 + rest * (C[0] + rest * (C[1] + rest * C[2]));
    let whole = f32::from_bits(1.0f32.to_bits().wrapping_sub(rounded.to_bits() << 23));
    if y < MAX_HALVINGS { near * whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TAU: f32 = 3.0;

    #[test]
    fn without_samples_the_prior_rules() {
        assert_eq!(LocalEstimate::default().at(Time(5), 0.02, TAU), 0.02);
    }

    #[test]
    fn a_peak_is_taken_over_at_once_and_decays_towards_the_prior() {
        let (estimate, start) = (LocalEstimate::default(), Time(1_000_000_000));
        estimate.record(start, 0.01, 0.02, TAU);
        estimate.record(start, 1.0, 0.02, TAU);
        assert_eq!(estimate.at(start, 0.02, TAU), 1.0);
        let later = estimate.at(start + Duration::from_secs(3), 0.02, TAU);
        assert!((later - (0.02 + 0.98 * (-1.0f32).exp())).abs() < 1e-3, "{later}");
        assert_eq!(estimate.at(start + Duration::from_secs(60), 0.02, TAU), 0.02);
    }

    #[test]
    fn a_fast_sample_after_a_peak_pulls_down_by_its_age() {
        let (estimate, start) = (LocalEstimate::default(), Time(0));
        estimate.record(start, 1.0, 0.01, TAU);
        estimate.record(start + Duration::from_millis(300), 0.01, 0.01, TAU);
        let after = estimate.at(start + Duration::from_millis(300), 0.01, TAU);
        assert!(after < 0.85 && after > 0.7, "{after}");
    }

    #[test]
    fn a_clock_that_jumps_back_ages_nothing() {
        let estimate = LocalEstimate::default();
        estimate.record(Time(9_000_000_000), 0.5, 0.1, TAU);
        assert_eq!(estimate.at(Time(1_000_000_000), 0.1, TAU), 0.5);
    }

    #[test]
    fn hostile_samples_are_ignored() {
        let estimate = LocalEstimate::default();
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            estimate.record(Time(0), bad, 0.1, TAU);
        }
        assert_eq!(estimate.last(Time(0)), None);
        estimate.record(Time(0), 0.01, f32::MAX, TAU);
        estimate.record(Time(9_000_000_000), 0.01, f32::MAX, TAU);
        assert!(estimate.at(Time(9_000_000_000), 0.01, TAU) <= MAX_ESTIMATE_S);
    }

    #[test]
    fn halving_follows_the_exponential_and_never_rises() {
        let mut last = 1.0;
        for i in 0..8_000 {
            let x = i as f32 * 0.001;
            let y = halved(x * std::f32::consts::LOG2_E);
            assert!((y / (-x).exp() - 1.0).abs() < 2e-4, "{x}: {y}");
            assert!(y <= last, "{x}: {y} after {last}");
            last = y;
        }
        assert_eq!((halved(0.0), halved(11.6), halved(1e30), halved(f32::INFINITY)), (1.0, 0.0, 0.0, 0.0));
    }
}
