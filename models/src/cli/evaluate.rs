//! `evaluate`: the figures of a model, of its rivals and of its variants on simulated runs that training never saw.

use crate::evaluate::figures::LEAST_ANSWERS;
use crate::evaluate::play::{Predictors, reports};
use crate::evaluate::targets::{Target, targets};
use crate::evaluate::{Figure, Network, Options, Summary, Truth};
use crate::plot::{self, Axis, Series};
use crate::predict::Predictor;
use crate::results::stamped;
use crate::simulator::family::{Family, HELD_BACK, trained_faults};
use crate::simulator::faults::FaultKind;
use crate::simulator::sample::{Scenario, play};
use crate::simulator::topology::Topology;
use crate::weights::Weights;
use crate::{Error, Result, check, learned, onnx, rivals};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Seeds from here on are for tests only.
const TEST_SEED: u64 = 2_000_000;
/// The folder of the learned rivals' weights that come with the project.
const RIVALS: &str = "models/rivals";
/// The learned rivals that are looked for there.
const LEARNED: [&str; 3] = ["gcn", "gat", "mlp"];
/// How many points the plot of predicted against observed has at most.
const POINTS: usize = 2_000;
/// How many rivals' distributions are drawn beside the model's.
const DISTRIBUTIONS: [&str; 5] = ["persistence", "ewma", "shrunk averages", "mlp", "ospf"];

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pathloom-models evaluate
  pathloom-models evaluate --family hotel --out models/results/evaluate-hotel.json
  pathloom-models evaluate --faults held-back --runs 8 --json
  pathloom-models evaluate --faults calm
  pathloom-models evaluate --topology my-application.json --ablations target/lab/ablations")]
pub struct Evaluate {
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// An application of one's own (a JSON file of the shape in the documentation), or a family's name.
    #[arg(long, conflicts_with = "family")]
    topology: Option<String>,
    /// Which applications: social-network, hotel, e-commerce, random, tiny, wide, large-N (N services), degree-1.5 to degree-4.5
    /// (random with this out-degree), or training (as trained on).
    #[arg(long, default_value = "social-network")]
    family: String,
    /// Which kinds of faults.
    #[arg(long, value_enum, default_value_t = Faults::Seen)]
    faults: Faults,
    /// How many runs a seed.
    #[arg(long, default_value_t = 24)]
    runs: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The first run's seed; training uses others.
    #[arg(long, default_value_t = TEST_SEED)]
    seed: u64,
    /// Weights of learned rivals (.safetensors); without it those in models/rivals.
    #[arg(long, num_args = 1..)]
    rivals: Vec<PathBuf>,
    /// A folder of trained variants of the network (.safetensors), measured apart from the rivals.
    #[arg(long)]
    ablations: Option<PathBuf>,
    /// How many answers a label of the next window must stand on.
    #[arg(long, default_value_t = LEAST_ANSWERS)]
    least_answers: u32,
    /// How often each third sample's window is played again, for the noise floor; 0 for none.
    #[arg(long, default_value_t = 6)]
    forks: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write the JSON to this file too, and plots beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Which kinds of faults runs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// Those of training.
    Seen,
    /// Those that training never has.
    HeldBack,
    /// All.
    All,
    /// None, and constant load: nothing changes that nobody could foresee.
    Calm,
}

