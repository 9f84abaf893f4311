//! Taking the place of the process before, and giving it to the next one (`process.handover`).
//!
//! The process before is asked for its sockets first, before anything is bound, and told last, when this one serves.
//! From then on a thread of its own waits for the next one; when that serves, this process drains and leaves, and its
//! admin port, which the next one serves now, is closed.

use super::run::StartError;
use crate::admin::AdminListener;
use crate::config::Admin;
use crate::proxy::{self, Drain, Listening, Offer, Sockets, Taken};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tokio::sync::Notify;

/// The admin port's name among the sockets that a next process gets.
const ADMIN: &str = "admin";

pub(super) struct Succession {
    path: Option<PathBuf>,
    before: Option<Taken>,
    /// Where the next process can ask; once the process before has left its place.
    offer: Option<Offer>,
    /// What the process before gave, until it is taken.
    pub sockets: Sockets,
}

impl Succession {
    /// Asks the process before, if there is one.
    pub(super) fn begin(path: Option<&Path>) -> Result<Self, StartError> {
        let mut before = path.map(proxy::take).transpose()?.flatten();
        let sockets = before.as_mut().map(|taken| std::mem::take(&mut taken.sockets)).unwrap_or_default();
        let offer = path.filter(|_| before.is_none()).map(Offer::open).transpose()?;
        Ok(Self { path: path.map(Path::to_owned), before, offer, sockets })
    }

    /// The admin port of the process before, if it is where this one's should be.
    pub(super) fn admin(&mut self, wanted: &Admin) -> Option<AdminListener> {
        AdminListener::adopt(self.sockets.remove(ADMIN)?, wanted)
    }

    /// Once this process has `served`: tells the one before, and waits for the next, which makes this one drain. What is
    /// returned is told then.
    pub(super) fn start(
        self,
        served: Receiver<()>,
        listening: Listening,
        admin: &AdminListener,
        drain: Drain,
    ) -> Result<Arc<Notify>, StartError> {
        let succeeded = Arc::new(Notify::new());
        let Some(path) = self.path else { return Ok(succeeded) };
        let (before, offer, admin, tell) = (self.before, self.offer, admin.try_clone()?, succeeded.clone());
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
                // Without it the next process has to bind it, and says so where it cannot.
                sockets.extend(admin.try_clone().ok().map(|admin| (ADMIN.to_owned(), admin.into())));
                sockets
            });
            tracing::info!("another process serves now; this one finishes what is under way and leaves");
            drop(admin);
            tell.notify_one();
            drain.begin();
        })?;
        Ok(succeeded)
    }
}
