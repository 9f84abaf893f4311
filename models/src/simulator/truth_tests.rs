//! The truth against what the engine plays.

use super::bench::{Seen, agrees, fault, random_engine, servers, tiers};
use super::engine::{PICKS_KEEP, SECOND};
use super::faults::{Active, Extra, Fault, Kind, Pause, Span};
use super::mesh::Work;
use super::truth::{Truth, intrinsic};
use crate::simulator::truth::Trouble;
use pathloom::links::Time;

#[test]
fn the_intrinsic_latency_is_what_an_idle_mesh_takes() {
    // A few requests a second: nobody waits, so what is observed is the intrinsic latency, also when links and a replica are in trouble.
    let mesh = tiers(4.0);
    let pause = Pause { period_s: 1.0, length_s: 0.1 };
    let always = |kind| Fault { kind, from_s: 0.0, until_s: f64::INFINITY };
    let troubled = [
        always(Kind::Gray { instance: 6, factor: 6.0 }),
        always(Kind::Link {
            span: Span::Zones { from: 0, to: 1 },
            extra: Extra { delay_s: 0.004, jitter_s: 0.004, loss: 0.01 },
        }),
        always(Kind::Pauses { instance: 1, pause }),
    ];
    for faults in [&troubled[..0], &troubled[..]] {
        let mut seen = Seen::default();
        let mut engine = random_engine(&mesh, faults, 1.0, 9);
        engine.run(Time(6_000 * SECOND), &mut seen);
        let picks = vec![1.0; mesh.pairs.len()];
        let expected = intrinsic(&mesh, engine.active(), &picks);
        for (pair, expected) in expected.iter().enumerate() {
            let of: Vec<f64> = seen.ended.iter().filter(|e| e.0 == pair).map(|e| f64::from(e.2)).collect();
            let ratio = of.iter().sum::<f64>() / of.len() as f64 / expected;
            // The last is the front end's call to the gateway: all stages and their maxima are in it.
            assert!(of.len() > 2_000 && (0.96..1.04).contains(&ratio), "pair {pair}: {ratio} of {expected}");
        }
    }
}

#[test]
fn trouble_is_told_by_where_it_is() {
    let mesh = tiers(4.0);
    let picks = vec![1.0; mesh.pairs.len()];
    let truth = Truth::new(&mesh);
    let told = |kind: Kind| {
        let active = Active::at(&mesh, &[fault(kind, 0.0, 1.0)], 0.5);
        truth.trouble(&active, &picks)
    };
    let gray = told(Kind::Gray { instance: 2, factor: 4.0 });
    assert_eq!((gray[0], gray[1], gray[2]), (Trouble::None, Trouble::Gray, Trouble::None));
    let deep = told(Kind::SlowDependency { service: 3, factor: 8.0 });
    assert_eq!((deep[0], deep[1], deep[3]), (Trouble::Downstream, Trouble::Downstream, Trouble::None));
    let link = told(Kind::Link { span: Span::Pair(4), extra: Extra { delay_s: 0.05, ..Extra::default() } });
    assert_eq!((link[3], link[4]), (Trouble::None, Trouble::Link));
    let gone = Active::at(&mesh, &[fault(Kind::Crash { instance: 1 }, 0.0, 1.0)], 0.5);
    assert!(truth.intrinsic(&gone, &picks)[0].is_nan());
}

#[test]
fn a_noisy_neighbour_slows_work_by_the_cores_it_takes() {
    let mesh = servers(Work::log_normal(0.010, 0.5), 64, 2.0, 1, 5.0);
    let noisy = fault(Kind::NoisyNeighbour { host: 1, share: 0.9 }, 0.0, 1e9);
    let mut engine = random_engine(&mesh, &[noisy], 1.0, 15);
    let mut seen = Seen::default();
    engine.run(Time(2_000 * SECOND), &mut seen);
    // A fifth of a core: processor sharing at a quarter of its capacity takes 0.050 / 0.75.
    agrees("noisy", &seen, 0.050 / 0.75);
    // Five calls a second, as they count over ten.
    let picks = [5.0 * PICKS_KEEP / (1.0 - PICKS_KEEP)];
    let expected = intrinsic(&mesh, engine.active(), &picks)[0];
    assert!((expected / (0.050 / 0.75) - 1.0).abs() < 0.01, "the truth: {expected}");
    let sound = intrinsic(&mesh, &Active::at(&mesh, &[], 0.0), engine.picks())[0];
    assert!((sound - 0.010).abs() < 1e-9, "{sound}");
}
