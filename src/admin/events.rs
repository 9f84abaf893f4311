//! `/events`: each generation as it is published, as server-sent events (WHATWG HTML, section 9.2): what it changed and why
//! (`history`). Whoever comes back says what was seen last (`Last-Event-ID`), and gets what was missed, as far as it is kept.
//!
//! A page that is left open must never take a place from a probe: few may listen at once (`MAX_LISTENERS` of the port's 64
//! connections), each for a limited time, after which it asks again; a client that takes nothing is given up by `stall`
//! like any other, and a page of another site is not let in.

use super::history;
use crate::control::Status;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// How many may listen at once.
pub const MAX_LISTENERS: usize = 8;
/// How long one may listen before it has to ask again: so places of those who vanished come back.
const MAX_STAY: Duration = Duration::from_secs(300);
/// How long nothing is said before a line is sent that says nothing, so that whoever is gone is noticed.
const BEAT: Duration = Duration::from_secs(10);
/// How many events wait for a client that is slow.
const QUEUE: usize = 4;

/// What a client is told first: how long to wait before it asks again, in milliseconds.
const FIRST: &str = "retry: 1000\n\n";
const NOTHING: &str = ": nothing new\n\n";

/// Who listens.
#[derive(Debug)]
pub struct Listeners {
    places: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    /// `BEAT` and `MAX_STAY`, but in tests.
    times: (Duration, Duration),
}

/// Why somebody may not listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// All places are taken.
    Full,
    /// It is a page of another site that asks.
    Foreign,
}

impl Listeners {
    /// Nobody yet; all of them leave when `stopping` says so.
    pub fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_LISTENERS)), stopping, times: (BEAT, MAX_STAY) }
    }

    /// What one more listener gets. Must be called in a runtime.
    ///
    /// # Errors
    /// When there is no place, or it may have none.
    pub fn listen(&self, status: &Arc<Status>, headers: &HeaderMap) -> Result<Events, Refused> {
        let said = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        // Browsers say who asks. What is sent could not be read there, but the places would be gone.
        if said("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Err(Refused::Foreign);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refused::Full)?;
        let seen = said("last-event-id").and_then(|id| id.trim().parse().ok());
        let (sender, events) = mpsc::channel(QUEUE);
        tokio::spawn(tell(sender, status.clone(), seen, self.stopping.clone(), self.times, place));
        Ok(Events(events))
    }
}

/// Tells a listener, until it leaves, its time is over or the server stops.
async fn tell(
    sender: mpsc::Sender<Bytes>,
    status: Arc<Status>,
    mut seen: Option<u64>,
    mut stopping: watch::Receiver<bool>,
    (beat, stay): (Duration, Duration),
    place: OwnedSemaphorePermit,
) {
    let end = Instant::now() + stay;
    let mut latest = status.history.latest();
    let mut text = FIRST.to_owned();
    loop {
        // Marked as seen before it is looked at: what comes in between is found the next time.
        latest.mark_unchanged();
        for change in status.history.after(seen) {
            seen = Some(change.generation);
            text.push_str(&format!(
                "id: {}\nevent: generation\ndata: {}\n\n",
                change.generation,
                history::json(&change)
            ));
        }
        let waits = tokio::select! {
            sent = sender.send(Bytes::from(std::mem::take(&mut text))) => sent.is_ok(),
            _ = stopping.wait_for(|stop| *stop) => false,
            () = sleep_until(end) => false,
        };
        if !waits {
            break;
        }
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(beat) => text.push_str(NOTHING),
            () = sender.closed() => break,
            _ = stopping.wait_for(|stop| *stop) => break,
            () = sleep_until(end) => break,
        }
    }
    drop(place);
}

/// An answer's body that goes on.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use http_body_util::BodyExt;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    async fn next(events: &mut Events) -> Option<String> {
        let frame = events.frame().await?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    }

    fn listeners() -> (Listeners, watch::Sender<bool>, Arc<Status>) {
        let (stop, stopping) = watch::channel(false);
        (Listeners::new(stopping), stop, Arc::new(Status::default()))
    }

    #[tokio::test]
    async fn each_generation_is_one_event_with_its_number() {
        let (listeners, _stop, status) = listeners();
        status.history.add(fixture::change(7));
        let mut events = listeners.listen(&status, &HeaderMap::new()).unwrap();
        let first = next(&mut events).await.unwrap();
        assert!(
            first.starts_with("retry: 1000\n\nid: 7\nevent: generation\ndata: {") && first.ends_with("}\n\n"),
            "{first}"
        );
        assert_eq!(first.lines().count(), 6, "a line each: what is in `data` never breaks one");
        status.history.add(fixture::change(8));
        assert!(next(&mut events).await.unwrap().starts_with("id: 8\n"));
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_was_missed() {
        let (listeners, _stop, status) = listeners();
        (1..=5).for_each(|g| status.history.add(fixture::change(g)));
        let mut events = listeners.listen(&status, &headers(&[("last-event-id", "3")])).unwrap();
        let text = next(&mut events).await.unwrap();
        let ids: Vec<&str> = text.lines().filter(|l| l.starts_with("id:")).collect();
        assert_eq!(ids, ["id: 4", "id: 5"]);
    }

    #[tokio::test]
    async fn places_are_few_and_come_back_when_somebody_leaves() {
        let (listeners, _stop, status) = listeners();
        let mut all: Vec<Events> =
            (0..MAX_LISTENERS).map(|_| listeners.listen(&status, &HeaderMap::new()).unwrap()).collect();
        assert_eq!(listeners.listen(&status, &HeaderMap::new()).unwrap_err(), Refused::Full);
        // It left while nothing happened, so nothing could be sent that would have failed.
        let mut last = all.pop().unwrap();
        next(&mut last).await.unwrap();
        drop(last);
        let mut again = None;
        while again.is_none() {
            tokio::task::yield_now().await;
            again = listeners.listen(&status, &HeaderMap::new()).ok();
        }
    }

    #[tokio::test]
    async fn a_quiet_line_is_sent_now_and_then_and_a_stay_ends() {
        let (mut listeners, _stop, status) = listeners();
        listeners.times.0 = Duration::from_millis(1);
        let mut events = listeners.listen(&status, &HeaderMap::new()).unwrap();
        assert_eq!(next(&mut events).await.as_deref(), Some(FIRST));
        assert_eq!(next(&mut events).await.as_deref(), Some(NOTHING));
        drop(events);
        listeners.times = (MAX_STAY, Duration::from_millis(1));
        let mut events = listeners.listen(&status, &HeaderMap::new()).unwrap();
        while next(&mut events).await.is_some() {}
    }

    #[tokio::test]
    async fn they_end_when_the_server_stops() {
        let (listeners, stop, status) = listeners();
        let mut events = listeners.listen(&status, &HeaderMap::new()).unwrap();
        next(&mut events).await.unwrap();
        stop.send(true).unwrap();
        assert_eq!(next(&mut events).await, None);
    }

    #[tokio::test]
    async fn a_page_of_another_site_is_not_let_in() {
        let (listeners, _stop, status) = listeners();
        for (site, refused) in [("cross-site", true), ("same-site", true), ("same-origin", false), ("none", false)] {
            let answer = listeners.listen(&status, &headers(&[("sec-fetch-site", site)]));
            assert_eq!(answer.err(), refused.then_some(Refused::Foreign), "{site}");
        }
    }
}