impl Faults {
    fn kinds(self) -> Vec<FaultKind> {
        match self {
            Faults::Seen => trained_faults(),
            Faults::HeldBack => HELD_BACK.to_vec(),
            Faults::All => FaultKind::ALL.to_vec(),
            Faults::Calm => Vec::new(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Faults::Seen => "seen",
            Faults::HeldBack => "held-back",
            Faults::All => "all",
            Faults::Calm => "calm",
        }
    }
}

/// What runs are of.
enum Of {
    Family(Family),
    Training,
    Topology(Topology),
}

impl Of {
    /// By a family's name, or else by a file.
    fn parse(name: &str, or_file: bool) -> Result<Self> {
        let of = |name: &str, prefix: &str| name.strip_prefix(prefix)?.parse::<f64>().ok();
        Ok(Of::Family(match name {
            "social-network" => Family::SocialNetwork,
            "hotel" | "hotel-reservation" => Family::Hotel,
            "e-commerce" => Family::ECommerce,
            "random" | "generated" => Family::Random,
            "tiny" => Family::Tiny,
            "wide" => Family::Wide,
            "training" => return Ok(Of::Training),
            _ => match (of(name, "large-"), of(name, "degree-").filter(|d| (1.5..=4.5).contains(d))) {
                (Some(services), _) => Family::Large(services as usize),
                (_, Some(degree)) => Family::Degree((degree * 10.0).round() as u32),
                _ if or_file => return Ok(Of::Topology(Topology::load(Path::new(name))?)),
                _ => {
                    return Err(Error::Format(format!(
                        "no family is called `{name}`: social-network, hotel, e-commerce, random, tiny, wide, large-N, \
                         degree-1.5 to degree-4.5, training"
                    )));
                }
            },
        }))
    }

    fn name(&self) -> String {
        match self {
            Of::Family(family) => family.name(),
            Of::Training => "training".into(),
            Of::Topology(topology) => topology.name.to_string(),
        }
    }

    fn scenario(&self, seed: u64, kinds: &[FaultKind]) -> Result<Scenario> {
        match self {
            Of::Family(family) => Scenario::random(seed, *family, kinds),
            Of::Training => Scenario::random(seed, Family::training(seed), kinds),
            Of::Topology(topology) => Ok(Scenario::of_topology(seed, topology, kinds)),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Whatever went wrong, in words.
pub fn run(args: &Evaluate) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let weights = onnx::weights(&bytes)?;
    let of = match &args.topology {
        Some(name) => Of::parse(name, true)?,
        None => Of::parse(&args.family, false)?,
    };
    let kinds = args.faults.kinds();
    let (trained_rivals, absent) = trained_rivals(&args.rivals)?;
    absent.iter().for_each(|name| eprintln!("not measured: {name} (no such file; `train` makes it)"));
    let ablations = match &args.ablations {
        Some(folder) => weights_in(folder)?,
        None => Vec::new(),
    };
    let predictors = || -> Result<Predictors<'_>> {
        let mut all: Predictors<'_> = vec![Box::new(Network { weights: &weights })];
        all.extend(rivals::all());
        for path in trained_rivals.iter().chain(&ablations) {
            all.push(trained(path)?);
        }
        Ok(all)
    };
    let bar = ProgressBar::new(args.seeds * args.runs);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let options = Options { truth: Truth::Intrinsic, least_answers: args.least_answers };
    let scenario = |seed| -> Result<Scenario> {
        let scenario = of.scenario(seed, &kinds)?;
        Ok(if args.faults == Faults::Calm { scenario.calm() } else { scenario })
    };
    let samples = |seed| play(&scenario(seed)?.with_forks(args.forks));
    let reports = reports(args.seed, args.seeds, args.runs, &options, samples, predictors, || bar.inc(1))?;
    bar.finish_and_clear();
    let summary = Summary::of(&reports, args.seed).ok_or_else(|| Error::Check("nothing was evaluated".to_string()))?;
    let apart: Vec<String> =
        ablations.iter().map(|p| trained(p).map(|p| p.name().to_string())).collect::<Result<_>>()?;
    let yardstick = of.name() == Family::SocialNetwork.name();
    let targets = if yardstick { targets(&summary, &apart) } else { BTreeMap::new() };
    let value = value(args, &of, &summary, &apart, &targets, absent, &bytes);
    if args.json {
        say!("{}", pretty(&value)?);
    } else {
        say!("{}, faults {}: labels stand on at least {} answers", of.name(), args.faults.name(), args.least_answers);
        say!(raw "{}", summary.text());
        say!(raw "{}", met(&targets));
    }
    if let Some(path) = &args.out {
        crate::cli::write(path, (pretty(&value)? + "\n").as_bytes())?;
        plots(path, &of.name(), &summary)?;
    }
    Ok(())
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Format(e.to_string()))
}

/// The learned rivals' files, and what is not there.
fn trained_rivals(given: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    if !given.is_empty() {
        return Ok((given.to_vec(), Vec::new()));
    }
    let path = |name: &str| Path::new(RIVALS).join(format!("{name}.safetensors"));
    let (there, absent): (Vec<&str>, Vec<&str>) = LEARNED.iter().partition(|name| path(name).is_file());
    let absent = absent.into_iter().map(|name| path(name).display().to_string()).collect();
    Ok((there.into_iter().map(path).collect(), absent))
}

/// All weights in a folder, by name.
fn weights_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::at(folder))?;
    let mut found = entries.map(|e| Ok(e.map_err(Error::at(folder))?.path())).collect::<Result<Vec<_>>>()?;
    found.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    found.sort();
    if found.is_empty() {
        return Err(Error::Format(format!("{} holds no .safetensors", folder.display())));
    }
    Ok(found)
}

