//! Training goes on where it stopped, says what is wrong with a checkpoint, and makes every kind of model.

use super::*;
use crate::simulator::sample::{Scenario, play};
use std::path::Path;

fn plan(steps: usize) -> Plan {
    Plan { steps, edges: 200, rate: 1e-3, every: 2, patience: 9, seed: 1, data: "few".into(), threads: 1 }
}

/// A short training run.
fn simulate(seed: u64) -> Result<Vec<Sample>> {
    play(&Scenario { duration_s: 50, ..Scenario::training(seed)? })
}

fn kind(name: &str) -> Kind {
    name.parse().unwrap()
}

fn keep(checkpoint: &Path, resume: bool, pause_at: Option<usize>) -> Keep {
    Keep { checkpoint: Some(checkpoint.into()), resume, pause_at }
}

#[test]
fn a_training_that_was_stopped_ends_as_one_that_was_not() {
    let (samples, validation) = (simulate(1).unwrap(), simulate(2).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("training.safetensors");
    // With dropout, whose draws must come out the same too.
    for name in ["full", "gcn"] {
        let go = |keep: &Keep| train(&samples, &validation, kind(name), &plan(6), keep).unwrap();
        let straight = go(&Keep::default());
        for pause_at in [2, 3] {
            go(&keep(&file, false, Some(pause_at)));
            let resumed = go(&keep(&file, true, None));
            assert_eq!(straight.history, resumed.history, "{name}, stopped after {pause_at}");
            assert_eq!(straight.weights.rows("").unwrap(), resumed.weights.rows("").unwrap(), "{name}");
        }
    }
}

#[test]
fn two_threads_give_what_one_gives() {
    let samples = simulate(1).unwrap();
    let go = |threads| {
        let plan = Plan { threads, ..plan(3) };
        train(&samples, &samples, kind("full"), &plan, &Keep::default()).unwrap().weights.rows("").unwrap()
    };
    assert_eq!(go(1), go(2));
}

#[test]
fn a_bad_checkpoint_is_refused_with_a_reason() {
    let samples = simulate(1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("training.safetensors");
    let resume = |steps| train(&samples, &samples, kind("full"), &plan(steps), &keep(&file, true, None));
    train(&samples, &samples, kind("full"), &plan(4), &keep(&file, false, Some(2))).unwrap();
    let other = resume(5).unwrap_err().to_string();
    assert!(other.contains("another training"), "{other}");
    let whole = std::fs::read(&file).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"no checkpoint at all"] {
        std::fs::write(&file, broken).unwrap();
        let refused = resume(4).unwrap_err().to_string();
        assert!(refused.contains("training.safetensors") && refused.contains("--resume"), "{refused}");
    }
    crate::weights::Weights::random(kind("full"), 1).unwrap().save(&file).unwrap();
    let weights = resume(4).unwrap_err().to_string();
    assert!(weights.contains("no training state"), "{weights}");
}

#[test]
fn every_kind_of_model_trains_and_its_file_says_which_it_is() {
    let samples: Vec<Sample> = simulate(1).unwrap().into_iter().take(4).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weights.safetensors");
    for name in Kind::NAMES {
        let trained = train(&samples, &samples, kind(name), &plan(2), &Keep::default()).unwrap();
        trained.weights.save(&file).unwrap();
        let mut network = crate::learned::Network::from_safetensors(&file).unwrap();
        let found = crate::predict::Predictor::predict(&mut network, &samples).unwrap();
        assert_eq!(network.weights().kind(), kind(name));
        for (sample, found) in samples.iter().zip(found) {
            assert_eq!(sample.candidates.len(), found.candidates.len(), "{name}");
            assert!(found.candidates.iter().all(|p| p.cost > 0.0 && p.mean_s.is_finite()), "{name}");
        }
    }
}

#[test]
fn fine_tuning_never_leaves_a_worse_model() {
    let (samples, validation) = (simulate(3).unwrap(), simulate(4).unwrap());
    let weights = crate::weights::Weights::random(kind("full"), 1).unwrap();
    normalise(&weights, &samples).unwrap();
    let before = figures(&weights, &validation).unwrap().criterion();
    for rate in [1e-3, 10.0] {
        let plan = FineTune { steps: 8, every: 4, rate, ..FineTune::default() };
        let (tuned, _) = fine_tune(&weights, &samples, &validation, &plan).unwrap();
        assert!(figures(&tuned, &validation).unwrap().criterion() <= before, "{rate}");
    }
}

#[test]
fn without_intrinsic_labels_it_learns_from_what_was_observed() {
    let mut samples = simulate(5).unwrap();
    samples.iter_mut().flat_map(|s| &mut s.candidates).for_each(|c| c.intrinsic_s = f32::NAN);
    let trained = train(&samples, &samples, kind("full"), &plan(4), &Keep::default()).unwrap();
    let first = trained.history.first().unwrap();
    assert!(first.loss.is_finite() && first.validation.mean > 0.0 && first.validation.accuracy > 0.0, "{first:?}");
    assert_eq!(first.validation.intrinsic, 0.0);
}
