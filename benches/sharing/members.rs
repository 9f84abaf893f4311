//! What it costs a node to know who is there: as many members as are asked for, in this process, on loopback.

use pathloom::mesh::{Counters, Exchange, Gossip, Hearers, Interest, Keyring, Keys, Kind, Settings};
use rustix::time::{ClockId, clock_gettime};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it is looked at once all know each other.
const LOOKED_AT: Duration = Duration::from_secs(20);
/// How long they may take to.
const MEETING: Duration = Duration::from_secs(120);

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Membership {
    /// Bytes a second of each member, all headers included.
    pub bytes_per_second: f64,
    /// The least and the most of any member.
    pub spread: (f64, f64),
    /// Processor time of each in milliseconds a second, the kernel's included.
    pub cpu_ms: f64,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// So many members; none where they do not all find each other.
pub async fn membership(nodes: usize, budget: u64) -> Result<Option<Membership>, Box<dyn std::error::Error>> {
    let mut members: Vec<(Gossip, Arc<Counters>)> = Vec::new();
    let mut seeds = Vec::new();
    let keyring = Keyring::new(Keys::read("the key that a benchmark has")?).ok_or("no random numbers")?;
    let keyring = Arc::new(keyring);
    for n in 0..nodes {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let advertise = socket.local_addr()?;
        let settings = Settings {
            node: format!("node-{n}").into(),
            incarnation: 1,
            advertise,
            seeds: seeds.clone(),
            keyring: keyring.clone(),
            budget,
        };
        if seeds.len() < 2 {
            seeds.push(advertise.to_string());
        }
        let counters = Arc::new(Counters::default());
        let mut member = Gossip::start(socket, settings, counters.clone()).await?;
        member.want(&Interest::in_services(["catalog", "storage", "payment"])).await;
        members.push((member, counters));
    }
    let end = Instant::now() + MEETING;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut alone = false;
        for (member, _) in &mut members {
            let knows = match member.room().await.hearers {
                Hearers::Members(members) => members.len(),
                Hearers::Services => 0,
            };
            alone |= knows + 1 < nodes;
        }
        match alone {
            false => break,
            true if Instant::now() > end => return Ok(None),
            true => {}
        }
    }
    let sent = |members: &[(Gossip, Arc<Counters>)]| -> Vec<u64> {
        members.iter().map(|(_, counters)| counters.sent_bytes(Kind::Gossip)).collect()
    };
    let (before, cpu_before, from) = (sent(&members), cpu(), Instant::now());
    tokio::time::sleep(LOOKED_AT).await;
    let seconds = from.elapsed().as_secs_f64();
    let rates: Vec<f64> = before.iter().zip(sent(&members)).map(|(a, b)| (b - a) as f64 / seconds).collect();
    Ok(Some(Membership {
        bytes_per_second: rates.iter().sum::<f64>() / nodes as f64,
        spread: rates.iter().fold((f64::MAX, 0.0), |(least, most), rate| (least.min(*rate), most.max(*rate))),
        cpu_ms: (cpu() - cpu_before).as_secs_f64() * 1e3 / seconds / nodes as f64,
    }))
}
