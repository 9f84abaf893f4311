//! Datagrams that only members of the mesh can make and read.
//!
//! ```text
//! "PM" | 1 | kind | session (16) | counter (8) | sent, ms since 1970 (8) | sealed ... | tag (16)
//! ```
//! All before the sealed part is in the clear and vouched for by the tag. Members share a key; each process draws a session at
//! random and seals under a key of its own (HKDF-SHA-256 of the shared key, the session as salt; ChaCha20-Poly1305, the
//! counter as nonce), so that no nonce ever comes up twice however many members there are.
//!
//! **Replay is bounded.** A receiver remembers the last counters of each session that it hears (a window of 128, as RFC 6479
//! has it) and refuses one that it has seen, or that is older than the window. It forgets a session that it has not
//! heard for longer than a datagram may be old: what could then be replayed is refused for its age.
//!
//! A shared key tells members from others, not members from each other: who holds it can speak under any name.
//!
//! **Rotation.** A key file may hold several keys, one a line. The first one seals, all of them open: write the new key
//! below the old one everywhere, then above it everywhere, then take the old one away.

use super::refused::{MOST_AHEAD_MS, MOST_BEHIND_MS, Refused, timely};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::fmt;

/// What a datagram begins with.
const MAGIC: [u8; 2] = *b"PM";
/// The form of a datagram; a reader refuses others.
const VERSION: u8 = 1;
/// What stands before the sealed part, in bytes.
const HEAD: usize = 36;
/// What stands behind it.
const TAG: usize = 16;
/// What sealing adds to a message, in bytes.
pub const OVERHEAD: usize = HEAD + TAG;
/// The shortest key that is one, in bytes.
pub const MIN_KEY: usize = 16;
/// The most keys in a file.
const MAX_KEYS: usize = 8;
/// The most sessions that are remembered: more members than gossip can hold together.
const MAX_SESSIONS: usize = 16_384;
/// What the derived keys are for.
const PURPOSE: &[u8] = b"pathloom mesh datagram 1";

type Session = [u8; 16];

/// What a datagram holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who is there.
    Gossip = 0,
    /// What a member saw.
    Report = 1,
}

/// The mesh's keys; the first one seals.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<Vec<u8>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Why a file holds no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// Nothing but space in it.
    #[error("it holds no key: write one with `head -c 32 /dev/urandom | base64`")]
    Empty,
    /// A key that could be guessed.
    #[error("line {0} is shorter than {MIN_KEY} characters: write a key with `head -c 32 /dev/urandom | base64`")]
    Short(usize),
    /// More than anybody needs.
    #[error("it holds more than {MAX_KEYS} keys: keep those in use")]
    Many,
}

impl Keys {
    /// The keys in a file's text, one a line.
    ///
    /// # Errors
    /// When there is none, one is too short, or there are too many.
    pub fn read(text: &str) -> Result<Self, NoKeys> {
        let mut keys = Vec::new();
        for (line, key) in text.lines().map(str::trim).enumerate().filter(|(_, key)| !key.is_empty()) {
            if key.len() < MIN_KEY {
                return Err(NoKeys::Short(line + 1));
            }
            keys.push(key.as_bytes().to_vec());
        }
        match keys.len() {
            0 => Err(NoKeys::Empty),
            n if n > MAX_KEYS => Err(NoKeys::Many),
            _ => Ok(Self(keys)),
        }
    }
}

