//! Where endpoints come from: the configuration, files, DNS, Kubernetes; and routes from Kubernetes' Gateway API.
//!
//! ```text
//! source (a task: `file`, `dns`, `kubernetes`) --all that it finds--> Finds --last good listing--> Report
//!                                                                                                    |
//! the file's configuration --- with routes of the Gateway API (`gateway`) ----> merge <---------------+
//!                                                                                |
//!                              a configuration with all endpoints in it --> the slow loop, health checks
//! ```
//! A source knows nothing of clusters, and whoever uses endpoints knows nothing of sources: what is discovered is put into
//! a copy of the configuration, where it stands as if somebody had listed it, and takes effect as a reload does. So an
//! endpoint that is listed again is the same one, with its statistics, its place in the guards and its open connections.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `listing` | what a source finds, and what of it is nonsense |
//! | `finds` | what is known of a source: the last good listing, or why there is none |
//! | `merge` | endpoints that are listed, discovered and kept, put together |
//! | `file`, `dns`, `kubernetes` | the sources |
//! | `gateway` | routes from Kubernetes' Gateway API, and the clusters that they need |
//! | `pods` | which pods of a node want to be captured (for `pathloom capture follow`, a process of its own) |
//! | `view` | what operators see of it |
//!
//! **When something is down.** A source that fails keeps its last good endpoints for as long as it fails (`Finds`). A source
//! that is new in a cluster changes nothing before its first answer: until then the cluster keeps what it had (`merge`). No
//! endpoints at all is a clear 503, `no_endpoints`.
//!
//! **What it costs.** One task a source, shared by all clusters that name the same one; a merge at most every
//! [`SETTLE`], when there is something new. Without a source nothing is copied.
//!
//! What it deliberately does not do: watch over whether endpoints are well (`health` does), or look at what DNS servers sign.

mod dns;
mod file;
mod finds;
mod gateway;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod listing;
mod merge;
#[cfg(any(test, feature = "kubernetes"))]
mod pods;
mod view;

pub use finds::{Fault, Finds, Report, Trouble};
pub use gateway::{ConditionView, GatewayView, ROUTE_REASONS, RouteView, WatchView};
#[cfg(feature = "kubernetes")]
pub use kubernetes::follow_pods;
pub use listing::{Gathering, Ignored, LeftOut, Listing, Readiness};
#[cfg(any(test, feature = "kubernetes"))]
pub use pods::Wanted;
pub use view::{SourceState, SourceView};

use crate::config::{Config, Discover, GatewayApi};
use async_trait::async_trait;
use gateway::{Following, Hub};
use merge::{Kept, Told};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// The least time between two merges: what changes together takes effect together.
const SETTLE: Duration = Duration::from_millis(50);

/// Where endpoints come from.
#[async_trait]
pub trait Source: Send {
    /// Looks for endpoints until it is dropped, and tells of all that there are each time that something changed, or that
    /// there was nothing to be found out.
    async fn run(self: Box<Self>, finds: Finds);

    /// Whether it is told of changes, rather than asking now and then.
    fn is_watched(&self) -> bool;
}

/// Makes a source of what the configuration says.
type Open = dyn Fn(&Discover) -> Box<dyn Source> + Send + Sync;

/// Begins to watch routes as the configuration says.
type Watch = dyn Fn(&GatewayApi, &Arc<Hub>) -> Vec<AbortHandle> + Send + Sync;

/// A source that runs.
struct Running {
    report: watch::Receiver<Report>,
    watched: bool,
    _task: Stops,
}

/// Stops a task when nobody wants it any more.
struct Stops(AbortHandle);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct State {
    /// What the file says.
    config: Arc<Config>,
    /// The same with the routes that are in force beside its own.
    whole: Arc<Config>,
    /// Routes of the Gateway API, where they are followed, and their watches.
    routes: Option<(Following, Vec<Stops>)>,
    sources: HashMap<Discover, Running>,
    /// What clusters had before a change of the file, for as long as their new sources have not answered.
    kept: Kept,
    /// How many of each cluster's discovered endpoints are this proxy itself.
    own: HashMap<String, usize>,
    /// What was made of `config` and is still in use, whatever endpoints were known then.
    made: Vec<Weak<Config>>,
}

