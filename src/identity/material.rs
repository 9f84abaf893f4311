//! A certificate, its key and the authorities, as they are in files, and what they must be.
//!
//! Nothing is taken that peers would refuse: the key fits, the chain ends in the bundle for clients and for servers,
//! the leaf names one SPIFFE id of the trust domain, and is valid now. What is wrong is named with the file it is in,
//! never with what the file holds.

use super::verify::{MeshVerifier, WrongId, id_in};
use super::{SpiffeId, TrustDomain, provider};
use crate::config;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The most that is read of a file, in bytes: bundles of whole companies take a tenth.
const MAX_FILE: u64 = 4 << 20;

/// Where the material is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The leaf, and what is between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities.
    pub bundle: PathBuf,
    /// What the leaf must belong to; its own where it is not said.
    pub trust_domain: Option<TrustDomain>,
}

impl Files {
    /// Those of a configuration, which are all there or none.
    #[must_use]
    pub fn of(identity: &config::Identity) -> Option<Self> {
        Some(Self {
            certificate: identity.certificate.clone()?,
            key: identity.key.clone()?,
            bundle: identity.bundle.clone()?,
            trust_domain: identity.trust_domain.clone(),
        })
    }

    /// All of them.
    pub fn paths(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.bundle]
    }
}

/// Why material is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds nothing of what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A file is no PEM, or is cut off.
    #[error("{} is broken: it is not PEM to its end, or holds {what} that cannot be read", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} does not fit the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate names no id of the mesh.
    #[error("{}: {why}", path.display())]
    WrongId {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        why: WrongId,
    },
    /// It is over.
    #[error("the certificate in {} expired at {}", path.display(), crate::observe::rfc3339(*at))]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Since when.
        at: SystemTime,
    },
    /// It has not begun.
    #[error("the certificate in {} is not valid before {}", path.display(), crate::observe::rfc3339(*from))]
    NotYet {
        /// The certificate's file.
        path: PathBuf,
        /// From when on it is.
        from: SystemTime,
    },
    /// No authority vouches for it.
    #[error("no authority in {} vouches for the certificate in {}: {why}", bundle.display(), certificate.display())]
    Untrusted {
        /// The bundle's file.
        bundle: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What is wrong.
        why: Error,
    },
    /// It cannot be used for TLS.
    #[error("the certificate in {} cannot be used: {why}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Refused {
    /// The stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Empty { .. } => "empty",
            Self::Broken { .. } => "broken",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::WrongId { .. } => "wrong_id",
            Self::Expired { .. } => "expired",
            Self::NotYet { .. } => "not_yet_valid",
            Self::Untrusted { .. } => "untrusted",
            Self::Unusable { .. } => "unusable",
        }
    }
}

/// A checked identity.
#[derive(Clone)]
pub struct Material {
    /// Who this is.
    pub id: SpiffeId,
    /// What everybody in the mesh belongs to.
    pub domain: TrustDomain,
    /// Until when the leaf is valid.
    pub expires: SystemTime,
    /// Until when the authority is valid that expires first.
    pub bundle_expires: SystemTime,
    /// The SHA-256 of all that it was made of.
    pub digest: [u8; 32],
    pub(super) key: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads and checks it.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn load(files: &Files) -> Result<Self, Refused> {
        let [leaf_text, key_text, bundle_text] = [&files.certificate, &files.key, &files.bundle].map(|path| read(path));
        let (leaf_text, key_text, bundle_text) = (leaf_text?, key_text?, bundle_text?);
        let mut hash = Sha256::new();
        for text in [&leaf_text, &key_text, &bundle_text] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update(files.trust_domain.as_ref().map(ToString::to_string).unwrap_or_default());
        let chain = certificates(&leaf_text, &files.certificate, "certificate")?;
        let authorities = certificates(&bundle_text, &files.bundle, "certificate of an authority")?;
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| match error {
            pem::Error::NoItemsFound => Refused::Empty { path: files.key.clone(), what: "private key" },
            _ => Refused::Broken { path: files.key.clone(), what: "a private key" },
        })?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| Refused::Broken { path: files.key.clone(), what: "a private key" })?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        if key.keys_match().is_err() {
            return Err(Refused::KeyMismatch { key: files.key.clone(), certificate: files.certificate.clone() });
        }
        let [leaf, rest @ ..] = key.cert.as_slice() else {
            return Err(Refused::Empty { path: files.certificate.clone(), what: "certificate" });
        };
        let expires = valid_now(leaf, &files.certificate)?;
        let wrong_id = |why| Refused::WrongId { path: files.certificate.clone(), why };
        let id = id_in(leaf).map_err(wrong_id)?;
        let domain = files.trust_domain.clone().unwrap_or_else(|| TrustDomain::from(&id));
        let mut roots = RootCertStore::empty();
        let mut bundle_expires = None;
        for authority in &authorities {
            let broken = || Refused::Broken { path: files.bundle.clone(), what: "a certificate of an authority" };
            roots.add(authority.clone()).map_err(|_| broken())?;
            let (_, until) = validity(authority).ok_or_else(broken)?;
            bundle_expires = Some(bundle_expires.map_or(until, |first: SystemTime| first.min(until)));
        }
        let roots = Arc::new(roots);
        let verifier = MeshVerifier::new(roots.clone(), domain.clone(), None)
            .map_err(|why| Refused::Unusable { path: files.bundle.clone(), why: why.to_string() })?;
        verifier.check_chain(leaf, rest).map_err(|why| match why {
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => {
                let why = "it is not meant for both servers and clients".to_owned();
                Refused::Unusable { path: files.certificate.clone(), why }
            }
            why => Refused::Untrusted { bundle: files.bundle.clone(), certificate: files.certificate.clone(), why },
        })?;
        verifier.check_id(leaf).map_err(wrong_id)?;
        Ok(Self {
            id,
            domain,
            expires,
            bundle_expires: bundle_expires.unwrap_or(expires),
            digest: hash.finalize().into(),
            key,
            roots,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Refused> {
    let unreadable = |source| Refused::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut text).map_err(unreadable)?;
    Ok(text)
}

/// All certificates of a file. One that is cut off breaks it all: half a bundle would believe half of the mesh.
pub(super) fn certificates(
    text: &[u8],
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(Refused::Empty { path: path.to_owned(), what }),
        Ok(all) => Ok(all),
        Err(_) => Err(Refused::Broken { path: path.to_owned(), what: "a certificate" }),
    }
}

/// From when to when a certificate is valid.
fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

/// Until when a certificate is valid, if it is.
fn valid_now(leaf: &CertificateDer<'_>, path: &Path) -> Result<SystemTime, Refused> {
    let broken = || Refused::Broken { path: path.to_owned(), what: "a certificate" };
    let (from, until) = validity(leaf).ok_or_else(broken)?;
    let now = SystemTime::now();
    if now >= until {
        return Err(Refused::Expired { path: path.to_owned(), at: until });
    }
    if now < from {
        return Err(Refused::NotYet { path: path.to_owned(), from });
    }
    Ok(until)
}
