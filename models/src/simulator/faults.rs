//! What goes wrong in a run, when, and what of it holds at a moment.
//!
//! Where the sizes come from: Nezha's exclusive times (`self_time_distributions.csv`, IntelligentDDS/Nezha, MIT) under
//! `cpu_contention` leave the median almost as it was (x 0.9 to 1.3, in 11 of 13 operations) while the mean grows 9 to
//! 70 times and the upper percentiles lie at whole multiples of 100 ms (cart: p90 200.0, p99 300.3 ms): a container
//! that has used its quota stands still until the next period. So contention is played as pauses of a few hundred
//! milliseconds, not as a factor. A gray instance is played as a factor of 2 to 20 on its work.

use super::mesh::Mesh;
use crate::simulator::draw::Draw;

/// How many times as long work takes just after a start, and how fast that fades, in seconds.
pub const COLD_FACTOR: f64 = 4.0;
/// See `COLD_FACTOR`.
pub const COLD_FADE_S: f64 = 5.0;
/// A start longer ago than this many fades is over.
const COLD_ENDS: f64 = 6.0;

/// A kind of fault by name: what splits by fault type go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// An instance's work takes several times as long.
    Gray,
    /// All replicas of a service in one zone are slower.
    GrayZone,
    /// A host loses cores to somebody outside the mesh.
    NoisyNeighbour,
    /// Links take longer.
    LinkLatency,
    /// Links scatter.
    LinkJitter,
    /// Links lose packets.
    LinkLoss,
    /// An instance fails requests at once.
    FastFailure,
    /// An instance does not answer, and returns cold.
    Crash,
    /// An instance stands still now and then, as for garbage collection.
    Pauses,
    /// An instance stands still often, as a container beyond its quota.
    CpuContention,
    /// An instance has started anew and is slow at first.
    ColdStart,
    /// A service deep in the mesh is slower.
    SlowDependency,
    /// Telemetry from a host is not heard: nothing that the engine plays.
    Silent,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 13] = [
        FaultKind::Gray,
        FaultKind::GrayZone,
        FaultKind::NoisyNeighbour,
        FaultKind::LinkLatency,
        FaultKind::LinkJitter,
        FaultKind::LinkLoss,
        FaultKind::FastFailure,
        FaultKind::Crash,
        FaultKind::Pauses,
        FaultKind::CpuContention,
        FaultKind::ColdStart,
        FaultKind::SlowDependency,
        FaultKind::Silent,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Gray => "gray",
            FaultKind::GrayZone => "gray_zone",
            FaultKind::NoisyNeighbour => "noisy_neighbour",
            FaultKind::LinkLatency => "link_latency",
            FaultKind::LinkJitter => "link_jitter",
            FaultKind::LinkLoss => "link_loss",
            FaultKind::FastFailure => "fast_failure",
            FaultKind::Crash => "crash",
            FaultKind::Pauses => "pauses",
            FaultKind::CpuContention => "cpu_contention",
            FaultKind::ColdStart => "cold_start",
            FaultKind::SlowDependency => "slow_dependency",
            FaultKind::Silent => "silent",
        }
    }
}

/// Which links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// One pair: an index of `Mesh::pairs`.
    Pair(usize),
    /// From one zone to another.
    Zones {
        /// The calling zone.
        from: usize,
        /// The called zone.
        to: usize,
    },
    /// All that leave or reach a host.
    Host(usize),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An instance's work takes this many times as long, and nothing else shows it.
    Gray {
        /// The instance.
        instance: usize,
        /// How many times as long.
        factor: f64,
    },
    /// All of a service's replicas in one zone are slower.
    GrayZone {
        /// The service.
        service: usize,
        /// The zone.
        zone: usize,
        /// How many times as long their work takes.
        factor: f64,
    },
    /// A host loses a share of its cores.
    NoisyNeighbour {
        /// The host.
        host: usize,
        /// The share lost, 0 to 1.
        share: f64,
    },
    /// Links are worse.
    Link {
        /// Which.
        span: Span,
        /// What they have more of it.
        extra: Extra,
    },
    /// An instance fails this share of its requests at once.
    FailsFast {
        /// The instance.
        instance: usize,
        /// The share, 0 to 1.
        share: f64,
    },
    /// An instance is gone: half of the calls are refused at once, half time out. It returns cold.
    Crash {
        /// The instance.
        instance: usize,
    },
    /// An instance stands still now and then.
    Pauses {
        /// The instance.
        instance: usize,
        /// When and how long.
        pause: Pause,
    },
    /// An instance is beyond its quota of processor time.
    Contention {
        /// The instance.
        instance: usize,
        /// When and how long it stands still.
        pause: Pause,
    },
    /// An instance started when this fault begins.
    ColdStart {
        /// The instance.
        instance: usize,
        /// How many times as long its work takes at first.
        factor: f64,
    },
    /// All replicas of a service are slower.
    SlowDependency {
        /// The service.
        service: usize,
        /// How many times as long their work takes.
        factor: f64,
    },
    /// What a host's proxies see reaches nobody else. The engine ignores it.
    Silent {
        /// The host.
        host: usize,
    },
}

