//! Who the sidecars are: authorities and certificates, made by `pathloom ca` as a careful operator does it.

use super::{Mesh, SIDECARS};
use pathloom_integration::process::run;
use std::process::Command;

impl Mesh {
    /// Makes an authority.
    ///
    /// # Panics
    /// When it cannot.
    pub fn authority(&self, folder: &str) {
        self.pathloom(&["ca", "init", &self.file(folder).display().to_string(), "--trust-domain", "chaos.mesh"]);
    }

    /// Issues a sidecar's certificate and puts it in the place of the one before; the first time with the bundle.
    ///
    /// # Panics
    /// When it cannot.
    pub fn issue(&self, authority: &str, sidecar: &str) {
        let (ca, at) = (self.file(authority), self.file(sidecar));
        std::fs::create_dir_all(&at).expect("a folder");
        self.pathloom(&[
            "ca",
            "issue",
            &ca.display().to_string(),
            &format!("spiffe://chaos.mesh/{sidecar}"),
            "--name",
            sidecar,
        ]);
        if !at.join("bundle.pem").exists() {
            std::fs::copy(ca.join("ca.pem"), at.join("bundle.pem")).expect("a file");
        }
        for (made, name) in [(format!("{sidecar}.pem"), "cert.pem"), (format!("{sidecar}-key.pem"), "key.pem")] {
            std::fs::rename(ca.join(made), at.join(name)).expect("the file is replaced");
        }
    }

    /// Replaces the authorities that every sidecar believes.
    ///
    /// # Panics
    /// When it cannot.
    pub fn believe(&self, authorities: &[&str]) {
        let all: Vec<_> = authorities
            .iter()
            .map(|a| std::fs::read_to_string(self.file(a).join("ca.pem")).expect("a bundle"))
            .collect();
        for sidecar in SIDECARS {
            let (next, bundle) = (self.file(sidecar).join("next.pem"), self.file(sidecar).join("bundle.pem"));
            std::fs::write(&next, all.concat()).expect("a file");
            std::fs::rename(next, bundle).expect("the file is replaced");
        }
    }

    fn pathloom(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.pathloom);
        command.args(arguments);
        let (code, out, errors) = run(command);
        assert_eq!(code, 0, "{arguments:?}: {out}{errors}");
    }
}
