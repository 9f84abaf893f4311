//! What was taken of a request's body that goes over HTTP/2, so that it can be taken once more.
//!
//! The first frame is always kept: it is what was sent where an endpoint says that it did nothing with a request. More is,
//! up to a limit, for requests that may be repeated. Frames are held and not copied. (Towards HTTP/1.1 the bytes that were
//! written are kept: `wire1::Writer`.)

use bytes::Bytes;

/// What was taken of a body, as long as that is one frame, or no more than the limit.
#[derive(Default, Clone)]
pub(super) struct Taken {
    frames: Frames,
    /// How many of them were given since the body was rewound.
    given: u32,
    /// How much more may be kept, in bytes.
    left: u32,
    /// More was taken than is kept.
    lost: bool,
}

/// Most bodies that are kept are one frame.
#[derive(Default, Clone)]
enum Frames {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Frames {
    fn all(&self) -> &[Bytes] {
        match self {
            Self::None => &[],
            Self::One(frame) => std::slice::from_ref(frame),
            Self::Many(frames) => frames,
        }
    }

    fn push(&mut self, frame: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(frame),
            Self::One(first) => Self::Many(vec![first, frame]),
            Self::Many(mut frames) => {
                frames.push(frame);
                Self::Many(frames)
            }
        };
    }
}

impl Taken {
    /// Nothing yet; keeps one frame, and more up to `limit` bytes.
    pub(super) fn up_to(limit: usize) -> Self {
        Self { left: u32::try_from(limit).unwrap_or(u32::MAX), ..Self::default() }
    }

    /// Whether all of it is kept.
    pub(super) fn is_whole(&self) -> bool {
        !self.lost
    }

    /// All of it is to be taken once more.
    pub(super) fn rewind(&mut self) {
        self.given = 0;
    }

    /// Whether all that was taken was given again.
    pub(super) fn is_given(&self) -> bool {
        self.frames.all().len() == self.given as usize
    }

    /// How many bytes are to be taken once more.
    pub(super) fn to_come(&self) -> u64 {
        self.frames.all().iter().skip(self.given as usize).map(|frame| frame.len() as u64).sum()
    }

    /// The next frame that is to be taken once more.
    pub(super) fn again(&mut self) -> Option<Bytes> {
        let data = self.frames.all().get(self.given as usize)?.clone();
        self.given += 1;
        Some(data)
    }

    /// Takes note of a frame: of its data, if it has any.
    pub(super) fn note(&mut self, data: Option<&Bytes>) {
        if self.lost {
            return;
        }
        let left = data.and_then(|d| self.left.checked_sub(u32::try_from(d.len()).ok()?));
        match data {
            Some(data) if left.is_some() || matches!(self.frames, Frames::None) => {
                self.frames.push(data.clone());
                self.given += 1;
                self.left = left.unwrap_or(0);
            }
            // Trailers, too: who gets them has had all before.
            _ => *self = Self { lost: true, ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limit: usize, sizes: &[usize]) -> Taken {
        let mut taken = Taken::up_to(limit);
        sizes.iter().for_each(|size| taken.note(Some(&Bytes::from(vec![*size as u8; *size]))));
        taken
    }

    fn again(taken: &mut Taken) -> Vec<usize> {
        taken.rewind();
        std::iter::from_fn(|| taken.again()).map(|data| data.len()).collect()
    }

    #[test]
    fn the_first_frame_is_kept_whatever_its_size_and_more_up_to_the_limit() {
        for (limit, sizes, whole) in [
            (0, &[][..], true),
            (0, &[100], true),
            (0, &[100, 1], false),
            (101, &[100, 1], true),
            (100, &[100, 1], false),
            (50, &[100, 1], false),
            (6, &[1, 2, 3], true),
        ] {
            let mut taken = taken(limit, sizes);
            assert_eq!((taken.is_whole(), taken.is_given()), (whole, true), "{limit} {sizes:?}");
            assert_eq!(again(&mut taken), if whole { sizes } else { &[] }, "{limit} {sizes:?}");
        }
    }

    #[test]
    fn it_can_be_taken_as_often_as_needed_and_goes_on_from_there() {
        let mut taken = taken(10, &[1, 2]);
        for _ in 0..3 {
            assert_eq!(again(&mut taken), [1, 2]);
        }
        let mut twin = taken.clone();
        twin.rewind();
        assert_eq!((taken.to_come(), twin.to_come()), (0, 3));
        assert_eq!((again(&mut twin), twin.to_come()), (vec![1, 2], 0), "a copy goes its own way");
        taken.rewind();
        assert!(!taken.is_given());
        let _ = (taken.again(), taken.again());
        taken.note(Some(&Bytes::from_static(b"abc")));
        assert_eq!(again(&mut taken), [1, 2, 3]);
        taken.note(None);
        assert!(!taken.is_whole(), "trailers");
    }
}
