//! `pathloom capture follow`: captures the pods of a Kubernetes node that want it, and nobody else, for as long as the proxy
//! beside it answers.
//!
//! ```text
//! Kubernetes --pods, namespaces--> discovery --whom to capture--\
//!                                                                Keeper --what the sets are to hold--> nft
//! the proxy's /ready, once a second ----------------------------/
//! the file, when it changes --> the rules ---------------------------------------------------------> nft
//! ```
//! It is a process of its own, since the proxy gives up the right to start programs. It may end in every way: after SIGTERM the
//! sets are empty, or in the hands of the next agent (`capture::Turn`); after anything else the kernel forgets what they hold
//! within two minutes. A proxy that does not answer captures nobody, and connections that are open already stay as they are.
//!
//! What fails is tried again at the next turn, a second later; somebody who removed the rules gets them again.

use super::capture::FollowArgs;
use super::run::StartError;
use super::{EXIT_CONFIG, EXIT_START};
use crate::admin::{self, ProbeArgs, Probed};
use crate::capture::{self, CaptureError, Keeper, MAX_ADDRESSES, Rules, Tried, Turn};
use crate::config::{self, Config, Reload, Watcher};
use crate::discovery::{self, Wanted};
use crate::observe::log;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// How often the proxy is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to say so. One that is busy answers within this; one that hangs never does.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long changes are gathered that come one after another.
const SETTLE: Duration = Duration::from_millis(50);

/// Follows until a signal ends it.
pub fn run(args: &FollowArgs) -> ExitCode {
    let refused = |error: &dyn std::fmt::Display| {
        eprintln!("pathloom: {error}");
        ExitCode::from(EXIT_CONFIG)
    };
    let loaded = match config::load_file(&args.config) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let rules = match Rules::follow(&loaded.config) {
        Ok(rules) => rules,
        Err(error) => return refused(&error),
    };
    if let Err(error) = log::init(&loaded.config.telemetry.log) {
        return refused(&error);
    }
    let followed = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let watcher = Watcher::start(&args.config, &loaded.text_digest)?;
        runtime.block_on(follow(args, &loaded.config, rules, watcher.1))
    };
    match followed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_START)
        }
    }
}

async fn follow(
    args: &FollowArgs,
    config: &Config,
    rules: Rules,
    mut events: mpsc::Receiver<Reload>,
) -> Result<(), StartError> {
    let mut ends = Ends::new()?;
    let Some(turn) = turn(&mut ends).await? else { return Ok(()) };
    capture::install(&rules)?;
    rules.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let node = args.node.as_deref().unwrap_or(&config.node.name);
    let admin = config.admin.listen.to_string();
    tracing::info!(node, admin, "pods are followed");
    let mut pods = discovery::follow_pods(node, MAX_ADDRESSES);
    let mut proxy = ask(admin);
    let mut agent = Agent { node: node.to_owned(), rules, keeper: Keeper::default(), fails: false };
    loop {
        tokio::select! {
            () = ends.one() => break,
            Some(answer) = proxy.recv() => agent.proxy(answer),
            Ok(()) = pods.changed() => {
                sleep(SETTLE).await;
                let wanted = pods.borrow_and_update().clone();
                wanted.into_iter().for_each(|wanted| agent.pods(wanted));
            }
            Some(event) = events.recv() => agent.reload(event).await,
        }
        if let Some(due) = agent.keeper.due(Instant::now()) {
            agent.write(due).await;
        }
    }
    if turn.somebody_waits() {
        tracing::info!("done; the next agent keeps on capturing");
        return Ok(());
    }
    capture::hold(&BTreeSet::new())?;
    tracing::info!("done; no pod is captured any more");
    Ok(())
}

/// Waits for this agent's turn; none where a signal came first.
async fn turn(ends: &mut Ends) -> Result<Option<Turn>, StartError> {
    loop {
        match Turn::take().await? {
            Tried::Mine(turn) => return Ok(Some(turn)),
            Tried::Others(wait) => {
                tracing::info!("another agent captures the pods of this node; this one waits for its end");
                tokio::select! {
                    ended = wait.until_it_ends() => ended?,
                    () = ends.one() => return Ok(None),
                }
            }
        }
    }
}

