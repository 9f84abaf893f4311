//! A watch of one kind of objects, from its first list on, for ever.
//!
//! ```text
//! list all --> told --> watch from that version on --an object changed--> told
//!    ^                     ^        |      |
//!    |                     |        |      +-- the watch ends after its time, or breaks off: watch again
//!    +-- 410 Gone: that version is past -----+
//! ```
//! What was told stays until there is a whole new list: neither a watch that breaks nor a list that fails takes anything away.
//! While the list is made anew the old one holds. An answer of the API server is believed.
//!
//! kube's client does the asking (configuration, authentication, TLS). Its `watcher` does not do the watching, because it does
//! not tell when a broken watch goes on again without news, and then nobody could say whether discovery works.

use crate::discovery::finds::Fault;
use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Client, Config};
use rand::RngExt;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the server may take to begin with its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long a watch may be silent: the server ends it before that (`timeoutSeconds` is 290).
const SILENCE: Duration = Duration::from_secs(300);
/// How many objects are asked for at a time.
const PAGE: u32 = 500;
/// The wait after the first failure in a row, doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// A watch that ended sooner than this is begun again after the rest of it.
const MIN_WATCH: Duration = Duration::from_secs(1);
/// What the server answers when a version is past.
const GONE: u16 = 410;

/// In which namespace.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    /// The proxy's own.
    Own,
    /// This one.
    Namespace(String),
    /// All of them.
    All,
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Target {
    pub kind: ApiResource,
    pub scope: Scope,
    /// Only objects with these labels; all when empty.
    pub labels: String,
    /// Only objects with these fields (`spec.nodeName=node-7`); all when empty.
    pub fields: String,
}

/// Who is told of it.
pub(super) trait Sees: Send {
    /// These are all objects.
    fn replace(&mut self, all: Vec<DynamicObject>);
    /// This one is new, or another than it was.
    fn set(&mut self, object: DynamicObject);
    /// This one is gone.
    fn remove(&mut self, object: &DynamicObject);
    /// What was told is right at this moment.
    fn is_right(&mut self);
    /// Nothing can be found out.
    fn failed(&mut self, fault: Fault, text: String);
}

/// Why it cannot go on, and how the server put it.
pub(super) type Trouble = (Fault, String);

/// How far it is.
#[derive(Default)]
struct Progress {
    /// None before the first list, and when it has to be made anew.
    version: Option<String>,
    /// Whose versions these are.
    server: Option<http::Uri>,
    /// How many times in a row it could not be asked.
    failures: u32,
}

