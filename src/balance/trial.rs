//! The model on trial (`mode: canary`): which requests it steers, and how the others are.
//!
//! A request's arm is drawn once, before its first try, and holds for all of them. Both arms choose among the same
//! candidates; the model's by the table's own policy, the others by the policy that it is compared with, drawn by the
//! configured weights and slow start alone. What is measured of an endpoint is known to both: they differ in how they
//! choose, not in what they know, and each feels the load that the other makes.

use super::{Alias, Candidate};
use crate::config::Policy;
use crate::observe::Arm;
use rand::Rng;

/// How requests are shared out between the arms.
#[derive(Debug)]
pub struct Trial {
    /// The share of requests that the model steers.
    pub share: f64,
    /// The policy that steers the others.
    pub against: Policy,
    /// The same share as part of 2^32.
    below: u64,
    /// The weights by which the other policy draws.
    pub(super) alias: Alias,
}

impl Trial {
    pub(super) fn new(share: f64, against: Policy, eligible: &[Candidate]) -> Self {
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let biases: Vec<f32> = eligible.iter().map(|c| c.bias).collect();
        Self { share, against, below: (share * 2f64.powi(32)) as u64, alias: Alias::new(&biases) }
    }

    /// Who steers the next request.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Arm {
        if u64::from(rng.next_u32()) < self.below { Arm::Model } else { Arm::Against }
    }
}
