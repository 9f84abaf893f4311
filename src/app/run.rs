//! `pathloom run`: from a configuration to a serving process, and to its end.
//!
//! Everything that can fail at start is tried before anything serves: the configuration, the addresses, the access
//! log, the recording. The model is not among it: a sidecar without a model serves all the same, by the ladder.

use super::capture;
use super::cli::RunArgs;
use super::privileges;
use super::reload::Reloads;
use super::succession::Succession;
use super::{EXIT_CONFIG, EXIT_START};
use crate::admin::{self, AdminState, ConfigState, Pages};
use crate::balance::Published;
use crate::config::{self, Auto, Loaded, Watcher};
use crate::control::{Bell, Control, Keeper, Parts, Status};
use crate::discovery::Discovery;
use crate::health::{self, Checks};
use crate::identity::Identities;
use crate::links::{Links, NodeCell};
use crate::mesh::{self, Mesh};
use crate::observe::log::{self, LogControl};
use crate::observe::metrics::{Family, Held, held};
use crate::observe::{Reason, Reporting, TrafficRegistry};
use crate::proxy::{self, Alarm, Clock, Drain, GaugesSnapshot, Proxy, ProxyOptions};
use crate::record::{self, Described, Recorder};
use crate::scorer::{Options, Scorer};
use crate::workload_api;
use arc_swap::ArcSwap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

/// How long the last log lines and spans may take to go out.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long serving waits for the first word of where endpoints are: long enough for a DNS server that is tried twice.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(5);
/// The most open files to ask for: Linux's own bound (`fs.nr_open`), above which it refuses.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Serves as the file says, until a signal ends it.
///
/// With a `parent` it ends with that process, whatever ends it; with `linger` it stays, once another process took its
/// place, until a signal.
pub fn run(RunArgs { config: path, parent, linger }: &RunArgs) -> ExitCode {
    if let Some(parent) = *parent
        && !ends_with(parent)
    {
        return ExitCode::FAILURE;
    }
    let loaded = match config::load_file(path) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = match log::init(&loaded.config.telemetry.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("pathloom: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    raise_open_files();
    privileges::give_up(&loaded.config);
    if let Err(error) = std::fs::File::open(path) {
        tracing::warn!(%error, "the configuration cannot be read without the privileges given up; a reload will fail");
    }
    match serve(path, loaded, log, *linger) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_START)
        }
    }
}

/// Lets this process be killed when its parent is gone, however that went. False where it is gone already.
fn ends_with(parent: u32) -> bool {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "this process may outlive the one that started it");
    }
    // It may have gone before this was asked for.
    getppid().is_some_and(|now| now.as_raw_nonzero().get().unsigned_abs() == parent)
}

/// Raises the limit of open files to what the system allows: every connection takes one, and shells and init systems
/// commonly start with 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current: Some(now), maximum } = getrlimit(Resource::Nofile) else { return };
    let wanted = maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    if now < wanted
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, limit = now, "the limit of open files stays as it is");
    }
}

pub(super) type StartError = Box<dyn std::error::Error + Send + Sync>;

