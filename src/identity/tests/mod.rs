//! What several tests share: a folder with an identity in it, and handshakes in memory.

mod agent;
mod files;
mod handshakes;
mod rotation;
mod throw_away;

use super::ca::{Authority, Issued, Request};
use super::*;
use crate::config::{ClusterTls, Identity, Protocol};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn authority(domain: &str) -> Authority {
    Authority::new(domain.parse().unwrap()).unwrap()
}

fn issued(authority: &Authority, text: &str) -> Issued {
    authority.issue(&Request::new(id(text), HOUR)).unwrap()
}

fn expired(authority: &Authority, text: &str) -> Issued {
    let now = SystemTime::now();
    authority.issue(&Request { from: now - 2 * HOUR, until: now - HOUR, ..Request::new(id(text), HOUR) }).unwrap()
}

/// A folder with an identity's files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(issued: &Issued, bundle: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.put(issued);
        folder.write("bundle.pem", bundle);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As careful tools do it: written beside, then renamed over.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn put(&self, issued: &Issued) {
        self.write("cert.pem", &issued.certificate);
        self.write("key.pem", &issued.key);
    }

    fn files(&self) -> Files {
        Files {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
            bundle: self.path("bundle.pem"),
            trust_domain: None,
        }
    }

    fn config(&self) -> Identity {
        let Files { certificate, key, bundle, trust_domain } = self.files();
        let (certificate, key, bundle) = (Some(certificate), Some(key), Some(bundle));
        Identity { certificate, key, bundle, trust_domain, ..Identity::default() }
    }

    fn identities(&self) -> Arc<Identities> {
        let identities = Arc::new(Identities::default());
        identities.configure(&self.config()).unwrap();
        identities
    }
}

fn mesh(expected: &str) -> ClusterTls {
    ClusterTls { identity: expected.parse().unwrap(), ..ClusterTls::default() }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
