//! The check of a peer of the mesh: its chain against the bundle of its trust domain, then its id. The same in both
//! directions. The authorities of one trust domain never vouch for ids of another.

use super::{SpiffeId, TrustDomain, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate is not the one that is wanted, although an authority vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongId {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It does not name one URI.
    #[error("the certificate names {0} URIs, and a SPIFFE certificate names one")]
    NotOne(usize),
    /// Its URI is no id.
    #[error("{0}")]
    NoId(String),
    /// It belongs elsewhere.
    #[error("`{id}` is not of the trust domain `{domain}`")]
    Elsewhere {
        /// Its id.
        id: SpiffeId,
        /// Where it should belong.
        domain: TrustDomain,
    },
    /// It is another's than whoever gave it said.
    #[error("the certificate names `{id}`, and was given as that of `{said}`")]
    Misnamed {
        /// The certificate's.
        id: SpiffeId,
        /// What was said.
        said: String,
    },
    /// It is another's.
    #[error("`{id}` is not the expected `{expected}`")]
    Other {
        /// Its id.
        id: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
}

/// The SPIFFE id that a certificate names: its one URI.
pub(super) fn id_in(certificate: &CertificateDer<'_>) -> Result<SpiffeId, WrongId> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| WrongId::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| WrongId::Unreadable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&str> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    match uris.as_slice() {
        [uri] => uri.parse().map_err(|error: crate::config::units::UnitError| WrongId::NoId(error.message)),
        uris => Err(WrongId::NotOne(uris.len())),
    }
}

/// Who a client has proven to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: SpiffeId,
    /// The SHA-256 of its certificate, in hexadecimal.
    pub digest: String,
}

/// Whom a certificate that was checked belongs to.
#[must_use]
pub fn peer_of(certificate: &CertificateDer<'_>) -> Option<Peer> {
    let mut digest = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        // Writing to a String cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    Some(Peer { id: id_in(certificate).ok()?, digest })
}

/// The authorities of a trust domain.
#[derive(Debug, Clone)]
pub(super) struct Anchors {
    domain: TrustDomain,
    roots: Arc<RootCertStore>,
    chain: Arc<dyn ClientCertVerifier>,
}

impl Anchors {
    pub(super) fn new(domain: TrustDomain, roots: Arc<RootCertStore>) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider().clone()).build()?;
        Ok(Self { domain, roots, chain })
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }
}

/// Checks peers of the mesh.
#[derive(Debug)]
pub(super) struct MeshVerifier {
    own: Anchors,
    /// Those of other trust domains whose workloads are believed, too.
    federated: Arc<[Anchors]>,
    /// The names of all authorities, which clients choose their certificate by.
    subjects: Vec<DistinguishedName>,
    /// None is anybody of the trust domains.
    expected: Option<SpiffeId>,
}

impl MeshVerifier {
    pub(super) fn new(own: Anchors, federated: Arc<[Anchors]>, expected: Option<SpiffeId>) -> Self {
        let subjects = |anchors: &Anchors| anchors.chain.root_hint_subjects().to_vec();
        let subjects = std::iter::once(&own).chain(federated.iter()).flat_map(subjects).collect();
        Self { own, federated, subjects, expected }
    }

    /// The authorities that may vouch for a certificate. Whose id belongs nowhere is measured by the own ones.
    fn anchors(&self, leaf: &CertificateDer<'_>) -> &Anchors {
        if self.federated.is_empty() {
            return &self.own;
        }
        let id = id_in(leaf).ok();
        let of = |anchors: &&Anchors| id.as_ref().is_some_and(|id| id.is_of(&anchors.domain));
        self.federated.iter().find(of).unwrap_or(&self.own)
    }

    /// Whether an authority of the bundle vouches for a certificate, as a server's and as a client's.
    pub(super) fn check_chain(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let now = UnixTime::now();
        self.anchors(leaf).chain.verify_client_cert(leaf, rest, now)?;
        self.check_server(leaf, rest, now)
    }

    fn check_server(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let roots = &self.anchors(leaf).roots;
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, rest, now, algorithms)
    }

    /// Whether a certificate's id is the one that is wanted.
    pub(super) fn check_id(&self, leaf: &CertificateDer<'_>) -> Result<SpiffeId, WrongId> {
        let id = id_in(leaf)?;
        if !id.is_of(&self.own.domain) && !self.federated.iter().any(|anchors| id.is_of(&anchors.domain)) {
            return Err(WrongId::Elsewhere { id, domain: self.own.domain.clone() });
        }
        match &self.expected {
            Some(expected) if *expected != id => Err(WrongId::Other { id, expected: expected.clone() }),
            _ => Ok(id),
        }
    }

    fn wanted(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        match self.check_id(leaf) {
            Ok(_) => Ok(()),
            Err(wrong) => Err(CertificateError::Other(OtherError(Arc::new(wrong))).into()),
        }
    }
}

impl ClientCertVerifier for MeshVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.anchors(leaf).chain.verify_client_cert(leaf, rest, now)?;
        self.wanted(leaf).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_server(leaf, rest, now)?;
        self.wanted(leaf).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}
