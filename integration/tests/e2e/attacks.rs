//! Those who want to do harm are refused cheaply: memory is bounded, every descriptor comes back, and whoever means well
//! is served meanwhile. What the attacks are made of is tested at its place in `src/proxy`; here are the numbers.

use crate::{catalog, sidecar};
use pathloom_integration::client::VERSIONS;
use pathloom_integration::client::raw::{Raw, find, frame, opening};
use pathloom_integration::fleet::Fleet;
use pathloom_integration::load::Load;
use pathloom_integration::sidecar::Sidecar;
use pathloom_integration::{process, wait};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

/// Descriptors that come and go with what is done meanwhile: pooled connections to endpoints, a look at the admin port.
const LOOSE: usize = 8;

/// What a sidecar held before an attack, and those who are served during it.
struct Calm {
    descriptors: usize,
    resident: u64,
    load: Vec<Load>,
}

impl Calm {
    /// Two callers, one on each protocol, who go on until the attack is over.
    async fn before(sidecar: &Sidecar) -> Self {
        let mut load = Vec::new();
        for version in VERSIONS {
            load.push(Load::start(version, sidecar.address("in"), 1, "/").await);
        }
        for callers in &load {
            callers.further(20).await;
        }
        Self { descriptors: sidecar.process.descriptors(), resident: sidecar.process.resident(), load }
    }

    /// The attack is over: nobody else noticed, it took no more than so many bytes, and nothing is left of it.
    async fn after(self, what: &str, sidecar: &Sidecar, fleet: &Fleet, most: u64) {
        let grown = sidecar.process.peak_resident().saturating_sub(self.resident);
        eprintln!("{what}: memory grew by {} KiB at most", grown >> 10);
        assert!(grown < most, "{what}: {} KiB", grown >> 10);
        for load in self.load {
            // They are served now as they were before and meanwhile.
            load.further(20).await;
            let report = load.stop().await;
            let seen = fleet.journal.all();
            for (id, outcome) in &report.outcomes {
                assert!(matches!(outcome, pathloom_integration::load::Outcome::Right(_)), "{what}: {outcome:?}");
                assert!(seen.contains_key(id));
            }
        }
        wait::eventually("the descriptors to be given back", || async {
            let now = sidecar.process.descriptors();
            if now <= self.descriptors + LOOSE { Ok(()) } else { Err(format!("{now}, before {}", self.descriptors)) }
        })
        .await;
        sidecar.assert_no_panic();
    }
}

