//! The rules that a configuration asks for.

use crate::config::{AdminAddress, Capture, CaptureMode, Config, SourceNet};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

/// The nftables table.
pub(super) const TABLE: &str = "inet pathloom";
/// The number of the routing table by which TPROXY's packets are delivered here: `PL`, as the mark.
pub(super) const ROUTES: u32 = 0x504c;

/// What is to be given to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For `nft -f`: replaces what was there before.
    pub nft: String,
    /// For `ip`, one command each, where TPROXY is used.
    pub ip: Vec<String>,
    /// What is not captured although it might be expected.
    pub notes: Vec<String>,
}

/// Why there are no rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no workload has `capture`, so there is nothing to capture for: add `capture: outbound` or `inbound` to one")]
pub struct NoCapture;

/// Which IP versions reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    fn of(listen: SocketAddr) -> Self {
        match listen {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(listen) if listen.ip().is_unspecified() => Self::Both,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    /// How a rule with that condition names them once more.
    fn of_tproxy(self) -> &'static str {
        match self {
            Self::V4 => "ip ",
            Self::V6 => "ip6 ",
            Self::Both => "",
        }
    }

    /// The condition of a rule.
    fn condition(self) -> &'static str {
        match self {
            Self::V4 => "meta nfproto ipv4 ",
            Self::V6 => "meta nfproto ipv6 ",
            Self::Both => "",
        }
    }
}

impl Rules {
    /// The rules that a configuration asks for.
    ///
    /// # Errors
    /// When no listener captures.
    pub fn of(config: &Config) -> Result<Self, NoCapture> {
        let listener = |wanted: &dyn Fn(CaptureMode) -> bool| {
            let workloads = config.workloads.values().filter(|workload| wanted(workload.capture));
            workloads.filter_map(|workload| Some((workload.capture, workload.listen?))).next()
        };
        let outbound = listener(&|mode| mode == CaptureMode::Outbound);
        let inbound = listener(&|mode| matches!(mode, CaptureMode::Inbound | CaptureMode::Tproxy));
        if outbound.is_none() && inbound.is_none() {
            return Err(NoCapture);
        }
        let mut rules = Self { nft: replaced(), ip: Vec::new(), notes: Vec::new() };
        let capture = &config.capture;
        let _ = writeln!(rules.nft, "table {TABLE} {{");
        if let Some((_, listen)) = outbound {
            rules.outbound(capture, listen);
        }
        match inbound {
            Some((CaptureMode::Tproxy, listen)) => rules.tproxy(config, listen),
            Some((_, listen)) => rules.inbound(config, listen),
            None => {}
        }
        rules.nft.push_str("}\n");
        for (way, listen) in [("outbound", outbound), ("inbound", inbound)] {
            if let Some((_, listen)) = listen.filter(|(_, listen)| listen.is_ipv4()) {
                let port = listen.port();
                rules.notes.push(format!("{way} connections over IPv6 are not captured: {listen} is an IPv4 address; `[::]:{port}` takes both"));
            }
        }
        Ok(rules)
    }

    fn line(&mut self, rule: impl fmt::Display) {
        let _ = writeln!(self.nft, "    {rule}");
    }

    fn chain(&mut self, name: &str, hook: &str) {
        let _ = writeln!(self.nft, "  chain {name} {{");
        self.line(format_args!("type {hook}; policy accept;"));
        self.line("meta l4proto != tcp return");
    }

    /// What processes of this machine open towards others.
    fn outbound(&mut self, capture: &Capture, listen: SocketAddr) {
        self.chain("outbound", "nat hook output priority -100");
        self.not_our_own(capture);
        self.line("fib daddr type local return");
        self.exceptions(capture);
        let ports = ports(&capture.ports);
        self.line(format_args!(
            "{}{ports}meta l4proto tcp redirect to :{}",
            Families::of(listen).condition(),
            listen.port()
        ));
        self.nft.push_str("  }\n");
    }

    /// What comes to this machine, or through it.
    fn inbound(&mut self, config: &Config, listen: SocketAddr) {
        self.chain("inbound", "nat hook prerouting priority -100");
        self.line("iif lo return");
        self.own_ports(config);
        self.exceptions(&config.capture);
        let ports = ports(&config.capture.ports);
        self.line(format_args!(
            "{}{ports}meta l4proto tcp redirect to :{}",
            Families::of(listen).condition(),
            listen.port()
        ));
        self.nft.push_str("  }\n");
    }

    /// The same, with the destination as it was.
    fn tproxy(&mut self, config: &Config, listen: SocketAddr) {
        let capture = &config.capture;
        let mark = capture.mark.wrapping_add(1).max(1);
        self.chain("inbound", "filter hook prerouting priority -150");
        self.line("iif lo return");
        // Packets of a connection that was handed over before.
        self.line(format_args!("socket transparent 1 meta mark set {mark:#x} accept"));
        self.own_ports(config);
        self.exceptions(capture);
        let ports = ports(&capture.ports);
        let families = Families::of(listen);
        let to = listen.port();
        self.line(format_args!(
            "{}{ports}meta l4proto tcp tproxy {}to :{to} meta mark set {mark:#x} accept",
            families.condition(),
            families.of_tproxy()
        ));
        self.nft.push_str("  }\n");
        let versions: &[&str] = match families {
            Families::V4 => &["-4"],
            Families::V6 => &["-6"],
            Families::Both => &["-4", "-6"],
        };
        for version in versions {
            self.ip.push(format!("{version} rule add fwmark {mark:#x} lookup {ROUTES}"));
            self.ip.push(format!("{version} route replace local default dev lo table {ROUTES}"));
        }
    }

