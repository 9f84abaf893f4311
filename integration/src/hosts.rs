//! The machines of the mesh: network namespaces, each with a link into one common network that can be cut, and a link to
//! whoever calls and watches that cannot.
//!
//! ```text
//!                 this process (in a namespace of its own): switch `mesh`, switch `control`
//!   near ---- mesh ----+---- mesh ---- b ... d        what services and sidecars speak over; cut at the switch
//!   near -- control ---+-- control --- b ... d        callers, admin ports
//! ```
//! A namespace belongs to a process that does nothing but read its standard input: when this process ends, however it does,
//! they end, and the namespaces with them. Nothing is left on the machine, whose own network is never touched.
//!
//! Where namespaces may not be made, all hosts are loopback addresses; a cut is then played by stopping the processes of the
//! host (`SIGSTOP`): what is sent to them is taken by the kernel, and nothing comes back.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Set for the process that runs in a namespace of its own.
const INSIDE: &str = "PATHLOOM_INSIDE";
/// The networks: those that are set aside for tests of devices (RFC 2544).
const MESH: [u8; 3] = [198, 18, 0];
const CONTROL: [u8; 3] = [198, 19, 0];

/// All machines.
#[derive(Debug)]
pub struct Hosts {
    names: Vec<&'static str>,
    /// Who holds each host's namespace; nobody where there are none.
    holders: Vec<Child>,
    /// Why there are no namespaces.
    pub why_not: Option<String>,
}

/// Starts this program anew in a network namespace of its own, where that is allowed; gives why it is not.
///
/// # Panics
/// When this program's own file cannot be found.
#[must_use]
pub fn enter() -> Option<String> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--map-root-user"]];
    let mut why = String::new();
    for way in ways {
        // A bridge is what may be missing even where namespaces are allowed.
        let probe = "ip link set lo up && ip link add probe type bridge";
        match Command::new("unshare").args(way).args(["sh", "-c", probe]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                let program = std::env::current_exe().expect("this program's file");
                let arguments = std::env::args_os().skip(1);
                let error = Command::new("unshare").args(way).arg(program).args(arguments).env(INSIDE, "1").exec();
                why = error.to_string();
            }
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
            Err(error) => why = format!("unshare: {error}"),
        }
    }
    Some(why)
}

impl Hosts {
    /// Builds them; on loopback where `why_not` says why there are no namespaces.
    ///
    /// # Panics
    /// When the network cannot be built although a namespace could be entered.
    #[must_use]
    pub fn build(names: &[&'static str], why_not: Option<String>) -> Self {
        let mut hosts = Self { names: names.to_vec(), holders: Vec::new(), why_not };
        if hosts.why_not.is_some() {
            return hosts;
        }
        ip(&["link", "set", "lo", "up"]);
        for (switch, [a, b, c]) in [("mesh", MESH), ("control", CONTROL)] {
            ip(&["link", "add", switch, "type", "bridge"]);
            ip(&["link", "set", switch, "up"]);
            ip(&["addr", "add", &format!("{a}.{b}.{c}.1/24"), "dev", switch]);
        }
        for index in 0..names.len() {
            let mut holder = Command::new("unshare");
            holder.args(["--net", "sh", "-c", "ip link set lo up; echo; read _"]);
            let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a namespace");
            // It says a word once the namespace is there.
            let mut word = [0];
            std::io::Read::read_exact(holder.stdout.as_mut().expect("piped"), &mut word).expect("a namespace");
            let pid = holder.id().to_string();
            hosts.holders.push(holder);
            for (switch, address) in [("mesh", hosts.mesh(index)), ("control", hosts.control(index))] {
                let here = port(switch, index);
                ip(&["link", "add", &here, "type", "veth", "peer", "name", switch, "netns", &pid]);
                ip(&["link", "set", &here, "master", switch, "up"]);
                let inside = |arguments: &[&str]| run(hosts.command(index, "ip").args(arguments));
                inside(&["addr", "add", &format!("{address}/24"), "dev", switch]);
                inside(&["link", "set", switch, "up"]);
            }
        }
        hosts
    }

    /// Whether hosts are namespaces, whose links can be cut.
    #[must_use]
    pub fn are_namespaces(&self) -> bool {
        self.why_not.is_none()
    }

    /// The host of this name.
    #[must_use]
    pub fn index(&self, name: &str) -> usize {
        self.names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// Its address for services.
    #[must_use]
    pub fn mesh(&self, host: usize) -> IpAddr {
        self.address(MESH, host)
    }

    /// Its address for callers and admin ports.
    #[must_use]
    pub fn control(&self, host: usize) -> IpAddr {
        self.address(CONTROL, host)
    }

    fn address(&self, [a, b, c]: [u8; 3], host: usize) -> IpAddr {
        let last = 10 + host as u8;
        if self.are_namespaces() {
            return IpAddr::V4(Ipv4Addr::new(a, b, c, last));
        }
        // Far from the addresses that tests take, and of this process's own.
        let pid = std::process::id();
        IpAddr::V4(Ipv4Addr::new(127, 230 + (pid >> 8) as u8 % 20, pid as u8, last))
    }

    /// A program that runs on a host. It is the host's own process: signals reach it.
    #[must_use]
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.holders.get(host) {
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command.args(["--target", &holder.id().to_string(), "--net", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Cuts a host's link to the others, without a word to anybody; or mends it.
    pub fn cut(&self, host: usize, cut: bool) {
        if self.are_namespaces() {
            ip(&["link", "set", &port("mesh", host), if cut { "down" } else { "up" }]);
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// The switch's end of a host's link.
fn port(switch: &str, host: usize) -> String {
    format!("{switch}{host}")
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
