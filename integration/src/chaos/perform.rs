//! Making trouble: each kind from its beginning to its end, and what was seen of it.
//!
//! Whoever is made ill is noted before it is, and noted as well after it is: the script's own slowness counts for nobody.

use crate::cgroup::{Freezer, threads};
use crate::endpoint::Mode;
use crate::mesh::{Mesh, SIDECARS};
use crate::oracle::Part;
use crate::script::{Kind, PLACES, SERVICES, Target, Trouble};
use nix::sys::signal::Signal;
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

/// Plays a trouble from its beginning to its end; gives what was seen, where there is something to see.
pub async fn play(mesh: &Mesh, trouble: &Trouble) -> String {
    let until = Instant::now() + trouble.lasts;
    match (trouble.kind, trouble.target) {
        (kind, Target::Busiest(service)) => {
            let place = mesh.busiest(service).await;
            endpoint(mesh, kind, service, place, until).await;
            return format!("{}-{place} on {}", SERVICES[service], PLACES[place]);
        }
        (Kind::Outage, Target::Service(service)) => outage(mesh, service, until).await,
        (Kind::Cut, Target::Host(host)) => cut(mesh, host, until).await,
        (Kind::FarDies, Target::Far(far)) => {
            mesh.mark(&[Part::Far(far)], true);
            mesh.kill_sidecar(far + 1).await;
            sleep_until(until).await;
            mesh.start_again(far + 1).await;
            mesh.mark(&[Part::Far(far)], false);
        }
        (Kind::FarUpgrade, Target::Far(far)) => return upgrade(mesh, far + 1).await,
        (Kind::Upgrade, _) => return upgrade(mesh, 0).await,
        (Kind::Rotate, _) => return rotate(mesh, trouble.lasts).await,
        (Kind::Authority, _) => return authority(mesh, trouble.lasts).await,
        (Kind::BadCertificate, _) => return bad_certificate(mesh, until).await,
        (Kind::Reload, _) => return reload(mesh, trouble.lasts).await,
        (Kind::Churn, _) => return churn(mesh, trouble.lasts).await,
        (Kind::BadConfig, _) => {
            mesh.reload_wrongly("clusters: { web: { polcy: model } }\n").await;
            sleep_until(until).await;
            mesh.reload(|_| {}).await;
            return "refused, and the next one taken".to_owned();
        }
        (Kind::Model, _) => {
            let taken =
                took(mesh, "pathloom_model_reloads_total", mesh.reload(|near| near.model = "another.onnx")).await;
            sleep_until(until).await;
            mesh.reload(|near| near.model = "model.onnx").await;
            return taken;
        }
        (Kind::BadModel, _) => return bad_model(mesh, until).await,
        (Kind::ScorerDies, _) => {
            let failing = mesh.reload(|near| near.model = "failing.onnx");
            let seen = took(mesh, "pathloom_scorer_restarts_total", failing).await;
            sleep_until(until).await;
            mesh.reload(|near| near.model = "model.onnx").await;
            return seen;
        }
        (Kind::ScorerHangs, _) => return scorer_hangs(mesh, until).await,
        (Kind::Descriptors, _) => return descriptors(mesh, until).await,
        (Kind::Memory, _) => return memory(mesh, until).await,
        (Kind::Slowloris, _) => return slowloris(mesh, until).await,
        (kind, target) => mesh.wrong(format!("{} cannot befall {target}", kind.name())),
    }
    String::new()
}

/// Makes an endpoint ill and well again.
async fn endpoint(mesh: &Mesh, kind: Kind, service: usize, place: usize, until: Instant) {
    let part = [Part::Endpoint(service, place)];
    let mode = match kind {
        Kind::Hang => Mode::Hang,
        Kind::Reset => Mode::Reset,
        Kind::Garbage => Mode::Garbage,
        Kind::Trickle => Mode::Trickle,
        Kind::Unavailable => Mode::Status(503),
        Kind::Errors => Mode::Status(500),
        Kind::Slow => Mode::Slow(400),
        _ => Mode::Leave,
    };
    // Who is slow is well: it answers.
    if kind != Kind::Slow {
        mesh.mark(&part, true);
    }
    match kind {
        Kind::Die => mesh.signal(service, place, Signal::SIGKILL),
        Kind::Freeze => mesh.signal(service, place, Signal::SIGSTOP),
        _ => mesh.tell(service, place, mode),
    }
    sleep_until(until).await;
    match kind {
        Kind::Die => mesh.start_endpoint(service, place).await,
        Kind::Freeze => mesh.signal(service, place, Signal::SIGCONT),
        Kind::Leave => {
            mesh.gone(service, place).await;
            mesh.start_endpoint(service, place).await;
        }
        _ => {
            mesh.tell(service, place, Mode::Ok);
            // Until it has read the line.
            sleep(Duration::from_millis(100)).await;
        }
    }
    mesh.mark(&part, false);
}

