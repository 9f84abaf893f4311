//! Endpoints of a Kubernetes service, by its EndpointSlices.
//!
//! ```text
//! list all slices of the service --> tell --> watch from that version on --a slice changed--> tell
//!        ^                                      ^        |      |
//!        |                                      |        |      +-- the watch ends after its time, or breaks off: watch again
//!        +----- 410 Gone: that version is past -+--------+
//! ```
//! What was told stays until there is a whole new list: neither a watch that breaks nor a list that fails takes anything away.
//! While the list is made anew the old one holds. An answer of the API server is believed: a service without a pod that is
//! ready has no endpoints, and one that was deleted has none either.
//!
//! kube's client does the asking (configuration, authentication, TLS). Its `watcher` does not do the watching, because it does
//! not tell when a broken watch goes on again without news, and then nobody could say whether discovery works.
//!
//! **Rights.** `list` and `watch` of `endpointslices` (API group `discovery.k8s.io`) in the service's namespace, nothing else.
//! The server and the credentials are those of the pod, or of the file that `KUBECONFIG` names, read anew after each failure.
//! Credentials that a program makes (`exec`) cannot be had with `process.privileges: least`, under which no program is started.

mod slices;

use super::Source;
use super::finds::{Fault, Finds};
use crate::config::Port;
use async_trait::async_trait;
use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Client, Config};
use rand::RngExt;
use slices::{SERVICE_LABEL, Slices};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the server may take to begin with its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a watch may be silent: the server ends it before that (`timeoutSeconds` is 290).
const SILENCE: Duration = Duration::from_secs(300);
/// How many slices are asked for at a time.
const PAGE: u32 = 500;
/// The wait after the first failure in a row, doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// A watch that ended sooner than this is begun again after the rest of it.
const MIN_WATCH: Duration = Duration::from_secs(1);
/// What the server answers when a version is past.
const GONE: u16 = 410;

/// A service.
pub struct Service {
    /// None is the proxy's own.
    namespace: Option<String>,
    name: String,
    port: Option<Port>,
    most: usize,
}

/// Why it cannot go on, and how the server put it.
type Trouble = (Fault, String);

/// What is known of the service: its slices, and as of which version.
struct Seen {
    slices: Slices,
    /// None before the first list, and when it has to be made anew.
    version: Option<String>,
    /// Whose versions these are.
    server: Option<http::Uri>,
    /// How many times in a row it could not be asked.
    failures: u32,
}

