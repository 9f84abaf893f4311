//! Waiting for conditions.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// How long a condition may take before the test fails: far more than it ever should, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` gives a value. What it says instead is shown when it never does.
///
/// # Panics
/// After [`LIMIT`], with the last thing that `look` said.
pub async fn eventually<T, E: Display>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(LIMIT, what, look).await
}

/// [`eventually`], with a limit of one's own.
///
/// # Panics
/// After `limit`.
pub async fn within<T, E: Display>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + limit;
    loop {
        // A look that hangs must not hold up the test for ever either.
        let seen = match tokio::time::timeout(limit, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => seen.to_string(),
            Err(_) => "looking itself hangs".to_owned(),
        };
        assert!(Instant::now() < end, "waited {limit:?} for {what}; last seen: {seen}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `holds` says yes.
///
/// # Panics
/// After [`LIMIT`].
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || {
        let held = holds();
        async move { if held { Ok(()) } else { Err("no") } }
    })
    .await;
}

/// The value of a future that must not take longer than [`LIMIT`].
///
/// # Panics
/// When it does.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}
