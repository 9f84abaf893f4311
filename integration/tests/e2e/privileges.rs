//! What a running sidecar may do, as the kernel tells it, and how operators reach it through a file.

use crate::{BINARY, QUICK, catalog, model_steers, pathloom, sidecar};
use pathloom_integration::client::Version;
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::{Setup, Sidecar};
use pathloom_integration::{process, wait};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The bit of `CAP_NET_BIND_SERVICE`.
const BIND_SERVICE: u64 = 1 << 10;

/// A value of `/proc/PID/status`, of each thread.
fn of_each_thread(sidecar: &Sidecar, key: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sidecar.process.id())).unwrap();
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
    let value = |text: String| Some(text.lines().find(|l| l.starts_with(key))?.split_once(':')?.1.trim().to_owned());
    tasks.filter_map(|task| status(task.unwrap())).filter_map(value).collect()
}

async fn assert_least(sidecar: &Sidecar) {
    for set in ["CapPrm", "CapEff"] {
        for held in of_each_thread(sidecar, set) {
            assert_eq!(u64::from_str_radix(&held, 16).unwrap() & !BIND_SERVICE, 0, "{set}: {held}");
        }
    }
    for held in of_each_thread(sidecar, "CapInh").iter().chain(&of_each_thread(sidecar, "CapAmb")) {
        assert_eq!(u64::from_str_radix(held, 16).unwrap(), 0);
    }
    assert!(of_each_thread(sidecar, "NoNewPrivs").iter().all(|set| set == "1"));
    // 2 is a filter.
    assert!(of_each_thread(sidecar, "Seccomp").iter().all(|mode| mode == "2"));
    assert!(of_each_thread(sidecar, "Seccomp").len() > 3, "its threads were looked at");
    sidecar.logged("privileges given up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_thread_may_do_more_than_a_proxy_needs_and_everything_works() {
    for engine in ["auto", "embedded"] {
        let fleet = Fleet::start(2).await;
        let quick = QUICK.replace("embedded", engine);
        let mut sidecar = sidecar(catalog(&fleet.yaml(), "") + &quick).start().await;
        let load = Load::start(Version::Http1, sidecar.address("in"), 2, "/").await;
        model_steers(&sidecar).await;
        // A listener that a reload adds is opened with what is left.
        let more = catalog(&fleet.yaml(), "").replace("workloads: { ", "workloads: { other: { listen: '@other@' }, ");
        sidecar.reload_and_wait(&(more + &quick)).await;
        wait::eventually("the other listener", || async {
            let mut client = Version::Http2.connect(sidecar.address("other")).await.map_err(|e| e.to_string())?;
            client.get("/").await.map_err(|e| e.to_string())
        })
        .await;
        assert_least(&sidecar).await;
        load.stop().await.assert_each_right_and_once(&fleet.journal);
        sidecar.assert_no_panic();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileges_are_kept_where_that_is_asked_for() {
    let fleet = Fleet::start(1).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + "process: { privileges: inherited }\n").start().await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let line =
        |key: &str| own.lines().find(|l| l.starts_with(key)).unwrap().split_once(':').unwrap().1.trim().to_owned();
    for key in ["CapEff", "NoNewPrivs", "Seccomp"] {
        assert!(of_each_thread(&sidecar, key).iter().all(|value| *value == line(key)), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_wants_rights_that_were_given_up_is_refused_with_the_remedy_and_everything_works_on() {
    let fleet = Fleet::start(2).await;
    let yaml = catalog(&fleet.yaml(), "") + QUICK;
    let mut sidecar = sidecar(yaml.clone()).start().await;
    let load = Load::start(Version::Http1, sidecar.address("in"), 2, "/").await;
    let captured = |way: &str| yaml.replace("listen: '@in@'", &format!("listen: '@in@', capture: {way}"));
    let user = "capture: { user: 10001 }\n";
    let wrong = [
        (captured("outbound"), "connections cannot be marked as the proxy's own", "as `capture.user`"),
        // Who is told by its user needs no mark, and still the right to take what was meant for others.
        (captured("tproxy") + user, "`tproxy` takes connections that were meant for others", "capture by `inbound`"),
    ];
    for (n, (wrong, why, remedy)) in (1..).zip(&wrong) {
        sidecar.reload(wrong);
        sidecar.reloaded(1, n).await;
        let said = sidecar.config().await["last_error"]["text"].as_str().unwrap_or_default().to_owned();
        let file = sidecar.file().display().to_string();
        for part in [*why, *remedy, "`workloads.frontend.capture`", "start Pathloom anew with CAP_NET_ADMIN", &file] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        sidecar.logged(why).await;
        load.further(20).await;
    }
    // By its user it captures without a restart.
    sidecar.reload(&(captured("outbound") + user));
    sidecar.reloaded(2, 2).await;
    load.further(20).await;
    load.stop().await.assert_each_right_and_once(&fleet.journal);
    assert_least(&sidecar).await;
    sidecar.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_rights_can_run_it() {
    const NOBODY: u32 = 65_534;
    let fleet = Fleet::start(1).await;
    let setup: Setup = sidecar(catalog(&fleet.yaml(), "") + QUICK);
    // Whoever tests without being root is such a user.
    let root = of_own_effective_user() == 0;
    if root && !reachable(Path::new(BINARY)) {
        return process::skip("the binary is not where other users may read");
    }
    let sidecar = if root { setup.user(NOBODY) } else { setup }.start().await;
    let mut client = Version::Http1.connect(sidecar.address("in")).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);
    assert_least(&sidecar).await;
    assert!(of_each_thread(&sidecar, "CapEff").iter().all(|held| u64::from_str_radix(held, 16).unwrap() == 0));
}

fn of_own_effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether everybody may go down to this file and run it.
fn reachable(file: &Path) -> bool {
    file.ancestors().all(|part| std::fs::metadata(part).is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_reach_it_through_a_socket_that_its_permissions_guard_and_so_do_those_who_come_after() {
    let fleet = Fleet::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let yaml = |mode: &str| {
        catalog(&fleet.yaml(), "")
            + QUICK
            + &format!("admin: {{ listen: 'unix:{}', mode: {mode} }}\n", socket.display())
            + &format!("process: {{ handover: {} }}\n", folder.path().join("handover.sock").display())
    };
    let explain = |what: &'static str| {
        let admin = format!("unix:{}", socket.display());
        async move {
            wait::eventually(what, || async {
                let (code, out, errors) = pathloom(&["explain", "--admin", &admin]).await;
                if code == 0 { Ok(out) } else { Err(errors) }
            })
            .await
        }
    };
    let mut first = sidecar(yaml("0600")).spawn();
    let said = explain("the first to answer").await;
    assert!(said.contains("frontend -> catalog"), "{said}");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Version::Http1.connect(first.address("in")).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status(), 200);

    // The next process takes it over, with what its own configuration says of it.
    let mut next = sidecar(yaml("0660")).address("in", first.address("in")).spawn();
    assert_eq!(first.process.end(wait::LIMIT).await.code(), Some(0), "{}", first.stderr());
    assert!(explain("the next to answer").await.contains("frontend -> catalog"));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    // Somebody else cannot have it meanwhile.
    let alone = catalog(&fleet.yaml(), "") + &format!("admin: 'unix:{}'\n", socket.display());
    let mut other = sidecar(alone.clone()).spawn();
    assert_eq!(other.process.end(wait::LIMIT).await.code(), Some(69));
    assert!(other.stderr().contains(&socket.display().to_string()), "{}", other.stderr());
    next.sigterm();
    assert_eq!(next.process.end(wait::LIMIT).await.code(), Some(0), "{}", next.stderr());
    // What is left of it is in nobody's way.
    let last = sidecar(alone).spawn();
    explain("the last to answer").await;
    last.assert_no_panic();
}
