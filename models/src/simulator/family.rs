//! Families of scenarios: which applications, deployments, loads and faults a seed draws from.
//!
//! Models are trained on `Scenario::training`: the Social Network and the shop in random deployments, and generated
//! meshes, down to a front end with one service behind it. The hotel application, large meshes, and the faults in
//! `HELD_BACK` are never trained on: they show how far a model carries.

use super::faults::{self, FaultKind};
use super::load::Load;
use super::mesh::Mesh;
use super::sample::{Policies, Scenario};
use super::simple::Policy;
use super::telemetry::View;
use super::topology::deploy::{Plan, deploy};
use super::topology::{Topology, generate};
use crate::Result;
use crate::simulator::draw::Draw;

/// Kinds of faults that no training run has.
pub const HELD_BACK: [FaultKind; 2] = [FaultKind::Pauses, FaultKind::LinkLoss];

/// The kinds of faults that training runs have.
#[must_use]
pub fn trained_faults() -> Vec<FaultKind> {
    FaultKind::ALL.into_iter().filter(|kind| !HELD_BACK.contains(kind)).collect()
}

/// One view's links are no more than this, so that a sample of a large mesh stays one sidecar's.
const MOST_LINKS: usize = 600;
/// A fleet of two services is one sidecar's business as a whole.
const MOST_LINKS_OF_A_FLEET: usize = 2_000;

fn most_links(mesh: &Mesh) -> usize {
    if mesh.services.len() <= 2 { MOST_LINKS_OF_A_FLEET } else { MOST_LINKS }
}

/// How long a run is played, in seconds; one of a large mesh is shorter.
const LENGTH_S: u64 = 75;
/// The first sample is taken after this many seconds.
const WARM_UP_S: u64 = 15;

/// Which applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// DeathStarBench's Social Network.
    SocialNetwork,
    /// Generated, of 10 to 40 services.
    Random,
    /// The same with this average out-degree, in tenths.
    Degree(u32),
    /// Generated, of 2 to 6 services: a front end and what is behind it.
    Tiny,
    /// Many callers of many replicas, from next to no load up: each link is seldom used, the replicas are well known.
    Wide,
    /// The shop of four services.
    ECommerce,
    /// DeathStarBench's hotel application; never trained on.
    Hotel,
    /// Generated, of so many services; never trained on.
    Large(usize),
}

impl Family {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Family::SocialNetwork => "social-network".into(),
            Family::Random => "generated".into(),
            Family::Degree(tenths) => format!("degree-{:.1}", f64::from(tenths) / 10.0),
            Family::Tiny => "tiny".into(),
            Family::Wide => "wide".into(),
            Family::ECommerce => "e-commerce".into(),
            Family::Hotel => "hotel-reservation".into(),
            Family::Large(services) => format!("generated-{services}"),
        }
    }

    /// The family that a training run of this seed is of.
    #[must_use]
    pub fn training(seed: u64) -> Self {
        match Draw::new(seed ^ 0x5851_f42d_4c95_7f2d).uniform(0.0, 1.0) {
            u if u < 0.45 => Family::SocialNetwork,
            u if u < 0.60 => Family::ECommerce,
            u if u < 0.77 => Family::Random,
            u if u < 0.89 => Family::Tiny,
            _ => Family::Wide,
        }
    }

    /// A random deployment of one of its applications.
    ///
    /// # Errors
    /// When a generated application cannot be made: for `Large` outside the generator's sizes.
    pub fn mesh(self, draw: &mut Draw) -> Result<Mesh> {
        let (topology, plan) = match self {
            Family::SocialNetwork => (Topology::social_network()?, Plan::social_network(draw)),
            Family::ECommerce => (Topology::e_commerce()?, Plan::random(draw.log_uniform(60.0, 500.0), draw)),
            Family::Hotel => (Topology::hotel_reservation()?, Plan::random(draw.log_uniform(100.0, 500.0), draw)),
            Family::Random | Family::Degree(_) => {
                let (services, drawn) = (draw.log_uniform(10.0, 40.0) as usize, draw.uniform(1.5, 4.5));
                let degree = if let Family::Degree(tenths) = self { f64::from(tenths) / 10.0 } else { drawn };
                let topology = generate::generate(services.max(10), degree, draw)?;
                // Down to links that are used a few times a minute, as most of a large mesh's are.
                (topology, Plan::random(draw.log_uniform(6.0, 300.0), draw))
            }
            Family::Tiny => {
                let topology = generate::tiny(draw.one(&[2, 2, 2, 3, 4, 6]).unwrap_or(2), draw)?;
                let mut plan = Plan::random(draw.log_uniform(8.0, 1_000.0), draw);
                plan.front_ends = (1, draw.whole(1, 5));
                plan.services = draw.one(&[(2, 4), (3, 8), (6, 16)]).unwrap_or((2, 4));
                plan.stores = plan.services;
                (topology, plan)
            }
            Family::Wide => {
                let topology = generate::tiny(2, draw)?;
                let mut plan = Plan::random(draw.log_uniform(5.0, 400.0), draw);
                plan.front_ends = (12, 64);
                plan.services = draw.one(&[(8, 12), (12, 24), (24, 50)]).unwrap_or((12, 24));
                plan.stores = plan.services;
                (topology, plan)
            }
            Family::Large(services) => {
                let topology = generate::generate(services, draw.uniform(1.5, 4.5), draw)?;
                let mut plan = Plan::random(300.0 * (services as f64 / 100.0).powf(0.35), draw);
                // Stay within what a graph may have.
                plan.services.1 = if services > 2_000 { 2 } else { plan.services.1.min(4) };
                plan.services.0 = plan.services.0.min(plan.services.1);
                (topology, plan)
            }
        };
        Ok(deploy(&topology, &plan, draw))
    }
}

