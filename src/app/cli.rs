//! The command line.

use super::{EXIT_CONFIG, ca, capture, files, run};
use crate::config::{self, Severity};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A service-mesh sidecar that sends each request along the path which a graph neural network expects to be best.
#[derive(Debug, Parser)]
#[command(name = "pathloom", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  pathloom demo                                        see it work, on this machine alone
  pathloom check proxy-config/quickstart.yaml          is this configuration right?
  pathloom run --config proxy-config/quickstart.yaml   serve
  pathloom explain --cluster catalog                   why are the weights what they are?")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves requests as a configuration says.
    #[command(after_help = "Examples:
  pathloom run --config /etc/pathloom/pathloom.yaml
  kill -HUP $(pidof pathloom)      reads the file again, as it also does when the file changes
  kill -TERM $(pidof pathloom)     finishes the requests in flight, then leaves

With `process.handover` in the file, a second `run` takes the first one's place without refusing a connection.")]
    Run(RunArgs),
    /// Says whether a configuration is right: exit code 0, or 64 with every error listed.
    #[command(after_help = "Example:
  pathloom check proxy-config/quickstart.yaml")]
    Check {
        /// The YAML file.
        file: PathBuf,
        /// Prints the effective configuration, defaults included.
        #[arg(long)]
        effective: bool,
    },
    /// Shows a whole little mesh on this machine, with a story.
    Demo(crate::demo::DemoArgs),
    /// Says why the weights of a running sidecar are what they are.
    #[command(after_help = format!("Examples:
  pathloom explain
  pathloom explain --cluster catalog --workload frontend
  pathloom explain --admin 10.0.0.7:9900 --json
  pathloom explain --admin unix:/run/pathloom/admin.sock
  pathloom explain --request 4c1f2e                                      where did this request go, and why?
  pathloom explain --request 4c1f2e --log /var/log/pathloom/access.log   one that the sidecar no longer remembers

{}", crate::admin::meanings()))]
    Explain(crate::admin::ExplainArgs),
    /// Shows what a running sidecar sees and does, live: endpoints, links, failures.
    #[command(after_help = "Examples:
  pathloom top
  pathloom top --show failures --every 5s
  pathloom top --once --filter catalog        one frame as text

Keys: tab or 1 to 6 turn to endpoints, links, failures, generations, the trial and the model; left and right sort, up and down
choose a row, of which all is said below; r reverses; / filters; q leaves.")]
    Top(crate::admin::TopArgs),
    /// Asks a running sidecar whether it lives or is ready: exit code 0, or 1 with the reasons.
    #[command(after_help = "Examples:
  pathloom probe live
  pathloom probe ready --admin unix:/run/pathloom/admin.sock")]
    Probe(crate::admin::ProbeArgs),
    /// Makes a throw-away authority and certificates, to try mTLS out.
    #[command(
        subcommand,
        after_help = "Example:
  pathloom ca init /tmp/mesh-ca
  pathloom ca issue /tmp/mesh-ca spiffe://mesh.local/shop/frontend

and in the configuration:
  identity:
    certificate: /tmp/mesh-ca/frontend.pem
    key: /tmp/mesh-ca/frontend-key.pem
    bundle: /tmp/mesh-ca/ca.pem"
    )]
    Ca(ca::CaCommand),
    /// Lets the kernel bring connections here that were meant for others (nftables).
    #[command(
        subcommand,
        after_help = "Examples:
  pathloom capture install --config pathloom.yaml --dry-run     what would be done?
  pathloom capture install --config pathloom.yaml
  pathloom capture follow --config pathloom.yaml                on Kubernetes: the pods that want it
  pathloom capture show
  pathloom capture remove

The rules follow from the workloads' `capture` and from the section `capture` of the file."
    )]
    Capture(capture::CaptureCommand),
    /// Prints the JSON schema of the configuration, for editors.
    Schema,
}

/// What `run` needs.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The YAML file; read again on SIGHUP and when it changes.
    #[arg(long, value_name = "FILE", env = "PATHLOOM_CONFIG")]
    pub config: PathBuf,
    /// The process that started this one, and with which it ends (the demo's).
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<u32>,
    /// Once another process took this one's place (`process.handover`), stay until SIGTERM: for a supervisor that would
    /// start again what ends by itself, as Kubernetes does.
    #[arg(long)]
    pub linger: bool,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Check { file, effective } => check(&file, effective),
            Command::Demo(args) => crate::demo::run(args),
            Command::Explain(args) => said(crate::admin::explain(&args)),
            Command::Top(args) => match crate::admin::top(&args) {
                Ok(text) => {
                    print!("{text}");
                    ExitCode::SUCCESS
                }
                Err(error) => failed(&error),
            },
            Command::Probe(args) => said(async { crate::admin::probe(&args).await.map(|said| said + "\n") }),
            Command::Ca(command) => ca::run(command),
            Command::Capture(command) => capture::run(command),
            Command::Schema => {
                print!("{}", config::json_schema());
                ExitCode::SUCCESS
            }
        }
    }
}

fn check(file: &std::path::Path, effective: bool) -> ExitCode {
    match config::load_file(file) {
        Ok(loaded) => {
            if effective {
                print!("{}", loaded.config.shown().to_yaml());
            }
            loaded.warnings.iter().for_each(|warning| eprintln!("{warning}"));
            for (key, path) in files::missing(&loaded.config) {
                eprintln!(
                    "note: {key}: there is no `{}` on this machine, and `run` needs it where it runs",
                    path.display()
                );
            }
            let count = loaded.warnings.iter().filter(|w| w.severity == Severity::Warning).count();
            match count {
                0 => eprintln!("{}: right", file.display()),
                1 => eprintln!("{}: right, with 1 warning", file.display()),
                n => eprintln!("{}: right, with {n} warnings", file.display()),
            }
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Prints what a running sidecar says.
fn said<E: std::error::Error>(asked: impl Future<Output = Result<String, E>>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(asked) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("pathloom: {error}");
    ExitCode::FAILURE
}
