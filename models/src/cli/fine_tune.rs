//! `fine-tune`: adapts a model to somebody's own mesh, and says honestly whether that helped.
//!
//! The last windows in time are held back: nothing is trained, stopped or chosen by them. Of the others the last fifth
//! says when to stop. Before and after are measured on the held-back windows in one go, beside the simple rivals.

use super::replay::{predictors, print_json, read_aloud};
use crate::data::Sample;
use crate::evaluate::{Figure, Network};
use crate::predict::{Predictions, Predictor};
use crate::recording::replay::{Plan, replay};
use crate::recording::{Options, Recording, Stream};
use crate::rivals::ByMean;
use crate::train::{self, FineTune};
use crate::{Error, Result, check, onnx};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::PathBuf;

/// Fewer windows than this say nothing of a mesh: some for training, some to stop by, some held back.
const LEAST_WINDOWS: usize = 30;
/// Fewer labels than this fit chance.
const LEAST_LABELS: usize = 300;
/// Training windows are thinned out to so many edges in all: they are in memory.
const MOST_EDGES: usize = 4_000_000;

/// Arguments of `fine-tune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  pathloom-models fine-tune --recording recordings/mesh --model models/pathloom.onnx --out mesh.onnx"
)]
pub struct FineTuneArgs {
    /// The recording's folder.
    #[arg(long)]
    recording: PathBuf,
    /// The model to begin with.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// Where to write the adapted model.
    #[arg(long)]
    out: PathBuf,
    /// Which share of the windows, the last ones, is held back to measure on: `30%` or `0.3`.
    #[arg(long, default_value = "30%", value_parser = share)]
    holdback: f64,
    /// How many steps at most.
    #[arg(long)]
    steps: Option<usize>,
    /// How many answers a link's window must stand on to count.
    #[arg(long, default_value_t = 20)]
    min_calls: u32,
    /// The seed of the order in which windows are seen, and of the intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A share of the whole, above nothing and below all.
fn share(text: &str) -> std::result::Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().map_err(|e| e.to_string());
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent)? / 100.0,
        None => number(text)?,
    };
    if share > 0.0 && share < 1.0 {
        Ok(share)
    } else {
        Err("write a share such as `30%`, above 0% and below 100%".into())
    }
}

/// Runs the command.
///
/// # Errors
/// When the recording is wrong or too short, or whatever else went wrong.
pub fn run(args: &FineTuneArgs) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let weights = onnx::weights(&bytes)?;
    let recording = read_aloud(&args.recording)?;
    let parts = Parts::of(recording.windows.len(), args.holdback)?;
    let training = samples(&recording, parts.trained.clone(), args.min_calls)?;
    let validation = samples(&recording, parts.stopped_by.clone(), args.min_calls)?;
    let labels = labelled(&training, args.min_calls);
    if labels < LEAST_LABELS || labelled(&validation, args.min_calls) == 0 {
        return Err(Error::Format(format!(
            "{}: only {labels} of the windows to train on have {} answers in a following window, and {LEAST_LABELS} are \
             needed; record for longer, or lower --min-calls",
            args.recording.display(),
            args.min_calls
        )));
    }
    let mut plan = FineTune { seed: args.seed, ..FineTune::default() };
    plan.steps = args.steps.unwrap_or(plan.steps);
    let (tuned, looks) = train::fine_tune(&weights, &training, &validation, &plan)?;
    let parent: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let version = format!("tuned on {}", recording.name);
    let about =
        super::about(&version, &format!("recording sha256 {}, from the model sha256 {parent}", recording.digest));
    super::write(&args.out, &onnx::bytes(&tuned, &about)?)?;

    let before: Box<dyn Predictor + '_> = Box::new(Named("before", ByMean(Network { weights: &weights })));
    let mut measured = predictors(&tuned);
    measured.insert(1, before);
    let held_back =
        Plan { windows: parts.held_back.clone(), least_answers: args.min_calls, in_both: false, scored: None };
    let found = replay(&recording, &mut measured, held_back, 0)?;
    let windows = (parts.trained.len(), parts.stopped_by.len(), parts.held_back.len());
    let steps = looks.last().map_or(0, |l| l.step);
    if args.json {
        let mut value = found.json(args.seed);
        if let Value::Object(all) = &mut value {
            let before = all.get_mut("rivals").and_then(|r| r.as_object_mut()).and_then(|r| r.remove("before"));
            all.insert("before".into(), before.unwrap_or_default());
            all.insert("after".into(), all.get("model").cloned().unwrap_or_default());
            all.insert(
                "windows".into(),
                json!({"trained": windows.0, "stopped_by": windows.1, "held_back": windows.2}),
            );
            all.insert("steps".into(), json!(steps));
            let about =
                json!({ "name": recording.name, "window_seconds": recording.window_s, "digest": recording.digest });
            all.insert("recording".into(), about);
            all.insert("out".into(), json!(args.out));
        }
        return print_json(&value);
    }
    say!(
        "{}: trained on {} windows, stopped by {} after {steps} steps, measured on the last {}; `model` is the adapted one",
        recording.name,
        windows.0,
        windows.1,
        windows.2
    );
    if let Some(summary) = found.summary(args.seed) {
        say!(raw "{}", summary.text());
        let error = |name: &str| {
            let line = summary.lines().find(|l| l.name == name);
            line.map_or(f64::NAN, |l| l.value(Figure::MeanRelativeError))
        };
        let (was, is) = (error("before"), error("model"));
        say!("relative error of the next window: {was:.3} before, {is:.3} after");
        if is > was {
            say!("the adapted model is worse on the held-back windows: keep the one that you have");
        }
    }
    say!("{} was written", args.out.display());
    Ok(())
}

