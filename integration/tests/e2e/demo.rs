//! `pathloom demo` leaves nothing behind, however it ends.

use crate::BINARY;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pathloom_integration::process::Process;
use pathloom_integration::wait;
use std::process::Command;

/// The processes that this one started and that still run.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let of = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, then the parent.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(&parent.to_string())
    };
    all.filter(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_killed_takes_its_sidecars_along() {
    let mut command = Command::new(BINARY);
    command.args(["demo", "--headless", "--for", "10m"]);
    let mut demo = Process::start(command);
    let mut sidecars = Vec::new();
    wait::until("its sidecars", || {
        sidecars = children(demo.id());
        sidecars.len() >= 2
    })
    .await;
    let runs = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("pathloom-demo-")
    };
    wait::until("them to be sidecars", || sidecars.iter().all(runs)).await;
    demo.signal(Signal::SIGKILL);
    let _ = demo.end(wait::LIMIT).await;
    let begun = std::time::Instant::now();
    while sidecars.iter().any(runs) && begun.elapsed() < wait::LIMIT {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // One that is left after all is left to nobody else.
    let left: Vec<&u32> = sidecars.iter().filter(|pid| runs(pid)).collect();
    left.iter().for_each(|pid| {
        let _ = kill(Pid::from_raw(**pid as i32), Signal::SIGKILL);
    });
    assert!(left.is_empty(), "{left:?} outlived the demo");
}