struct Inner {
    state: Mutex<State>,
    news: Arc<Notify>,
    merged: watch::Sender<Arc<Config>>,
    open: Box<Open>,
    watch: Box<Watch>,
}

/// All sources, and the configuration with what they found.
#[derive(Clone)]
pub struct Discovery(Arc<Inner>);

impl Default for Discovery {
    fn default() -> Self {
        Self::with(Box::new(open), Box::new(watch_routes))
    }
}

/// The source that is meant.
fn open(discover: &Discover) -> Box<dyn Source> {
    if let Some(path) = &discover.file {
        return Box::new(file::File { path: path.clone(), most: discover.most });
    }
    #[cfg(feature = "kubernetes")]
    if let Some(service) = &discover.kubernetes {
        return Box::new(kubernetes::Service::new(service, discover.port.clone(), discover.most));
    }
    match &discover.dns {
        Some(name) => Box::new(dns::Dns::new(name, discover)),
        None => Box::new(Missing),
    }
}

/// The watches that are meant.
#[cfg(feature = "kubernetes")]
fn watch_routes(section: &GatewayApi, hub: &Arc<Hub>) -> Vec<AbortHandle> {
    kubernetes::watch_routes(section, hub)
}

/// None: this build cannot ask.
#[cfg(not(feature = "kubernetes"))]
fn watch_routes(_: &GatewayApi, hub: &Arc<Hub>) -> Vec<AbortHandle> {
    hub.unavailable(CANNOT_ASK);
    Vec::new()
}

const CANNOT_ASK: &str = "this build cannot ask Kubernetes: build it with `--features kubernetes`";

/// A source that this build cannot ask.
struct Missing;

#[async_trait]
impl Source for Missing {
    async fn run(self: Box<Self>, finds: Finds) {
        finds.failed(Fault::Unavailable, CANNOT_ASK);
        std::future::pending::<()>().await;
    }

    fn is_watched(&self) -> bool {
        true
    }
}

