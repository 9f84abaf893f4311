//! Endpoints in a file of their own, which is read again when it changes.
//!
//! It is watched and read as the configuration is: replaced by a rename, by a link that is swapped, or written in place. A
//! file that is gone, empty or wrong is an error with its line and column in the log, and the endpoints stay.

use super::Source;
use super::finds::{Fault, Finds};
use super::listing::{Gathering, Readiness};
use crate::config::{Endpoint, Errors, Watcher, load_endpoints};
use async_trait::async_trait;
use std::path::PathBuf;

/// A file with endpoints.
pub struct File {
    pub path: PathBuf,
    /// How many are taken.
    pub most: usize,
}

#[async_trait]
impl Source for File {
    async fn run(self: Box<Self>, finds: Finds) {
        let Self { path, most } = *self;
        match Watcher::follow(path, "", load_endpoints) {
            Ok((_watcher, mut events)) => {
                while let Some(event) = events.recv().await {
                    take(event, most, &finds);
                }
                finds.failed(Fault::Unavailable, "the file is no longer watched");
            }
            Err(error) => finds.failed(Fault::Unavailable, format!("no thread can be started to watch it: {error}")),
        }
        std::future::pending::<()>().await;
    }

    fn is_watched(&self) -> bool {
        true
    }
}

fn take(event: Result<Vec<Endpoint>, Errors>, most: usize, finds: &Finds) {
    match event {
        Ok(endpoints) => {
            let mut gathering = Gathering::default();
            endpoints.into_iter().for_each(|endpoint| gathering.add(endpoint, Readiness::Ready));
            finds.good(gathering.finish(most));
        }
        Err(errors) => {
            tracing::error!("a file of endpoints is wrong, the last good ones stay:\n{errors}");
            // Where it is wrong, in one line.
            let first = errors.0.first().map(|d| format!("{}:{}:{}: {}", d.file, d.line, d.column, d.message));
            let gone = errors.0.iter().all(|d| d.line == 0);
            let fault = if gone { Fault::Unavailable } else { Fault::Invalid };
            finds.failed(fault, first.unwrap_or_default());
        }
    }
}
