//! A request's body on its way: how far it is, and what is kept or copied of it.
//!
//! **Waiting for the client.** While a body is asked for and has nothing to give, its client is waited for, or the
//! expectation that nobody answers. Once more of it came, that time is known to be no fault of the endpoint's
//! (`Upload::waited`); a body that the endpoint does not take is not asked.

use super::body::BodyError;
use super::clock::Clock;
use super::expect::Gate;
use super::headers::clean_trailers;
use super::inbound::Inbound;
use super::mirror::{Gathered, Twin};
use super::taken::Taken;
use super::watch::Watch;
use crate::links::Time;
use crate::observe::Reason;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// How far a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Open,
    Done,
    Broken,
    /// It was longer than it may be, and broken off here.
    TooLarge,
}

impl Progress {
    /// Why a request fails whose body came no further.
    pub(super) fn broken(self) -> Option<Reason> {
        match self {
            Self::Open | Self::Done => None,
            Self::Broken => Some(Reason::RequestIncomplete),
            Self::TooLarge => Some(Reason::BodyTooLarge),
        }
    }
}

/// What a request knows of its body.
pub(super) struct Upload {
    clock: Clock,
    watch: Rc<Watch>,
    pub progress: Cell<Progress>,
    pub bytes: Cell<u64>,
    /// How many there may be.
    most: u64,
    /// When it last moved, or was done.
    moved_at: Cell<Time>,
    /// It moved since `moved_at` was set.
    moved: Cell<bool>,
    /// Since when the client is waited for.
    waits_since: Cell<Option<Time>>,
    /// How long it was, in this try, until more came.
    waited: Cell<Duration>,
    /// Set while the answer's head is awaited: how long it may take from the body's end.
    pub head_within: Cell<Option<Duration>>,
    /// Set when the request is over although the body is not: how long nothing of it may come from then on.
    left: Cell<Option<Duration>>,
    waker: RefCell<Option<Waker>>,
}

impl Upload {
    pub(super) fn new(clock: Clock, watch: &Rc<Watch>, now: Time, most: Option<u64>) -> Rc<Self> {
        Rc::new(Self {
            clock,
            watch: watch.clone(),
            progress: Cell::new(Progress::Open),
            bytes: Cell::new(0),
            most: most.unwrap_or(u64::MAX),
            moved_at: Cell::new(now),
            moved: Cell::new(false),
            waits_since: Cell::new(None),
            waited: Cell::default(),
            head_within: Cell::new(None),
            left: Cell::new(None),
            waker: RefCell::default(),
        })
    }

    fn done(&self) {
        if self.progress.replace(Progress::Done) == Progress::Open {
            let now = self.clock.now();
            self.moved.set(false);
            self.moved_at.set(now);
            if let Some(within) = self.head_within.get() {
                self.watch.set(now + within);
            }
        }
    }

    /// It has nothing to give.
    fn waits(&self) {
        if self.waits_since.get().is_none() {
            let now = self.clock.now();
            if self.moved.replace(false) {
                self.moved_at.set(now);
            }
            self.waits_since.set(Some(now));
        }
    }

    /// More of it came, or its end.
    fn came(&self) {
        if let Some(since) = self.waits_since.take() {
            self.add_wait(self.clock.now().since(since));
        }
    }

    fn add_wait(&self, wait: Duration) {
        self.waited.set(self.waited.get() + wait);
    }

    /// How long the client was waited for in this try, until more came.
    pub(super) fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// How long it is being waited for, where it is.
    pub(super) fn waiting(&self, now: Time) -> Duration {
        self.waits_since.get().map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Another try begins.
    pub(super) fn begin_try(&self, now: Time) {
        self.waited.set(Duration::ZERO);
        self.waits_since.set(self.waits_since.get().map(|_| now));
    }

    /// The request is over and watches its body no more, which must then watch itself.
    pub(super) fn leave(&self, idle: Duration) {
        if self.progress.get() == Progress::Open {
            self.left.set(Some(idle));
            let waker = self.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|w| w.will_wake(waker)) {
            let before = known.replace(waker.clone());
            drop(known);
            drop(before);
        }
    }

    /// When it last moved, or was done. A body that is never out of frames is never waited for, so nobody but who asks
    /// notes the time.
    pub(super) fn last_moved(&self, now: Time) -> Time {
        if self.moved.replace(false) && self.progress.get() == Progress::Open {
            self.moved_at.set(now);
        }
        self.moved_at.get()
    }
}

/// A request's body.
#[derive(Default)]
pub(super) enum RequestBody {
    #[default]
    Empty,
    Streaming {
        inner: Inbound,
        upload: Rc<Upload>,
        gate: Option<Gate>,
        alone: Option<Pin<Box<Sleep>>>,
        /// What was taken of it, where it may have to be sent once more.
        taken: Option<Taken>,
        /// Gets a copy of what goes by, where somebody else is to have it too.
        copy: Option<Box<Twin>>,
    },
    /// What was copied of a body, which is all there.
    Copied(Gathered),
    /// What was taken of another one, which is all of it.
    Kept(Taken),
}

impl RequestBody {
    /// Whether it could be had from its beginning.
    pub(super) fn whole(&self) -> bool {
        match self {
            Self::Empty | Self::Kept(_) => true,
            // It is sent once and no more.
            Self::Copied(_) => false,
            Self::Streaming { taken, .. } => taken.as_ref().is_some_and(Taken::is_whole),
        }
    }