async fn outage(mesh: &Mesh, service: usize, until: Instant) {
    let parts: Vec<_> = (0..PLACES.len()).map(|place| Part::Endpoint(service, place)).collect();
    mesh.mark(&parts, true);
    (0..PLACES.len()).for_each(|place| mesh.signal(service, place, Signal::SIGKILL));
    sleep_until(until).await;
    for place in 0..PLACES.len() {
        mesh.start_endpoint(service, place).await;
    }
    mesh.mark(&parts, false);
}

async fn cut(mesh: &Mesh, host: &'static str, until: Instant) {
    let index = mesh.hosts.index(host);
    let mut parts = vec![Part::Link(host)];
    if !mesh.hosts.are_namespaces() {
        // Its endpoints are stopped in its place, for whoever is on the same host, too; the sidecar there goes on.
        let places = (0..PLACES.len()).filter(|place| PLACES[*place] == host);
        parts = places.flat_map(|place| (0..SERVICES.len()).map(move |s| Part::Endpoint(s, place))).collect();
    }
    let stop = |signal| {
        if !mesh.hosts.are_namespaces() {
            mesh.signal_host(host, signal);
        }
    };
    mesh.mark(&parts, true);
    mesh.hosts.cut(index, true);
    stop(Signal::SIGSTOP);
    sleep_until(until).await;
    mesh.hosts.cut(index, false);
    stop(Signal::SIGCONT);
    // A connection's lost packets are sent again after a while, longer each time; a new connection finds it mended.
    mesh.mark(&parts, false);
}

async fn upgrade(mesh: &Mesh, sidecar: usize) -> String {
    let before = mesh.process(sidecar).await;
    mesh.upgrade(sidecar).await;
    format!("process {before} left to {}", mesh.process(sidecar).await)
}

async fn rotate(mesh: &Mesh, lasts: Duration) -> String {
    let before = mesh.json(0, "/routing").await["identity"].clone();
    for _ in 0..3 {
        SIDECARS.iter().for_each(|name| mesh.issue("ca", name));
        sleep(lasts / 3).await;
    }
    taken(mesh, &before).await
}

/// Whether the near sidecar has taken another identity than it had.
async fn taken(mesh: &Mesh, before: &serde_json::Value) -> String {
    let mut identity = serde_json::Value::Null;
    for _ in 0..300 {
        identity = mesh.json(0, "/routing").await["identity"].clone();
        if identity["loaded_at"] != before["loaded_at"] && identity["alarm"].is_null() {
            return format!("loaded at {}", identity["loaded_at"].as_str().unwrap_or_default());
        }
        sleep(Duration::from_millis(100)).await;
    }
    mesh.wrong(format!("the certificate was not taken: {identity}"));
    String::new()
}

async fn authority(mesh: &Mesh, lasts: Duration) -> String {
    let before = mesh.json(0, "/routing").await["identity"].clone();
    let (old, next) = ("ca", format!("ca-{}", mesh.next()));
    mesh.authority(&next);
    mesh.believe(&[old, &next]);
    sleep(lasts / 3).await;
    SIDECARS.iter().for_each(|name| mesh.issue(&next, name));
    sleep(lasts / 3).await;
    mesh.believe(&[&next]);
    sleep(lasts / 3).await;
    // The next one is `ca` from here on.
    let (here, there) = (mesh.file(&next), mesh.file(old));
    let _ = std::fs::remove_dir_all(&there);
    if let Err(error) = std::fs::rename(here, there) {
        mesh.wrong(format!("the authority cannot be renamed: {error}"));
    }
    taken(mesh, &before).await
}

async fn bad_certificate(mesh: &Mesh, until: Instant) -> String {
    let file = mesh.file("near").join("cert.pem");
    let good = std::fs::read(&file).unwrap_or_default();
    let put = |bytes: &[u8]| {
        let next = mesh.file("near").join("next.pem");
        if let Err(error) = std::fs::write(&next, bytes).and_then(|()| std::fs::rename(&next, &file)) {
            mesh.wrong(format!("the certificate cannot be replaced: {error}"));
        }
    };
    put(b"-----BEGIN CERTIFICATE-----\nnoise\n-----END CERTIFICATE-----\n");
    sleep_until(until).await;
    let alarm = mesh.json(0, "/routing").await["identity"]["alarm"]["reason"].clone();
    if alarm.is_null() {
        mesh.wrong("no alarm although the certificate is noise");
    }
    put(&good);
    let before = serde_json::Value::Null;
    format!("alarm: {alarm}; then {}", taken(mesh, &before).await)
}

