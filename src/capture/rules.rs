//! The rules that a configuration asks for.

use crate::config::{AdminAddress, Capture, CaptureMode, CapturedPods, Config, SourceNet};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

/// The nftables table.
pub(super) const TABLE: &str = "inet pathloom";
/// The number of the routing table by which TPROXY's packets are delivered here: `PL`, as the mark.
pub(super) const ROUTES: u32 = 0x504c;

/// The sets of the addresses of pods that are captured, one for each IP version (`ip`, the set, what it holds).
const SETS: [(&str, &str, &str); 2] = [("ip", "pods4", "ipv4_addr"), ("ip6", "pods6", "ipv6_addr")];
/// How many seconds an address stays in a set that nobody writes anew: so long a pod is captured whose agent died.
pub(super) const STAYS_S: u64 = 120;
/// The most addresses of a set. A node has 110 pods unless somebody says otherwise, and some 1,000 at most.
pub const MAX_ADDRESSES: usize = 4_096;
/// Where in a hook destinations are changed, for pods: before kube-proxy (-100), because the first who changes one is the only
/// one, and pods call Services.
const BEFORE_SERVICES: i32 = -110;

/// What is to be given to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For `nft -f`: replaces what was there before, but for the sets of captured pods.
    pub nft: String,
    /// For `ip`, one command each, where TPROXY is used.
    pub ip: Vec<String>,
    /// What is not captured although it might be expected.
    pub notes: Vec<String>,
    /// Whether of those who come from elsewhere only pods are captured that somebody follows.
    pub by_pod: bool,
}

/// Why there are no rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no workload has `capture`, so there is nothing to capture for: add `capture: outbound` or `inbound` to one")]
pub struct NoCapture;

