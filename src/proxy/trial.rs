//! A request's arm while the model is on trial (`balance::Trial`), and what its arm is held to (`observe::Arms`).

use super::flight::{Flight, GRPC_FAILURES};
use crate::balance::Table;
use crate::links::Time;
use crate::observe::{Arm, Came, Reason};
use std::time::Duration;

/// Who steers a request, where the model is on trial and may steer at all. Whose endpoint is known is steered by nobody.
#[inline]
pub(super) fn arm(flight: &Flight, table: &Table, now: Time) -> Option<Arm> {
    table.trial()?;
    let steered = flight.number.is_none() && !flight.held.generation.expired(now);
    steered.then(|| table.arm(&mut *flight.core.rng.borrow_mut()))?
}

/// What became of a request that is over: from its way to an endpoint on, all tries together, as its caller felt it. Of
/// a request that its caller broke off itself nothing can be told.
pub(super) fn came(flight: &Flight, now: Time) -> Option<Came> {
    let seconds = |at: Time| at.since(flight.ready).as_secs_f64();
    let begun = |latency_s| Duration::try_from_secs_f32(latency_s).ok();
    let head_at = flight.attempt.and_then(|a| Some(a.begun + begun(a.latency_s?)?));
    match (flight.reason, head_at) {
        (Some(Reason::RequestIncomplete | Reason::BadRequest | Reason::HeadersTimeout | Reason::BodyTooLarge), _) => {
            None
        }
        (Some(Reason::ClientGone), None) => Some(Came::NotWithin(seconds(now))),
        (None | Some(Reason::ClientGone | Reason::IdleTimeout), Some(at)) => {
            let grpc_failed = flight.grpc_status.is_some_and(|s| GRPC_FAILURES.contains(&s));
            let failed = grpc_failed || flight.status.is_some_and(|s| s.is_server_error());
            Some(if failed { Came::Failed } else { Came::Within(seconds(at)) })
        }
        _ => Some(Came::Failed),
    }
}
