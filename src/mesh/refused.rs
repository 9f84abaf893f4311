//! Why something that came from elsewhere was not taken in, each with its word for the metrics.

/// Why a datagram or a report was not taken in. Nothing of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More bytes than any of ours has.
    #[error("larger than any report")]
    TooLarge,
    /// Not what we write.
    #[error("not a datagram of the mesh")]
    Malformed,
    /// Sealed by another key, or changed on its way.
    #[error("not sealed with the mesh's key")]
    Forged,
    /// Seen before.
    #[error("seen before")]
    Replayed,
    /// Of a version whose meaning is not known here.
    #[error("of another version")]
    Version,
    /// Made at a time that is yet to come.
    #[error("from the future")]
    Future,
    /// Made too long ago.
    #[error("too old")]
    Stale,
    /// Values that cannot be, or too many of them.
    #[error("values that cannot be")]
    Absurd,
    /// From a process that another of the same name has followed.
    #[error("from a process that another has followed")]
    Superseded,
    /// Under this node's own name.
    #[error("under this node's own name")]
    OwnName,
    /// More than is kept.
    #[error("more than is kept")]
    Full,
}

impl Refused {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::TooLarge,
        Self::Malformed,
        Self::Forged,
        Self::Replayed,
        Self::Version,
        Self::Future,
        Self::Stale,
        Self::Absurd,
        Self::Superseded,
        Self::OwnName,
        Self::Full,
    ];

    /// Its word.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Version => "version",
            Self::Future => "future",
            Self::Stale => "stale",
            Self::Absurd => "absurd",
            Self::Superseded => "superseded",
            Self::OwnName => "own_name",
            Self::Full => "full",
        }
    }
}

/// How far a peer's clock may be ahead of ours, in milliseconds.
pub const MOST_AHEAD_MS: u64 = 2_000;
/// How old what comes may be, in milliseconds: what is older would not be believed for long.
pub const MOST_BEHIND_MS: u64 = 10_000;

/// Whether a time that a peer wrote is near enough to ours; both in milliseconds since 1970.
///
/// # Errors
/// When it is not.
pub fn timely(written_ms: u64, now_ms: u64) -> Result<(), Refused> {
    if written_ms > now_ms.saturating_add(MOST_AHEAD_MS) {
        return Err(Refused::Future);
    }
    if now_ms > written_ms.saturating_add(MOST_BEHIND_MS) {
        return Err(Refused::Stale);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_judged_at_their_bounds_and_beyond_all_bounds() {
        let now = 1_000_000;
        assert_eq!((timely(now + 2_000, now), timely(now + 2_001, now)), (Ok(()), Err(Refused::Future)));
        assert_eq!((timely(now - 10_000, now), timely(now - 10_001, now)), (Ok(()), Err(Refused::Stale)));
        assert_eq!((timely(u64::MAX, 0), timely(0, u64::MAX)), (Err(Refused::Future), Err(Refused::Stale)));
        assert_eq!(timely(u64::MAX, u64::MAX), Ok(()));
    }

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        let mut codes: Vec<_> = Refused::ALL.iter().map(|r| r.code()).collect();
        assert!(Refused::ALL.iter().enumerate().all(|(place, refused)| *refused as usize == place));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Refused::ALL.len());
    }
}
