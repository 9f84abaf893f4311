//! Sharing links between nodes.

use super::*;
use crate::config::units::ByteSize;

fn shared(c: &mut Config) {
    c.node.name = "node-a".into();
    c.mesh.listen = Some("0.0.0.0:7946".parse().unwrap());
    c.mesh.key = Some("/m/key".into());
}

#[test]
fn sharing_needs_an_address_a_key_and_a_name() {
    fine(shared);
    fine(|c| c.mesh = Default::default());
    error("mesh.listen: without a key anybody could tell this node anything", |c| {
        shared(c);
        c.mesh.key = None;
    });
    error("mesh.key: without a key", |c| {
        shared(c);
        c.mesh.key = Some("".into());
    });
    warning("mesh!: nothing is shared without `listen` or `nats.servers`", |c| {
        shared(c);
        c.mesh.listen = None;
    });
    warning("node.name: `local` is every node's name", |c| {
        shared(c);
        c.node.name = "local".into();
    });
}

#[test]
fn seeds_are_addresses_or_names_with_a_port() {
    let seeds = |seed: &str| {
        let seed = seed.to_owned();
        move |c: &mut Config| {
            shared(c);
            c.mesh.seeds = vec!["10.0.0.1:7946".into(), seed];
        }
    };
    for seed in ["pathloom.mesh.svc:7946", "[::1]:7946", "10.0.0.2:1"] {
        fine(seeds(seed));
    }
    for seed in ["10.0.0.2", "10.0.0.2:0", ":7946", "a:b", "a b:1", "a:65536", ""] {
        error("mesh.seeds[1]: ", seeds(seed));
    }
    error("mesh.seeds: 65 seeds are more than anybody needs", |c| {
        shared(c);
        c.mesh.seeds = vec!["a:1".into(); 65];
    });
}

#[test]
fn others_must_be_able_to_reach_what_is_advertised() {
    let advertise = |listen: &str, advertise: &str| {
        let (listen, advertise) = (listen.parse().unwrap(), advertise.parse().unwrap());
        move |c: &mut Config| {
            shared(c);
            (c.mesh.listen, c.mesh.advertise) = (Some(listen), Some(advertise));
        }
    };
    fine(advertise("0.0.0.0:7946", "10.0.0.1:7946"));
    fine(advertise("[::]:7946", "10.0.0.1:7946"));
    error("mesh.advertise: nobody can be reached at 0.0.0.0:7946", advertise("0.0.0.0:7946", "0.0.0.0:7946"));
    error("mesh.advertise: nobody can be reached at 10.0.0.1:0", advertise("0.0.0.0:7946", "10.0.0.1:0"));
    error("mesh.advertise: [::1]:1 is of another kind", advertise("127.0.0.1:7946", "[::1]:1"));
}

#[test]
fn hops_are_few_or_none() {
    let hops = |hops: usize| {
        move |c: &mut Config| {
            shared(c);
            c.mesh.hops = hops;
        }
    };
    fine(hops(0));
    fine(hops(64));
    error("mesh.hops: 65 hops", hops(65));
}

#[test]
fn the_budget_has_room_for_something() {
    let budget = |bytes: u64| {
        move |c: &mut Config| {
            shared(c);
            c.mesh.budget = ByteSize(bytes);
        }
    };
    fine(budget(4 << 10));
    fine(budget(1 << 30));
    error("mesh.budget: ", budget((4 << 10) - 1));
    error("mesh.budget: ", budget((1 << 30) + 1));
}