/// The kind of objects of an API group, in this version of it.
pub(super) fn kind(group: &str, kind: &str, version: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The server to ask, and with which credentials: those of the pod, or of the file that `KUBECONFIG` names.
pub(super) async fn server() -> Result<Config, Trouble> {
    Config::infer().await.map_err(|error| (Fault::Unavailable, error.to_string()))
}

impl Target {
    /// Watches for ever.
    pub async fn watch(&self, sees: &mut impl Sees) {
        let mut progress = Progress::default();
        let mut api = None;
        loop {
            let began = Instant::now();
            let turned = match &api {
                Some(api) => self.turn(api, &mut progress, sees).await,
                None => match self.api(&mut progress).await {
                    Ok(made) => self.turn(api.insert(made), &mut progress, sees).await,
                    Err(trouble) => Err(trouble),
                },
            };
            if let Err((fault, text)) = turned {
                // The server's address, its authority and the credentials may be others by now: they are read anew.
                api = None;
                sees.failed(fault, text);
                let wait = FIRST_RETRY.saturating_mul(1 << progress.failures.min(8)).min(MAX_RETRY);
                progress.failures = progress.failures.saturating_add(1);
                let wait = wait.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(wait).await;
            }
            if progress.version.is_some() && began.elapsed() < MIN_WATCH {
                tokio::time::sleep(MIN_WATCH.saturating_sub(began.elapsed())).await;
            }
        }
    }

    async fn api(&self, progress: &mut Progress) -> Result<Api<DynamicObject>, Trouble> {
        let config = server().await?;
        if progress.server.as_ref() != Some(&config.cluster_url) {
            (progress.server, progress.version) = (Some(config.cluster_url.clone()), None);
        }
        let client = Client::try_from(config).map_err(|error| trouble(&error))?;
        Ok(match &self.scope {
            Scope::Own => Api::default_namespaced_with(client, &self.kind),
            Scope::Namespace(namespace) => Api::namespaced_with(client, namespace, &self.kind),
            Scope::All => Api::all_with(client, &self.kind),
        })
    }

    /// All objects, as of one version.
    async fn list(
        &self,
        api: &Api<DynamicObject>,
        progress: &mut Progress,
        sees: &mut impl Sees,
    ) -> Result<(), Trouble> {
        let mut parameters = ListParams::default().limit(PAGE);
        if !self.labels.is_empty() {
            parameters = parameters.labels(&self.labels);
        }
        if !self.fields.is_empty() {
            parameters = parameters.fields(&self.fields);
        }
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
                    sees.replace(all);
                    progress.version = Some(version);
                    return Ok(());
                }
            }
        }
    }

    /// Makes the list where it is needed, and watches until the watch ends.
    async fn turn(
        &self,
        api: &Api<DynamicObject>,
        progress: &mut Progress,
        sees: &mut impl Sees,
    ) -> Result<(), Trouble> {
        let version = match &progress.version {
            Some(version) => version.clone(),
            None => {
                self.list(api, progress, sees).await?;
                sees.is_right();
                progress.version.clone().unwrap_or_default()
            }
        };
        let mut parameters = WatchParams::default();
        if !self.labels.is_empty() {
            parameters = parameters.labels(&self.labels);
        }
        if !self.fields.is_empty() {
            parameters = parameters.fields(&self.fields);
        }
        let events = match timeout(PATIENCE, api.watch(&parameters, &version)).await.map_err(|_| silent())? {
            Ok(events) => events,
            Err(kube::Error::Api(status)) if status.code == GONE => {
                progress.version = None;
                return Ok(());
            }
            Err(error) => {
                if matches!(error, kube::Error::Api(_)) {
                    // It may be this version that it does not know: one from before its store was restored.
                    progress.version = None;
                }
                return Err(trouble(&error));
            }
        };
        progress.failures = 0;
        sees.is_right();
        let mut events = pin!(events);
        loop {
            let Some(event) = timeout(SILENCE, events.next()).await.map_err(|_| silent())? else { return Ok(()) };
            let event = event.map_err(|error| {
                let broken_off = matches!(error, kube::Error::ReadEvents(_) | kube::Error::HyperError(_));
                if !broken_off {
                    // It would come again, so what it tells has to be found out in another way.
                    progress.version = None;
                }
                trouble(&error)
            })?;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    progress.version = object.metadata.resource_version.clone().or(progress.version.take());
                    sees.set(object);
                }
                WatchEvent::Deleted(object) => {
                    progress.version = object.metadata.resource_version.clone().or(progress.version.take());
                    sees.remove(&object);
                }
                WatchEvent::Bookmark(bookmark) => progress.version = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) if status.code == GONE => {
                    progress.version = None;
                    return Ok(());
                }
                WatchEvent::Error(status) => {
                    progress.version = None;
                    return Err((Fault::ServerFailure, status.message));
                }
            }
            sees.is_right();
        }
    }
}

pub(super) fn silent() -> Trouble {
    (Fault::Timeout, "the API server does not answer".to_owned())
}

pub(super) fn trouble(error: &kube::Error) -> Trouble {
    let fault = match error {
        // kube takes what it cannot read for a status without a word in it.
        kube::Error::Api(status) if status.code == 0 => {
            return (Fault::Invalid, "the API server's answer cannot be understood".to_owned());
        }
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Fault::Denied,
        // There is no such kind: its definition (CRD) is not installed.
        kube::Error::Api(status) if status.code == 404 => Fault::NoSuchName,
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
