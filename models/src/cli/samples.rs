//! `samples`: plays training or evaluation runs and says what they are like; writes them to a file if asked.

use crate::data::{self, Sample};
use crate::simulator::family::{Family, trained_faults};
use crate::simulator::sample::{Scenario, play_all};
use crate::{Error, Result};
use clap::Args;
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::time::Instant;

/// What `samples` is told.
#[derive(Debug, Args)]
pub struct Samples {
    /// What to play: training, social-network, generated, tiny, e-commerce, hotel-reservation, or a number of services.
    #[arg(long, default_value = "training")]
    family: String,
    /// How many runs.
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// The first run's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play each third sample's window this many more times, for the noise floor.
    #[arg(long, default_value_t = 0)]
    forks: usize,
    /// Where to write the samples.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the samples of some runs are like.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// How many runs.
    pub runs: u64,
    /// How long a run took, over all threads' wall-clock time, in seconds.
    pub seconds_a_run: f64,
    /// How many samples.
    pub samples: usize,
    /// Mean nodes, edges and candidates of a sample.
    pub nodes_edges_candidates: [f64; 3],
    /// Tenth, half and ninetieth percentile of the answers in a candidate's next window.
    pub answers: [u32; 3],
    /// The share of candidates whose next window has a mean.
    pub labelled: f64,
    /// The share of candidates in trouble.
    pub in_trouble: f64,
    /// The same percentiles of the intrinsic latency, in milliseconds.
    pub intrinsic_ms: [f32; 3],
    /// Mean of |seen - expected| / seen of the next window's mean: what no predictor can beat. Null without forks.
    pub noise_floor: Option<f64>,
    /// The same of candidates with fewer than 20, 20 to 99, and 100 or more answers.
    pub noise_floor_by_answers: [Option<f64>; 3],
    /// Mean of |seen - expected| of the jitter in milliseconds.
    pub jitter_noise_ms: Option<f64>,
    /// Mean of |seen - last window| / seen: persistence.
    pub persistence: Option<f64>,
}

/// Runs `samples`.
///
/// # Errors
/// When the family is unknown, a run cannot be played, or the file cannot be written.
pub fn run(args: &Samples) -> Result<()> {
    let bar = ProgressBar::new(args.runs);
    bar.set_message("simulating");
    let start = Instant::now();
    let family = match args.family.as_str() {
        "training" => None,
        "social-network" => Some(Family::SocialNetwork),
        "generated" => Some(Family::Random),
        "tiny" => Some(Family::Tiny),
        "wide" => Some(Family::Wide),
        "e-commerce" => Some(Family::ECommerce),
        "hotel-reservation" => Some(Family::Hotel),
        other => Some(Family::Large(other.parse().map_err(|_| {
            Error::Format(format!("no family is called `{other}`; use training, social-network, generated, tiny, e-commerce, hotel-reservation, or a number of services"))
        })?)),
    };
    let scenario = |seed| {
        let scenario = Scenario::random(seed, family.unwrap_or(Family::training(seed)), &trained_faults())?;
        Ok(scenario.with_forks(args.forks))
    };
    let samples = play_all(args.seed..args.seed + args.runs, scenario, || bar.inc(1))?;
    bar.finish_and_clear();
    let summary = summary(&samples, args.runs, start.elapsed().as_secs_f64());
    if args.json {
        say!("{}", serde_json::to_string_pretty(&summary).map_err(|e| Error::Format(e.to_string()))?);
    } else {
        let [nodes, edges, candidates] = summary.nodes_edges_candidates;
        say!("{} samples of {} runs, {:.2} s a run", summary.samples, summary.runs, summary.seconds_a_run);
        say!("  nodes {nodes:.0}, edges {edges:.0}, candidates {candidates:.0} a sample");
        let [low, middle, high] = summary.answers;
        say!(
            "  answers in the next window: p10 {low}, p50 {middle}, p90 {high}; {:.0}% with a mean",
            summary.labelled * 100.0
        );
        let [low, middle, high] = summary.intrinsic_ms;
        say!(
            "  intrinsic latency: p10 {low:.2}, p50 {middle:.2}, p90 {high:.2} ms; {:.1}% in trouble",
            summary.in_trouble * 100.0
        );
        for (name, value) in [("noise floor", summary.noise_floor), ("persistence", summary.persistence)] {
            if let Some(value) = value {
                say!("  {name}: {value:.4} of the next window's mean");
            }
        }
        if let [Some(few), Some(some), Some(many)] = summary.noise_floor_by_answers {
            say!("    with fewer than 20 answers {few:.4}, to 99 {some:.4}, beyond {many:.4}");
        }
        if let Some(value) = summary.jitter_noise_ms {
            say!("  noise floor of the jitter: {value:.2} ms");
        }
    }
    if let Some(out) = &args.out {
        let digest = data::save(&samples, out)?;
        say!("{}: sha256 {digest}", out.display());
    }
    Ok(())
}

/// Sums up.
#[must_use]
pub fn summary(samples: &[Sample], runs: u64, seconds: f64) -> Summary {
    let mut sums = [0usize; 3];
    let (mut answers, mut intrinsic, mut trouble) = (Vec::new(), Vec::new(), 0usize);
    let (mut floor, mut jitter, mut persistence) = (Vec::new(), Vec::new(), Vec::new());
    let mut labelled = 0usize;
    let mut by_answers = [const { Vec::new() }; 3];
    for sample in samples {
        for (sum, n) in
            sums.iter_mut().zip([sample.features.node_count(), sample.features.edge_count(), sample.candidates.len()])
        {
            *sum += n;
        }
        for c in &sample.candidates {
            answers.push(c.answers);
            intrinsic.extend(Some(c.intrinsic_s * 1e3).filter(|v| v.is_finite()));
            trouble += usize::from(c.trouble != crate::simulator::truth::Trouble::None);
            labelled += usize::from(c.mean_s.is_finite());
            let relative = |guess: f32| Some(f64::from((c.mean_s - guess).abs() / c.mean_s)).filter(|v| v.is_finite());
            floor.extend(relative(c.expected_mean_s));
            if let Some(bin) = by_answers.get_mut(usize::from(c.answers >= 20) + usize::from(c.answers >= 100)) {
                bin.extend(relative(c.expected_mean_s));
            }
            persistence.extend(c.past.mean_s.first().and_then(|last| relative(*last)));
            jitter.extend(Some(f64::from((c.jitter_s - c.expected_jitter_s).abs() * 1e3)).filter(|v| v.is_finite()));
        }
    }
    answers.sort_unstable();
    intrinsic.sort_by(f32::total_cmp);
    let candidates = answers.len().max(1) as f64;
    let mean = |v: &[f64]| (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64);
    Summary {
        runs,
        seconds_a_run: seconds / runs.max(1) as f64,
        samples: samples.len(),
        nodes_edges_candidates: sums.map(|s| s as f64 / samples.len().max(1) as f64),
        answers: percentiles(&answers),
        labelled: labelled as f64 / candidates,
        in_trouble: trouble as f64 / candidates,
        intrinsic_ms: percentiles(&intrinsic),
        noise_floor: mean(&floor),
        noise_floor_by_answers: by_answers.map(|bin| mean(&bin)),
        jitter_noise_ms: mean(&jitter),
        persistence: mean(&persistence),
    }
}

/// The tenth, half and ninetieth percentile of sorted values.
fn percentiles<T: Copy + Default>(sorted: &[T]) -> [T; 3] {
    [0.1, 0.5, 0.9]
        .map(|p| sorted.get((p * sorted.len().saturating_sub(1) as f64) as usize).copied().unwrap_or_default())
}
