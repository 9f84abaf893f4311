//! Which endpoints do much worse than the others of their cluster, over an interval.
//!
//! **Success rate.** An endpoint is an outlier where its rate lies below the mean of the *others* by more than
//! `success_rate` standard deviations, and by more than `LEAST_GAP`. The others, and not all: an outlier in a small cluster
//! would widen the deviation that it is judged by until it is none (of four endpoints no single one can ever lie two
//! standard deviations from the mean of all). The deviation holds the scatter among the others and what chance does to a
//! rate of that many requests.
//!
//! **Latency.** Where its mean lies above the median of the others' means by more than `latency` times. Off unless asked
//! for: the model and the local estimates steer around slow endpoints gradually, and keep measuring them, while an ejected
//! endpoint's load falls on the others at once, who become slower with it.
//!
//! Whoever had too few requests is neither judged nor a yardstick; there must be two yardsticks.

use crate::balance::Fault;
use crate::config::Ejection;
use crate::links::Totals;

/// A rate that lies this little below the others' is no reason to leave an endpoint alone.
const LEAST_GAP: f64 = 0.05;
/// With fewer others than this nobody can say who is odd.
const MIN_OTHERS: usize = 2;

/// What an endpoint did between two observations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    requests: f64,
    success: f64,
    latency_s: Option<f64>,
}

impl Span {
    /// What came after `before`, where that is enough to be judged by.
    #[must_use]
    pub fn between(before: &Totals, now: &Totals, volume: u32) -> Option<Self> {
        let requests = now.ended.checked_sub(before.ended).filter(|n| *n >= u64::from(volume.max(1)))? as f64;
        let errors = now.errors.saturating_sub(before.errors) as f64;
        let samples = now.samples.saturating_sub(before.samples);
        let latency_s = (now.latency_sum_s - before.latency_sum_s) / samples as f64;
        let measured = samples >= u64::from(volume.max(1)) && latency_s.is_finite() && latency_s >= 0.0;
        Some(Self {
            requests,
            success: (1.0 - errors / requests).clamp(0.0, 1.0),
            latency_s: measured.then_some(latency_s),
        })
    }
}

/// The outliers among a cluster's endpoints, by their places, the worst first.
#[must_use]
pub fn outliers(spans: &[Option<Span>], rules: &Ejection) -> Vec<(usize, Fault)> {
    let mut found: Vec<(f64, usize, Fault)> = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        let Some(span) = span else { continue };
        let others = || spans.iter().enumerate().filter(move |(j, _)| *j != i).filter_map(|(_, s)| *s);
        if let Some((below, mean)) = failing(span, others().map(|o| o.success).collect(), rules.success_rate) {
            found.push((1.0 + below, i, Fault::SuccessRate(span.success as f32, mean as f32)));
        } else if let Some((times, median)) = slow(span, others().filter_map(|o| o.latency_s).collect(), rules.latency)
        {
            found.push((1.0 - 1.0 / times, i, Fault::Latency((times * median) as f32, median as f32)));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, i, fault)| (i, fault)).collect()
}

/// How far its success rate lies below the others' mean, and that; none where that is nothing odd.
fn failing(span: &Span, others: Vec<f64>, deviations: f64) -> Option<(f64, f64)> {
    if deviations <= 0.0 || others.len() < MIN_OTHERS {
        return None;
    }
    let count = others.len() as f64;
    let mean = others.iter().sum::<f64>() / count;
    let scatter = others.iter().map(|o| (o - mean).powi(2)).sum::<f64>() / count;
    let chance = mean * (1.0 - mean) / span.requests;
    let below = mean - span.success;
    (below > (deviations * (scatter + chance).sqrt()).max(LEAST_GAP)).then_some((below, mean))
}

/// How many times the median of the others' its latency is, and that; none where that is nothing odd.
fn slow(span: &Span, mut others: Vec<f64>, factor: f64) -> Option<(f64, f64)> {
    let latency_s = span.latency_s.filter(|_| factor > 0.0 && others.len() >= MIN_OTHERS)?;
    others.sort_by(f64::total_cmp);
    let median = *others.get(others.len() / 2)?;
    (median > 0.0 && latency_s > factor * median).then_some((latency_s / median, median))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many requests so many errors, each taking so long.
    fn span(requests: u64, errors: u64, latency_s: f64) -> Option<Span> {
        let samples = requests - errors;
        let now = Totals { ended: requests, errors, samples, latency_sum_s: latency_s * samples as f64 };
        Span::between(&Totals::default(), &now, 100)
    }

    fn places(spans: &[Option<Span>], rules: &Ejection) -> Vec<usize> {
        outliers(spans, rules).into_iter().map(|(i, _)| i).collect()
    }

    #[test]
    fn one_that_fails_more_than_the_others_is_found_in_small_clusters_too() {
        let rules = Ejection::default();
        for others in 2..10 {
            let mut spans = vec![span(1_000, 3, 0.01); others];
            spans.push(span(1_000, 200, 0.01));
            assert_eq!(places(&spans, &rules), [others]);
        }
    }

    #[test]
    fn trouble_that_all_have_and_chance_are_no_outliers() {
        let rules = Ejection::default();
        assert!(places(&[span(200, 100, 0.01), span(200, 110, 0.01), span(200, 95, 0.01)], &rules).is_empty());
        assert!(places(&[span(1_000, 0, 0.01), span(1_000, 0, 0.01), span(1_000, 40, 0.01)], &rules).is_empty(), "4%");
        assert!(places(&[span(1_000, 0, 0.01), span(1_000, 500, 0.01)], &rules).is_empty(), "which of the two is odd?");
    }

    #[test]
    fn too_few_requests_judge_nobody_and_nothing() {
        let rules = Ejection::default();
        assert_eq!(span(99, 99, 0.01), None);
        assert!(places(&[span(99, 99, 0.01), span(500, 0, 0.01), span(500, 0, 0.01)], &rules).is_empty());
        assert!(
            places(&[span(500, 400, 0.01), span(99, 0, 0.01), span(500, 0, 0.01)], &rules).is_empty(),
            "one yardstick"
        );
    }

    #[test]
    fn slow_ones_are_left_to_the_model_unless_asked_for() {
        let spans = [span(500, 0, 0.01), span(500, 0, 0.012), span(500, 0, 0.5), span(500, 0, 0.011)];
        assert!(places(&spans, &Ejection::default()).is_empty());
        let rules = Ejection { latency: 5.0, ..Ejection::default() };
        assert_eq!(outliers(&spans, &rules), [(2, Fault::Latency(0.5, 0.011))]);
        assert!(places(&spans, &Ejection { latency: 60.0, ..rules }).is_empty());
    }

    #[test]
    fn the_worst_comes_first_and_failing_is_worse_than_slow() {
        let rules = Ejection { latency: 2.0, ..Ejection::default() };
        let mut spans = vec![span(1_000, 0, 0.01); 8];
        spans.extend([span(1_000, 0, 1.0), span(1_000, 100, 0.01), span(1_000, 0, 0.03), span(1_000, 900, 0.01)]);
        assert_eq!(places(&spans, &Ejection { success_rate: 0.1, ..rules })[0], 11);
        assert!(places(&spans, &Ejection { success_rate: 0.0, ..Ejection::default() }).is_empty());
    }

    #[test]
    fn counters_that_began_anew_judge_nobody() {
        let before = Totals { ended: 1_000, errors: 10, samples: 990, latency_sum_s: 9.0 };
        assert_eq!(Span::between(&before, &Totals { ended: 500, ..Totals::default() }, 100), None);
    }
}