async fn reload(mesh: &Mesh, lasts: Duration) -> String {
    let policies = ["peak_ewma", "least_request", "round_robin", "random", "model"];
    for n in 0..10 {
        let pause = sleep(lasts / 10);
        mesh.reload(|near| {
            near.policy = policies[n % policies.len()];
            near.request_ms = if n % 2 == 0 { 2_900 } else { 3_000 };
        })
        .await;
        pause.await;
    }
    "ten taken".to_owned()
}

async fn churn(mesh: &Mesh, lasts: Duration) -> String {
    for place in 0..3 {
        mesh.reload(|near| near.without = Some(place)).await;
        sleep(lasts / 6).await;
        mesh.reload(|near| near.without = None).await;
        sleep(lasts / 6).await;
    }
    "six taken".to_owned()
}

async fn bad_model(mesh: &Mesh, until: Instant) -> String {
    let file = mesh.file("bad.onnx");
    if let Err(error) = std::fs::write(&file, b"this is no model") {
        mesh.wrong(format!("{}: {error}", file.display()));
    }
    let refused = mesh.reload(|near| near.model = "bad.onnx");
    let seen = took(mesh, "pathloom_model_reloads_refused_total", refused).await;
    sleep_until(until).await;
    mesh.reload(|near| near.model = "model.onnx").await;
    seen
}

/// Does something after which a counter of the near sidecar must have risen.
async fn took(mesh: &Mesh, counter: &str, action: impl Future<Output = ()>) -> String {
    let count = || async { mesh.metrics(0).await.map_or(0.0, |m| m.sum(counter, &[])) };
    let before = count().await;
    action.await;
    risen(mesh, counter, before).await
}

async fn risen(mesh: &Mesh, counter: &str, before: f64) -> String {
    let mut now = before;
    for _ in 0..300 {
        now = mesh.metrics(0).await.map_or(0.0, |m| m.sum(counter, &[]));
        if now > before {
            return format!("`{counter}`: {before} -> {now}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    mesh.wrong(format!("`{counter}` did not rise from {before}: {now}"));
    String::new()
}

async fn scorer_hangs(mesh: &Mesh, until: Instant) -> String {
    let freezer = match Freezer::new() {
        Ok(freezer) => freezer,
        Err(why) => return format!("not done here: {why}"),
    };
    let counter = "pathloom_scorer_restarts_total";
    let before = mesh.metrics(0).await.map_or(0.0, |m| m.sum(counter, &[]));
    for thread in threads(mesh.process(0).await, "scorer") {
        if let Err(why) = freezer.freeze(thread) {
            mesh.wrong(why);
        }
    }
    let seen = risen(mesh, counter, before).await;
    sleep_until(until).await;
    if let Err(why) = freezer.thaw() {
        mesh.wrong(why);
    }
    seen
}

/// Opens connections to the near sidecar until it takes no more, and holds them.
async fn descriptors(mesh: &Mesh, until: Instant) -> String {
    let mut held = Vec::new();
    for _ in 0..crate::mesh::DESCRIPTORS {
        match tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(mesh.front())).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => break,
        }
    }
    sleep_until(until).await;
    let most = mesh
        .samples
        .all()
        .iter()
        .filter(|l| l.name == SIDECARS[0] && !l.ended)
        .flat_map(|l| l.samples.clone())
        .map(|s| s.descriptors)
        .max();
    format!("{} connections; at most {} descriptors", held.len(), most.unwrap_or(0))
}

/// Asks for long answers and reads nothing of them.
async fn memory(mesh: &Mesh, until: Instant) -> String {
    let mut held = Vec::new();
    for n in 0..100 {
        let Ok(mut stream) = TcpStream::connect(mesh.front()).await else { break };
        let cluster = crate::load::CLUSTERS[n % 3];
        let ask = format!("GET /item?size=8000000 HTTP/1.1\r\nhost: {cluster}.mesh\r\nx-request-id: aside\r\n\r\n");
        if stream.write_all(ask.as_bytes()).await.is_ok() {
            held.push(stream);
        }
        sleep(Duration::from_millis(10)).await;
    }
    sleep_until(until).await;
    let now = mesh.samples.all().iter().rfind(|l| l.name == SIDECARS[0]).and_then(|l| l.samples.last().copied());
    format!("{} answers; {:.1} MB", held.len(), now.map_or(0.0, |s| s.memory as f64 / 1e6))
}

async fn slowloris(mesh: &Mesh, until: Instant) -> String {
    let mut held = Vec::new();
    for _ in 0..100 {
        if let Ok(stream) = TcpStream::connect(mesh.front()).await {
            held.push(stream);
        }
    }
    let bytes = b"GET / HTTP/1.1\r\nhost: web.mesh\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a'));
    for byte in bytes {
        for stream in &mut held {
            let _ = stream.write_all(&[*byte]).await;
        }
        if Instant::now() >= until {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    format!("{} connections", held.len())
}
