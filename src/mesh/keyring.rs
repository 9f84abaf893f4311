//! The mesh's keys at work: what seals and what opens, while somebody may replace them.

use super::refused::Refused;
use super::seal::{Keys, Kind, Opener, Sealer};
use super::wall_ms;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A lock that a panic elsewhere does not spoil.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seals, and knows which keys open.
#[derive(Debug)]
pub struct Keyring {
    sealer: Mutex<Sealer>,
    keys: ArcSwap<Keys>,
}

impl Keyring {
    /// With these keys; none when the system gives no random numbers.
    #[must_use]
    pub fn new(keys: Keys) -> Option<Self> {
        Some(Self { sealer: Mutex::new(Sealer::new(&keys)?), keys: ArcSwap::from_pointee(keys) })
    }

    /// Seals with other keys from now on, and opens what they open.
    pub fn rekey(&self, keys: Keys) {
        let Some(sealer) = Sealer::new(&keys) else { return };
        *lock(&self.sealer) = sealer;
        self.keys.store(Arc::new(keys));
    }

    /// A message, sealed now.
    pub fn seal(&self, kind: Kind, message: &[u8]) -> Option<Vec<u8>> {
        lock(&self.sealer).seal(kind, message, wall_ms())
    }
}

/// Opens what others sealed, always with the keys that a keyring has now.
#[derive(Debug)]
pub struct Opening {
    keyring: Arc<Keyring>,
    keys: Arc<Keys>,
    opener: Opener,
}

impl Opening {
    /// One that has heard nobody yet.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>) -> Self {
        let keys = keyring.keys.load_full();
        Self { keyring, opener: Opener::new((*keys).clone()), keys }
    }

    /// The message in what came now, which is opened in its place.
    ///
    /// # Errors
    /// When it is not ours, not whole, not timely, or was here before.
    pub fn open<'d>(&mut self, sealed: &'d mut [u8]) -> Result<(Kind, &'d [u8]), Refused> {
        let current = self.keyring.keys.load();
        if !Arc::ptr_eq(&self.keys, &current) {
            self.keys = current.clone();
            self.opener = Opener::new((*self.keys).clone());
        }
        self.opener.open(sealed, wall_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_replaced_opens_and_seals_nothing_any_more() {
        let keys = |text: &str| Keys::read(text).unwrap();
        let (old, new) = ("the key of a mesh before", "the key of a mesh after that");
        let (ours, theirs) = (Keyring::new(keys(old)).unwrap(), Arc::new(Keyring::new(keys(old)).unwrap()));
        let mut opening = Opening::new(theirs.clone());
        let mut opens = |ring: &Keyring| opening.open(&mut ring.seal(Kind::Report, b"x").unwrap()).is_ok();
        assert!(opens(&ours));
        theirs.rekey(keys(new));
        assert!(!opens(&ours));
        ours.rekey(keys(new));
        assert!(opens(&ours));
    }
}
