//! `make demo-mesh` itself: three nodes in network namespaces. All that it promises holds, in up to three times the
//! time: this machine may be busy. It takes five minutes, so only `make test-mesh` runs it; what it shows of sharing alone is in `mesh`.

use crate::BINARY;
use pathloom_integration::process::{run, skip};
use std::process::Command;

/// What it ends with where there are no namespaces.
const NOT_HERE: i32 = 77;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_steer_around_what_others_saw_live_through_a_cut_and_through_dying_sidecars() {
    told(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_do_so_by_nats() {
    told(&["--nats"]).await;
}

async fn told(way: &[&str]) {
    if std::env::var_os("PATHLOOM_DEMO_MESH").is_none() {
        return eprintln!("not run here, it takes five minutes: make test-mesh");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-demo"));
    command.args(["--patient", "--pathloom", BINARY]).args(way);
    let (code, out, errors) = tokio::task::spawn_blocking(|| run(command)).await.unwrap();
    if code == NOT_HERE {
        return skip(&errors);
    }
    assert_eq!(code, 0, "{out}\n{errors}");
    assert!(out.contains("All promises were kept.") && !out.contains("[BROKEN]"), "{out}");
    for chapter in ["1. They meet", "2. storage-b", "3. The same", "4. storage-b", "5. storage-b", "6. storage-b"] {
        assert!(out.contains(chapter), "{chapter}: {out}");
    }
}
