//! A certificate, its key and the authorities, as they are in files or come from an agent, and what they must be.
//!
//! Nothing is taken that peers would refuse: the key fits, the chain ends in the bundle for clients and for servers,
//! the leaf names one SPIFFE id of the trust domain, and is valid now. What is wrong is named with the place that it came
//! from, never with what that holds.

use super::source::{Agent, Files, Offer, Svid};
use super::verify::{Anchors, MeshVerifier, WrongId, id_in};
use super::{SpiffeId, TrustDomain, provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
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

/// How the place that something came from is called: a file's path, or an agent's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(pub(super) String);

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self(path.display().to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    /// Something holds nothing of what it should.
    #[error("{place} holds no {what}")]
    Empty {
        /// Which.
        place: Place,
        /// What it should hold.
        what: &'static str,
    },
    /// Something is cut off, or not what it should be.
    #[error("{place} is broken: it is cut off, or holds {what} that cannot be read")]
    Broken {
        /// Which.
        place: Place,
        /// What it should hold.
        what: &'static str,
    },
    /// The key belongs to another certificate.
    #[error("the key in {key} does not fit the certificate in {certificate}")]
    KeyMismatch {
        /// Where the key is.
        key: Place,
        /// Where the certificate is.
        certificate: Place,
    },
    /// The certificate names no id of the mesh.
    #[error("{place}: {why}")]
    WrongId {
        /// Where the certificate is.
        place: Place,
        /// Why.
        why: WrongId,
    },
    /// None of an agent's identities has the hint that is wanted.
    #[error("{place} has no certificate with the hint `{hint}`")]
    NoSuchHint {
        /// Which.
        place: Place,
        /// The hint.
        hint: String,
    },
    /// It is over.
    #[error("the certificate in {place} expired at {}", crate::observe::rfc3339(*at))]
    Expired {
        /// Where the certificate is.
        place: Place,
        /// Since when.
        at: SystemTime,
    },
    /// It has not begun.
    #[error("the certificate in {place} is not valid before {}", crate::observe::rfc3339(*from))]
    NotYet {
        /// Where the certificate is.
        place: Place,
        /// From when on it is.
        from: SystemTime,
    },
    /// No authority vouches for it.
    #[error("no authority in {bundle} vouches for the certificate in {certificate}: {why}")]
    Untrusted {
        /// Where the bundle is.
        bundle: Place,
        /// Where the certificate is.
        certificate: Place,
        /// What is wrong.
        why: Error,
    },
    /// It cannot be used for TLS.
    #[error("the certificate in {place} cannot be used: {why}")]
    Unusable {
        /// Where the certificate is.
        place: Place,
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
            Self::NoSuchHint { .. } => "no_such_hint",
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
    /// Who vouches for whom in the own trust domain.
    pub(super) own: Anchors,
    /// Who does in others that are believed.
    pub(super) federated: Arc<[Anchors]>,
}

/// What material is made of. Each part is called by its place where it is refused.
struct Parts {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
    trust_domain: Option<TrustDomain>,
    federated: Vec<(TrustDomain, Vec<CertificateDer<'static>>)>,
    /// The places of the certificate, the key and the authorities.
    places: [Place; 3],
    digest: [u8; 32],
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads files and checks what they hold.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn load(files: &Files) -> Result<Self, Refused> {
        let [leaf_text, key_text, bundle_text] = [&files.certificate, &files.key, &files.bundle].map(|path| read(path));
        let (leaf_text, key_text, bundle_text) = (leaf_text?, key_text?, bundle_text?);
        let places = files.paths().map(Place::from);
        let [_, key_place, _] = &places;
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| match error {
            pem::Error::NoItemsFound => Refused::Empty { place: key_place.clone(), what: "private key in PEM" },
            _ => Refused::Broken { place: key_place.clone(), what: "a private key" },
        });
        let mut digest = Digested::default();
        for part in [&leaf_text, &key_text, &bundle_text] {
            digest.add(part);
        }
        digest.add(said(files.trust_domain.as_ref()).as_bytes());
        Self::check(Parts {
            chain: certificates(&leaf_text, &files.certificate, "certificate in PEM")?,
            authorities: certificates(&bundle_text, &files.bundle, "certificate of an authority in PEM")?,
            key: key?,
            trust_domain: files.trust_domain.clone(),
            federated: Vec::new(),
            places,
            digest: digest.end(),
        })
    }

    /// Checks what an agent gave.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn offered(agent: &Agent, offer: &Offer) -> Result<Self, Refused> {
        let place = agent.place();
        let svid = chosen(agent, offer, &place)?;
        if svid.key.is_empty() {
            return Err(Refused::Empty { place, what: "private key" });
        }
        let mut digest = Digested::default();
        for part in [&svid.chain, &svid.key, &svid.bundle] {
            digest.add(part);
        }
        digest.add(said(agent.trust_domain.as_ref()).as_bytes());
        let mut federated = Vec::new();
        for domain in &agent.federated {
            // An agent that does not know the domain (yet) is no reason to be without an identity.
            let Some((_, bundle)) = offer.federated.iter().find(|(id, _)| is_domain(id, domain)) else { continue };
            let at = Place(format!("{place} for {domain}"));
            federated.push((domain.clone(), certificates_in_der(bundle, &at, "certificate of an authority")?));
            digest.add(domain.to_string().as_bytes());
            digest.add(bundle);
        }
        let material = Self::check(Parts {
            chain: certificates_in_der(&svid.chain, &place, "certificate")?,
            key: PrivatePkcs8KeyDer::from(svid.key.clone()).into(),
            authorities: certificates_in_der(&svid.bundle, &place, "certificate of an authority")?,
            trust_domain: agent.trust_domain.clone(),
            federated,
            places: [place.clone(), place.clone(), place.clone()],
            digest: digest.end(),
        })?;
        if material.id.as_str() != svid.id {
            let why = WrongId::Misnamed { id: material.id, said: svid.id.escape_debug().to_string() };
            return Err(Refused::WrongId { place, why });
        }
        Ok(material)
    }

    fn check(parts: Parts) -> Result<Self, Refused> {
        let Parts { chain, key, authorities, trust_domain, federated, places, digest } = parts;
        let [certificate_place, key_place, bundle_place] = places;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| Refused::Broken { place: key_place.clone(), what: "a private key" })?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        if key.keys_match().is_err() {
            return Err(Refused::KeyMismatch { key: key_place, certificate: certificate_place });
        }
        let [leaf, rest @ ..] = key.cert.as_slice() else {
            return Err(Refused::Empty { place: certificate_place, what: "certificate" });
        };
        let expires = valid_now(leaf, &certificate_place)?;
        let wrong_id = |why| Refused::WrongId { place: certificate_place.clone(), why };
        let id = id_in(leaf).map_err(wrong_id)?;
        let domain = trust_domain.unwrap_or_else(|| TrustDomain::from(&id));
        let (roots, bundle_expires) = roots_of(&authorities, &bundle_place)?;
        let own = anchors(&domain, roots, &bundle_place)?;
        let others = federated.iter().filter(|(other, _)| *other != domain);
        let federated = others
            .map(|(other, authorities)| {
                let (roots, _) = roots_of(authorities, &bundle_place)?;
                anchors(other, roots, &bundle_place)
            })
            .collect::<Result<Arc<[_]>, _>>()?;
        let verifier = MeshVerifier::new(own.clone(), Arc::default(), None);
        verifier.check_chain(leaf, rest).map_err(|why| match why {
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => {
                let why = "it is not meant for both servers and clients".to_owned();
                Refused::Unusable { place: certificate_place.clone(), why }
            }
            why => Refused::Untrusted { bundle: bundle_place.clone(), certificate: certificate_place.clone(), why },
        })?;
        verifier.check_id(leaf).map_err(wrong_id)?;
        let bundle_expires = bundle_expires.unwrap_or(expires);
        Ok(Self { id, domain, expires, bundle_expires, digest, key, own, federated })
    }

    /// The other trust domains that are believed.
    pub fn federated(&self) -> impl Iterator<Item = &TrustDomain> {
        self.federated.iter().map(Anchors::domain)
    }
}

