//! A network of several hosts on this machine: a network namespace each, joined by a bridge.
//!
//! ```text
//! [host] -- veth -- [bridge in a namespace of its own] -- veth -- [host]
//! ```
//! Host n has the addresses 10.77.0.n and fd77::n, and a way to everywhere through 10.77.0.254 and fd77::fe, where nobody is.
//! A host may have others behind it, as a node of Kubernetes has pods: 10.78.n.2 and fd78:n::2, whose packets it passes on.
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
    /// Those that the bridge joins.
    joined: Vec<u8>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    v4: IpAddr,
    v6: IpAddr,
}

fn ip(args: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(args.split_whitespace());
    let (code, _, said) = run(command);
    if code == 0 { Ok(()) } else { Err(format!("ip {args}: {}", said.trim())) }
}

/// Says that there is no such network.
fn not_to_be_had<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os(REQUIRED).is_none(), "no network of several hosts: {why}");
    // Written past the test's own capture: who passes without having run must be heard.
    let _ = writeln!(std::io::stderr(), "SKIPPED, no network of several hosts: {why}");
    None
}

/// The group of an IPv6 address that is written with the digits of this number.
fn digits(number: u8) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).expect("digits")
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
            Err(why) => not_to_be_had(&why),
        }
    }

    fn make(hosts: &[u8]) -> Result<Self, String> {
        let prefix = format!("pl{}x{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let lan = Self { prefix, hosts: hosts.to_vec(), joined: hosts.to_vec() };
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
        // Written in decimal digits, as `ip` was told.
        Host {
            namespace: self.namespace(number),
            v4: Ipv4Addr::new(10, 77, 0, number).into(),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits(number)).into(),
        }
    }

    /// A further host behind one of these, which passes its packets on; all others know the way back. None where that is not to
    /// be had, as at [`Self::start`].
    ///
    /// # Panics
    /// When it is not to be had and must be (`make test-network`).
    pub fn behind(&mut self, node: u8, number: u8) -> Option<Host> {
        self.hosts.push(number);
        match self.make_behind(node, number) {
            Ok(host) => Some(host),
            Err(why) => not_to_be_had(&why),
        }
    }

    fn make_behind(&self, node: u8, number: u8) -> Result<Host, String> {
        let (host, front) = (self.namespace(number), self.namespace(node));
        ip(&format!("netns add {host}"))?;
        ip(&format!("-n {host} link add name lan type veth peer name pod{number} netns {front}"))?;
        ip(&format!("-n {front} addr add 10.78.{number}.1/24 dev pod{number}"))?;
        ip(&format!("-n {front} addr add fd78:{number}::1/64 dev pod{number} nodad"))?;
        ip(&format!("-n {front} link set pod{number} up"))?;
        ip(&format!("-n {host} addr add 10.78.{number}.2/24 dev lan"))?;
        ip(&format!("-n {host} addr add fd78:{number}::2/64 dev lan nodad"))?;
        ip(&format!("-n {host} link set lo up"))?;
        ip(&format!("-n {host} link set lan up"))?;
        ip(&format!("-n {host} route add default via 10.78.{number}.1"))?;
        ip(&format!("-n {host} -6 route add default via fd78:{number}::1"))?;
        for other in self.joined.iter().filter(|other| **other != node) {
            let other = self.namespace(*other);
            ip(&format!("-n {other} route replace 10.78.{number}.0/24 via 10.77.0.{node}"))?;
            ip(&format!("-n {other} -6 route replace fd78:{number}::/64 via fd77::{node}"))?;
        }
        let passes_on = |switch: &str| {
            let file = format!("/proc/sys/net/{switch}");
            std::fs::write(&file, "1").map_err(|error| format!("{file}: {error}"))
        };
        self.host(node).here(|| passes_on("ipv4/ip_forward").and_then(|()| passes_on("ipv6/conf/all/forwarding")))?;
        Ok(Host {
            namespace: host,
            v4: Ipv4Addr::new(10, 78, number, 2).into(),
            v6: Ipv6Addr::new(0xfd78, digits(number), 0, 0, 0, 0, 0, 2).into(),
        })
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
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        self.v6
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
