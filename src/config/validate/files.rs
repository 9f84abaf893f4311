//! Files that are named: with a name, and a certificate with its key.

use super::{Findings, Path};
use std::path::PathBuf;

/// An error where a key that names a file names none.
pub fn named(file: &Option<PathBuf>, path: Path, key: &str, findings: &mut Findings) {
    if file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
        findings.error(path, format!("`{key}` names no file"), "write the file's path");
    }
}

/// What TLS is spoken with: `authorities`, `certificate` and `key`, of which the last two go together.
pub fn tls([authorities, certificate, key]: [&Option<PathBuf>; 3], path: &Path, findings: &mut Findings) {
    for (name, file) in [("authorities", authorities), ("certificate", certificate), ("key", key)] {
        named(file, path.key(name), name, findings);
    }
    if certificate.is_some() != key.is_some() {
        let (there, missing) = if key.is_some() { ("key", "certificate") } else { ("certificate", "key") };
        let message = format!("`{there}` is of no use without `{missing}`");
        findings.error(path.key(there).name(), message, format!("add `{missing}`, or remove it"));
    }
}