fn serve(path: &Path, loaded: Loaded, log: LogControl, linger: bool) -> Result<(), StartError> {
    let config = Arc::new(loaded.config);
    let cores = match config.process.threads {
        Auto::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        Auto::Set(threads) => threads,
    };
    capture::allowed(&config).map_err(|refused| format!("{}: {}", refused.message, refused.at_start))?;
    let clock = Clock::start();
    let read_clock: admin::Clock = Arc::new(move || clock.now());
    let (published, bell) = (Published::default(), Bell::default());
    let (links, traffic) = (Arc::new(Links::new(cores)), Arc::new(TrafficRegistry::new(cores)));
    let status = Arc::new(Status::default());
    let checks = Checks::default();
    let reporting = Arc::new(Reporting::start(&config.telemetry, &config.node.name, cores)?);

    let recorder = Arc::new(Recorder::start(
        &config.telemetry.record,
        &config.node.name,
        record::Parts {
            links: links.clone(),
            clock: Box::new(move || clock.now()),
            whereabouts: whereabouts(status.clone()),
        },
    )?);

    let identities = Arc::new(Identities::default());
    identities.configure(&config.identity)?;
    let shared = mesh::Parts {
        links: links.clone(),
        clock: read_clock.clone(),
        described: {
            let status = status.clone();
            Arc::new(move |key| status.named().get(key).cloned())
        },
    };
    // A process that takes another's place waits until that one lets go of the mesh's address.
    let mesh = Mesh::start(shared, &config, config.process.handover.is_some())?;
    let mesh_counters = mesh.counters();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let discovery = Discovery::default();
    runtime.block_on(async {
        discovery.configure(config.clone());
        // Who is discovered should be known before a request comes in, or the process before this one leaves.
        discovery.first(FIRST_ENDPOINTS).await;
    });
    let mut succession = Succession::begin(config.process.handover.as_deref())?;
    let (admin_listener, metrics_listener) = succession.admin(&config.admin)?;
    let admin_address = admin_listener.address()?;
    let scorer = Scorer::start(Options::from(&config.model));
    let _ending = EndsScoring(scorer.clone());
    let with_endpoints = discovery.merged();
    // Before anything listens, so that the first client meets an identity where one is to be had.
    runtime.block_on(workload_api::start(identities.clone(), with_endpoints.clone()));
    let mut control = Control::new(
        Parts {
            published: published.clone(),
            links: links.clone(),
            traffic: traffic.clone(),
            scorer: scorer.clone(),
            identities: identities.clone(),
            status: status.clone(),
            checks: checks.clone(),
            clock: read_clock.clone(),
        },
        with_endpoints.clone(),
        bell.clone(),
    );
    // The listeners are those of the first generation; its weights are equal until the model has spoken.
    let keeper = Keeper::new(status.clone());
    control.publish_first();
    let accepting = Arc::new(AtomicBool::new(false));
    let (serves, served) = mpsc::channel();
    let proxy = Proxy::bind(ProxyOptions {
        published: published.clone(),
        clock,
        cores,
        limits: config.listeners.clone(),
        drain: config.process.drain.0,
        sample: config.telemetry.traces.sample.0,
        propagators: config.telemetry.traces.propagators.clone(),
        sink: reporting.clone(),
        alarm: Arc::new(RingsBell(bell.clone())),
        unrouted: traffic.unrouted().clone(),
        identities: identities.clone(),
        inherited: Mutex::new(std::mem::take(&mut succession.sockets)),
        on_bind_error: Box::new(|error| tracing::error!("a listener of the new configuration is not served: {error}")),
        on_ready: {
            let accepting = accepting.clone();
            Box::new(move || {
                accepting.store(true, Relaxed);
                // Nobody listens where there is no hand-over.
                let _ = serves.send(());
            })
        },
    })?;
    let drain = proxy.drain();
    let operators = (&admin_listener, metrics_listener.as_ref());
    let succeeded = succession.start(served, proxy.listening(), operators, drain.clone())?;
    let gauges = proxy.gauges();
    let state = Arc::new(AdminState {
        published: published.clone(),
        links: links.clone(),
        traffic: traffic.clone(),
        control: status.clone(),
        clock: read_clock.clone(),
        config: ArcSwap::from_pointee(ConfigState::default().loaded(&config, loaded.warnings, SystemTime::now())),
        not_ready: not_ready(accepting, drain.clone(), identities.clone()),
        scorer: scorer_view(scorer.clone()),
        gauges: {
            let (reporting, recorder, checked) = (reporting.clone(), recorder.clone(), checks.clone());
            let identities = identities.clone();
            Box::new(move || {
                let mut families = proxy_families(&gauges.snapshot());
                families.extend(reporting.families());
                families.extend(recorder.families());
                families.push(checked.family());
                families.extend(identities.families());
                families.extend(mesh_counters.families());
                families
            })
        },
        recent: {
            let reporting = reporting.clone();
            Box::new(move || reporting.recent())
        },
        identity: {
            let identities = identities.clone();
            Box::new(move || identities.status())
        },
        discovery: {
            let discovery = discovery.clone();
            Box::new(move || discovery.view())
        },
        gateway: {
            let discovery = discovery.clone();
            Box::new(move || discovery.routes())
        },
        node: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started_at: SystemTime::now(),
    });
    let (watcher, events) = Watcher::start(path, &loaded.text_digest)?;
    let mut hang_up = runtime.block_on(async { signal(SignalKind::hangup()) })?;
    let for_hang_up = reporting.clone();
    let discovering = discovery.clone();
    let file = path.display().to_string();
    let for_checks = identities.clone();
    let reloads =
        Reloads { file, discovery, admin: state.clone(), scorer, reporting: reporting.clone(), identities, log };
    std::thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async move {
            let on_hang_up = async {
                while hang_up.recv().await.is_some() {
                    for_hang_up.reopen();
                    watcher.trigger();
                }
            };
            let serve = async |listener, pages| {
                if let Err(error) = admin::serve(listener, pages, state.clone(), succeeded.clone().told()).await {
                    tracing::error!(%error, "the admin port is not served");
                }
            };
            let sharing = mesh.follow(with_endpoints.clone());
            let admin = async {
                let metrics = async {
                    if let Some(listener) = metrics_listener {
                        serve(listener, Pages::Metrics).await;
                    }
                };
                tokio::join!(serve(admin_listener, Pages::All), metrics);
            };
            let checking = health::check(checks, for_checks, with_endpoints, move || bell.ring());
            tokio::join!(
                control.run(),
                keeper.run(),
                checking,
                admin,
                discovering.run(),
                sharing,
                reloads.follow(events),
                on_hang_up,
            );
        });
    })?;
    tracing::info!(node = config.node.name, admin = %admin_address, threads = cores, "pathloom {} starts", env!("CARGO_PKG_VERSION"));
    let mut server = proxy::chassis();
    server.add_service(proxy);
    proxy::run(server, &drain, linger);
    if !reporting.close(LAST_WORDS) {
        tracing::warn!("some access log lines or spans were not written in time");
    }
    if !recorder.close(LAST_WORDS) {
        tracing::warn!("the recording was not ended in time");
    }
    tracing::info!("done");
    Ok(())
}

