//! A throw-away authority for trying mTLS out: a folder with its certificate and key, and what it issued.
//!
//! It is for laboratories and tests: its key lies beside what it issued. Nothing is ever overwritten, and every file is
//! its owner's alone (mode 0600).

use crate::config::units::Timespan;
use crate::config::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The authority's certificate, which is the bundle of whoever believes it.
pub const CERTIFICATE: &str = "ca.pem";
/// Its key.
pub const KEY: &str = "ca-key.pem";
/// The trust domain that it hands ids out for.
const DOMAIN: &str = "trust-domain";
/// How long the authority lasts.
const AUTHORITY_LASTS: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far clocks may be apart: a certificate is valid from so long before it was made.
const SKEW: Duration = Duration::from_secs(60);

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be made, or is there already.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something would be overwritten.
    #[error("{} is there already, and nothing is overwritten: remove it first, or choose another name", .0.display())]
    Exists(PathBuf),
    /// The folder holds no authority.
    #[error("{} holds no authority: `pathloom ca init` makes one", .0.display())]
    NoAuthority(PathBuf),
    /// The id is of another trust domain.
    #[error("`{id}` is not of the authority's trust domain: write `spiffe://{domain}/…`")]
    Elsewhere {
        /// The id.
        id: SpiffeId,
        /// The authority's trust domain.
        domain: TrustDomain,
    },
    /// Making a certificate failed.
    #[error("no certificate could be made: {0}")]
    Making(#[from] rcgen::Error),
    /// A file of the authority's is not what it was.
    #[error("{} is broken: {why}", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// An authority.
pub struct Authority {
    domain: TrustDomain,
    key: KeyPair,
    certificate: String,
}

/// What an authority issued, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose it is.
    pub id: SpiffeId,
    /// DNS names and addresses beside the id, for clients outside the mesh.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub from: SystemTime,
    /// Until when.
    pub until: SystemTime,
}

impl Request {
    /// Valid from now on.
    #[must_use]
    pub fn new(id: SpiffeId, lasts: Duration) -> Self {
        let now = SystemTime::now();
        Self { id, names: Vec::new(), from: now - SKEW, until: now + lasts }
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// That the system has no random numbers.
    pub fn new(domain: TrustDomain) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(&domain);
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - SKEW).into(), (now + AUTHORITY_LASTS).into());
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { domain, key, certificate })
    }

    /// That of a folder.
    ///
    /// # Errors
    /// That there is none, or that it is broken.
    pub fn open(folder: &Path) -> Result<Self, CaError> {
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name)).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => CaError::NoAuthority(folder.to_owned()),
                _ => CaError::File { path: folder.join(name), source },
            })
        };
        let broken = |name: &str, why: String| CaError::Broken { path: folder.join(name), why };
        let domain =
            read(DOMAIN)?.trim().parse().map_err(|e: crate::config::units::UnitError| broken(DOMAIN, e.message))?;
        // An error of the key's must not show what the key holds.
        let key = KeyPair::from_pem(&read(KEY)?).map_err(|_| broken(KEY, "it is no private key in PEM".to_owned()))?;
        Ok(Self { domain, key, certificate: read(CERTIFICATE)? })
    }

    /// Its certificate, as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// When the id is of another trust domain, or a name is none.
    pub fn issue(&self, request: &Request) -> Result<Issued, CaError> {
        if !request.id.is_of(&self.domain) {
            return Err(CaError::Elsewhere { id: request.id.clone(), domain: self.domain.clone() });
        }
        let mut params = CertificateParams::new(request.names.clone())?;
        params.subject_alt_names.push(SanType::URI(request.id.as_str().try_into()?));
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Pathloom, trying it out");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (request.from.into(), request.until.into());
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &Issuer::new(authority_params(&self.domain), &self.key))?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// What an authority's certificate says but for its time: the same whenever it is asked for.
fn authority_params(domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "Pathloom, trying it out");
    params.distinguished_name.push(DnType::CommonName, domain.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Makes an authority in a folder, which is made where it is missing. Returns the bundle's path.
///
/// # Errors
/// When one is there already, or files cannot be written.
pub fn init(folder: &Path, domain: TrustDomain) -> Result<PathBuf, CaError> {
    let file = |source| CaError::File { path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file)?;
    absent(&[folder.join(CERTIFICATE), folder.join(KEY), folder.join(DOMAIN)])?;
    let authority = Authority::new(domain)?;
    write(&folder.join(KEY), &authority.key.serialize_pem())?;
    write(&folder.join(DOMAIN), &format!("{}\n", authority.domain))?;
    write(&folder.join(CERTIFICATE), &authority.certificate)?;
    Ok(folder.join(CERTIFICATE))
}

/// Issues a certificate into the authority's folder, under `name` or the last part of the id. Returns the paths of the
/// certificate and of its key.
///
/// # Errors
/// When there is no authority, or a file of that name is there already.
pub fn issue(
    folder: &Path,
    id: SpiffeId,
    name: Option<&str>,
    names: Vec<String>,
    lasts: Timespan,
) -> Result<(PathBuf, PathBuf), CaError> {
    let authority = Authority::open(folder)?;
    let name = name.or_else(|| id.as_str().rsplit('/').next()).unwrap_or("workload").to_owned();
    let paths = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
    absent(&[paths.0.clone(), paths.1.clone()])?;
    let issued = authority.issue(&Request { names, ..Request::new(id, lasts.0) })?;
    write(&paths.1, &issued.key)?;
    write(&paths.0, &issued.certificate)?;
    Ok(paths)
}

fn absent(paths: &[PathBuf]) -> Result<(), CaError> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(CaError::Exists(path.clone())),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), CaError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists(path.to_owned()),
        _ => CaError::File { path: path.to_owned(), source },
    })
}