    fn not_our_own(&mut self, capture: &Capture) {
        match capture.user {
            Some(user) => self.line(format_args!("meta skuid {user} return")),
            None => self.line(format_args!("meta mark {:#x} return", capture.mark)),
        }
    }

    /// Who wants to speak with the proxy itself is let through.
    fn own_ports(&mut self, config: &Config) {
        let listeners = config.workloads.values().filter_map(|workload| workload.listen);
        let admin = match &config.admin.listen {
            AdminAddress::Tcp(address) => Some(*address),
            AdminAddress::Unix(_) => None,
        };
        let own: BTreeSet<u16> = listeners.chain(admin).map(|a| a.port()).filter(|p| *p != 0).collect();
        let own: Vec<u16> = own.into_iter().collect();
        self.line(format_args!("fib daddr type local {}return", ports(&own)));
    }

    fn exceptions(&mut self, capture: &Capture) {
        if !capture.except_ports.is_empty() {
            self.line(format_args!("{}return", ports(&capture.except_ports)));
        }
        for (name, v4) in [("ip", true), ("ip6", false)] {
            let nets: Vec<&SourceNet> = capture.except.iter().filter(|net| net.address.is_ipv4() == v4).collect();
            // One rule each: sets do not take networks that lie in each other.
            for net in nets {
                self.line(format_args!("{name} daddr {net} return"));
            }
        }
    }
}

/// The beginning of a transaction in which our table is as if it had never been.
pub(super) fn replaced() -> String {
    // It must be there to be deleted.
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

/// A condition on the destination port; none where there is none.
fn ports(ports: &[u16]) -> String {
    let unique: BTreeSet<u16> = ports.iter().copied().collect();
    if unique.is_empty() {
        return String::new();
    }
    let list: Vec<String> = unique.iter().map(u16::to_string).collect();
    format!("tcp dport {{ {} }} ", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: &str) -> Result<Rules, NoCapture> {
        Rules::of(&crate::config::load_str(yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn outbound_connections_are_redirected_but_the_proxys_own_and_what_is_left_alone() {
        let rules = rules(
            "workloads: { w: { listen: '127.0.0.1:15001', capture: outbound } }\n\
             capture: { ports: [80, 5432, 80], except_ports: [22], except: [10.9.0.0/16, 'fd00::/8'] }",
        )
        .unwrap();
        assert_eq!(
            rules.nft,
            "table inet pathloom {}\ndelete table inet pathloom\ntable inet pathloom {\n  chain outbound {\n    \
             type nat hook output priority -100; policy accept;\n    meta l4proto != tcp return\n    meta mark 0x504c return\n    \
             fib daddr type local return\n    tcp dport { 22 } return\n    ip daddr 10.9.0.0/16 return\n    \
             ip6 daddr fd00::/8 return\n    meta nfproto ipv4 tcp dport { 80, 5432 } meta l4proto tcp redirect to :15001\n  }\n}\n"
        );
        assert_eq!((rules.ip.len(), rules.notes.len()), (0, 1), "a listener of IPv4 takes no IPv6");
    }

    #[test]
    fn a_user_stands_for_the_mark_where_the_proxy_may_not_mark() {
        let rules =
            rules("workloads: { w: { listen: '[::]:15001', capture: outbound } }\ncapture: { user: 1337 }").unwrap();
        assert!(rules.nft.contains("    meta skuid 1337 return\n") && !rules.nft.contains("mark"), "{}", rules.nft);
        assert!(rules.nft.contains("\n    meta l4proto tcp redirect to :15001\n"), "{}", rules.nft);
        assert!(rules.notes.is_empty());
    }

    #[test]
    fn inbound_connections_leave_the_proxys_own_ports_reachable() {
        let yaml = "workloads:\n  a: { listen: '[::]:15006', capture: MODE }\n  b: { listen: '127.0.0.1:15009' }\n";
        let redirected = rules(&yaml.replace("MODE", "inbound")).unwrap();
        assert!(
            redirected.nft.contains("    fib daddr type local tcp dport { 9900, 15006, 15009 } return\n"),
            "{}",
            redirected.nft
        );
        assert!(redirected.nft.contains("type nat hook prerouting") && redirected.ip.is_empty());
        let transparent = rules(&yaml.replace("MODE", "tproxy")).unwrap();
        assert!(
            transparent.nft.contains("    meta l4proto tcp tproxy to :15006 meta mark set 0x504d accept\n"),
            "{}",
            transparent.nft
        );
        assert_eq!(transparent.ip.len(), 4, "{:?}", transparent.ip);
        assert_eq!(transparent.ip[0], "-4 rule add fwmark 0x504d lookup 20556");
        let v4 = rules(&yaml.replace("MODE", "tproxy").replace("[::]", "0.0.0.0")).unwrap();
        assert!(v4.nft.contains("    meta nfproto ipv4 meta l4proto tcp tproxy ip to :15006 meta mark"), "{}", v4.nft);
        assert_eq!(v4.ip.len(), 2, "{:?}", v4.ip);
    }

    #[test]
    fn without_a_listener_that_captures_there_are_no_rules() {
        assert_eq!(rules("workloads: { w: { listen: '127.0.0.1:15001' } }"), Err(NoCapture));
    }
}
