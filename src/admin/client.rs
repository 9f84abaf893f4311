//! Asking a running proxy's operators' port, for the commands that do: `explain` and `probe`.

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long the proxy may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read: a hundred thousand candidates.
const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// How much of an answer that was not expected is quoted, in characters.
const MAX_QUOTED: usize = 500;

/// Why a running proxy said nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("nobody listens at {0}: is pathloom running? `--admin ADDRESS` names another admin port (`admin.listen`)")]
    Refused(String),
    /// The connection could not be made for another reason.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error(
        "{0} did not answer within {seconds} s: it is stopped, or has too little CPU (`/proc/PID/status`, `pathloom probe live`)",
        seconds = TIMEOUT.as_secs()
    )]
    Timeout(String),
    /// Whoever answers there is not a pathloom of this kind.
    #[error(
        "{address} does not answer as pathloom's admin port does: {reason}. Is it the address of `admin.listen`, not that of a workload \
         or of `admin.metrics`?"
    )]
    Answer {
        /// The address.
        address: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// The answer at `address` is not one of a pathloom.
pub(super) fn wrong(address: &str, reason: impl Into<String>) -> AskError {
    AskError::Answer { address: address.to_owned(), reason: reason.into() }
}

/// An address as people write it, as one that can be connected to.
pub(super) fn address(written: &str) -> String {
    let address = written.trim().trim_start_matches("http://").trim_end_matches('/');
    if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() }
}

/// The beginning of an answer, fit for a terminal.
pub(super) fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).chars().take(MAX_QUOTED).collect::<String>();
    text.trim().lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// What another process says must not reach the terminal as anything but words.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// Asks for a path.
///
/// # Errors
/// When nobody answers in time, or nobody who speaks HTTP.
pub(super) async fn ask(address: &str, target: &str) -> Result<(StatusCode, Bytes), AskError> {
    let asked = tokio::time::timeout(TIMEOUT, connect(address, target));
    asked.await.map_err(|_| AskError::Timeout(address.to_owned()))?
}

async fn connect(address: &str, target: &str) -> Result<(StatusCode, Bytes), AskError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => AskError::Refused(address.to_owned()),
        _ => AskError::Connect { address: address.to_owned(), source },
    };
    match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            exchange(stream, address, "localhost", target).await
        }
        None => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            exchange(stream, address, address, target).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: &str,
    host: &str,
    target: &str,
) -> Result<(StatusCode, Bytes), AskError> {
    let wrong = |reason: String| wrong(address, reason);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| wrong(e.to_string()))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(target).header(header::HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|e| wrong(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| wrong(e.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| wrong(e.to_string()))?;
    driver.abort();
    Ok((status, body.to_bytes()))
}