impl Kind {
    /// Its kind by name.
    #[must_use]
    pub fn name(&self) -> FaultKind {
        match self {
            Kind::Gray { .. } => FaultKind::Gray,
            Kind::GrayZone { .. } => FaultKind::GrayZone,
            Kind::NoisyNeighbour { .. } => FaultKind::NoisyNeighbour,
            Kind::Link { extra, .. } if extra.loss > 0.0 => FaultKind::LinkLoss,
            Kind::Link { extra, .. } if extra.jitter_s > extra.delay_s => FaultKind::LinkJitter,
            Kind::Link { .. } => FaultKind::LinkLatency,
            Kind::FailsFast { .. } => FaultKind::FastFailure,
            Kind::Crash { .. } => FaultKind::Crash,
            Kind::Pauses { .. } => FaultKind::Pauses,
            Kind::Contention { .. } => FaultKind::CpuContention,
            Kind::ColdStart { .. } => FaultKind::ColdStart,
            Kind::SlowDependency { .. } => FaultKind::SlowDependency,
            Kind::Silent { .. } => FaultKind::Silent,
        }
    }
}

/// What a faulty link has more than a sound one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extra {
    /// Seconds more a round trip, always.
    pub delay_s: f64,
    /// Seconds more a round trip on average, exponential each way.
    pub jitter_s: f64,
    /// Losses more a way, 0 to 1.
    pub loss: f64,
}

/// How an instance stands still.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pause {
    /// From one pause's begin to the next's, in seconds, on average.
    pub period_s: f64,
    /// How long a pause lasts, in seconds, on average.
    pub length_s: f64,
}

/// A fault and when it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// From this second on.
    pub from_s: f64,
    /// Until before this second.
    pub until_s: f64,
}

impl Fault {
    /// Whether it holds at a moment.
    #[must_use]
    pub fn holds(&self, time_s: f64) -> bool {
        (self.from_s..self.until_s).contains(&time_s)
    }
}

/// What holds at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Active {
    /// For each instance, how many times as long its work takes as at speed 1: its own slowness, faults, cold start.
    pub slow: Vec<f64>,
    /// For each instance, the part of `slow` that comes from faults and cold starts; 1 without.
    pub fault_slow: Vec<f64>,
    /// For each host, the share of its cores that the mesh has, 0 to 1.
    pub cores: Vec<f64>,
    /// For each pair, what its link has more.
    pub extra: Vec<Extra>,
    /// For each instance, the share of requests that it fails at once.
    pub fails: Vec<f64>,
    /// For each instance, whether it does not answer.
    pub crashed: Vec<bool>,
    /// For each instance, whether it has joined and not left.
    pub alive: Vec<bool>,
    /// For each instance, how it stands still now and then, if it does.
    pub pause: Vec<Option<Pause>>,
    /// For each host, whether its telemetry is not heard.
    pub silent: Vec<bool>,
    /// Whether an instance is still cold, so that `slow` changes with time.
    pub cold: bool,
}

