//! What goes wrong in a run, when, and what of it holds at a moment.

use super::draw::Draw;
use super::mesh::Mesh;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An instance's work takes this many times as long, and nothing else shows it (gray failure).
    Slow {
        /// The instance's index.
        instance: usize,
        /// How many times longer its work takes.
        factor: f64,
    },
    /// All of a service's replicas in one zone are slower.
    SlowZone {
        /// The service's index.
        service: usize,
        /// The zone's index.
        zone: usize,
        /// How many times longer its work takes.
        factor: f64,
    },
    /// A link takes this many seconds more.
    SlowLink {
        /// The index of the pair of instances.
        pair: usize,
        /// What each way takes longer, in seconds.
        seconds: f64,
    },
    /// All links between two zones take this many seconds more.
    SlowZonePair {
        /// The calling zone's index.
        from: usize,
        /// The called zone's index.
        to: usize,
        /// What each way takes longer, in seconds.
        seconds: f64,
    },
    /// An instance fails this share of requests at once.
    FailsFast {
        /// The instance's index.
        instance: usize,
        /// The share of its requests that fail.
        share: f64,
    },
    /// An instance does not answer.
    Crash {
        /// The instance's index.
        instance: usize,
    },
}

/// A trouble and when it holds, in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// The first tick.
    pub from: u64,
    /// The first tick after it.
    pub until: u64,
}

/// Random troubles for a run of this many ticks.
pub fn random(mesh: &Mesh, ticks: u64, draw: &mut Draw) -> Vec<Fault> {
    let count = draw.one(&[0, 1, 1, 2, 2, 3, 4]).unwrap_or(1);
    let servers: Vec<usize> = mesh.services.iter().skip(1).flat_map(|s| s.replicas.iter().copied()).collect();
    let zones = mesh.rtt_s.len();
    (0..count)
        .filter_map(|_| {
            let instance = draw.one(&servers)?;
            let factor = draw.log_uniform(2.0, 20.0);
            let kind = match draw.whole(0, 11) {
                0..=4 => Kind::Slow { instance, factor },
                5 | 6 => {
                    let of = mesh.instances.get(instance)?;
                    Kind::SlowZone { service: of.service, zone: of.zone, factor: factor.min(6.0) }
                }
                7 | 8 => {
                    let pair = draw.whole(0, mesh.pairs.len().checked_sub(1)?);
                    Kind::SlowLink { pair, seconds: draw.log_uniform(0.002, 0.2) }
                }
                9 => Kind::SlowZonePair {
                    from: draw.whole(0, zones - 1),
                    to: draw.whole(0, zones - 1),
                    seconds: draw.log_uniform(0.002, 0.1),
                },
                10 => Kind::FailsFast { instance, share: draw.uniform(0.2, 1.0) },
                _ => Kind::Crash { instance },
            };
            let from = draw.whole(0, ticks as usize) as u64;
            Some(Fault { kind, from, until: from + draw.whole(8, 40) as u64 })
        })
        .collect()
}

/// What holds at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Active {
    /// For each instance, how many times as long its work takes.
    pub slow: Vec<f64>,
    /// For each pair, seconds more.
    pub extra_s: Vec<f64>,
    /// For each instance, the share of requests that it fails at once.
    pub fails: Vec<f64>,
    /// For each instance, whether it does not answer.
    pub crashed: Vec<bool>,
}

impl Active {
    /// What holds at a tick.
    #[must_use]
    pub fn at(mesh: &Mesh, faults: &[Fault], tick: u64) -> Self {
        let n = mesh.instances.len();
        let mut active = Self {
            slow: vec![1.0; n],
            extra_s: vec![0.0; mesh.pairs.len()],
            fails: vec![0.0; n],
            crashed: vec![false; n],
        };
        for fault in faults.iter().filter(|f| (f.from..f.until).contains(&tick)) {
            match fault.kind {
                Kind::Slow { instance, factor } => active.slow[instance] *= factor,
                Kind::SlowZone { service, zone, factor } => {
                    let hit = mesh.instances.iter().zip(active.slow.iter_mut());
                    hit.filter(|(i, _)| i.service == service && i.zone == zone).for_each(|(_, slow)| *slow *= factor);
                }
                Kind::SlowLink { pair, seconds } => active.extra_s[pair] += seconds,
                Kind::SlowZonePair { from, to, seconds } => {
                    for (pair, extra) in mesh.pairs.iter().zip(active.extra_s.iter_mut()) {
                        if mesh.instances[pair.source].zone == from && mesh.instances[pair.destination].zone == to {
                            *extra += seconds;
                        }
                    }
                }
                Kind::FailsFast { instance, share } => active.fails[instance] = share,
                Kind::Crash { instance } => active.crashed[instance] = true,
            }
        }
        active
    }
}
