//! Writes what became of routes into their status.
//!
//! Every proxy that is told to would write the same. So each waits for a moment of its own ([`HESITATION`]), looks again, and
//! writes only what does not stand there by then; and it writes to one object no more often than every [`REST`], so that two
//! that do not agree are no storm. A write that fails is tried again after that time; the log says it once.

use super::objects::of_routes;
use super::watch::{PATIENCE, Trouble, server, silent, trouble};
use crate::discovery::gateway::{Hub, Key, patch};
use crate::observe::rfc3339;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use rand::RngExt;
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};

/// How long it waits before it looks, in seconds.
const HESITATION: Range<f64> = 0.2..2.0;
/// The least time between two writes to one object.
const REST: Duration = Duration::from_secs(10);
/// What the server answers when an object changed meanwhile: its watch will tell of that.
const CONFLICT: u16 = 409;

/// Writes for ever.
pub(super) async fn write(hub: Arc<Hub>) {
    let mut rests: HashMap<Key, Instant> = HashMap::new();
    let mut failing = false;
    loop {
        let wait = rests.values().min().copied();
        tokio::select! {
            () = hub.to_write() => {}
            () = tokio::time::sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {}
        }
        let hesitation = Duration::from_secs_f64(rand::rng().random_range(HESITATION));
        tokio::time::sleep(hesitation).await;
        let now = Instant::now();
        rests.retain(|_, until| *until > now);
        match pass(&hub, &mut rests).await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the routes' status is written again");
            }
            Ok(()) => {}
            Err((fault, text)) => {
                if !failing {
                    let reason = fault.code();
                    tracing::warn!(reason, "the routes' status cannot be written, and is tried again: {text}");
                }
                failing = true;
            }
        }
    }
}

/// Writes all that is to be written now.
async fn pass(hub: &Hub, rests: &mut HashMap<Key, Instant>) -> Result<(), Trouble> {
    let mut client = None;
    let mut failed = None;
    for (outcome, meta, parents) in hub.each() {
        let Some(patch) = patch(&outcome, &meta, &parents, &rfc3339(SystemTime::now())) else { continue };
        if rests.contains_key(&outcome.key) {
            continue;
        }
        rests.insert(outcome.key.clone(), Instant::now() + REST);
        if client.is_none() {
            let config = server().await?;
            client = Some(Client::try_from(config).map_err(|error| trouble(&error))?);
        }
        let Some(client) = client.clone() else { continue };
        match one(client, &outcome.key, &patch).await {
            Ok(()) => hub.wrote(true),
            Err(why) => {
                hub.wrote(false);
                failed = Some(why);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn one(client: Client, key: &Key, patch: &Value) -> Result<(), Trouble> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &key.namespace, &of_routes(key.kind));
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
    match timeout(PATIENCE, api.patch_status(&key.name, &parameters, &patch)).await.map_err(|_| silent())? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == CONFLICT => Ok(()),
        Err(error) => Err(trouble(&error)),
    }
}