/// Ends the scoring thread before the process ends, however it does: ONNX Runtime's globals go when `main` returns.
struct EndsScoring(Scorer);

impl Drop for EndsScoring {
    fn drop(&mut self) {
        if !self.0.close(LAST_WORDS) {
            tracing::warn!("an inference did not end in time");
        }
    }
}

/// Why requests cannot be served now.
fn not_ready(accepting: Arc<AtomicBool>, drain: Drain, identities: Arc<Identities>) -> admin::Asked<Vec<String>> {
    Box::new(move || {
        let mut reasons = Vec::new();
        if !accepting.load(Relaxed) {
            reasons.push("the listeners do not accept yet".to_owned());
        }
        if drain.has_begun() {
            reasons.push("the process is leaving".to_owned());
        }
        reasons.extend(identities.not_ready());
        reasons
    })
}

/// An endpoint's failure, from the data path to the slow loop.
struct RingsBell(Bell);

impl Alarm for RingsBell {
    fn endpoint_failed(&self, _node: &Arc<NodeCell>, _failures: u32, _reason: Reason) {
        self.0.ring();
    }
}

/// The services and zones of the nodes in the last graph.
fn whereabouts(status: Arc<Status>) -> record::Whereabouts {
    Box::new(move || {
        let view = status.view();
        let nodes = view.iter().flat_map(|v| &v.graph.nodes);
        nodes.map(|n| (n.key.clone(), Described { service: n.service.clone(), zone: n.zone.clone() })).collect()
    })
}

fn scorer_view(scorer: Scorer) -> admin::Asked<admin::ScorerStatus> {
    Box::new(move || {
        let status = scorer.status();
        admin::ScorerStatus { json: serde_json::to_value(&status).unwrap_or_default(), metrics: status.families() }
    })
}

fn proxy_families(gauges: &GaugesSnapshot) -> Vec<Family> {
    held(Held {
        downstream: gauges.downstream_connections,
        accepted: gauges.accepted_total,
        evicted: gauges.evicted_total,
        upstream: gauges.upstream_connections,
        pooled: gauges.pooled_connections,
        connected: gauges.connected_total,
        requests: gauges.requests,
        upgraded: gauges.upgraded_connections,
        tcp: gauges.tcp_connections,
        passed: gauges.passed_total,
        malformed_traces: gauges.malformed_traces_total,
        unserved: gauges.unserved_listeners,
    })
}
