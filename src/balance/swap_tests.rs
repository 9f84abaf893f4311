//! Invariant 1: a request sees endpoints, weights and health of one generation, whatever is published meanwhile.

use super::*;
use crate::config::{Compare, Policy};
use crate::links::{LinkKey, Links, NodeKey, Time};
use crate::observe::Traffic;
use crate::route::{ClusterId, RouteTable, WorkloadId};
use rand::{SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

const READERS: usize = 16;
const SWAPS: u64 = 1_000_000;

struct Kit {
    links: Links,
    traffic: Arc<Traffic>,
    routes: Arc<RouteTable>,
    endpoints: [Arc<Endpoint>; 2],
}

impl Kit {
    fn new() -> Self {
        let endpoint = |i: u8| {
            let address = ([10, 0, 0, i], 80).into();
            let (id, key) = (EndpointId(u64::from(i)), NodeKey::new(&format!("10.0.0.{i}:80")));
            Arc::new(Endpoint {
                id,
                key,
                address,
                zone: "".into(),
                host: "".into(),
                weight: 1,
                metadata: Default::default(),
                tls: None,
            })
        };
        Self {
            links: Links::new(1),
            traffic: Arc::new(Traffic::new(1)),
            routes: Arc::default(),
            endpoints: [endpoint(1), endpoint(2)],
        }
    }

    /// Everything in generation `id` says `id`: its expiry, its clusters' number and its candidates' priors; the
    /// endpoint that is healthy is the one whose turn it is.
    fn generation(&self, id: u64) -> Generation {
        let source = NodeKey::new("w");
        let healthy = (id % 2) as usize;
        let candidates = self.endpoints.iter().enumerate().map(|(i, endpoint)| Candidate {
            endpoint: endpoint.clone(),
            link: self.links.link(&LinkKey::new(&source, &endpoint.key), Time(0)),
            node: self.links.node(&endpoint.key, Time(0)),
            weight: f32::from(u8::from(i == healthy)),
            prior_s: id as f32,
            measured_at: None,
            success: 1.0,
            bias: 1.0,
            health: if i == healthy { Health::Healthy } else { Health::Ejected },
            score: None,
            predicted: None,
            reason: Default::default(),
        });
        let options = TableOptions { policy: Policy::Model, compare: Compare::Auto, tau_s: 3.0, explore: 0.0 };
        let table = Arc::new(Table::new(candidates.collect(), false, options, self.traffic.clone()));
        let cluster = Arc::new(Cluster::of("c", Box::new([table])));
        Generation {
            id,
            made_at: Time(id),
            made_at_wall: SystemTime::UNIX_EPOCH,
            expires_at: Time(u64::MAX - id),
            cause: Cause::Interval,
            rung: Rung::Model,
            rung_reason: String::new(),
            model: None,
            routes: self.routes.clone(),
            admission: Arc::default(),
            clusters: vec![cluster; 1 + healthy].into(),
        }
    }
}

fn check(generation: &Generation, rng: &mut SmallRng) {
    let id = generation.id;
    assert_eq!((generation.made_at, generation.expires_at), (Time(id), Time(u64::MAX - id)));
    assert_eq!(generation.clusters.len(), 1 + (id % 2) as usize);
    let table = generation.table(ClusterId(0), WorkloadId(0)).unwrap();
    let choice = table.pick(Time(0), false, rng, &[]).unwrap();
    let candidate = &table.candidates()[choice.index];
    assert_eq!(candidate.endpoint.id, EndpointId(1 + id % 2), "the healthy one of its generation");
    assert_eq!((candidate.prior_s, choice.estimate_s), (id as f32, id as f32));
}

#[test]
fn sixteen_readers_never_see_a_torn_generation_in_a_million_swaps() {
    let kit = Kit::new();
    let published = Published::default();
    // Some hundred generations, published again and again: making a million would test the allocator.
    let generations: Vec<Arc<Generation>> = (1..=512).map(|id| Arc::new(kit.generation(id))).collect();
    published.publish_shared(generations[0].clone());
    let done = AtomicBool::new(false);
    let reads: u64 = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|seed| {
                let (published, done) = (published.clone(), &done);
                scope.spawn(move || {
                    let (mut reader, mut rng) = (published.reader(), SmallRng::seed_from_u64(seed as u64));
                    let mut reads = 0u64;
                    while !done.load(Relaxed) || reads == 0 {
                        check(reader.load(), &mut rng);
                        if reads.is_multiple_of(64) {
                            check(&published.load(), &mut rng);
                        }
                        reads += 1;
                        // Two cores for seventeen threads: let the writer write.
                        std::thread::yield_now();
                    }
                    reads
                })
            })
            .collect();
        for swap in 0..SWAPS {
            published.publish_shared(generations[(swap % 512) as usize].clone());
        }
        done.store(true, Relaxed);
        readers.into_iter().map(|r| r.join().unwrap()).sum()
    });
    assert!(reads > READERS as u64, "{reads}");
}