impl Active {
    /// What holds at a moment.
    #[must_use]
    pub fn at(mesh: &Mesh, faults: &[Fault], time_s: f64) -> Self {
        let (instances, hosts) = (mesh.instances.len(), mesh.hosts.len());
        let alive = |i: &super::mesh::Instance| i.alive_s.is_none_or(|(from, until)| (from..until).contains(&time_s));
        let mut active = Self {
            slow: Vec::new(),
            fault_slow: vec![1.0; instances],
            cores: vec![1.0; hosts],
            extra: vec![Extra::default(); mesh.pairs.len()],
            fails: vec![0.0; instances],
            crashed: vec![false; instances],
            alive: mesh.instances.iter().map(alive).collect(),
            pause: vec![None; instances],
            silent: vec![false; hosts],
            cold: false,
        };
        for fault in faults.iter().filter(|f| f.from_s <= time_s) {
            active.add(mesh, fault, time_s);
        }
        for (i, instance) in mesh.instances.iter().enumerate() {
            if let Some((from, _)) = instance.alive_s.filter(|(from, _)| *from > 0.0 && *from <= time_s) {
                active.started(i, COLD_FACTOR, time_s - from);
            }
        }
        active.slow = mesh.instances.iter().zip(&active.fault_slow).map(|(i, slow)| i.slowness * slow).collect();
        active
    }

    /// An instance started a while ago.
    fn started(&mut self, instance: usize, factor: f64, ago_s: f64) {
        if ago_s < COLD_ENDS * COLD_FADE_S {
            self.fault_slow[instance] *= 1.0 + (factor - 1.0) * (-ago_s / COLD_FADE_S).exp();
            self.cold = true;
        }
    }

    fn add(&mut self, mesh: &Mesh, fault: &Fault, time_s: f64) {
        let holds = fault.holds(time_s);
        match fault.kind {
            // These reach beyond their end: what returns is cold.
            Kind::Crash { instance } if holds => self.crashed[instance] = true,
            Kind::Crash { instance } => self.started(instance, COLD_FACTOR, time_s - fault.until_s),
            Kind::ColdStart { instance, factor } => self.started(instance, factor, time_s - fault.from_s),
            _ if !holds => {}
            Kind::Gray { instance, factor } => self.fault_slow[instance] *= factor,
            Kind::GrayZone { service, zone, factor } => {
                for i in &mesh.services[service].replicas {
                    if mesh.hosts[mesh.instances[*i].host].zone == zone {
                        self.fault_slow[*i] *= factor;
                    }
                }
            }
            Kind::SlowDependency { service, factor } => {
                mesh.services[service].replicas.iter().for_each(|i| self.fault_slow[*i] *= factor);
            }
            Kind::NoisyNeighbour { host, share } => self.cores[host] *= 1.0 - share,
            Kind::Link { span, extra } => self.worsen(mesh, span, extra),
            Kind::FailsFast { instance, share } => self.fails[instance] = self.fails[instance].max(share),
            Kind::Pauses { instance, pause } | Kind::Contention { instance, pause } => {
                self.pause[instance] = Some(pause);
            }
            Kind::Silent { host } => self.silent[host] = true,
        }
    }

    fn worsen(&mut self, mesh: &Mesh, span: Span, extra: Extra) {
        let host = |i: usize| mesh.instances[i].host;
        let zone = |i: usize| mesh.hosts[host(i)].zone;
        for (pair, of) in mesh.pairs.iter().enumerate() {
            let hit = match span {
                Span::Pair(one) => one == pair,
                Span::Zones { from, to } => zone(of.source) == from && zone(of.destination) == to,
                Span::Host(h) => (host(of.source) == h) != (host(of.destination) == h),
            };
            if hit {
                let link = &mut self.extra[pair];
                link.delay_s += extra.delay_s;
                link.jitter_s += extra.jitter_s;
                link.loss = 1.0 - (1.0 - link.loss) * (1.0 - extra.loss);
            }
        }
    }
}

/// Random faults of these kinds for a run of this length: none to four a minute, of 8 to 40 seconds each.
pub fn random(mesh: &Mesh, duration_s: f64, kinds: &[FaultKind], draw: &mut Draw) -> Vec<Fault> {
    let minutes = (duration_s / 60.0).ceil().max(1.0) as usize;
    let count: usize = (0..minutes).map(|_| draw.one(&[0, 1, 1, 2, 2, 3, 4]).unwrap_or(1)).sum();
    let called = called_services(mesh);
    (0..count)
        .filter_map(|_| {
            let kind = one(mesh, draw.one(kinds)?, &called, draw)?;
            let from_s = draw.uniform(0.0, duration_s);
            Some(Fault { kind, from_s, until_s: from_s + draw.uniform(8.0, 40.0) })
        })
        .collect()
}

