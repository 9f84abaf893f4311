use super::*;
use crate::data::Candidate;
use pathloom::graph::Features;

/// One caller (node 0) of replicas 1..; each row: the link's mean and samples; a second caller (the last node) likewise.
struct Mesh {
    features: Features,
    candidates: Vec<Candidate>,
}

const UNKNOWN: (f32, f32) = (f32::NAN, 0.0);

fn mesh(own: &[(f32, f32)], other: &[(f32, f32)]) -> Mesh {
    let replicas = own.len();
    let mut features =
        Features { nodes: vec![f32::NAN; (replicas + 2) * FN], path_offsets: vec![0], ..Features::default() };
    let (mut called, mut caller) = (Vec::new(), Vec::new());
    for (from, rows) in [(0, own), (replicas + 1, other)] {
        for (i, (mean, samples)) in rows.iter().enumerate() {
            called.push(i as i64 + 1);
            caller.push(from as i64);
            let mut row = [f32::NAN; FE];
            row[column::MEAN] = *mean;
            row[column::SAMPLES] = *samples;
            row[column::SAME_ZONE] = 1.0;
            features.edge_features.extend(row);
        }
    }
    called.extend(caller);
    features.edges = called;
    for i in 0..replicas as i64 {
        features.path_links.push(i);
        features.path_offsets.push(i + 1);
    }
    Mesh { features, candidates: vec![Candidate::unknown(1); replicas] }
}

impl Mesh {
    fn sample(&self) -> Sample {
        Sample {
            run: 1,
            tick: 1,
            features: self.features.clone(),
            candidates: self.candidates.clone(),
            node_load: vec![],
        }
    }
    fn node(&mut self, node: usize, column: usize, value: f32) {
        self.features.nodes[node * FN + column] = value;
    }
    fn shrunk(&self) -> Vec<f32> {
        shrinkage::shrunk(&self.features, &vec![1; self.candidates.len()])
    }
}

fn said(name: &str, sample: &Sample) -> Vec<Prediction> {
    let mut rival = SIMPLE.into_iter().find(|s| s.name == name).unwrap();
    rival.predict(std::slice::from_ref(sample)).unwrap().remove(0).candidates
}

fn close(found: f32, wanted: f32) {
    assert!((found - wanted).abs() <= 1e-2 * wanted, "{found} instead of {wanted}");
}

#[test]
fn persistence_falls_back_from_window_to_node_to_group() {
    let mut mesh = mesh(&[UNKNOWN; 3], &[]);
    mesh.candidates[0].past.mean_s[0] = 0.010;
    mesh.node(2, column::NODE_MEAN, 0.030);
    let found = said("persistence", &mesh.sample());
    close(found[0].mean_s, 0.010);
    close(found[1].mean_s, 0.030);
    close(found[2].mean_s, 0.020);
    assert_eq!(found[1].cost, found[1].mean_s);
}

#[test]
fn of_a_mesh_that_nobody_knows_all_rivals_say_something_finite_or_nothing() {
    let sample = mesh(&[UNKNOWN; 3], &[]).sample();
    for rival in SIMPLE {
        let silent = matches!(rival.name, "lowest cpu" | "random");
        for p in said(rival.name, &sample) {
            assert_eq!(p.mean_s.is_nan(), silent, "{}", rival.name);
            assert_eq!(p.jitter_s.is_nan() || p.p99_s.is_nan(), silent, "{}", rival.name);
        }
    }
}

#[test]
fn windows_that_nobody_saw_count_in_no_mean_and_the_newest_counts_most_in_the_ewma() {
    let mut mesh = mesh(&[UNKNOWN], &[]);
    mesh.candidates[0].past.mean_s = [0.010, f32::NAN, 0.040, f32::NAN, f32::NAN];
    close(said("mean of five", &mesh.sample())[0].mean_s, 0.025);
    close(said("ewma of windows", &mesh.sample())[0].mean_s, 0.025);
    mesh.candidates[0].past.mean_s[1] = 0.040;
    close(said("ewma of windows", &mesh.sample())[0].mean_s, 0.025);
    close(said("mean of five", &mesh.sample())[0].mean_s, 0.030);
}

#[test]
fn ospf_chooses_by_communication_alone_and_predicts_the_groups_rest_beside_it() {
    let mut mesh = mesh(&[UNKNOWN; 2], &[]);
    for (candidate, (communication, mean)) in mesh.candidates.iter_mut().zip([(0.001, 0.101), (0.002, 0.012)]) {
        candidate.past.communication_s = communication;
        candidate.past.mean_s[0] = mean;
    }
    let found = said("ospf", &mesh.sample());
    assert!(found[0].cost < found[1].cost);
    close(found[0].mean_s, 0.001 + 0.055);
    close(found[1].mean_s, 0.002 + 0.055);
}

#[test]
fn lowest_cpu_chooses_by_utilisation_and_predicts_no_latency() {
    let mut mesh = mesh(&[UNKNOWN; 2], &[]);
    mesh.node(1, column::CPU, 0.9);
    mesh.node(2, column::CPU, 0.2);
    let found = said("lowest cpu", &mesh.sample());
    assert!(found[1].cost < found[0].cost && found[0].mean_s.is_nan());
}

#[test]
fn with_many_samples_shrinkage_says_the_links_own_mean() {
    let found = mesh(&[(0.010, 1e6), (0.030, 1e6), (0.011, 1e6)], &[(0.012, 1e6), (0.028, 1e6), (0.010, 1e6)]).shrunk();
    close(found[0], 0.010);
    close(found[1], 0.030);
}

#[test]
fn without_samples_shrinkage_says_the_replicas_mean_and_without_any_caller_the_services() {
    let found = mesh(&[UNKNOWN; 3], &[(0.010, 1e6), (0.030, 1e6), UNKNOWN]).shrunk();
    close(found[0], 0.010);
    close(found[1], 0.030);
    close(found[2], 0.020);
}

#[test]
fn few_samples_are_drawn_towards_the_rest() {
    let found =
        mesh(&[(0.100, 1.0), (0.010, 100.0), (0.011, 100.0)], &[(0.010, 100.0), (0.010, 100.0), (0.011, 100.0)])
            .shrunk();
    assert!(found[0] < 0.030, "{}", found[0]);
    close(found[1], 0.0103);
}

#[test]
fn a_service_that_nobody_knows_is_not_guessed() {
    assert!(mesh(&[UNKNOWN; 2], &[]).shrunk().iter().all(|v| v.is_nan()));
}

#[test]
fn another_zone_adds_the_same_to_all_replicas() {
    let mut mesh = mesh(&[(0.011, 1e5), (0.021, 1e5), UNKNOWN], &[(0.010, 1e5), (0.020, 1e5), (0.015, 1e5)]);
    for link in 0..3 {
        mesh.features.edge_features[link * FE + column::SAME_ZONE] = 0.0;
    }
    close(mesh.shrunk()[2], 0.016);
}

#[test]
fn a_choice_by_the_mean_replaces_the_cost() {
    let mut mesh = mesh(&[UNKNOWN; 2], &[]);
    mesh.candidates[0].past.communication_s = 0.001;
    mesh.candidates[0].past.mean_s[0] = 0.050;
    let ospf = SIMPLE.into_iter().find(|s| s.name == "ospf").unwrap();
    let found = ByMean(ospf).predict(&[mesh.sample()]).unwrap().remove(0).candidates;
    assert!(found.iter().all(|p| p.cost == p.mean_s));
}
