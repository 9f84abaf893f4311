//! The kernel's rules that bring other people's connections here: `pathloom capture install|remove|show|follow`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rules` | the rules that a configuration asks for, as text |
//! | `dial` | connections that the rules leave alone |
//! | `kernel` | giving them to the kernel, through the programs `nft` and `ip` |
//! | `keep` | whom of the pods on a Kubernetes node to capture at each moment |
//! | `turn` | agents that keep that, one after another |
//!
//! All rules stand in one nftables table of our own, `inet pathloom`, which is replaced as a whole in one transaction: so
//! installing twice is installing once, and removing leaves nothing. What TPROXY needs beside them (a rule and a route by
//! which marked packets are delivered here) has a routing table of its own number.
//!
//! **Never our own traffic.** The first rule lets go what the proxy itself opens, by its mark (`capture.mark`) or, where it
//! has not the right to mark, by its user (`capture.user`). What goes to this machine itself is left alone as well, and so
//! are the proxy's own ports.
//!
//! **Pods** (`capture.pods: annotated`). What comes to this machine or through it is captured only where its source's address
//! is in one of two sets, `pods4` and `pods6`, which `pathloom capture follow` keeps. Addresses run out there after two
//! minutes, so that nobody is captured for long whom nobody looks after. Rules that are installed anew leave the sets as they
//! are. Who the pods are `discovery` knows, and `app` tells.

mod dial;
mod keep;
mod kernel;
mod rules;
mod turn;

pub use dial::begin;
pub use keep::{FAILURES, Keeper, REFRESH};
pub use kernel::{CaptureError, hold, install, may_be_transparent, may_mark, remove, show};
pub use rules::{MAX_ADDRESSES, NoCapture, NoPods, Rules};
pub use turn::{Tried, Turn, Wait};
