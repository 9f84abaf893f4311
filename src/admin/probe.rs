//! `pathloom probe`: asks a running proxy whether it lives or is ready, for probes where no HTTP client is at hand.

use super::client::{self, AskError};
use http::StatusCode;

/// What to ask for.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// What the proxy should be.
    #[arg(value_enum)]
    pub what: Probed,
    /// The running proxy's admin address (`admin.listen`), or its Unix socket (`unix:/path`).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", env = "PATHLOOM_ADMIN")]
    pub admin: String,
}

/// What a probe can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Probed {
    /// It runs.
    Live,
    /// Requests can be served.
    Ready,
}

/// Why a probe fails.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers, or not as a pathloom does.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It says no, and why.
    #[error("{0}")]
    No(String),
}

/// Asks; what it says when it is.
///
/// # Errors
/// When it is not, or nobody answers.
pub async fn probe(args: &ProbeArgs) -> Result<String, ProbeError> {
    let address = client::address(&args.admin);
    let path = match args.what {
        Probed::Live => "/live",
        Probed::Ready => "/ready",
    };
    let (status, body) = client::ask(&address, path).await?;
    let said = client::beginning(&body);
    match status {
        StatusCode::OK => Ok(said),
        StatusCode::SERVICE_UNAVAILABLE => Err(ProbeError::No(said)),
        status => Err(client::wrong(&address, format!("{status}: {said}")).into()),
    }
}
