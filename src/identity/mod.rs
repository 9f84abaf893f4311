//! Who this node is, whom it believes, and who may do what: mTLS by SPIFFE ids, with certificates that change while it
//! runs.
//!
//! ```text
//! files ------------------------Material::load--+
//! an agent (`workload_api`) --Material::offered-+--> checked: key fits, chain ends in the bundle, one SPIFFE id, not expired
//!                                                      | good                                | not, or nothing comes
//!                                                      v                                     v
//!                                          Identities: what new connections use   the last good one stays; an alarm says why
//!                                            |                      |
//!                                     server settings         Dial: settings towards one kind of endpoint
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `source` | where they come from: files, or the agent behind a SPIFFE Workload API, and what that gave |
//! | `material` | certificate, key and authorities, and what they must be |
//! | `verify` | the check of a peer: its chain against the bundle, then its id |
//! | `store` | what is in force, its replacement, the alarm |
//! | `dial` | what is shown to endpoints and expected of them, in the mesh and outside |
//! | `rules` | who may do what |
//! | `outcome` | how handshakes end, counted |
//! | `ca` | a throw-away authority for trying it out |
//!
//! **In the mesh** a peer is known by its SPIFFE id alone, the one URI in its certificate: no DNS name is looked at, TLS
//! is 1.3, and no session is resumed, so that every connection is checked against the bundle of the moment.
//! A listener hands no tickets out, and a dial keeps none. What a ticket vouches for is who the peer was when it was handed
//! out: neither its certificate nor ours is shown or checked again, so a workload whose authority was taken out of the bundle,
//! or whose certificate has expired, would come in until the ticket does, and an identity that was rotated out would go on
//! being used. Tickets could be bound to the bundle and the leaf's expiry, at the price of state beside rustls's; what they save is
//! two fifths of the instructions of a handshake (of OpenSSL's, by `make bench-tls`), on connections that are kept for hours.
//! **Outside** (`name`) endpoints prove a DNS name to public authorities, TLS 1.2 is spoken too, and no certificate of
//! ours is shown. There sessions are resumed where the endpoint hands tickets out (rustls's default, 256 of them a dial).
//!
//! **Rotation.** A connection keeps what it was made with. New ones use what is in force; pools forget connections of
//! an older epoch as they become idle. What a file holds is never logged or shown, only its path and what is public in
//! the certificate.
//!
//! **Other trust domains** are believed where the configuration names them (`identity.federated`), each by its own authorities
//! alone, which come from the Workload API. Listeners let their workloads in; a cluster calls them where it expects one id.
//!
//! **Cryptography** is `ring`: it builds in seconds with a C compiler alone, where `aws-lc-rs` takes minutes and, on
//! some machines, CMake. What it lacks, key exchange that withstands quantum computers, is one line in `provider`.
//!
//! What it deliberately does not do: look at revocation lists (certificates of a mesh live for hours), hold an identity
//! for each workload (a proxy has one), or ask anybody for one: the room `workload_api` does.

pub mod ca;
mod dial;
mod material;
mod outcome;
mod rules;
mod source;
mod store;
mod verify;

pub use crate::config::{SpiffeId, TlsMode, TrustDomain};
pub use dial::{Dial, Secured};
pub use material::{Material, Place, Refused};
pub use outcome::{Handshake, Handshakes, Side};
pub use rules::Rules;
pub use source::{Agent, Files, Offer, Svid};
pub use store::{Identities, InForce};
pub use verify::{Peer, peer_of};

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, LazyLock};

/// The cryptography that everything here uses.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}

#[cfg(test)]
mod tests;
