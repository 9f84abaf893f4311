//! A small HTTP/1.1 client for loopback: one target, connections kept alive, one request at a time on each.
//!
//! It never limits how many connections are open: the load is open-loop, and a client that waits for a free connection
//! would hide the very delays that are to be measured. A request is sent anew only when it had not left: a pooled
//! connection that the other side had closed.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;

type Sender = SendRequest<Empty<Bytes>>;

/// Connections to one target.
#[derive(Debug)]
pub struct Client {
    target: SocketAddr,
    idle: Mutex<Vec<Sender>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    /// The connection broke, or spoke something else than HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The host or path is none.
    #[error("{0}")]
    Request(#[from] http::Error),
}

impl Client {
    /// A client without any connection yet.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self { target, idle: Mutex::default() }
    }

    /// Asks for a path and reads the whole answer.
    ///
    /// # Errors
    /// When no connection could be opened, or it broke before the answer's last byte.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer, CallError> {
        let mut request = Request::get(path).header(header::HOST, host).body(Empty::new())?;
        loop {
            let (mut sender, pooled) = match self.pooled().await {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await?.to_bytes();
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if pooled => request = unsent,
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// Closes the connections that nobody uses, as the end of a process would.
    pub fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The connection that was used last, of those that still live.
    async fn pooled(&self) -> Option<Sender> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, CallError> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A connection's end shows at its next use.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}