impl Discovery {
    fn with(open: Box<Open>, watch: Box<Watch>) -> Self {
        let merged = watch::Sender::new(Arc::new(Config::default()));
        Self(Arc::new(Inner { state: Mutex::default(), news: Arc::default(), merged, open, watch }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration with all endpoints in it, and all that follow.
    #[must_use]
    pub fn merged(&self) -> watch::Receiver<Arc<Config>> {
        self.0.merged.subscribe()
    }

    /// What the file says.
    #[must_use]
    pub fn configured(&self) -> Arc<Config> {
        self.state().config.clone()
    }

    /// Whether this configuration was made of what the file says now.
    #[must_use]
    pub fn is_of_the_file(&self, merged: &Arc<Config>) -> bool {
        self.state().made.iter().any(|made| std::ptr::eq(made.as_ptr(), Arc::as_ptr(merged)))
    }

    /// Takes over what the file says now: begins with its sources, ends with those that it no longer has. Those that stay
    /// are left alone. Call it on a runtime.
    pub fn configure(&self, config: Arc<Config>) {
        let mut state = self.state();
        if !config.gateway_api.enabled {
            state.routes = None;
        } else if !state.routes.as_ref().is_some_and(|(following, _)| following.is_for(&config)) {
            let hub = Arc::new(Hub::new(self.0.news.clone()));
            let watches = (self.0.watch)(&config.gateway_api, &hub).into_iter().map(Stops).collect();
            let before = state.routes.as_ref().map(|(following, _)| following);
            state.routes = Some((Following::new(hub, &config, before), watches));
        }
        state.config = config;
        self.put_together(&mut state);
        let before = self.0.merged.borrow().clone();
        let waits = |discover: &Discover| told(&state.sources, discover).is_none();
        let kept = merge::kept(&before, &state.whole, waits);
        (state.kept, state.made) = (kept, Vec::new());
        self.merge(&mut state, true);
    }

    /// Puts routes of the Gateway API beside those of the file, and begins and ends sources as all of them need it.
    fn put_together(&self, state: &mut State) {
        let State { config, routes, sources, .. } = state;
        let Some((following, _)) = routes else {
            state.whole = config.clone();
            return self.tend(state);
        };
        following.look(config);
        for discover in following.sources() {
            if !sources.contains_key(discover) {
                sources.insert(discover.clone(), self.start(discover));
            }
        }
        following.advance(|discover| sources.get(discover).is_some_and(|running| running.report.borrow().has_spoken()));
        state.whole = gateway::with(config, following.in_force());
        self.tend(state);
    }

    /// Begins with sources that are wanted, and ends with those that are not.
    fn tend(&self, state: &mut State) {
        let coming = state.routes.iter().flat_map(|(following, _)| following.sources());
        let wanted = state.whole.clusters.values().flat_map(|cluster| &cluster.discover).chain(coming);
        let wanted: HashSet<&Discover> = wanted.collect();
        state.sources.retain(|discover, _| wanted.contains(&discover));
        for discover in wanted {
            if !state.sources.contains_key(discover) {
                state.sources.insert(discover.clone(), self.start(discover));
            }
        }
    }

    fn start(&self, discover: &Discover) -> Running {
        let source = (self.0.open)(discover);
        let (finds, report) = Finds::new(discover.to_string(), self.0.news.clone());
        let watched = source.is_watched();
        Running { report, watched, _task: Stops(tokio::spawn(source.run(finds)).abort_handle()) }
    }

    /// Waits until each source has said something, good or bad, but no longer than this, and takes it over: who serves from
    /// the first instant should know whom to send to.
    pub async fn first(&self, within: Duration) {
        let routes = self.state().routes.as_ref().map(|(following, _)| following.hub().clone());
        let all = async {
            if let Some(hub) = routes {
                hub.spoken().await;
                self.put_together(&mut self.state());
            }
            let reports: Vec<_> = self.state().sources.values().map(|running| running.report.clone()).collect();
            for mut report in reports {
                let _ = report.wait_for(Report::has_spoken).await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!(within_s = within.as_secs(), "serving begins before all endpoints are discovered");
        }
        self.take_over();
    }

    /// Takes over what sources find, for ever.
    pub async fn run(&self) {
        loop {
            self.0.news.notified().await;
            self.take_over();
            tokio::time::sleep(SETTLE).await;
        }
    }

    fn take_over(&self) {
        let mut state = self.state();
        if state.routes.is_some() {
            self.put_together(&mut state);
        }
        self.merge(&mut state, false);
    }

    /// Puts endpoints into their clusters; tells of it where it is another configuration than before, or the file is.
    fn merge(&self, state: &mut State, anew: bool) {
        let sources = &state.sources;
        state.kept.retain(|name, _| {
            let cluster = state.whole.clusters.get(name);
            cluster.is_some_and(|c| c.discover.iter().any(|d| told(sources, d).is_none()))
        });
        let (config, own) = merge::merged(&state.whole, &state.kept, |discover| told(sources, discover));
        state.own = own;
        state.made.retain(|made| made.strong_count() > 0);
        state.made.push(Arc::downgrade(&config));
        self.0.merged.send_if_modified(|merged| {
            let changed = anew || **merged != *config;
            if changed {
                *merged = config;
            }
            changed
        });
    }

    /// What is known of routes from the Gateway API, where they are followed.
    #[must_use]
    pub fn routes(&self) -> Option<GatewayView> {
        self.state().routes.as_ref().map(|(following, _)| following.view())
    }

    /// What is known of each cluster's sources, in the configuration's order.
    #[must_use]
    pub fn view(&self) -> Vec<SourceView> {
        let state = self.state();
        let now = tokio::time::Instant::now();
        let clusters = state.whole.clusters.iter();
        let sources =
            clusters.flat_map(|(name, cluster)| cluster.discover.iter().map(move |discover| (name, discover)));
        let view = |(name, discover): (&String, &Discover)| {
            let running = state.sources.get(discover)?;
            let own = state.own.get(name).copied().unwrap_or_default();
            Some(SourceView::of(name, discover, &running.report.borrow(), running.watched, own, now))
        };
        sources.filter_map(view).collect()
    }
}

/// What a source told last.
fn told(sources: &HashMap<Discover, Running>, discover: &Discover) -> Told {
    sources.get(discover)?.report.borrow().listing.clone()
}

#[cfg(test)]
mod tests;