/// Asks the proxy again and again whether it is ready; why not, where it is not.
fn ask(admin: String) -> mpsc::Receiver<Result<(), String>> {
    let (answers, told) = mpsc::channel(1);
    let args = ProbeArgs { what: Probed::Ready, admin };
    tokio::spawn(async move {
        loop {
            let answer = match timeout(PATIENCE, admin::probe(&args)).await {
                Ok(said) => said.map(drop).map_err(|error| error.to_string()),
                Err(_) => Err(format!("{} did not answer within {} s", args.admin, PATIENCE.as_secs())),
            };
            if answers.send(answer).await.is_err() {
                return;
            }
            sleep(ASK_EVERY).await;
        }
    });
    told
}

/// What is known, and what the kernel was told.
struct Agent {
    node: String,
    rules: Rules,
    keeper: Keeper,
    /// Whether the kernel did not take what it was told last.
    fails: bool,
}

impl Agent {
    fn proxy(&mut self, answer: Result<(), String>) {
        if self.keeper.proxy(answer.is_ok()) {
            match answer {
                Ok(()) => tracing::info!("the proxy is ready: pods that want it are captured"),
                Err(why) => tracing::warn!("the proxy is not ready, so no pod is captured until it is: {why}"),
            }
        }
    }

    fn pods(&mut self, Wanted { addresses, pods, of, left_out, ignored }: Wanted) {
        tracing::info!(pods, of, addresses = addresses.len(), ignored, "pods that want to be captured");
        if of == 0 {
            let node = &self.node;
            tracing::warn!(
                node,
                "Kubernetes knows no pod on this node: is this its name there? `--node` or `node.name` says it"
            );
        }
        if left_out > 0 {
            let most = MAX_ADDRESSES;
            tracing::error!(
                left_out,
                most,
                "there are more addresses than there is room for; pods that come later in the alphabet go their own way"
            );
        }
        self.keeper.pods(addresses);
    }

    /// The file changed.
    async fn reload(&mut self, event: Reload) {
        let rules = match event.map(|loaded| Rules::follow(&loaded.config)) {
            Ok(Ok(rules)) => rules,
            Ok(Err(why)) => return tracing::warn!("the rules stay as they are until this process ends: {why}"),
            Err(errors) => return tracing::warn!("the rules stay as they are, since the file is wrong: {errors}"),
        };
        if rules == self.rules {
            return;
        }
        self.rules = rules;
        let rules = self.rules.clone();
        match kernel(move || capture::install(&rules)).await {
            Ok(()) => tracing::info!("the rules were installed anew"),
            // They are tried again with the addresses.
            Err(error) => tracing::warn!(%error, "the rules cannot be installed"),
        }
        self.keeper.unknown();
    }

    /// Tells the kernel whom to capture.
    async fn write(&mut self, addresses: BTreeSet<IpAddr>) {
        let (rules, wanted) = (self.rules.clone(), addresses.clone());
        let written = kernel(move || {
            // Somebody may have removed the rules.
            capture::hold(&wanted).or_else(|_| capture::install(&rules).and_then(|()| capture::hold(&wanted)))
        })
        .await;
        match written {
            Ok(()) => {
                self.keeper.written(addresses, Instant::now());
                if std::mem::take(&mut self.fails) {
                    tracing::info!("the kernel takes the addresses of pods again");
                }
            }
            Err(error) => {
                self.keeper.unknown();
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::error!(%error, "the kernel does not take the addresses of pods; it is tried again and again");
                }
            }
        }
    }
}

/// Runs programs without holding up what is to be heard meanwhile.
async fn kernel(run: impl FnOnce() -> Result<(), CaptureError> + Send + 'static) -> Result<(), CaptureError> {
    let ran = tokio::task::spawn_blocking(run).await;
    ran.unwrap_or_else(|error| Err(CaptureError::Failed { program: "nft", said: error.to_string() }))
}

/// The signals that end it.
struct Ends {
    term: Signal,
    int: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    async fn one(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