/// For each called service how many calls away from an entry it is at least, by service; services that are only entries are not there.
fn called_services(mesh: &Mesh) -> Vec<(usize, usize)> {
    let mut depth = vec![usize::MAX; mesh.services.len()];
    let mut next: std::collections::VecDeque<usize> = mesh.entries.iter().map(|e| e.service).collect();
    next.iter().for_each(|s| depth[*s] = 0);
    while let Some(service) = next.pop_front() {
        for called in &mesh.services[service].called {
            if depth[*called] == usize::MAX {
                depth[*called] = depth[service] + 1;
                next.push_back(*called);
            }
        }
    }
    let known = |(s, d): (usize, usize)| (d > 0 && d != usize::MAX).then_some((s, d));
    depth.into_iter().enumerate().filter_map(known).collect()
}

/// One fault of a kind; none where the mesh has nothing that it could befall.
fn one(mesh: &Mesh, kind: FaultKind, called: &[(usize, usize)], draw: &mut Draw) -> Option<Kind> {
    let (service, _) = draw.one(called)?;
    let instance = draw.one(&mesh.services[service].replicas)?;
    let host = mesh.instances[instance].host;
    Some(match kind {
        FaultKind::Gray => Kind::Gray { instance, factor: draw.log_uniform(2.0, 20.0) },
        FaultKind::GrayZone => {
            Kind::GrayZone { service, zone: mesh.hosts[host].zone, factor: draw.log_uniform(2.0, 6.0) }
        }
        FaultKind::NoisyNeighbour => Kind::NoisyNeighbour { host, share: draw.uniform(0.5, 0.95) },
        FaultKind::LinkLatency => {
            let extra = Extra { delay_s: draw.log_uniform(0.002, 0.2), ..Extra::default() };
            Kind::Link { span: span(mesh, instance, draw)?, extra }
        }
        FaultKind::LinkJitter => {
            let jitter_s = draw.log_uniform(0.002, 0.1);
            let extra = Extra { delay_s: jitter_s * draw.uniform(0.0, 0.5), jitter_s, loss: 0.0 };
            Kind::Link { span: span(mesh, instance, draw)?, extra }
        }
        FaultKind::LinkLoss => {
            let extra = Extra { loss: draw.log_uniform(0.005, 0.2), ..Extra::default() };
            Kind::Link { span: span(mesh, instance, draw)?, extra }
        }
        FaultKind::FastFailure => Kind::FailsFast { instance, share: draw.uniform(0.2, 1.0) },
        FaultKind::Crash => Kind::Crash { instance },
        FaultKind::Pauses => {
            let length_s = draw.log_uniform(0.02, 0.5);
            Kind::Pauses { instance, pause: Pause { period_s: length_s * draw.log_uniform(3.0, 30.0), length_s } }
        }
        FaultKind::CpuContention => {
            let length_s = 0.1 * draw.uniform(1.0, 4.0);
            Kind::Contention { instance, pause: Pause { period_s: length_s * draw.uniform(2.5, 10.0), length_s } }
        }
        FaultKind::ColdStart => Kind::ColdStart { instance, factor: draw.log_uniform(2.0, 10.0) },
        FaultKind::SlowDependency => {
            let deep: Vec<usize> = called.iter().filter(|(_, depth)| *depth > 1).map(|(s, _)| *s).collect();
            Kind::SlowDependency { service: draw.one(&deep).unwrap_or(service), factor: draw.log_uniform(2.0, 10.0) }
        }
        FaultKind::Silent => Kind::Silent { host: draw.whole(0, mesh.hosts.len().checked_sub(1)?) },
    })
}

/// Links around an instance: one of its pairs, its host's, or those between two zones.
fn span(mesh: &Mesh, instance: usize, draw: &mut Draw) -> Option<Span> {
    let zone = |i: usize| mesh.hosts[mesh.instances[i].host].zone;
    let pairs: Vec<usize> = (0..mesh.pairs.len()).filter(|p| mesh.pairs[*p].destination == instance).collect();
    let pair = draw.one(&pairs)?;
    Some(match draw.whole(0, 4) {
        0 | 1 => Span::Pair(pair),
        2 | 3 => Span::Host(mesh.instances[instance].host),
        _ => Span::Zones { from: zone(mesh.pairs[pair].source), to: zone(instance) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_have_names_of_their_own() {
        let names: std::collections::BTreeSet<&str> = FaultKind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), FaultKind::ALL.len());
        for kind in FaultKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name(), "reports and splits say the same");
        }
    }
}
