//! `pathloom ca`: a throw-away authority, to try mTLS out.

use crate::config::units::Timespan;
use crate::config::{SpiffeId, TrustDomain};
use crate::identity::ca;
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `ca` is asked.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Makes an authority: its certificate is the bundle (`ca.pem`), its key lies beside it.
    #[command(after_help = "Example:
  pathloom ca init /tmp/mesh-ca --trust-domain mesh.local")]
    Init {
        /// The folder for it, which is made where it is missing.
        dir: PathBuf,
        /// The trust domain that it hands ids out for.
        #[arg(long, default_value = "mesh.local", value_name = "NAME")]
        trust_domain: TrustDomain,
    },
    /// Issues a certificate with a new key: NAME.pem and NAME-key.pem in the authority's folder.
    #[command(after_help = "Examples:
  pathloom ca issue /tmp/mesh-ca spiffe://mesh.local/shop/frontend
  pathloom ca issue /tmp/mesh-ca spiffe://mesh.local/shop/catalog --dns localhost --valid 30m
  pathloom ca issue /tmp/mesh-ca spiffe://mesh.local/shop/catalog --name catalog-2")]
    Issue {
        /// The authority's folder.
        dir: PathBuf,
        /// Whose it is: spiffe://trust-domain/path.
        id: SpiffeId,
        /// A DNS name or address beside the id, for clients outside the mesh; may be repeated.
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// How long it is valid.
        #[arg(long, default_value = "24h", value_name = "TIME")]
        valid: Timespan,
        /// The files' name; the last part of the id when it is not said.
        #[arg(long, value_name = "NAME", value_parser = file_name)]
        name: Option<String>,
    },
}

/// A name that leads to no other folder.
fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "." || text == ".." || text.contains('/') {
        return Err("it is no file's name".to_owned());
    }
    Ok(text.to_owned())
}

/// Does what was asked.
pub fn run(command: CaCommand) -> ExitCode {
    let done = match command {
        CaCommand::Init { dir, trust_domain } => ca::init(&dir, trust_domain).map(|bundle| {
            println!("bundle: {}", bundle.display());
        }),
        CaCommand::Issue { dir, id, dns, valid, name } => {
            ca::issue(&dir, id, name.as_deref(), dns, valid).map(|(certificate, key)| {
                println!("certificate: {}", certificate.display());
                println!("key: {}", key.display());
                println!("bundle: {}", dir.join(ca::CERTIFICATE).display());
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pathloom: {error}");
            ExitCode::FAILURE
        }
    }
}
