//! Taking the place of the process before, and giving it to the next one (`process.handover`).
//!
//! The process before is asked for its sockets first, before anything is bound, and told last, when this one serves.
//! From then on a thread of its own waits for the next one; when that serves, this process drains and leaves, and its
//! admin port, which the next one serves now, is closed.

use super::run::StartError;
use crate::admin::{AdminListener, BindError};
use crate::config::Admin;
use crate::proxy::{self, Drain, Listening, Offer, Sockets, Taken};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use tokio::sync::watch;

/// The operators' ports' names among the sockets that a next process gets.
const ADMIN: &str = "admin";
const METRICS: &str = "metrics";

pub(super) struct Succession {
    path: Option<PathBuf>,
    before: Option<Taken>,
    /// Where the next process can ask; once the process before has left its place.
    offer: Option<Offer>,
    /// What the process before gave, until it is taken.
    pub sockets: Sockets,
}

/// Whether another process serves now.
#[derive(Clone)]
pub(super) struct Succeeded(watch::Receiver<bool>);

impl Succeeded {
    /// Waits until one does, which may be never.
    pub(super) async fn told(mut self) {
        if self.0.wait_for(|succeeded| *succeeded).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Succession {
    /// Asks the process before, if there is one.
    pub(super) fn begin(path: Option<&Path>) -> Result<Self, StartError> {
        let mut before = path.map(proxy::take).transpose()?.flatten();
        let sockets = before.as_mut().map(|taken| std::mem::take(&mut taken.sockets)).unwrap_or_default();
        let offer = path.filter(|_| before.is_none()).map(Offer::open).transpose()?;
        Ok(Self { path: path.map(Path::to_owned), before, offer, sockets })
    }

    /// The operators' port: that of the process before, if it is where this one's should be, or a new one; and the one
    /// for the metrics alone, where there is to be one.
    pub(super) fn admin(&mut self, wanted: &Admin) -> Result<(AdminListener, Option<AdminListener>), BindError> {
        let before = self.sockets.remove(ADMIN).and_then(|socket| AdminListener::adopt(socket, wanted));
        let admin = before.map_or_else(|| AdminListener::bind(wanted), Ok)?;
        let metrics_before = self.sockets.remove(METRICS);
        let metrics = wanted.metrics.map(|address| {
            let before = metrics_before.and_then(|socket| AdminListener::adopt_tcp(socket, address));
            before.map_or_else(|| AdminListener::bind_metrics(address), Ok)
        });
        Ok((admin, metrics.transpose()?))
    }

    /// Once this process has `served`: tells the one before, and waits for the next, which makes this one drain. What is
    /// returned tells of it.
    pub(super) fn start(
        self,
        served: Receiver<()>,
        listening: Listening,
        (admin, metrics): (&AdminListener, Option<&AdminListener>),
        drain: Drain,
    ) -> Result<Succeeded, StartError> {
        let (tell, told) = watch::channel(false);
        let succeeded = Succeeded(told);
        let Some(path) = self.path else { return Ok(succeeded) };
        let (before, offer, admin) = (self.before, self.offer, admin.try_clone()?);
        let metrics = metrics.map(AdminListener::try_clone).transpose()?;
        std::thread::Builder::new().name("handover".into()).spawn(move || {
            if served.recv().is_err() {
                return;
            }
            if let Some(before) = before {
                match before.serving() {
                    Ok(()) => tracing::info!("this process took over from another one, which leaves"),
                    Err(error) => tracing::warn!(%error, "the process before this one was gone before it was told"),
                }
            }
            let offer = match offer.map_or_else(|| Offer::open(&path), Ok) {
                Ok(offer) => offer,
                Err(error) => return tracing::error!(%error, "no next process can take over from this one"),
            };
            offer.wait(|| {
                let mut sockets = listening.sockets();
                // Without one the next process has to bind it, and says so where it cannot.
                for (name, port) in [(ADMIN, Some(&admin)), (METRICS, metrics.as_ref())] {
                    let socket = port.and_then(|port| port.try_clone().ok());
                    sockets.extend(socket.map(|socket| (name.to_owned(), socket.into())));
                }
                sockets
            });
            tracing::info!("another process serves now; this one finishes what is under way and leaves");
            drop((admin, metrics));
            tell.send_replace(true);
            drain.begin();
        })?;
        Ok(succeeded)
    }
}
