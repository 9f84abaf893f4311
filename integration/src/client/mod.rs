//! Who calls the sidecar: bytes on a socket ([`raw`]), hyper on HTTP/1.1 and HTTP/2 (here), [`grpc`], and foreign
//! programs ([`foreign`]).

pub mod foreign;
pub mod grpc;
pub mod raw;

use crate::BoxError;
use crate::body::Body;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

/// The header that names a request, so that it can be accounted for.
pub const TEST_ID: &str = "x-test-id";
/// The header by which an endpoint says who it is.
pub const ENDPOINT: &str = "x-endpoint";

/// The two protocols that a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Both, for bodies of tests that must hold on either.
pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// One connection.
#[derive(Debug)]
pub enum Connection {
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
    /// Many at once.
    Http2(http2::SendRequest<Body>),
}

impl Version {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens or the handshake fails.
    pub async fn connect(self, address: SocketAddr) -> Result<Connection, BoxError> {
        self.over(TcpStream::connect(address).await?).await
    }

    /// Opens a connection from an address of one's own.
    ///
    /// # Errors
    /// When nobody listens, the address is not ours, or the handshake fails.
    pub async fn connect_from(self, source: SocketAddr, address: SocketAddr) -> Result<Connection, BoxError> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(source)?;
        self.over(socket.connect(address).await?).await
    }

    async fn over(self, stream: TcpStream) -> Result<Connection, BoxError> {
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(match self {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection.with_upgrades());
                Connection::Http1(sender)
            }
            Version::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
                let (sender, connection) = builder.handshake(io).await?;
                tokio::spawn(connection);
                Connection::Http2(sender)
            }
        })
    }
}

impl Connection {
    /// Sends a request to `http://host/path` and gives the answer's head with its body still to come.
    ///
    /// # Errors
    /// When the connection breaks before the head.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        match self {
            Connection::Http1(sender) => {
                if !request.headers().contains_key(header::HOST) {
                    let host = request.uri().authority().map_or("catalog.shop", |a| a.as_str()).parse()?;
                    request.headers_mut().insert(header::HOST, host);
                }
                *request.uri_mut() = request.uri().path_and_query().map_or("/", |p| p.as_str()).parse()?;
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Connection::Http2(sender) => {
                if request.uri().authority().is_none() {
                    *request.uri_mut() = format!("http://catalog.shop{}", request.uri()).parse()?;
                }
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Bytes>, BoxError> {
        let (parts, body) = self.send(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    /// A GET and its whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn get(&mut self, path: &str) -> Result<Response<Bytes>, BoxError> {
        self.exchange(Request::get(path).body(crate::body::empty())?).await
    }

    /// Whether a request may still go out on it.
    #[must_use]
    pub fn usable(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_ready(),
            Connection::Http2(sender) => sender.is_ready() && !sender.is_closed(),
        }
    }

    /// Another handle on the same connection, on HTTP/2.
    #[must_use]
    pub fn share(&self) -> Option<Self> {
        match self {
            Connection::Http1(_) => None,
            Connection::Http2(sender) => Some(Connection::Http2(sender.clone())),
        }
    }
}

/// A header's value as text; empty when it is not there.
#[must_use]
pub fn text<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}