/// Trained weights as a predictor, named after their file.
fn trained(path: &Path) -> Result<Box<dyn Predictor>> {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Box::new(learned::Network::new(&name, Weights::load(path)?)))
}

/// The summary's JSON with what was evaluated; variants apart from rivals.
fn value(
    args: &Evaluate,
    of: &Of,
    summary: &Summary,
    apart: &[String],
    targets: &BTreeMap<&'static str, Target>,
    absent: Vec<String>,
    model: &[u8],
) -> Value {
    let mut value = summary.json();
    if let Value::Object(all) = &mut value {
        let mut ablations = Map::new();
        if let Some(Value::Object(rivals)) = all.get_mut("rivals") {
            ablations.extend(apart.iter().filter_map(|name| rivals.remove(name).map(|v| (name.clone(), v))));
        }
        let digest: String = Sha256::digest(model).iter().map(|b| format!("{b:02x}")).collect();
        let more = [
            ("ablations", Value::Object(ablations)),
            ("family", json!(of.name())),
            ("faults", json!(args.faults.name())),
            ("truth", json!("intrinsic")),
            ("least_answers", json!(args.least_answers)),
            ("forks", json!(args.forks)),
            ("model_file", json!({ "path": args.model, "sha256": digest })),
            ("targets", json!(targets)),
            ("absent", json!(absent)),
        ];
        all.extend(more.map(|(key, value)| (key.to_string(), value)));
    }
    stamped(value)
}

/// The targets in words.
fn met(targets: &BTreeMap<&'static str, Target>) -> String {
    let mut out = String::new();
    for figure in Figure::ALL {
        let Some(t) = targets.get(figure.key()) else { continue };
        let (met, beats) = (if t.met { "met" } else { "NOT MET" }, if t.beats_every_rival { "" } else { "NOT " });
        let (value, target) = (figure.text(t.value), figure.text(t.target));
        out += &format!("target {}: {value} against {target}: {met}; {beats}better than every rival\n", figure.title());
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

/// The distributions of errors, and predicted against observed, beside the JSON.
fn plots(json: &Path, of: &str, summary: &Summary) -> Result<()> {
    let stem = json.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = |what: &str| json.with_file_name(format!("{stem}-{what}.svg"));
    let drawn = summary.lines().filter(|l| l.name == "model" || DISTRIBUTIONS.contains(&l.name.as_str()));
    let series: Vec<Series> = drawn.map(|l| Series::new(l.name.clone(), l.errors.cumulated())).collect();
    let axis = Axis::logarithmic("relative error of the next window's mean latency");
    plot::distributions(&beside("errors"), &format!("{of}: who errs how far"), axis, "share of candidates", &series)?;
    let all = &summary.model.points;
    let stride = all.len().div_ceil(POINTS).max(1);
    let points: Vec<(f64, f64)> =
        all.iter().step_by(stride).map(|(t, p)| (f64::from(*t) * 1e3, f64::from(*p) * 1e3)).collect();
    plot::scatter(
        &beside("points"),
        &format!("{of}: mean latency of the next window"),
        "observed, ms",
        "predicted by the model, ms",
        &points,
    )
}
