//! `pathloom run`: from a configuration to a serving process, and to its end.
//!
//! Everything that can fail at start is tried before anything serves: the configuration, the addresses, the access
//! log. The model is not among it: a sidecar without a model serves all the same, by the ladder.

use super::reload::Reloads;
use super::{EXIT_CONFIG, EXIT_START};
use crate::admin::{self, AdminState, ConfigState};
use crate::balance::Published;
use crate::config::{self, Auto, Loaded, Watcher};
use crate::control::{Bell, Control, Parts, Status};
use crate::links::{Links, NodeCell};
use crate::observe::metrics::{Family, Kind, Measure};
use crate::observe::{Reason, Reporting, TrafficRegistry, log};
use crate::proxy::{Alarm, BoundProxy, Clock, GaugesSnapshot, ProxyOptions};
use crate::scorer::{Options, Scorer};
use arc_swap::ArcSwap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long the last log lines and spans may take to go out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves as the file says, until a signal ends it.
pub fn run(path: &Path) -> ExitCode {
    let loaded = match config::load_file(path) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = log::init(&loaded.config.telemetry.log) {
        eprintln!("pathloom: {error}");
        return ExitCode::from(EXIT_CONFIG);
    }
    match serve(path, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_START)
        }
    }
}

type StartError = Box<dyn std::error::Error + Send + Sync>;

fn serve(path: &Path, loaded: Loaded) -> Result<(), StartError> {
    let config = Arc::new(loaded.config);
    let cores = match config.process.threads {
        Auto::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        Auto::Set(threads) => threads,
    };
    let clock = Clock::start();
    let read_clock: admin::Clock = Arc::new(move || clock.now());
    let (published, bell) = (Published::default(), Bell::default());
    let (links, traffic) = (Arc::new(Links::new(cores)), Arc::new(TrafficRegistry::new(cores)));
    let status = Arc::new(Status::default());
    let reporting = Arc::new(Reporting::start(&config.telemetry, &config.node.name, cores)?);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin_listener = runtime.block_on(admin::bind(config.admin.listen))?;
    let admin_address = admin_listener.local_addr()?;
    let proxy = BoundProxy::bind(ProxyOptions {
        config: &config,
        cores,
        published: published.clone(),
        clock,
        alarm: Arc::new(RingsBell(bell.clone())),
        sink: reporting.clone(),
        unrouted: traffic.unrouted().clone(),
    })?;

    let scorer = Scorer::start(Options::from(&config.model));
    let (config_sender, config_receiver) = watch::channel(config.clone());
    let ready = proxy.readiness();
    let gauges = proxy.gauges();
    let state = Arc::new(AdminState {
        published: published.clone(),
        links: links.clone(),
        traffic: traffic.clone(),
        control: status.clone(),
        clock: read_clock.clone(),
        config: ArcSwap::from_pointee(ConfigState::default().loaded(&config, loaded.warnings, SystemTime::now())),
        not_ready: Box::new(move || ready.reasons()),
        scorer: scorer_view(scorer.clone()),
        gauges: {
            let reporting = reporting.clone();
            Box::new(move || {
                let mut families = proxy_families(&gauges.snapshot());
                families.extend(reporting.families());
                families
            })
        },
        node: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started_at: SystemTime::now(),
    });
    let control = Control::new(
        Parts { published, links, traffic, scorer: scorer.clone(), status, clock: read_clock },
        config_receiver,
        bell,
    );

    let (watcher, events) = Watcher::start(path, &loaded.text_digest)?;
    let mut hang_up = runtime.block_on(async { signal(SignalKind::hangup()) })?;
    let for_hang_up = reporting.clone();
    let reloads =
        Reloads { config: config_sender, admin: state.clone(), scorer, reporting: reporting.clone() };
    std::thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async move {
            let on_hang_up = async {
                while hang_up.recv().await.is_some() {
                    for_hang_up.reopen();
                    watcher.trigger();
                }
            };
            tokio::join!(
                control.run(),
                admin::serve(admin_listener, state, std::future::pending()),
                reloads.follow(events),
                on_hang_up,
            );
        });
    })?;
    tracing::info!(node = config.node.name, admin = %admin_address, threads = cores, "pathloom {} starts", env!("CARGO_PKG_VERSION"));
    proxy.run(config.process.drain.0);
    if !reporting.close(LAST_WORDS) {
        tracing::warn!("some access log lines or spans were not written in time");
    }
    tracing::info!("done");
    Ok(())
}

/// An endpoint's failure, from the data path to the slow loop.
struct RingsBell(Bell);

impl Alarm for RingsBell {
    fn endpoint_failed(&self, _node: &Arc<NodeCell>, _failures: u32, _reason: Reason) {
        self.0.ring();
    }
}

fn scorer_view(scorer: Scorer) -> admin::Asked<admin::ScorerStatus> {
    Box::new(move || {
        let status = scorer.status();
        let counter = |name, help, count| Family::new(name, Kind::Counter, Measure::Number, help).count(count);
        let mut errors = Family::new(
            "inference_failures",
            Kind::Counter,
            Measure::Number,
            "Requests for scores that failed, by reason.",
        );
        for (code, count) in &status.errors {
            errors = errors.with(vec![("reason", (*code).into())], crate::observe::metrics::Value::Count(*count));
        }
        let metrics = vec![
            counter("inferences", "Inferences that gave scores.", status.inferences),
            errors,
            counter("scorer_restarts", "Times that the scoring thread was given up and started anew.", status.restarts),
            counter("model_reloads", "Models that replaced another while running.", status.reloads),
            counter("model_reloads_refused", "Models that were refused on reload.", status.reloads_refused),
            Family::new("last_inference", Kind::Gauge, Measure::Seconds, "How long the last inference took.")
                .number(status.last_duration_s),
        ];
        admin::ScorerStatus { json: serde_json::to_value(&status).unwrap_or_default(), metrics }
    })
}

fn proxy_families(gauges: &GaugesSnapshot) -> Vec<Family> {
    let gauge = |name, help, value: u64| {
        Family::new(name, Kind::Gauge, Measure::Number, help).number(Some(value as f64))
    };
    let counter = |name, help, count| Family::new(name, Kind::Counter, Measure::Number, help).count(count);
    vec![
        gauge("downstream_connections", "Client connections open.", gauges.downstream_connections),
        counter("downstream_connections_accepted", "Client connections accepted.", gauges.accepted_total),
        gauge("upstream_connections", "Connections to endpoints open.", gauges.upstream_connections),
        gauge("upstream_connections_pooled", "Connections to endpoints that wait for a request.", gauges.pooled_connections),
    ]
}
