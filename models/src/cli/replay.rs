//! `replay` and `import-nezha`: the figures of a model on recorded windows.

use crate::evaluate::{Figure, Network};
use crate::predict::Predictor;
use crate::recording::nezha::{self, App};
use crate::recording::replay::{Plan, Replay, replay};
use crate::recording::{Recording, read};
use crate::rivals::{self, ByMean};
use crate::weights::Weights;
use crate::{Error, Result, check, onnx};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pathloom-models replay --recording recordings/mesh --model models/pathloom.onnx\n  pathloom-models replay --data ../shared/data --json"
)]
pub struct ReplayArgs {
    /// The recording's folder.
    #[arg(long, required_unless_present = "data", conflicts_with = "data")]
    recording: Option<PathBuf>,
    /// Instead of a recording the public data: Nezha's windows in its folder `nezha`. Only calls from service to service
    /// count, and both a window and the one before need the least number of calls.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only this application of the public data.
    #[arg(long, requires = "data")]
    app: Option<App>,
    /// The length of the public data's windows, in seconds: 10 or 60.
    #[arg(long, default_value_t = 60)]
    window: u32,
    /// The model.
    #[arg(long, default_value = "models/pathloom.onnx")]
    model: PathBuf,
    /// How many answers a link's window must stand on to count.
    #[arg(long, default_value_t = 20)]
    min_calls: u32,
    /// The seed of the intervals' bootstrap.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `import-nezha`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  pathloom-models import-nezha --data ../shared/data --app OB --window 10 --out target/lab/nezha"
)]
pub struct ImportNezha {
    /// The folder of the public data.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Which application.
    #[arg(long)]
    app: App,
    /// The length of a window, in seconds: 10 or 60.
    #[arg(long, default_value_t = 10)]
    window: u32,
    /// Where to write the recordings, one folder a day.
    #[arg(long)]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `import-nezha`.
///
/// # Errors
/// When the data is not there, or a recording cannot be written.
pub fn import_nezha(args: &ImportNezha) -> Result<()> {
    let imported = nezha::import(&args.data, args.app, args.window, &args.out)?;
    if args.json {
        say!("{}", json!({ "recordings": imported.iter().map(|i| &i.folder).collect::<Vec<_>>() }));
    } else {
        imported.iter().for_each(|i| say!("{}", i.folder.display()));
    }
    Ok(())
}

/// Runs `replay`.
///
/// # Errors
/// With all that is wrong with the recording, or whatever else went wrong.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let bytes = std::fs::read(&args.model).map_err(Error::at(&args.model))?;
    check::contract(&bytes)?;
    let weights = onnx::weights(&bytes)?;
    match (&args.recording, &args.data) {
        (Some(folder), _) => of_recording(args, &weights, folder),
        (None, Some(data)) => of_nezha(args, &weights, data),
        (None, None) => Err(Error::Format("give --recording or --data".into())),
    }
}

/// The model, which here decides by the mean that it expects, and the simple rivals.
pub(super) fn predictors(weights: &Weights) -> Vec<Box<dyn Predictor + '_>> {
    let mut all: Vec<Box<dyn Predictor + '_>> = vec![Box::new(ByMean(Network { weights }))];
    for rival in rivals::all() {
        all.push(rival);
    }
    all
}

/// Reads a recording and says on standard error what it read past.
pub(super) fn read_aloud(folder: &Path) -> Result<Recording> {
    let recording = read(folder)?;
    let warnings = recording.findings.warning_text();
    if !warnings.is_empty() {
        eprintln!("{}", warnings.lines().map(|l| format!("warning: {l}")).collect::<Vec<_>>().join("\n"));
    }
    Ok(recording)
}

fn of_recording(args: &ReplayArgs, weights: &Weights, folder: &Path) -> Result<()> {
    let recording = read_aloud(folder)?;
    let plan =
        Plan { windows: 0..recording.windows.len(), least_answers: args.min_calls, in_both: false, scored: None };
    let found = replay(&recording, &mut predictors(weights), plan, 0)?;
    scored(&found, args.min_calls)?;
    let about = json!({
        "name": recording.name, "window_seconds": recording.window_s, "windows": recording.windows.len(),
        "digest": recording.digest, "min_calls": args.min_calls,
    });
    if args.json {
        let mut value = found.json(args.seed);
        if let Value::Object(all) = &mut value {
            all.insert("recording".into(), about);
        }
        return print_json(&value);
    }
    let (name, length) = (&recording.name, recording.window_s);
    say!("{name}: {} windows of {length} s, each predicted from those before it", recording.windows.len());
    text(&found, args.seed);
    Ok(())
}

fn of_nezha(args: &ReplayArgs, weights: &Weights, data: &Path) -> Result<()> {
    let apps: Vec<App> = args.app.map_or_else(|| App::ALL.to_vec(), |app| vec![app]);
    let folder = tempfile::tempdir().map_err(Error::at(std::env::temp_dir()))?;
    let mut by_app = serde_json::Map::new();
    let (mut all, mut run) = (Replay::default(), 0);
    for app in apps {
        let mut of_app = Replay::default();
        for imported in nezha::import(data, app, args.window, folder.path())? {
            let recording = read(&imported.folder)?;
            let remote = |a: &str, b: &str| imported.remote.contains(&(a.to_owned(), b.to_owned()));
            let plan = Plan {
                windows: 0..recording.windows.len(),
                least_answers: args.min_calls,
                in_both: true,
                scored: Some(Box::new(remote)),
            };
            of_app.merge(replay(&recording, &mut predictors(weights), plan, run)?);
            run += recording.windows.len() as u64;
        }
        scored(&of_app, args.min_calls)?;
        if args.json {
            by_app.insert(app.name().into(), of_app.json(args.seed));
        } else {
            say!(
                "{}: windows of {} s, calls from service to service, at least {} in a window and in the one before",
                app.name(),
                args.window,
                args.min_calls
            );
            text(&of_app, args.seed);
        }
        all.merge(of_app);
    }
    if args.json {
        let mut value = all.json(args.seed);
        if let Value::Object(all) = &mut value {
            all.insert("apps".into(), Value::Object(by_app));
            all.insert("window_seconds".into(), json!(args.window));
            all.insert("min_calls".into(), json!(args.min_calls));
        }
        print_json(&value)?;
    }
    Ok(())
}

/// An error where nothing could be scored, with what might help.
fn scored(found: &Replay, min_calls: u32) -> Result<()> {
    let any = found.report.predictors.iter().any(|m| m.pooled().count(Figure::MeanRelativeError) > 0);
    if any {
        return Ok(());
    }
    Err(Error::Format(format!(
        "no link has two windows in a row with {min_calls} answers in the second; record for longer, or lower --min-calls"
    )))
}

fn text(found: &Replay, seed: u64) {
    let Some(summary) = found.summary(seed) else { return };
    say!(raw "{}", summary.text());
    say!("noise floor of the relative error, estimated: {:.3}", found.floor());
    if summary.decisions() == 0 {
        say!("no service had two nodes to choose from, so nothing is said of decisions");
    }
    say!("");
}

pub(super) fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(&crate::results::stamped(value.clone()));
    say!("{}", text.map_err(|e| Error::Format(e.to_string()))?);
    Ok(())
}