fn derived(secret: &[u8], session: &Session) -> Option<LessSafeKey> {
    let key = Salt::new(HKDF_SHA256, session).extract(secret);
    let key = UnboundKey::from(key.expand(&[PURPOSE], &CHACHA20_POLY1305).ok()?);
    Some(LessSafeKey::new(key))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    if let Some(place) = nonce.last_chunk_mut() {
        *place = counter.to_be_bytes();
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Seals what this process sends.
pub struct Sealer {
    session: Session,
    key: LessSafeKey,
    counter: u64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl Sealer {
    /// One under a new session; none when the system gives no random numbers.
    #[must_use]
    pub fn new(keys: &Keys) -> Option<Self> {
        let mut session = Session::default();
        SystemRandom::new().fill(&mut session).ok()?;
        Some(Self { key: derived(keys.0.first()?, &session)?, session, counter: 0 })
    }

    /// The datagram of a message that is sent now, in milliseconds since 1970. None after 2^64 of them.
    #[must_use]
    pub fn seal(&mut self, kind: Kind, message: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.counter = self.counter.checked_add(1)?;
        let mut datagram = Vec::with_capacity(message.len() + OVERHEAD);
        datagram.extend(MAGIC);
        datagram.extend([VERSION, kind as u8]);
        datagram.extend(self.session);
        datagram.extend(self.counter.to_be_bytes());
        datagram.extend(now_ms.to_be_bytes());
        let mut sealed = message.to_vec();
        self.key.seal_in_place_append_tag(nonce(self.counter), Aad::from(&datagram), &mut sealed).ok()?;
        datagram.append(&mut sealed);
        Some(datagram)
    }
}

/// A session that is heard.
struct Heard {
    key: LessSafeKey,
    /// The highest counter, and which of the 128 up to it have come: the lowest bit is its own.
    last: u64,
    window: u128,
    at_ms: u64,
}

impl Heard {
    /// Takes note of a counter; false where it has come before, or is too old to tell.
    fn note(&mut self, counter: u64) -> bool {
        if counter > self.last {
            let ahead = u32::try_from(counter - self.last).unwrap_or(u32::MAX);
            self.window = self.window.checked_shl(ahead).unwrap_or(0) | 1;
            self.last = counter;
            return true;
        }
        let bit = u32::try_from(self.last - counter).ok().and_then(|behind| 1u128.checked_shl(behind)).unwrap_or(0);
        let new = bit != 0 && self.window & bit == 0;
        self.window |= bit;
        new
    }
}

/// Opens what others sent.
pub struct Opener {
    keys: Keys,
    sessions: HashMap<Session, Heard>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

impl Opener {
    /// One that has heard nobody yet.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self { keys, sessions: HashMap::new() }
    }

    /// The message in a datagram that came now, in milliseconds since 1970, which is opened in its place.
    ///
    /// # Errors
    /// When it is not ours, not whole, not timely, or was here before.
    pub fn open<'d>(&mut self, datagram: &'d mut [u8], now_ms: u64) -> Result<(Kind, &'d [u8]), Refused> {
        let (head, sealed) = datagram.split_at_mut_checked(HEAD).ok_or(Refused::Malformed)?;
        let Some((magic, rest)) = head.split_first_chunk::<2>() else { return Err(Refused::Malformed) };
        let Some(([version, kind], rest)) = rest.split_first_chunk::<2>() else { return Err(Refused::Malformed) };
        let Some((session, rest)) = rest.split_first_chunk::<16>() else { return Err(Refused::Malformed) };
        let Some((counter, sent)) = rest.split_first_chunk::<8>() else { return Err(Refused::Malformed) };
        let Some(sent) = sent.first_chunk::<8>() else { return Err(Refused::Malformed) };
        if *magic != MAGIC || sealed.len() < TAG {
            return Err(Refused::Malformed);
        }
        if *version != VERSION {
            return Err(Refused::Version);
        }
        let kind = match kind {
            0 => Kind::Gossip,
            1 => Kind::Report,
            _ => return Err(Refused::Version),
        };
        let (counter, sent_ms) = (u64::from_be_bytes(*counter), u64::from_be_bytes(*sent));
        let opened: &[u8] = match self.sessions.get_mut(session) {
            Some(heard) => {
                let opened = heard.key.open_in_place(nonce(counter), Aad::from(&*head), sealed);
                let message = opened.map_err(|_| Refused::Forged)?;
                timely(sent_ms, now_ms)?;
                if !heard.note(counter) {
                    return Err(Refused::Replayed);
                }
                heard.at_ms = now_ms;
                message
            }
            None => self.first(session, counter, head, sealed, (sent_ms, now_ms))?,
        };
        Ok((kind, opened))
    }

    /// The first datagram of a session that is not known yet.
    fn first<'d>(
        &mut self,
        session: &Session,
        counter: u64,
        head: &[u8],
        sealed: &'d mut [u8],
        (sent_ms, now_ms): (u64, u64),
    ) -> Result<&'d [u8], Refused> {
        // A key that does not fit leaves garbage behind: each gets a copy of its own, unless it is the only one.
        let fits = |secret: &Vec<u8>| {
            let key = derived(secret, session)?;
            let mut copy = sealed.to_vec();
            key.open_in_place(nonce(counter), Aad::from(head), &mut copy).ok()?;
            Some(key)
        };
        let key = self.keys.0.iter().find_map(fits).ok_or(Refused::Forged)?;
        timely(sent_ms, now_ms)?;
        if self.sessions.len() >= MAX_SESSIONS {
            let kept = |heard: &mut Heard| now_ms.abs_diff(heard.at_ms) <= MOST_BEHIND_MS + MOST_AHEAD_MS;
            self.sessions.retain(|_, heard| kept(heard));
            if self.sessions.len() >= MAX_SESSIONS {
                return Err(Refused::Full);
            }
        }
        let message = key.open_in_place(nonce(counter), Aad::from(head), sealed).map_err(|_| Refused::Forged)?;
        self.sessions.insert(*session, Heard { key, last: counter, window: 1, at_ms: now_ms });
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn keys(text: &str) -> Keys {
        Keys::read(text).unwrap()
    }

    fn open(opener: &mut Opener, datagram: &[u8]) -> Result<(Kind, Vec<u8>), Refused> {
        opener.open(&mut datagram.to_vec(), NOW_MS).map(|(kind, message)| (kind, message.to_vec()))
    }

    #[test]
    fn members_understand_each_other_and_nobody_else_does() {
        let (ours, theirs) = (keys("0123456789abcdef\n"), keys("0123456789abcdeX"));
        let mut sealer = Sealer::new(&ours).unwrap();
        let datagram = sealer.seal(Kind::Report, b"hello", NOW_MS).unwrap();
        assert_eq!(datagram.len(), 5 + OVERHEAD);
        assert!(!datagram.windows(5).any(|w| w == b"hello"), "nobody reads it on its way");
        assert_eq!(open(&mut Opener::new(ours), &datagram), Ok((Kind::Report, b"hello".to_vec())));
        assert_eq!(open(&mut Opener::new(theirs), &datagram), Err(Refused::Forged));
    }

    #[test]
    fn what_was_seen_is_refused_and_what_comes_in_another_order_is_not() {
        let ours = keys("0123456789abcdef");
        let (mut sealer, mut opener) = (Sealer::new(&ours).unwrap(), Opener::new(ours));
        let all: Vec<_> = (0..300).map(|_| sealer.seal(Kind::Gossip, b"x", NOW_MS).unwrap()).collect();
        for n in [1, 0, 5, 3, 130] {
            assert!(open(&mut opener, &all[n]).is_ok(), "{n}");
            assert_eq!(open(&mut opener, &all[n]), Err(Refused::Replayed), "{n}");
        }
        assert_eq!(open(&mut opener, &all[2]), Err(Refused::Replayed), "beyond the window nobody can tell");
        assert!(open(&mut opener, &all[4]).is_ok() && open(&mut opener, &all[299]).is_ok());
        assert_eq!(open(&mut opener, &all[4]), Err(Refused::Replayed));
    }

    #[test]
    fn datagrams_are_refused_by_their_time() {
        let ours = keys("0123456789abcdef");
        let (mut sealer, mut opener) = (Sealer::new(&ours).unwrap(), Opener::new(ours));
        for (sent_ms, refused) in [(NOW_MS + 60_000, Refused::Future), (NOW_MS - 60_000, Refused::Stale)] {
            let datagram = sealer.seal(Kind::Report, b"x", sent_ms).unwrap();
            assert_eq!(open(&mut opener, &datagram), Err(refused));
            assert!(opener.sessions.is_empty(), "nothing is remembered of it");
        }
    }

    #[test]
    fn a_new_key_takes_over_without_a_gap() {
        let (old, new) = ("0123456789abcdef", "fedcba9876543210");
        let both = format!("{old}\n\n  {new}  \n");
        let datagram = |text: &str| Sealer::new(&keys(text)).unwrap().seal(Kind::Report, b"x", NOW_MS).unwrap();
        let understood = |by: &str, datagram: &[u8]| open(&mut Opener::new(keys(by)), datagram).is_ok();
        assert!(understood(old, &datagram(&both)) && understood(&both, &datagram(new)));
        assert!(understood(new, &datagram(&format!("{new}\n{old}"))) && !understood(new, &datagram(&both)));
        assert_eq!((Keys::read(" \n"), Keys::read("a\n")), (Err(NoKeys::Empty), Err(NoKeys::Short(1))));
        assert_eq!(Keys::read(&format!("{old}\n").repeat(9)), Err(NoKeys::Many));
        assert!(!format!("{:?}", keys(old)).contains(old));
    }

    #[test]
    fn another_form_is_told_from_a_forgery() {
        let ours = keys("0123456789abcdef");
        let mut datagram = Sealer::new(&ours).unwrap().seal(Kind::Report, b"x", NOW_MS).unwrap();
        datagram[2] = 2;
        assert_eq!(open(&mut Opener::new(ours.clone()), &datagram), Err(Refused::Version));
        assert_eq!(open(&mut Opener::new(ours.clone()), &datagram[..40]), Err(Refused::Malformed));
        let foreign = b"GET / HTTP/1.1\r\nhost: catalog.example\r\n\r\nand some more of it";
        assert_eq!(open(&mut Opener::new(ours), foreign), Err(Refused::Malformed));
    }

    proptest! {
        #[test]
        fn a_datagram_that_was_changed_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let ours = keys("0123456789abcdef");
            let mut datagram = Sealer::new(&ours).unwrap().seal(Kind::Report, b"some message", NOW_MS).unwrap();
            let at = at.index(datagram.len());
            datagram[at] ^= flip;
            prop_assert!(open(&mut Opener::new(ours), &datagram).is_err());
        }
    }
}
