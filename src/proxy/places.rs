//! Memory for futures, used again.
//!
//! A request on an HTTP/1.1 connection is a future of its own, so that a connection on which nothing is under way does not
//! hold the memory that a request needs. It is as long as a small part of a page, and asked of the allocator anew it would
//! be the dearest of a request's allocations. So a core keeps the places of requests that are over for those to come.
//! What kind of future a place is for is known to the compiler alone: it is found out when the place is taken.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// How many places are kept.
const MAX_SPARE: usize = 256;

/// A core's places.
#[derive(Debug, Default, Clone)]
pub(super) struct Places(Rc<RefCell<Vec<Box<dyn Any>>>>);

/// A future where it stays until it is over.
type Place<F> = Pin<Box<Option<F>>>;

/// A future that runs in a core's place.
pub(super) struct Running<F: Future + 'static> {
    /// None once it is over. Boxed twice, so that the inner box can be kept without saying what is in it.
    place: Option<Box<Place<F>>>,
    places: Places,
}

impl Places {
    /// Puts a future into a place.
    pub(super) fn put<F: Future + 'static>(&self, future: F) -> Running<F> {
        let spare = self.0.borrow_mut().pop().and_then(|place| place.downcast::<Place<F>>().ok());
        let mut place = spare.unwrap_or_else(|| Box::new(Box::pin(None)));
        place.set(Some(future));
        Running { place: Some(place), places: self.clone() }
    }
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let running = self.place.as_mut().and_then(|place| Pin::as_mut(place).as_pin_mut());
        // Whoever asks again for what was answered waits in vain, as a future may let them.
        let Some(output) = running.map(|future| future.poll(cx)) else { return Poll::Pending };
        if output.is_ready()
            && let Some(mut place) = self.place.take()
        {
            place.set(None);
            let mut spare = self.places.0.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(place);
            }
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn number(n: usize) -> usize {
        tokio::task::yield_now().await;
        n
    }

    #[tokio::test]
    async fn a_place_is_used_again_by_its_own_kind() {
        let places = Places::default();
        assert_eq!((places.put(number(1)).await, places.0.borrow().len()), (1, 1));
        let (two, three) = (places.put(number(2)), places.put(number(3)));
        assert!(places.0.borrow().is_empty(), "one was used again and one is new");
        assert_eq!((three.await, two.await, places.0.borrow().len()), (3, 2, 2));
        assert_eq!(places.put(async { "another kind" }).await, "another kind");
        assert_eq!(places.put(number(4)).await, 4);
    }

    #[tokio::test]
    async fn what_is_given_up_is_dropped_at_once() {
        let (places, held) = (Places::default(), Rc::new(()));
        let holds = held.clone();
        let running = places.put(async move {
            tokio::task::yield_now().await;
            drop(holds);
        });
        drop(running);
        assert_eq!((Rc::strong_count(&held), places.0.borrow().len()), (1, 0));
    }
}
