//! What proves to a NATS server who this node is: a user with a password, a token, an nkey, or credentials with a JWT.
//!
//! Files are read when sharing begins, so that a wrong one is named at once, and again at each connection, so that what
//! has been replaced is taken over with the next one. TLS's own files are read by the client, each time, too.

use super::super::MeshError;
use crate::config::Nats;
use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// What stands before a JWT and before a seed in a file of credentials.
const JWT: &str = "BEGIN NATS USER JWT";
const SEED: &str = "BEGIN USER NKEY SEED";

/// Looks at all files that a connection needs.
///
/// # Errors
/// When one of them is of no use.
pub fn check(nats: &Nats) -> Result<(), MeshError> {
    let wrong = |key: &'static str, path: &Path, reason: String| MeshError::Nats { key, path: path.to_owned(), reason };
    if let Some(file) = &nats.nkey {
        seed(file).map_err(|reason| wrong("nkey", file, reason))?;
    }
    if let Some(file) = &nats.credentials {
        credentials(file).map_err(|reason| wrong("credentials", file, reason))?;
    }
    for (key, file) in [("tls.authorities", &nats.tls.authorities), ("tls.certificate", &nats.tls.certificate)] {
        if let Some(file) = file {
            certificates(file).map_err(|reason| wrong(key, file, reason))?;
        }
    }
    if let Some(file) = &nats.tls.key {
        let key = PrivateKeyDer::from_pem_file(file);
        key.map_err(|error| wrong("tls.key", file, format!("holds no private key: {error}")))?;
    }
    Ok(())
}

fn certificates(file: &Path) -> Result<(), String> {
    let none = |error: &dyn std::fmt::Display| format!("holds no certificates: {error}");
    let mut all = CertificateDer::pem_file_iter(file).map_err(|error| none(&error))?;
    match all.next() {
        Some(first) => first.map(|_| ()).map_err(|error| none(&error)),
        None => Err("holds no certificate".to_owned()),
    }
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))
}

fn key_pair(seed: &str) -> Result<KeyPair, String> {
    KeyPair::from_seed(seed.trim()).map_err(|error| format!("holds no seed of an nkey: {error}"))
}

fn seed(file: &Path) -> Result<KeyPair, String> {
    key_pair(&read(file)?)
}

/// The JWT and the key in a file of credentials (`.creds`).
fn credentials(file: &Path) -> Result<(String, KeyPair), String> {
    let text = read(file)?;
    let after = |mark: &str| {
        let mut lines = text.lines().skip_while(|line| !line.contains(mark)).skip(1);
        lines.next().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
    };
    let jwt = after(JWT).ok_or("holds no JWT of a user")?;
    let seed = after(SEED).ok_or("holds no seed of a user's nkey")?;
    Ok((jwt, key_pair(&seed)?))
}

/// What a server is shown that asks for a signature of this.
fn signed(nats: &Nats, nonce: &[u8]) -> Result<Auth, String> {
    let mut auth = Auth::new();
    let key = match (&nats.nkey, &nats.credentials) {
        (Some(file), _) => {
            let key = seed(file)?;
            auth.nkey = Some(key.public_key());
            key
        }
        (None, Some(file)) => {
            let (jwt, key) = credentials(file)?;
            auth.jwt = Some(jwt);
            key
        }
        (None, None) => return Ok(auth),
    };
    auth.signature = Some(key.sign(nonce).map_err(|error| error.to_string())?);
    Ok(auth)
}

/// How to connect, as far as it is a matter of who one is.
pub fn options(nats: &Nats) -> ConnectOptions {
    let mut options = if nats.nkey.is_some() || nats.credentials.is_some() {
        let nats = nats.clone();
        ConnectOptions::with_auth_callback(move |nonce| {
            let signed = signed(&nats, &nonce).map_err(AuthError::new);
            async move { signed }
        })
    } else {
        ConnectOptions::new()
    };
    if let (Some(user), Some(password)) = (&nats.user, &nats.password) {
        options = options.user_and_password(user.clone(), password.reveal().to_owned());
    }
    if let Some(token) = &nats.token {
        options = options.token(token.reveal().to_owned());
    }
    if let Some(authorities) = &nats.tls.authorities {
        options = options.add_root_certificates(authorities.clone()).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (&nats.tls.certificate, &nats.tls.key) {
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NatsTls;

    #[test]
    fn a_file_of_no_use_is_named_with_its_key_and_its_fault() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let creds = |jwt: &str, seed: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            )
        };
        let whole = Nats {
            nkey: file("nkey", &format!("{seed}\n")),
            credentials: file("creds", &creds("a.jwt", &seed)),
            ..Nats::default()
        };
        assert!(check(&whole).is_ok());
        let shown = signed(&Nats { nkey: None, ..whole.clone() }, b"nonce").unwrap();
        assert_eq!((shown.jwt.as_deref(), shown.nkey), (Some("a.jwt"), None));
        assert!(pair.verify(b"nonce", &shown.signature.unwrap()).is_ok());
        let shown = signed(&whole, b"nonce").unwrap();
        assert_eq!((shown.jwt, shown.nkey), (None, Some(pair.public_key())));

        let tls = |tls: NatsTls| Nats { tls, ..Nats::default() };
        for (nats, said) in [
            (
                Nats { nkey: Some("/none/there".into()), ..Nats::default() },
                "mesh.nats.nkey: /none/there cannot be read",
            ),
            (Nats { nkey: file("a", "SUAX"), ..Nats::default() }, "a holds no seed of an nkey"),
            (Nats { credentials: file("b", &seed), ..Nats::default() }, "mesh.nats.credentials: "),
            (Nats { credentials: file("c", &creds("", &seed)), ..Nats::default() }, "c holds no JWT of a user"),
            (Nats { credentials: file("d", &creds("a.jwt", "x")), ..Nats::default() }, "d holds no seed of an nkey"),
            (tls(NatsTls { authorities: file("e", "no PEM"), ..NatsTls::default() }), "mesh.nats.tls.authorities: "),
            (tls(NatsTls { certificate: file("f", ""), ..NatsTls::default() }), "f holds no certificate"),
            (tls(NatsTls { key: file("g", "no PEM"), ..NatsTls::default() }), "g holds no private key"),
        ] {
            let error = check(&nats).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains(&seed), "{error}");
        }
    }
}