impl Service {
    pub fn new(service: &str, port: Option<Port>, most: usize) -> Self {
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, service),
        };
        Self { namespace, name: name.to_owned(), port, most }
    }

    async fn api(&self, seen: &mut Seen) -> Result<Api<DynamicObject>, Trouble> {
        let config = Config::infer().await.map_err(|error| (Fault::Unavailable, error.to_string()))?;
        if seen.server.as_ref() != Some(&config.cluster_url) {
            (seen.server, seen.version) = (Some(config.cluster_url.clone()), None);
        }
        let client = Client::try_from(config).map_err(|error| trouble(&error))?;
        let kind = ApiResource {
            group: "discovery.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "discovery.k8s.io/v1".to_owned(),
            kind: "EndpointSlice".to_owned(),
            plural: "endpointslices".to_owned(),
        };
        Ok(match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind),
            None => Api::default_namespaced_with(client, &kind),
        })
    }

    fn selector(&self) -> String {
        format!("{SERVICE_LABEL}={}", self.name)
    }

    /// All slices, as of one version.
    async fn list(&self, api: &Api<DynamicObject>, seen: &mut Seen) -> Result<(), Trouble> {
        let mut parameters = ListParams::default().labels(&self.selector()).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = timeout(PATIENCE, api.list(&parameters)).await.map_err(|_| silent())?;
            let page = page.map_err(|error| trouble(&error))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => parameters.continue_token = Some(more),
                None => {
                    let Some(version) = page.metadata.resource_version else {
                        return Err((Fault::Invalid, "the list has no version".to_owned()));
                    };
                    seen.slices.replace(all);
                    seen.version = Some(version);
                    return Ok(());
                }
            }
        }
    }

    /// Makes the list where it is needed, and watches until the watch ends.
    async fn turn(&self, api: &Api<DynamicObject>, seen: &mut Seen, finds: &Finds) -> Result<(), Trouble> {
        let version = match &seen.version {
            Some(version) => version.clone(),
            None => {
                self.list(api, seen).await?;
                self.tell(seen, finds);
                seen.version.clone().unwrap_or_default()
            }
        };
        let parameters = WatchParams::default().labels(&self.selector());
        let events = match timeout(PATIENCE, api.watch(&parameters, &version)).await.map_err(|_| silent())? {
            Ok(events) => events,
            Err(kube::Error::Api(status)) if status.code == GONE => {
                seen.version = None;
                return Ok(());
            }
            Err(error) => {
                if matches!(error, kube::Error::Api(_)) {
                    // It may be this version that it does not know: one from before its store was restored.
                    seen.version = None;
                }
                return Err(trouble(&error));
            }
        };
        seen.failures = 0;
        self.tell(seen, finds);
        let mut events = pin!(events);
        loop {
            let Some(event) = timeout(SILENCE, events.next()).await.map_err(|_| silent())? else { return Ok(()) };
            let event = event.map_err(|error| {
                let broken_off = matches!(error, kube::Error::ReadEvents(_) | kube::Error::HyperError(_));
                if !broken_off {
                    // It would come again, so what it tells has to be found out in another way.
                    seen.version = None;
                }
                trouble(&error)
            })?;
            match event {
                WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                    seen.version = slice.metadata.resource_version.clone().or(seen.version.take());
                    seen.slices.set(slice);
                }
                WatchEvent::Deleted(slice) => {
                    seen.version = slice.metadata.resource_version.clone().or(seen.version.take());
                    seen.slices.remove(&slice);
                }
                WatchEvent::Bookmark(bookmark) => seen.version = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) if status.code == GONE => {
                    seen.version = None;
                    return Ok(());
                }
                WatchEvent::Error(status) => {
                    seen.version = None;
                    return Err((Fault::ServerFailure, status.message));
                }
            }
            self.tell(seen, finds);
        }
    }

    fn tell(&self, seen: &Seen, finds: &Finds) {
        let listing = seen.slices.gather(&self.name, self.port.as_ref()).finish(self.most);
        if seen.slices.is_empty() {
            let text = format!("there is no slice of a service `{}`", self.name);
            return finds.partly(listing, Fault::NoSuchName, text);
        }
        finds.good(listing);
    }
}

#[async_trait]
impl Source for Service {
    async fn run(self: Box<Self>, finds: Finds) {
        let mut seen = Seen { slices: Slices::default(), version: None, server: None, failures: 0 };
        let mut api = None;
        loop {
            let began = Instant::now();
            let turned = match &api {
                Some(api) => self.turn(api, &mut seen, &finds).await,
                None => match self.api(&mut seen).await {
                    Ok(made) => self.turn(api.insert(made), &mut seen, &finds).await,
                    Err(trouble) => Err(trouble),
                },
            };
            if let Err((fault, text)) = turned {
                // The server's address, its authority and the credentials may be others by now: they are read anew.
                api = None;
                finds.failed(fault, text);
                let wait = FIRST_RETRY.saturating_mul(1 << seen.failures.min(8)).min(MAX_RETRY);
                seen.failures = seen.failures.saturating_add(1);
                let wait = wait.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(wait).await;
            }
            if seen.version.is_some() && began.elapsed() < MIN_WATCH {
                tokio::time::sleep(MIN_WATCH.saturating_sub(began.elapsed())).await;
            }
        }
    }

    fn is_watched(&self) -> bool {
        true
    }
}

fn silent() -> Trouble {
    (Fault::Timeout, "the API server does not answer".to_owned())
}

fn trouble(error: &kube::Error) -> Trouble {
    let fault = match error {
        // kube takes what it cannot read for a status without a word in it.
        kube::Error::Api(status) if status.code == 0 => {
            return (Fault::Invalid, "the API server's answer cannot be understood".to_owned());
        }
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Fault::Denied,
        kube::Error::Api(_) => Fault::ServerFailure,
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Fault::Invalid,
        kube::Error::Auth(_) => Fault::Denied,
        _ => Fault::Unreachable,
    };
    let mut text = error.to_string();
    // What is behind it says more than that there was an error.
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    (fault, text)
}