/// The identity that is wanted of those that an agent gave.
fn chosen<'a>(agent: &Agent, offer: &'a Offer, place: &Place) -> Result<&'a Svid, Refused> {
    let Some(first) = offer.svids.first() else {
        return Err(Refused::Empty { place: place.clone(), what: "certificate" });
    };
    let Some(hint) = &agent.hint else { return Ok(first) };
    let hinted = offer.svids.iter().find(|svid| svid.hint == *hint);
    hinted.ok_or_else(|| Refused::NoSuchHint { place: place.clone(), hint: hint.clone() })
}

/// Whether an agent means this trust domain: it names domains by their ids, which have no path.
fn is_domain(id: &str, domain: &TrustDomain) -> bool {
    let name = id.strip_prefix("spiffe://").unwrap_or(id);
    name.trim_end_matches('/') == domain.to_string()
}

fn said(domain: Option<&TrustDomain>) -> String {
    domain.map(ToString::to_string).unwrap_or_default()
}

/// The SHA-256 of several things, each with its length.
#[derive(Default)]
struct Digested(Sha256);

impl Digested {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The authorities, and when the first of them expires.
fn roots_of(
    authorities: &[CertificateDer<'static>],
    place: &Place,
) -> Result<(Arc<RootCertStore>, Option<SystemTime>), Refused> {
    let mut roots = RootCertStore::empty();
    let mut expires = None;
    for authority in authorities {
        let broken = || Refused::Broken { place: place.clone(), what: "a certificate of an authority" };
        roots.add(authority.clone()).map_err(|_| broken())?;
        let (_, until) = validity(authority).ok_or_else(broken)?;
        expires = Some(expires.map_or(until, |first: SystemTime| first.min(until)));
    }
    Ok((Arc::new(roots), expires))
}

fn anchors(domain: &TrustDomain, roots: Arc<RootCertStore>, place: &Place) -> Result<Anchors, Refused> {
    Anchors::new(domain.clone(), roots).map_err(|why| Refused::Unusable { place: place.clone(), why: why.to_string() })
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
        Ok(all) if all.is_empty() => Err(Refused::Empty { place: path.into(), what }),
        Ok(all) => Ok(all),
        Err(_) => Err(Refused::Broken { place: path.into(), what: "a certificate" }),
    }
}

/// All certificates that lie one after another, without anything between them.
fn certificates_in_der(
    bytes: &[u8],
    place: &Place,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let (mut all, mut left) = (Vec::new(), bytes);
    while !left.is_empty() {
        let broken = |_| Refused::Broken { place: place.clone(), what: "a certificate" };
        let (after, _) = X509Certificate::from_der(left).map_err(broken)?;
        let (one, _) = left.split_at_checked(left.len() - after.len()).unwrap_or((left, &[]));
        all.push(CertificateDer::from(one.to_vec()));
        left = after;
    }
    if all.is_empty() { Err(Refused::Empty { place: place.clone(), what }) } else { Ok(all) }
}

/// From when to when a certificate is valid.
fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

/// Until when a certificate is valid, if it is.
fn valid_now(leaf: &CertificateDer<'_>, place: &Place) -> Result<SystemTime, Refused> {
    let broken = || Refused::Broken { place: place.clone(), what: "a certificate" };
    let (from, until) = validity(leaf).ok_or_else(broken)?;
    let now = SystemTime::now();
    if now >= until {
        return Err(Refused::Expired { place: place.clone(), at: until });
    }
    if now < from {
        return Err(Refused::NotYet { place: place.clone(), from });
    }
    Ok(until)
}
