//! Connections to endpoints, secured: the one handshake of all who call an endpoint, requests (`proxy`) and health checks
//! (`health`) alike, so that no check ever says of an endpoint what is not so for requests.
//!
//! What is shown to an endpoint and expected of it is made in `identity`, which knows no sockets, and taken here at each
//! handshake: the identity of the moment. What comes of it is counted and, where it failed, has one word ([`Handshake`]).
//!
//! With TLS 1.3 a handshake is done on this side before the other side has looked at our certificate: that it refuses it
//! is the first thing that it says afterwards, as an alert. Whoever wants to know must listen.

use crate::identity::{Handshake, Handshakes, Secured, Side};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Secures a connection to an endpoint in good time, and counts what came of it.
///
/// # Errors
/// How the handshake ended instead: never [`Handshake::Done`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    handshakes: &Handshakes,
    secured: &Secured,
    address: SocketAddr,
    stream: S,
    until: Instant,
) -> Result<TlsStream<S>, Handshake> {
    let connected = match tokio::time::timeout_at(until, shake(secured, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let outcome = Handshake::failed(&error);
            let code = outcome.code();
            tracing::debug!(%address, %error, outcome = code, "an endpoint's handshake failed");
            Err(outcome)
        }
        Err(_) => Err(Handshake::Timeout),
    };
    handshakes.count(Side::Upstream, connected.as_ref().err().copied().unwrap_or(Handshake::Done));
    connected
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(secured: &Secured, stream: S) -> io::Result<TlsStream<S>> {
    let stream = TlsConnector::from(secured.config.clone()).connect(secured.name.clone(), stream).await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    let wanted = secured.config.alpn_protocols.first().map(Vec::as_slice);
    // An endpoint that says nothing speaks HTTP/1.1 (RFC 7301 came later than that).
    if agreed != wanted && !(agreed.is_none() && wanted == Some(b"http/1.1")) {
        let error = rustls::Error::NoApplicationProtocol;
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(stream)
}