/// The windows by their use, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    trained: Range<usize>,
    stopped_by: Range<usize>,
    held_back: Range<usize>,
}

impl Parts {
    fn of(windows: usize, holdback: f64) -> Result<Self> {
        if windows < LEAST_WINDOWS {
            return Err(Error::Format(format!(
                "the recording has {windows} windows, and at least {LEAST_WINDOWS} are needed to train, to stop and to \
                 measure on apart; record for longer"
            )));
        }
        let held_back = windows - ((windows as f64 * holdback).round() as usize).clamp(5, windows - 15);
        let trained = held_back * 4 / 5;
        // A window's label is the next one: the last of each part has its label in the next part, and is left out.
        Ok(Self { trained: 0..trained - 1, stopped_by: trained..held_back - 1, held_back: held_back..windows })
    }
}

/// The samples of a part, thinned out evenly where they would not fit into memory.
fn samples(recording: &Recording, windows: Range<usize>, min_calls: u32) -> Result<Vec<Sample>> {
    let links = windows.clone().filter_map(|w| recording.windows.get(w)).map(|w| w.links.len()).sum::<usize>();
    let every = links.div_ceil(MOST_EDGES).max(1);
    let options = Options { run: 0, least_calls_now: 0.0, scored: None };
    let mut samples = Stream::new(recording, windows, options).step_by(every).collect::<Result<Vec<Sample>>>()?;
    for sample in &mut samples {
        // What stands on few answers is mostly chance: nothing is learned of it.
        for candidate in sample.candidates.iter_mut().filter(|c| c.answers < min_calls) {
            (candidate.mean_s, candidate.p99_s, candidate.jitter_s) = (f32::NAN, f32::NAN, f32::NAN);
        }
    }
    Ok(samples)
}

fn labelled(samples: &[Sample], min_calls: u32) -> usize {
    samples.iter().flat_map(|s| &s.candidates).filter(|c| c.answers >= min_calls && !c.mean_s.is_nan()).count()
}

/// A predictor under another name.
struct Named<P>(&'static str, P);

impl<P: Predictor> Predictor for Named<P> {
    fn name(&self) -> &str {
        self.0
    }

    fn predict(&mut self, samples: &[Sample]) -> Result<Vec<Predictions>> {
        self.1.predict(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_in_the_order_of_time_and_share_no_label() {
        let parts = Parts::of(100, 0.3).unwrap();
        assert_eq!(parts, Parts { trained: 0..55, stopped_by: 56..69, held_back: 70..100 });
        assert!(Parts::of(29, 0.3).unwrap_err().to_string().contains("at least 30 are needed"));
        for (windows, holdback) in [(30, 0.01), (30, 0.99), (1_000, 0.5)] {
            let parts = Parts::of(windows, holdback).unwrap();
            assert!(!parts.trained.is_empty() && !parts.stopped_by.is_empty() && !parts.held_back.is_empty());
        }
    }

    #[test]
    fn a_share_is_written_as_percent_or_as_a_number() {
        assert_eq!((share("30%"), share("0.3")), (Ok(0.3), Ok(0.3)));
        for wrong in ["0%", "100%", "-1", "30", "x", "nan"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
