//! What a peer may do that costs us more than it, and how often.
//!
//! Counts run until the peer's silence is next looked at (`Silence`), some seconds; what comes at a bearable rate is
//! therefore never too much, however long a connection lives. Whoever goes beyond is told to calm down and is gone.
//!
//! Elsewhere: how many streams there are (`incoming`), how large a header block is (`heads`), what waits for a peer that
//! does not read (`session`), how small the pieces of a body are (`streams`).

/// How many streams more than came to their end a client may reset (CVE-2023-44487). A browser that leaves a page resets
/// what it was loading, some hundreds at most; a proxy in front passes on what many users give up.
const MAX_RESETS: u32 = 1_000;
/// How many streams more than came to their end a peer may make us reset, by what it sends on them: such a stream costs
/// as much (CVE-2025-8671).
const MAX_MISTAKES: u32 = 1_000;
/// How many frames may say nothing: DATA without data, PRIORITY, unknown kinds, settings, pings. Who measures the way
/// with pings asks some tens a second (gRPC at most two a round trip).
const MAX_IDLE_FRAMES: u32 = 10_000;

/// Counts of one connection.
#[derive(Debug, Default)]
pub(super) struct Floods {
    resets: u32,
    mistakes: u32,
    idle: u32,
}

impl Floods {
    /// The peer reset a stream. Whether it did so too often.
    pub fn reset(&mut self) -> bool {
        self.resets += 1;
        self.resets > MAX_RESETS
    }

    /// A stream was reset because of what the peer did.
    pub fn mistake(&mut self) -> bool {
        self.mistakes += 1;
        self.mistakes > MAX_MISTAKES
    }

    /// A frame came that says nothing.
    pub fn idle(&mut self) -> bool {
        self.idle += 1;
        self.idle > MAX_IDLE_FRAMES
    }

    /// A stream came to its end.
    pub fn completed(&mut self) {
        self.resets = self.resets.saturating_sub(1);
        self.mistakes = self.mistakes.saturating_sub(1);
    }

    /// Time went by.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
