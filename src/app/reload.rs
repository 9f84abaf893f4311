//! A changed configuration, from the file to the rooms.
//!
//! A good file takes effect at the next published generation, which is at once; what cannot change while the process
//! runs is named and kept. A bad file changes nothing but the log, the metrics and `/config`, and neither does one that
//! wants what this process has no right to (any more): to take half of it would break what works.

use super::capture;
use crate::admin::AdminState;
use crate::config::{Config, Errors, Reload, digest, keep_started, restart_needed};
use crate::discovery::Discovery;
use crate::identity::Identities;
use crate::observe::Reporting;
use crate::observe::log::LogControl;
use crate::scorer::Scorer;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// Whoever must hear of a reload.
pub struct Reloads {
    /// The configuration's file, as errors name it.
    pub file: String,
    /// Where endpoints come from, and on to the slow loop.
    pub discovery: Discovery,
    /// The admin port's view.
    pub admin: Arc<AdminState>,
    /// The model.
    pub scorer: Scorer,
    /// The access log and the traces.
    pub reporting: Arc<Reporting>,
    /// This node's identity.
    pub identities: Arc<Identities>,
    /// The proxy's own log.
    pub log: LogControl,
}

impl Reloads {
    /// Applies what the watcher brings, for as long as it watches.
    pub async fn follow(self, mut events: mpsc::Receiver<Reload>) {
        while let Some(event) = events.recv().await {
            self.apply(event).await;
        }
        // Without a watcher the configuration stays as it is; its sender must live, or the slow loop would end.
        std::future::pending::<()>().await;
    }

    async fn apply(&self, event: Reload) {
        let now = SystemTime::now();
        let state = self.admin.config.load_full();
        match event {
            Reload::Err(errors) => self.refuse(errors, now),
            Reload::Ok(loaded) => {
                if let Err(refused) = capture::allowed(&loaded.config) {
                    let remedy = refused.at_reload.to_owned();
                    return self.refuse(Errors::of_file(&self.file, refused.message, remedy), now);
                }
                let running = self.discovery.configured();
                let kept = restart_needed(&running, &loaded.config);
                if !kept.is_empty() {
                    tracing::warn!(keys = kept.join(", "), "these take effect at the next start; the rest does now");
                }
                let config = Arc::new(keep_started(&running, loaded.config));
                if let Err(error) = self.log.set(&config.telemetry.log) {
                    tracing::error!(%error, "logging goes on as before");
                }
                self.report_anew(&config).await;
                if let Err(error) = self.identities.configure(&config.identity) {
                    tracing::error!(%error, "the identity's files are not watched");
                }
                loaded.warnings.iter().for_each(|w| tracing::warn!("{w}"));
                self.discovery.configure(config.clone());
                // Nobody is told that it is in force before it is, with whatever endpoints are known by then.
                self.admin.control.in_force(|config| self.discovery.is_of_the_file(config)).await;
                self.admin.config.store(Arc::new(state.loaded(&config, loaded.warnings, now)));
                tracing::info!("the configuration was read anew");
                self.load_model(config.model.file.clone());
            }
        }
    }

    fn refuse(&self, errors: Errors, now: SystemTime) {
        tracing::error!("the new configuration is wrong, the running one stays:\n{errors}");
        let state = self.admin.config.load_full();
        self.admin.config.store(Arc::new(state.refused(errors, now)));
    }

    /// Loads the model beside everything else: a slow or broken file must not hold up the routes. Of several that load
    /// at once the last one wins.
    fn load_model(&self, file: String) {
        let scorer = self.scorer.clone();
        tokio::spawn(async move {
            if model_changed(&scorer, &file).await
                && let Err(error) = scorer.reload(&file).await
            {
                tracing::error!(%error, file, "the new model was refused, the running one stays");
            }
        });
    }

    /// Opens what the new configuration asks to report to, off this thread: closing the old may take a second.
    async fn report_anew(&self, config: &Arc<Config>) {
        let (reporting, config) = (self.reporting.clone(), config.clone());
        let reopened = tokio::task::spawn_blocking(move || reporting.reload(&config.telemetry)).await;
        if let Ok(Err(error)) = reopened {
            tracing::error!(%error, "reporting goes on as before");
        }
    }
}

/// Whether the file of this name holds another model than the one that runs. Names alone do not tell: a file may have
/// been replaced under its name, or put right after it was refused.
async fn model_changed(scorer: &Scorer, file: &str) -> bool {
    let status = scorer.status();
    let Some(running) = status.model.filter(|_| status.model_error.is_none() && status.file == file) else {
        return true;
    };
    let file = file.to_owned();
    // One that cannot be read is tried, so that the reason shows.
    let same = move || file == "builtin" || std::fs::read(&file).is_ok_and(|b| digest(&b) == running.digest);
    !tokio::task::spawn_blocking(same).await.unwrap_or(false)
}