const SLOW: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_slow_heads_are_given_up_and_others_are_served() {
    give_up("slow heads", b"GET / HTTP/1.1\r\nhost: catalog.shop\r\nx-slow: ", b"a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_slow_http2_heads_are_given_up_and_others_are_served() {
    // A block of headers that goes on by a field at a time.
    let first = [opening(), frame(1, 1, 1, GET)].concat();
    give_up("slow HTTP/2 heads", &first, &frame(9, 0, 1, b"\x00\x01a\x01b")).await;
}

/// Begins so many heads that go on and never end.
async fn give_up(what: &str, first: &[u8], drip: &[u8]) {
    let files = process::raise_open_files(2 * SLOW as u64);
    // Beside them stand the fleet and those who are served.
    let slow = SLOW.min((files as usize).saturating_sub(500));
    if slow < SLOW {
        eprintln!("this machine allows {files} open files: {slow} slow clients instead of {SLOW}");
    }
    let fleet = Fleet::start(2).await;
    let patience = "listeners: { request_headers: 5s }\n";
    let sidecar = sidecar(catalog(&fleet.yaml(), "") + patience).open_files(1024).start().await;
    let address = sidecar.address("in");
    let calm = Calm::before(&sidecar).await;
    let mut open = Vec::with_capacity(slow);
    for _ in 0..slow {
        let mut connection = wait::soon("a connection", Raw::connect(address)).await.unwrap();
        connection.send(first).await.unwrap();
        open.push((connection, Vec::new()));
    }
    // A byte now and then makes a head no shorter: the time is for all of it.
    let (mut closed, mut told) = (0, 0);
    wait::within(Duration::from_secs(90), "all of them to be given up", || {
        open.retain_mut(|(connection, heard)| {
            let mut said = [0; 512];
            let over = match connection.stream.try_read(&mut said) {
                Ok(0) => true,
                Ok(read) => {
                    heard.extend_from_slice(&said[..read]);
                    false
                }
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            let over = over
                || matches!(connection.stream.try_write(drip), Err(e) if e.kind() != std::io::ErrorKind::WouldBlock);
            closed += usize::from(over);
            told += usize::from(over && find(heard, b"headers_timeout").is_some());
            !over
        });
        let left = open.len();
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if left == 0 { Ok(()) } else { Err(left) }
        }
    })
    .await;
    assert_eq!(closed, slow);
    // What a client still sends may reset its connection before it has read why.
    eprintln!("{what}: {told} of {slow} clients read why");
    assert_eq!(sidecar.metrics().await.failures("headers_timeout"), slow as f64);
    calm.after(what, &sidecar, &fleet, slow as u64 * (24 << 10) + (16 << 20)).await;
}

/// A block that asks for `http://catalog.shop/`, and puts nothing into tables.
const GET: &[u8] = b"\x82\x86\x84\x01\x0ccatalog.shop";

/// Sends until it is cut off or all is sent, and reads all that is answered meanwhile.
async fn throw(address: SocketAddr, bytes: Vec<u8>) -> Vec<u8> {
    throw_and_count(address, bytes).await.1
}

/// The same, with how many bytes were sent before it was cut off.
async fn throw_and_count(address: SocketAddr, bytes: Vec<u8>) -> (usize, Vec<u8>) {
    let mut raw = wait::soon("a connection", Raw::connect(address)).await.unwrap();
    let (mut reading, mut writing) = raw.stream.split();
    let send = async {
        let mut sent = 0;
        // Whoever is cut off may not say all.
        while let Ok(more @ 1..) = tokio::io::AsyncWriteExt::write(&mut writing, &bytes[sent..]).await {
            sent += more;
        }
        sent
    };
    let mut said = Vec::new();
    let read = async {
        // A reset takes what was not read yet along.
        let _ = reading.read_to_end(&mut said).await;
    };
    let (sent, ()) = wait::soon("the end of the connection", async { tokio::join!(send, read) }).await;
    (sent, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_of_headers_is_refused_in_every_shape() {
    const MEGABYTE: usize = 1 << 20;
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let address = sidecar.address("in");
    let calm = Calm::before(&sidecar).await;
    let long = "a".repeat(MEGABYTE);
    let head = "GET / HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 7000000\r\n";
    // A literal field of 1 MB, its length a number of HPACK, cut into frames.
    let field = [&b"\x00\x01x\x7f\x81\xff\x3f"[..], long.as_bytes()].concat();
    let mut http2 = opening();
    http2.extend(frame(1, 1, 1, &[GET, b"\x00\x09x-test-id\x077000000", &field[..15_900]].concat()));
    field[15_900..].chunks(16_000).for_each(|part| http2.extend(frame(9, 0, 1, part)));
    http2.extend(frame(9, 4, 1, b""));
    let shapes: [(&str, Vec<u8>); 6] = [
        ("one value", format!("{head}x: {long}\r\n\r\n").into()),
        ("one name", format!("{head}{long}: x\r\n\r\n").into()),
        ("many lines", format!("{head}{}\r\n", "x: y\r\n".repeat(MEGABYTE / 6)).into()),
        ("a target", format!("GET /{long} HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 7000000\r\n\r\n").into()),
        ("a method", format!("{} / {}\r\n", long.to_uppercase(), &head["GET / ".len()..]).into()),
        ("continuations", http2),
    ];
    for (what, bytes) in shapes {
        let mut all = JoinSet::new();
        for _ in 0..16 {
            all.spawn(throw(address, bytes.clone()));
        }
        while let Some(said) = all.join_next().await {
            let said = said.unwrap();
            let text = String::from_utf8_lossy(&said[..said.len().min(200)]).into_owned();
            let refused = said.is_empty()
                || text.starts_with("HTTP/1.1 4")
                // GOAWAY with ENHANCE_YOUR_CALM.
                || find(&said, &[0, 0, 0, 11]).is_some();
            assert!(refused, "{what}: {text:?}");
        }
    }
    assert_eq!(fleet.journal.of(7_000_000), Vec::<usize>::new(), "one of them reached an endpoint");
    calm.after("headers of 1 MB", &sidecar, &fleet, 32 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_would_reset_a_million_streams_are_cut_off_after_a_thousand_each() {
    /// What a client may reset (`MAX_RESETS` of `http2::floods`) before it is cut off: so 50,000 are worked off in all.
    const TAKEN: usize = 1_000;
    const CONNECTIONS: usize = 50;
    const EACH: u32 = 20_000;
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let address = sidecar.address("in");
    let calm = Calm::before(&sidecar).await;
    let one = |stream| [frame(1, 5, stream, GET), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
    let bytes = [opening(), (1..2 * EACH).step_by(2).flat_map(one).collect()].concat();
    let (mut told, mut sent, least) = (0, 0, TAKEN * one(1).len());
    for _ in 0..CONNECTIONS / 5 {
        let mut some = JoinSet::new();
        for _ in 0..5 {
            some.spawn(throw_and_count(address, bytes.clone()));
        }
        while let Some(done) = some.join_next().await {
            let (bytes, said) = done.unwrap();
            assert!(bytes > least, "cut off after {bytes} bytes, which are less than {TAKEN} streams");
            sent += bytes / one(1).len();
            // A reset of the connection may overtake the reason.
            told += usize::from(find(&said, &[0, 0, 0, 11]).is_some());
        }
    }
    eprintln!(
        "{sent} of {} streams were sent, {} worked off; {told} of {CONNECTIONS} connections read why they were cut off",
        CONNECTIONS * EACH as usize,
        CONNECTIONS * TAKEN,
    );
    // Each was cut off for it, and counted; nobody was served to its end.
    assert_eq!(sidecar.metrics().await.failures("bad_request"), CONNECTIONS as f64);
    assert!(told > 0, "nobody was told why");
    wait::eventually("nothing of them to be in flight", || async {
        let metrics = sidecar.metrics().await;
        let in_flight = metrics.sum("pathloom_endpoint_in_flight", &[]);
        if in_flight <= 2.0 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    calm.after("streams reset", &sidecar, &fleet, 48 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_could_be_read_in_two_ways_are_refused_by_the_thousand() {
    let post = "POST /sink HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 7000000\r\n";
    let hidden = "GET / HTTP/1.1\r\nhost: catalog.shop\r\nx-test-id: 7000000\r\n\r\n";
    let shapes = [
        format!("{post}content-length: 3\r\ncontent-length: 4\r\n\r\nabc{hidden}"),
        format!("{post}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}x: a\rcontent-length: 3\r\n\r\nabc{hidden}"),
        format!("{post}x: a\ncontent-length: 3\r\n\r\nabc{hidden}"),
        format!("{post}x: a\r\n content-length: 3\r\n\r\nabc{hidden}"),
        format!("{post}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n{hidden}"),
    ];
    let fleet = Fleet::start(2).await;
    let sidecar = sidecar(catalog(&fleet.yaml(), "")).start().await;
    let address = sidecar.address("in");
    let calm = Calm::before(&sidecar).await;
    for shape in shapes {
        for _ in 0..10 {
            let mut all = JoinSet::new();
            for _ in 0..32 {
                all.spawn(throw(address, shape.clone().into_bytes()));
            }
            while let Some(said) = all.join_next().await {
                let said = said.unwrap();
                let text = String::from_utf8_lossy(&said).into_owned();
                assert!(text.starts_with("HTTP/1.1 400 "), "{shape:?}: {text:?}");
                assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{shape:?}: {text:?}");
            }
        }
    }
    assert_eq!(fleet.journal.of(7_000_000), Vec::<usize>::new(), "one of them reached an endpoint");
    assert!(sidecar.metrics().await.failures("bad_request") >= 1_920.0);
    calm.after("shapes of smuggling", &sidecar, &fleet, 32 << 20).await;
}
