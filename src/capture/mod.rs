//! The kernel's rules that bring other people's connections here: `pathloom capture install|remove|show`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rules` | the rules that a configuration asks for, as text |
//! | `dial` | connections that the rules leave alone |
//! | `kernel` | giving them to the kernel, through the programs `nft` and `ip` |
//!
//! All rules stand in one nftables table of our own, `inet pathloom`, which is replaced as a whole in one transaction: so
//! installing twice is installing once, and removing leaves nothing. What TPROXY needs beside them (a rule and a route by
//! which marked packets are delivered here) has a routing table of its own number.
//!
//! **Never our own traffic.** The first rule lets go what the proxy itself opens, by its mark (`capture.mark`) or, where it
//! has not the right to mark, by its user (`capture.user`). What goes to this machine itself is left alone as well, and so
//! are the proxy's own ports.

mod dial;
mod kernel;
mod rules;

pub use dial::begin;
pub use kernel::{CaptureError, install, may_be_transparent, may_mark, remove, show};
pub use rules::{NoCapture, Rules};
