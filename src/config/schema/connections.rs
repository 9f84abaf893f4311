//! What comes in beside plain HTTP: connections of other protocols, connections that the kernel redirects here, and PROXY
//! headers.

use super::Config;
use crate::config::units::SourceNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What clients speak on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.1 or HTTP/2.
    #[default]
    Http,
    /// Anything: bytes are passed on as they are, to a cluster with `protocol: tcp`.
    Tcp,
    /// Found out by the first bytes: HTTP is served as HTTP, TLS is passed on by the name that it asks for, and anything else as TCP, as is a client that waits for the server to speak first, after `listeners.detect`.
    Detect,
}

/// How connections come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// Clients connect to it.
    #[default]
    Off,
    /// The kernel redirects what processes on this machine open towards others (nftables' REDIRECT).
    Outbound,
    /// The kernel redirects what comes to this machine, or passes through it (nftables' REDIRECT).
    Inbound,
    /// The kernel hands over what comes to this machine, or passes through it, with its destination as it was (TPROXY); this needs CAP_NET_ADMIN.
    Tproxy,
}

impl CaptureMode {
    /// Whether connections come from the kernel.
    #[must_use]
    pub fn captures(self) -> bool {
        self != Self::Off
    }
}

impl Config {
    /// Whether any listener gets connections from the kernel.
    #[must_use]
    pub fn captures(&self) -> bool {
        self.workloads.values().any(|workload| workload.capture.captures())
    }

    /// The mark of connections of the proxy's own, where any are captured and marks tell them apart.
    #[must_use]
    pub fn own_mark(&self) -> Option<u32> {
        Some(self.capture.mark).filter(|mark| self.captures() && *mark != 0 && self.capture.user.is_none())
    }
}

/// What happens to captured connections, and which are captured: `pathloom capture install` makes the kernel's rules of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    /// What becomes of a captured connection to an address that no cluster has.
    pub unknown: Unknown,
    /// The mark that the proxy's own connections carry, by which the kernel's rules leave them alone.
    pub mark: u32,
    /// The user id that the proxy runs under, by which its own connections are told where it has not the right to mark them.
    pub user: Option<u32>,
    /// The destination ports that are captured; all when empty.
    pub ports: Vec<u16>,
    /// The destination ports that are left alone.
    pub except_ports: Vec<u16>,
    /// The destinations that are left alone (`10.9.0.0/16`), beside this machine itself.
    pub except: Vec<SourceNet>,
    /// Whose connections `inbound` and `tproxy` take; on Kubernetes those of the pods that want it, which `pathloom capture follow` finds out.
    pub pods: CapturedPods,
}

/// Whose connections are captured that come to this machine, or through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CapturedPods {
    /// Everybody's.
    #[default]
    All,
    /// What this node's pods open that have the annotation `pathloom.dev/capture: enabled`, or whose namespace has it (or the label) and that do not say `disabled` themselves.
    Annotated,
}

/// What becomes of a captured connection to an address that no cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It is passed on to where it was going, as it is.
    #[default]
    Pass,
    /// It is closed.
    Refuse,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            unknown: Unknown::Pass,
            mark: 0x504c,
            user: None,
            ports: Vec::new(),
            except_ports: Vec::new(),
            except: Vec::new(),
            pods: CapturedPods::All,
        }
    }
}
