//! The endpoints of a Maglev table as a table's candidates.

use super::{Candidate, Maglev};
use crate::route::scattered;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// How often a number is scattered to another place before the policy chooses: where nine of ten endpoints are away, one
/// request in 30 comes to that.
const MAX_STEPS: usize = 32;

/// Who stays with which candidate.
#[derive(Debug)]
pub struct Affine {
    maglev: Arc<Maglev>,
    /// By the Maglev table's positions: the candidate's index.
    candidates: Box<[u32]>,
}

impl Affine {
    pub fn new(maglev: Arc<Maglev>, candidates: &[Candidate]) -> Self {
        let indices: HashMap<SocketAddr, u32> = candidates.iter().map(|c| c.endpoint.address).zip(0..).collect();
        let candidates = maglev.members().map(|a| indices.get(&a).copied().unwrap_or(u32::MAX)).collect();
        Self { maglev, candidates }
    }

    /// The candidate that a number leads to, first or after some steps, of those that may be taken; the first that
    /// `takes` accepts is taken.
    pub fn find(&self, number: u64, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let mut number = number;
        for _ in 0..MAX_STEPS {
            let index = *self.candidates.get(self.maglev.at(number)?)? as usize;
            if takes(index) {
                return Some(index);
            }
            number = scattered(number);
        }
        None
    }

    /// What part of all numbers leads to a candidate first.
    pub fn share(&self, index: usize) -> f32 {
        let position = self.candidates.iter().position(|c| *c as usize == index);
        position.and_then(|p| self.maglev.share(p)).unwrap_or(0.0)
    }
}
