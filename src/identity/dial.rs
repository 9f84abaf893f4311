//! What is shown to a cluster's endpoints, and what is expected of them.
//!
//! A `Dial` lives as long as somebody uses it and is the same for all clusters that say the same. Its settings are made
//! anew whenever what they are made of changes, off the threads that serve: opening a connection only takes the latest.

use super::material::{Material, certificates};
use super::provider;
use super::verify::MeshVerifier;
use crate::config::touch::{FileMark, mark_of};
use crate::config::{ClusterTls, ExpectedPeer, Protocol};
use arc_swap::ArcSwapOption;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What is offered by ALPN where HTTP/1.1 is spoken, and where HTTP/2 is.
pub(super) const HTTP1: &[u8] = b"http/1.1";
pub(super) const HTTP2: &[u8] = b"h2";

/// How connections to some endpoints are secured.
pub struct Dial {
    /// Unique in the process: endpoints that are reached differently are different endpoints.
    pub serial: u32,
    tls: ClusterTls,
    protocol: Protocol,
    epoch: AtomicU64,
    made: ArcSwapOption<Secured>,
    /// The authorities outside the mesh that it was made with.
    authorities: Mutex<Option<FileMark>>,
}

/// Settings for new connections.
pub struct Secured {
    /// What they were made under; pooled connections of another are not used.
    pub epoch: u64,
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// The name to ask for and to expect, which nobody looks at in the mesh.
    pub name: ServerName<'static>,
}

impl PartialEq for Dial {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Dial {}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("serial", &self.serial).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("epoch", &self.epoch).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Dial {
    pub(super) fn new(serial: u32, tls: ClusterTls, protocol: Protocol) -> Self {
        Self {
            serial,
            tls,
            protocol,
            epoch: AtomicU64::new(0),
            made: ArcSwapOption::empty(),
            authorities: Mutex::new(None),
        }
    }

    pub(super) fn is_for(&self, tls: &ClusterTls, protocol: Protocol) -> bool {
        self.tls == *tls && self.protocol == protocol
    }

    /// Whether it proves who this node is.
    pub(super) fn is_in_mesh(&self) -> bool {
        self.tls.name.is_none()
    }

    /// What new connections would be made under. Never 0.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        // One more, so that it differs from what is not secured at all.
        self.epoch.load(Relaxed) + 1
    }

    /// What new connections use; none as long as there is no identity, or no authority that could be read.
    #[must_use]
    pub fn secured(&self) -> Option<Arc<Secured>> {
        self.made.load_full()
    }

    /// Makes the settings anew. `epoch` only rises.
    pub(super) fn renew(&self, material: Option<&Material>, epoch: u64) {
        match &self.tls.name {
            None => match material.map(|m| self.in_mesh(m)) {
                Some(Ok(config)) => self.install(config, ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), epoch),
                Some(Err(error)) => tracing::error!(%error, "no connections can be secured"),
                None => self.made.store(None),
            },
            Some(name) => self.outside(name, epoch),
        }
    }

    /// The file of the authorities that it believes, where it is one of its own.
    pub(super) fn authorities(&self) -> Option<&Path> {
        self.tls.authorities.as_deref()
    }

    /// Looks whether the authorities are others, where they are in a file.
    pub(super) fn refresh(&self, epoch: impl FnOnce() -> u64) {
        let seen = *self.authorities.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(name), Some(file)) = (&self.tls.name, &self.tls.authorities)
            && seen != Some(mark_of(file))
        {
            self.outside(name, epoch());
        }
    }

    fn install(&self, mut config: ClientConfig, name: ServerName<'static>, epoch: u64) {
        config.alpn_protocols = match self.protocol {
            Protocol::Http1 => vec![HTTP1.to_vec()],
            Protocol::Http2 => vec![HTTP2.to_vec()],
            // What is spoken inside is the client's business.
            Protocol::Tcp => Vec::new(),
        };
        self.made.store(Some(Arc::new(Secured { epoch: epoch + 1, config: Arc::new(config), name })));
        self.epoch.store(epoch, Relaxed);
    }

    fn in_mesh(&self, material: &Material) -> Result<ClientConfig, Box<dyn std::error::Error>> {
        // Who expects anybody expects the own trust domain; workloads of another one are called by their ids.
        let verifier = match &self.tls.identity {
            ExpectedPeer::One(id) => {
                MeshVerifier::new(material.own.clone(), material.federated.clone(), Some(id.clone()))
            }
            ExpectedPeer::Mesh | ExpectedPeer::Off => MeshVerifier::new(material.own.clone(), Arc::default(), None),
        };
        let mut config = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(material.key.clone())));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }

    fn outside(&self, name: &str, epoch: u64) {
        let file = self.tls.authorities.as_deref();
        let mark = file.map(mark_of);
        *self.authorities.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        let made = authorities(file).and_then(|roots| {
            let config = ClientConfig::builder_with_provider(provider().clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
            Ok((config.with_root_certificates(roots).with_no_client_auth(), name))
        });
        match made {
            Ok((config, name)) => self.install(config, name, epoch),
            // What was made before stays.
            Err(error) => tracing::error!(error, name, "the authorities for a name outside the mesh cannot be used"),
        }
    }
}

/// The authorities of a file, or the system's.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            for authority in
                certificates(&text, file, "certificate of an authority in PEM").map_err(|e| e.to_string())?
            {
                roots.add(authority).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        None => {
            // One of the system's that cannot be used is none of ours to judge.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("the system has no authorities; install ca-certificates, or name a file of them".to_owned());
            }
        }
    }
    Ok(roots)
}
