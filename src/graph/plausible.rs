//! Statistics that nobody can have measured.
//!
//! Much of the graph is told by others, and one whose clock is broken, or who lies, must not be believed: a latency of
//! eleven days makes a replica look dead to everyone. Such a link's statistics are left out, all of them, and the link
//! counts as one that nobody used. What is wrong but possible passes; it takes more than one witness to find that.

use crate::links::LinkStats;

/// The shortest and the longest latency that are believed, in seconds.
const SHORTEST_S: f32 = 1e-6;
const LONGEST_S: f32 = 3_600.0;
/// The most calls a second, and the most requests under way, that one link can have.
const MOST: f32 = 1e7;

/// Whether all that is known of a link can be true.
pub(super) fn plausible(stats: &LinkStats) -> bool {
    let within = |value: Option<f32>, least: f32, most: f32| value.is_none_or(|v| (least..=most).contains(&v));
    let latencies = [
        stats.latency_mean_s,
        stats.latency_p10_s,
        stats.latency_p50_s,
        stats.latency_p90_s,
        stats.latency_p99_s,
        stats.latency_ewma_s,
        stats.latency_baseline_s,
    ];
    latencies.into_iter().all(|latency| within(latency, SHORTEST_S, LONGEST_S))
        && within(stats.jitter_s, 0.0, LONGEST_S)
        && within(stats.calls_per_second, 0.0, MOST)
        && within(stats.error_rate, 0.0, 1.0)
        && within(stats.age_s, 0.0, f32::MAX)
        && within(Some(stats.in_flight), 0.0, MOST)
        && within(Some(stats.samples), 0.0, f32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_links_measure_is_believed_and_absurdities_are_not() {
        let measured = LinkStats {
            latency_mean_s: Some(0.020),
            latency_p99_s: Some(30.0),
            latency_ewma_s: Some(2e-6),
            calls_per_second: Some(100_000.0),
            error_rate: Some(1.0),
            in_flight: 60_000.0,
            ..LinkStats::default()
        };
        assert!(plausible(&measured) && plausible(&LinkStats::default()));
        let lies: [fn(&mut LinkStats); 8] = [
            |s| s.latency_mean_s = Some(1e6),
            |s| s.latency_p99_s = Some(f32::INFINITY),
            |s| s.latency_ewma_s = Some(1e-9),
            |s| s.latency_p10_s = Some(-0.001),
            |s| s.latency_baseline_s = Some(f32::NAN),
            |s| s.calls_per_second = Some(1e9),
            |s| s.error_rate = Some(1.5),
            |s| s.in_flight = f32::NAN,
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let mut told = measured;
            lie(&mut told);
            assert!(!plausible(&told), "lie {number}: {told:?}");
        }
    }
}