impl Scenario {
    /// A random scenario of a family, with faults of these kinds.
    ///
    /// # Errors
    /// As `Family::mesh`.
    pub fn random(seed: u64, family: Family, kinds: &[FaultKind]) -> Result<Self> {
        let mut draw = Draw::new(seed);
        let mesh = family.mesh(&mut draw)?;
        let duration_s = if matches!(family, Family::Large(_)) { 45 } else { LENGTH_S };
        Ok(Self::of(seed, mesh, duration_s, kinds, draw))
    }

    /// A random scenario of a random deployment of an application.
    #[must_use]
    pub fn of_topology(seed: u64, topology: &Topology, kinds: &[FaultKind]) -> Self {
        let mut draw = Draw::new(seed);
        let plan = Plan::random(draw.log_uniform(60.0, 500.0), &mut draw);
        let mesh = deploy(topology, &plan, &mut draw);
        Self::of(seed, mesh, LENGTH_S, kinds, draw)
    }

    fn of(seed: u64, mut mesh: Mesh, duration_s: u64, kinds: &[FaultKind], mut draw: Draw) -> Self {
        churn(&mut mesh, duration_s as f64, &mut draw);
        let faults = faults::random(&mesh, duration_s as f64, kinds, &mut draw);
        let view = View::random(&mesh, most_links(&mesh), &mut draw);
        let policies = match draw.uniform(0.0, 1.0) {
            u if u < 0.65 => Policies::Mixed,
            u if u < 0.8 => Policies::Same(Policy::LeastCost),
            u if u < 0.9 => Policies::Same(Policy::PeakEwma),
            _ => Policies::Same(Policy::LeastRequest),
        };
        Self {
            seed,
            faults,
            load: load(duration_s as f64, &mut draw),
            view,
            policies,
            ejects_after_s: if draw.chance(0.5) { Some(draw.whole(1, 10) as u64) } else { None },
            warm_up_s: WARM_UP_S,
            duration_s,
            between_s: (4, 8),
            forks: 0,
            fork_every: 1,
            mesh,
        }
    }

    /// A training run's scenario.
    ///
    /// # Errors
    /// Never: all its applications can be made.
    pub fn training(seed: u64) -> Result<Self> {
        Self::random(seed, Family::training(seed), &trained_faults())
    }

    /// The same where nothing changes: no faults, no replica that comes or goes, and the load that it had at half time.
    #[must_use]
    pub fn calm(mut self) -> Self {
        self.faults.clear();
        self.mesh.instances.iter_mut().for_each(|i| i.alive_s = None);
        self.load = Load::Constant(self.load.factor(0.5 * self.duration_s as f64));
        self
    }

    /// The same, with the next window of each third sample played this many more times.
    #[must_use]
    pub fn with_forks(self, forks: usize) -> Self {
        Self { forks, fork_every: 3, ..self }
    }
}

/// In some runs a replica joins or leaves.
fn churn(mesh: &mut Mesh, duration_s: f64, draw: &mut Draw) {
    if !draw.chance(0.15) {
        return;
    }
    let many: Vec<usize> = (0..mesh.services.len()).filter(|s| mesh.services[*s].replicas.len() > 2).collect();
    for service in draw.some(&many, 2) {
        let Some(instance) = draw.one(&mesh.services[service].replicas) else { continue };
        let at = draw.uniform(0.2, 0.9) * duration_s;
        mesh.instances[instance].alive_s = Some(if draw.chance(0.6) { (at, f64::INFINITY) } else { (0.0, at) });
    }
}

/// A load between 0.1 and 1.9, mostly from 0.3 to 1.1.
fn load(duration_s: f64, draw: &mut Draw) -> Load {
    let level = |draw: &mut Draw| match draw.uniform(0.0, 1.0) {
        u if u < 0.1 => draw.uniform(0.1, 0.3),
        u if u < 0.92 => draw.uniform(0.3, 1.1),
        _ => draw.uniform(1.1, 1.9),
    };
    match draw.uniform(0.0, 1.0) {
        u if u < 0.4 => Load::Constant(level(draw)),
        u if u < 0.7 => {
            let mut steps = vec![(0.0, level(draw))];
            for _ in 0..draw.whole(1, 3) {
                steps.push((draw.uniform(0.1, 1.0) * duration_s, level(draw)));
            }
            steps.sort_by(|a, b| a.0.total_cmp(&b.0));
            Load::Steps(steps)
        }
        u if u < 0.92 => {
            let mean = draw.uniform(0.3, 0.9);
            let period_s = draw.log_uniform(40.0, 600.0);
            let amplitude = draw.uniform(0.2, 0.7) * mean;
            Load::Diurnal { mean, amplitude, period_s, phase_s: draw.uniform(0.0, period_s) }
        }
        _ => {
            let times = draw.uniform(5.0, 10.0);
            let every_s = draw.log_uniform(15.0, 60.0);
            Load::Bursts {
                base: draw.uniform(0.1, 1.9 / times),
                times,
                every_s,
                length_s: draw.log_uniform(0.5, 0.25 * every_s),
                first_s: draw.uniform(0.0, every_s),
            }
        }
    }
}
