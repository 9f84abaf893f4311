//! Each cluster's budget for further tries: made once, looked after at every tick, gone with its cluster.

use super::desired::DesiredCluster;
use crate::balance::{Budget, MIN_PER_SECOND};
use crate::links::Time;
use std::collections::HashMap;
use std::sync::Arc;

/// The budgets, by cluster.
#[derive(Debug)]
pub struct Budgets {
    cores: usize,
    all: HashMap<Arc<str>, Arc<Budget>>,
}

impl Budgets {
    /// None yet, for a proxy with so many serving threads.
    pub fn new(cores: usize) -> Self {
        Self { cores, all: HashMap::new() }
    }

    /// A cluster's budget, by its configuration of now.
    pub fn of(&mut self, cluster: &DesiredCluster, now: Time) -> Arc<Budget> {
        let share = cluster.config.retries.budget;
        let make = || Arc::new(Budget::new(self.cores, share, MIN_PER_SECOND, now));
        let budget = self.all.entry(cluster.name.clone()).or_insert_with(make).clone();
        budget.renew(share, now);
        budget
    }

    /// Forgets those of clusters that are gone.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.all.retain(|name, _| keep(name));
    }
}