    /// The body from its beginning, if that is still to be had.
    pub(super) fn rewound(mut self) -> Option<Self> {
        match &mut self {
            Self::Streaming { taken, .. } => taken.as_mut().filter(|t| t.is_whole())?.rewind(),
            Self::Kept(taken) => taken.rewind(),
            Self::Empty | Self::Copied(_) => {}
        }
        Some(self)
    }

    /// The same body, to be sent as well; none where not all of it is here.
    pub(super) fn twin(&self) -> Option<Self> {
        let taken = match self {
            Self::Empty => return Some(Self::Empty),
            Self::Streaming { taken, upload, .. } if upload.progress.get() == Progress::Done => taken.as_ref(),
            Self::Kept(taken) => Some(taken),
            Self::Streaming { .. } | Self::Copied(_) => None,
        };
        Self::Kept(taken.filter(|taken| taken.is_whole())?.clone()).rewound()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (inner, upload, gate, alone, taken, copy) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Copied(gathered) => {
                let data = gathered.take().freeze();
                return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
            }
            Self::Kept(taken) => return Poll::Ready(taken.again().map(|data| Ok(Frame::data(data)))),
            Self::Streaming { inner, upload, gate, alone, taken, copy } => (inner, upload, gate, alone, taken, copy),
        };
        if let Some(closed) = gate {
            // Polling the body makes the server tell the client to send it.
            if ready!(closed.poll_open(cx)) {
                upload.add_wait(closed.in_vain());
                *gate = None;
            } else {
                upload.progress.set(Progress::Broken);
                return Poll::Ready(Some(Err(BodyError::cut(Reason::RequestIncomplete))));
            }
        }
        if let Some(data) = taken.as_mut().and_then(Taken::again) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match inner.poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                upload.came();
                upload.moved.set(true);
                *alone = None;
                if let Some(taken) = taken {
                    taken.note(frame.data_ref());
                }
                if let Some(data) = frame.data_ref() {
                    upload.bytes.set(upload.bytes.get() + data.len() as u64);
                    if upload.bytes.get() > upload.most {
                        upload.progress.set(Progress::TooLarge);
                        return Poll::Ready(Some(Err(BodyError::cut(Reason::BodyTooLarge))));
                    }
                    copied(copy, data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                    upload.done();
                }
                // An HTTP/2 client may end the stream with a frame of its own, after all that it announced.
                if inner.is_end_stream() || inner.size_hint().exact() == Some(0) {
                    upload.done();
                }
                whole(copy, upload);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(code))) => {
                upload.progress.set(Progress::Broken);
                Poll::Ready(Some(Err(BodyError::broken(Reason::RequestIncomplete, code))))
            }
            Poll::Ready(None) => {
                upload.came();
                upload.done();
                whole(copy, upload);
                Poll::Ready(None)
            }
            Poll::Pending => {
                upload.waits();
                let Some(idle) = upload.left.get() else {
                    upload.register(cx.waker());
                    return Poll::Pending;
                };
                ready!(alone.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle))).as_mut().poll(cx));
                upload.progress.set(Progress::Broken);
                Poll::Ready(Some(Err(BodyError::cut(Reason::IdleTimeout))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Copied(gathered) => gathered.borrow().is_empty(),
            Self::Kept(taken) => taken.is_given(),
            Self::Streaming { inner, taken, .. } => inner.is_end_stream() && taken.as_ref().is_none_or(Taken::is_given),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Copied(gathered) => SizeHint::with_exact(gathered.borrow().len() as u64),
            Self::Kept(taken) => SizeHint::with_exact(taken.to_come()),
            Self::Streaming { inner, .. } => inner.size_hint(),
        }
    }
}

/// Data went by that somebody else is to have too.
fn copied(copy: &mut Option<Box<Twin>>, data: &Bytes) {
    if copy.as_mut().is_some_and(|c| !c.take_in(data)) {
        *copy = None;
    }
}

/// Lets a copy go once all of the body is there.
fn whole(copy: &mut Option<Box<Twin>>, upload: &Upload) {
    if upload.progress.get() == Progress::Done
        && let Some(copy) = copy.take()
    {
        copy.send();
    }
}