/// Why there are no pods to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPods {
    /// Everybody is captured.
    #[error(
        "`capture.pods` is `all`, so there is no pod to look for: write `annotated`, or use `pathloom capture install`"
    )]
    All,
    /// Nobody is.
    #[error(
        "`capture.pods` is `annotated`, and no workload takes what pods open: add `capture: tproxy` (or `inbound`) to one"
    )]
    None,
}

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
        let capture = &config.capture;
        let by_pod = inbound.is_some() && capture.pods == CapturedPods::Annotated;
        let nft = if by_pod { replaced_but_sets() } else { replaced() };
        let mut rules = Self { nft, ip: Vec::new(), notes: Vec::new(), by_pod };
        let _ = writeln!(rules.nft, "table {TABLE} {{");
        if by_pod {
            rules.sets();
        }
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

    /// The rules that a configuration asks for whose pods are to be followed.
    ///
    /// # Errors
    /// When there are none to follow.
    pub fn follow(config: &Config) -> Result<Self, NoPods> {
        match (config.capture.pods, Self::of(config)) {
            (CapturedPods::All, _) => Err(NoPods::All),
            (CapturedPods::Annotated, Ok(rules)) if rules.by_pod => Ok(rules),
            (CapturedPods::Annotated, _) => Err(NoPods::None),
        }
    }

    fn sets(&mut self) {
        for (_, set, holds) in SETS {
            let _ = writeln!(
                self.nft,
                "  set {set} {{ type {holds}; flags timeout; timeout {STAYS_S}s; size {MAX_ADDRESSES}; }}"
            );
        }
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
        let priority = if config.capture.pods == CapturedPods::Annotated { BEFORE_SERVICES } else { -100 };
        self.chain("inbound", &format!("nat hook prerouting priority {priority}"));
        self.line("iif lo return");
        self.own_ports(config);
        self.exceptions(&config.capture);
        let ports = ports(&config.capture.ports);
        for (sources, _) in sources(&config.capture, Families::of(listen)) {
            self.line(format_args!("{sources}{ports}meta l4proto tcp redirect to :{}", listen.port()));
        }
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
        for (sources, family) in sources(capture, families) {
            self.line(format_args!(
                "{sources}{ports}meta l4proto tcp tproxy {family}to :{to} meta mark set {mark:#x} accept"
            ));
        }
        self.nft.push_str("  }\n");
        if self.by_pod {
            // A destination that is changed to itself is changed by nobody else: without it kube-proxy would change the one of a
            // Service, and what comes after a connection's first packet would not be known as part of it.
            self.chain("services", &format!("nat hook prerouting priority {BEFORE_SERVICES}"));
            for (family, ..) in SETS {
                self.line(format_args!("meta mark {mark:#x} dnat {family} to {family} daddr"));
            }
            self.nft.push_str("  }\n");
        }
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
        let own = listeners.chain(admin).chain(config.admin.metrics);
        let own: BTreeSet<u16> = own.map(|a| a.port()).filter(|p| *p != 0).collect();
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

/// The beginning of a transaction in which our chains are as if they had never been, and the sets are as they were.
fn replaced_but_sets() -> String {
    let mut nft = format!("table {TABLE} {{}}\n");
    for chain in ["outbound", "inbound", "services"] {
        // It must be there to be deleted.
        let _ = write!(nft, "add chain {TABLE} {chain}\nflush chain {TABLE} {chain}\ndelete chain {TABLE} {chain}\n");
    }
    nft
}

/// The transaction after which the sets hold these addresses and no other, each for its whole time from now on.
pub(super) fn held(addresses: &BTreeSet<IpAddr>) -> String {
    let mut nft = String::new();
    for (family, set, _) in SETS {
        let _ = writeln!(nft, "flush set {TABLE} {set}");
        let of_family = addresses.iter().filter(|address| address.is_ipv4() == (family == "ip"));
        let list: Vec<String> = of_family.map(IpAddr::to_string).collect();
        if !list.is_empty() {
            let _ = writeln!(nft, "add element {TABLE} {set} {{ {} }}", list.join(", "));
        }
    }
    nft
}

/// Conditions on who opens a connection, and how TPROXY names the IP version beside each: one rule each.
fn sources(capture: &Capture, families: Families) -> Vec<(String, &'static str)> {
    if capture.pods == CapturedPods::All {
        return vec![(families.condition().to_owned(), families.of_tproxy())];
    }
    let known = SETS.into_iter().zip([Families::V4, Families::V6]);
    let taken = known.filter(|(_, family)| families == Families::Both || families == *family);
    taken.map(|((name, set, _), family)| (format!("{name} saddr @{set} "), family.of_tproxy())).collect()
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
        // Scrapes and probes may have a port of their own.
        for mode in ["inbound", "tproxy"] {
            let yaml = format!("{}admin: {{ metrics: '0.0.0.0:9901' }}\n", yaml.replace("MODE", mode));
            let scraped = rules(&yaml).unwrap();
            let kept = "    fib daddr type local tcp dport { 9900, 9901, 15006, 15009 } return\n";
            assert!(scraped.nft.contains(kept), "{mode}: {}", scraped.nft);
        }
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
    fn with_annotated_pods_only_what_they_open_is_captured_and_the_sets_stay_as_they_are() {
        let yaml = "workloads:\n  a: { listen: '[::]:15006', capture: MODE }\n  b: { listen: '[::]:15001', capture: outbound }\n\
                    capture: { pods: annotated, ports: [80] }\n";
        let redirected = rules(&yaml.replace("MODE", "inbound")).unwrap();
        let (before, table) = redirected.nft.split_once("\ntable inet pathloom {\n").unwrap();
        assert_eq!(
            before,
            "table inet pathloom {}\n\
             add chain inet pathloom outbound\nflush chain inet pathloom outbound\ndelete chain inet pathloom outbound\n\
             add chain inet pathloom inbound\nflush chain inet pathloom inbound\ndelete chain inet pathloom inbound\n\
             add chain inet pathloom services\nflush chain inet pathloom services\ndelete chain inet pathloom services"
        );
        for line in [
            "  set pods4 { type ipv4_addr; flags timeout; timeout 120s; size 4096; }",
            "  set pods6 { type ipv6_addr; flags timeout; timeout 120s; size 4096; }",
            "    type nat hook prerouting priority -110; policy accept;",
            "    ip saddr @pods4 tcp dport { 80 } meta l4proto tcp redirect to :15006",
            "    ip6 saddr @pods6 tcp dport { 80 } meta l4proto tcp redirect to :15006",
            // What this machine itself opens is nobody's pod.
            "    tcp dport { 80 } meta l4proto tcp redirect to :15001",
        ] {
            assert!(table.lines().any(|l| l == line), "{line} is not in\n{table}");
        }
        assert_eq!((table.matches("redirect").count(), table.matches("dnat").count()), (3, 0), "{table}");
        let transparent = rules(&yaml.replace("MODE", "tproxy").replace("[::]", "0.0.0.0")).unwrap();
        let line =
            "    ip saddr @pods4 tcp dport { 80 } meta l4proto tcp tproxy ip to :15006 meta mark set 0x504d accept\n";
        assert!(transparent.nft.contains(line) && !transparent.nft.contains("@pods6"), "{}", transparent.nft);
        // Nobody else changes a Service's address.
        let line = "    type nat hook prerouting priority -110; policy accept;\n    meta l4proto != tcp return\n    \
                    meta mark 0x504d dnat ip to ip daddr\n";
        assert!(transparent.nft.contains(line), "{}", transparent.nft);
    }

    #[test]
    fn pods_are_followed_where_they_are_looked_for_and_taken() {
        let follow = |mode: &str, pods: &str| {
            let yaml =
                format!("workloads: {{ w: {{ listen: '[::]:15006', capture: {mode} }} }}\ncapture: {{ pods: {pods} }}");
            Rules::follow(&crate::config::load_str(&yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}")))
        };
        assert_eq!(follow("tproxy", "all"), Err(NoPods::All));
        assert_eq!(follow("outbound", "annotated"), Err(NoPods::None));
        assert_eq!(follow("'off'", "annotated"), Err(NoPods::None));
        let rules = follow("inbound", "annotated").unwrap();
        assert!(rules.nft.contains("@pods4") && rules.by_pod, "{rules:?}");
    }

    #[test]
    fn the_sets_hold_what_is_wanted_and_nothing_else() {
        let none = held(&BTreeSet::new());
        assert_eq!(none, "flush set inet pathloom pods4\nflush set inet pathloom pods6\n");
        let wanted = ["fd00::1", "10.0.0.2", "10.0.0.1"].map(|address| address.parse().unwrap());
        assert_eq!(
            held(&wanted.into()),
            "flush set inet pathloom pods4\nadd element inet pathloom pods4 { 10.0.0.1, 10.0.0.2 }\n\
             flush set inet pathloom pods6\nadd element inet pathloom pods6 { fd00::1 }\n"
        );
    }

    #[test]
    fn without_a_listener_that_captures_there_are_no_rules() {
        assert_eq!(rules("workloads: { w: { listen: '127.0.0.1:15001' } }"), Err(NoCapture));
    }
}
