//! A network of several hosts on this machine: a network namespace each, joined by a bridge.
//!
//! ```text
//! [host] -- veth -- [bridge in a namespace of its own] -- veth -- [host]
//! ```
//! Host n has the addresses 10.77.0.n and fd77::n, and a way to everywhere through 10.77.0.254 and fd77::fe, where nobody is.
//! A thread that enters a host's namespace opens sockets there, which stay there whoever uses them, and starts programs
//! there. All of it is gone when the [`Lan`] is dropped.
//!
//! This needs the right to make namespaces (root), and the programs `ip` and `nft`.

use crate::process::run;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Set where these tests must run: a skipped one fails then.
const REQUIRED: &str = "PATHLOOM_NETWORK";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Several hosts.
#[derive(Debug)]
pub struct Lan {
    prefix: String,
    hosts: Vec<u8>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    number: u8,
}

fn ip(args: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(args.split_whitespace());
    let (code, _, said) = run(command);
    if code == 0 { Ok(()) } else { Err(format!("ip {args}: {}", said.trim())) }
}

impl Lan {
    /// A network of hosts with these numbers; none where that is not to be had, which is said on standard error.
    ///
    /// # Panics
    /// When it is not to be had and must be (`make test-network`).
    #[must_use]
    pub fn start(hosts: &[u8]) -> Option<Self> {
        let missing = ["ip", "nft"].into_iter().find(|program| Command::new(program).arg("-V").output().is_err());
        let made = match missing {
            Some(program) => Err(format!("the program `{program}` is missing: apt-get install nftables iproute2")),
            None => Self::make(hosts),
        };
        match made {
            Ok(lan) => Some(lan),
            Err(why) => {
                assert!(std::env::var_os(REQUIRED).is_none(), "no network of several hosts: {why}");
                // Written past the test's own capture: who passes without having run must be heard.
                let _ = writeln!(std::io::stderr(), "SKIPPED, no network of several hosts: {why}");
                None
            }
        }
    }

    fn make(hosts: &[u8]) -> Result<Self, String> {
        let prefix = format!("pl{}x{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let lan = Self { prefix, hosts: hosts.to_vec() };
        let bridge = lan.namespace(0);
        ip(&format!("netns add {bridge}"))?;
        ip(&format!("-n {bridge} link add name sw0 type bridge"))?;
        ip(&format!("-n {bridge} link set sw0 up"))?;
        for number in hosts {
            let host = lan.namespace(*number);
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {host} link add name lan type veth peer name port{number} netns {bridge}"))?;
            ip(&format!("-n {bridge} link set port{number} master sw0 up"))?;
            ip(&format!("-n {host} addr add 10.77.0.{number}/24 dev lan"))?;
            ip(&format!("-n {host} addr add fd77::{number}/64 dev lan nodad"))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set lan up"))?;
            ip(&format!("-n {host} route add default via 10.77.0.254"))?;
            ip(&format!("-n {host} -6 route add default via fd77::fe"))?;
        }
        Ok(lan)
    }

    fn namespace(&self, number: u8) -> String {
        format!("{}h{number}", self.prefix)
    }

    /// A host by its number.
    #[must_use]
    pub fn host(&self, number: u8) -> Host {
        Host { namespace: self.namespace(number), number }
    }

    /// Cuts a host off from the others, or joins it to them again.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn cut(&self, number: u8, off: bool) {
        let state = if off { "down" } else { "up" };
        ip(&format!("-n {} link set port{number} {state}", self.namespace(0))).expect("the link");
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for number in self.hosts.iter().chain([&0]) {
            let _ = ip(&format!("netns del {}", self.namespace(*number)));
        }
    }
}

impl Host {
    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, self.number).into()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        // Written in decimal digits, as `ip` was told.
        let last = u16::from_str_radix(&self.number.to_string(), 16).expect("digits");
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last).into()
    }

    /// Does something on a thread that is here: sockets that it opens and programs that it starts are of
    /// this host, and stay so.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or with what was done.
    pub fn here<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.namespace)).expect("the namespace");
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
                what()
            });
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
