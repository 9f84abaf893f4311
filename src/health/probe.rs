//! One health check of one endpoint: over TCP, HTTP/1.1, HTTP/2 or gRPC (`grpc.health.v1`).
//!
//! ```text
//! connect -> a PROXY header, where the cluster's connections begin with one -> TLS, where the cluster speaks it -> ask
//! ```
//! Each check opens a connection of its own: whether one can be opened is part of the question. It is secured as requests'
//! connections are (`secure`): with the identity of the moment, and whoever proves to be another than the cluster expects is
//! not asked at all. A check of the connection alone listens for what the other side says to that, since a refusal of
//! our certificate comes after the handshake. A PROXY header names nobody (`LOCAL`): a check has no client.
//! hyper speaks for it; this is not the request path.

use crate::balance::Unwell;
use crate::capture;
use crate::config::{Check, HealthCheck, Protocol};
use crate::identity::{Dial, Handshake, Handshakes, Side};
use crate::observe::none_left;
use crate::secure;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How long a connection whose check is over may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);
/// `ServingStatus::SERVING`.
const SERVING: i32 = 1;
/// A PROXY header of version 2 that names nobody (`proxy-protocol.txt`, section 2.2: `LOCAL`, for a proxy's own checks).
const LOCAL: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asking {
    pub address: SocketAddr,
    /// The authority that requests are for.
    pub host: String,
    pub protocol: Protocol,
    pub check: HealthCheck,
    /// How its connections are secured; none is plain text.
    pub dial: Option<Arc<Dial>>,
    /// Whether its connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// The mark of connections of ours, where any are captured.
    pub mark: Option<u32>,
}

/// What a check speaks, which ALPN says where the connection is secured: a check of the connection alone offers what requests
/// do.
pub(super) fn spoken(check: Check, protocol: Protocol) -> Protocol {
    match (check, protocol) {
        (Check::Grpc, _) => Protocol::Http2,
        (Check::Http, Protocol::Tcp) => Protocol::Http1,
        (Check::Http | Check::Tcp | Check::Off, protocol) => protocol,
    }
}

/// grpc.health.v1.HealthCheckRequest.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse.
#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks once. None where nothing could be asked, which says nothing of the endpoint.
pub(super) async fn probe(asking: &Asking, handshakes: &Handshakes) -> Option<Result<(), Unwell>> {
    let until = Instant::now() + asking.check.timeout.0;
    timeout_at(until, ask(asking, handshakes, until)).await.unwrap_or(Some(Err(Unwell::Late)))
}

async fn ask(asking: &Asking, handshakes: &Handshakes, until: Instant) -> Option<Result<(), Unwell>> {
    let secured = match &asking.dial {
        None => None,
        Some(dial) => match dial.secured() {
            None => {
                handshakes.count(Side::Upstream, Handshake::NoIdentity);
                return Some(Err(Unwell::Unsecured(Handshake::NoIdentity)));
            }
            secured => secured,
        },
    };
    let mut stream = match connect(asking.address, asking.mark).await {
        Ok(stream) => stream,
        Err(error) if none_left(&error) => return None,
        Err(_) => return Some(Err(Unwell::NoConnection)),
    };
    if asking.proxy_protocol && stream.write_all(LOCAL).await.is_err() {
        return Some(Err(Unwell::NoConnection));
    }
    let Some(secured) = secured else { return Some(speak(stream, "http", asking).await) };
    Some(match secure::connect(handshakes, &secured, asking.address, stream, until).await {
        Err(outcome) => Err(Unwell::Unsecured(outcome)),
        Ok(stream) => {
            let broken = Arc::new(OnceLock::new());
            let mut stream = Listening { stream, broken: broken.clone() };
            let answer = if asking.check.check == Check::Tcp {
                stream.heed(until).await;
                broken.get().map_or(Ok(()), |_| Err(Unwell::Garbled))
            } else {
                speak(stream, "https", asking).await
            };
            answer.map_err(|why| broken.get().map_or(why, |outcome| Unwell::Unsecured(*outcome)))
        }
    })
}

async fn speak<S>(stream: S, scheme: &str, asking: &Asking) -> Result<(), Unwell>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match asking.check.check {
        Check::Off | Check::Tcp => Ok(()),
        Check::Http => {
            let status = http(stream, scheme, asking).await.ok_or(Unwell::Garbled)?.as_u16();
            if status == asking.check.status { Ok(()) } else { Err(Unwell::Status(status)) }
        }
        Check::Grpc => grpc(stream, scheme, asking).await,
    }
}

/// Opens a connection, which the rules that capture connections leave alone where there are any.
async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let Some(mark) = mark else { return TcpStream::connect(address).await };
    let stream = TcpStream::from_std(capture::begin(address, Some(mark))?)?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

/// A secured connection that notes whether TLS itself ended it: what speaks HTTP over it does not pass that on.
struct Listening<S> {
    stream: S,
    broken: Arc<OnceLock<Handshake>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listening<S> {
    /// Ends our side and waits for the other's word on that, whatever it is: an end, an alert, or nothing until then.
    async fn heed(&mut self, until: Instant) {
        let _ = timeout_at(until, async {
            // What the other side has said already can be read although it has gone.
            let _ = self.shutdown().await;
            let _ = self.read(&mut [0]).await;
        })
        .await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if let Err(error) = &read
            && Handshake::is_tls(error)
        {
            let _ = self.broken.set(Handshake::failed(error));
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Drives a connection for as long as a check of it may take, and to its end afterwards.
fn drive<D: Future + Send + 'static>(connection: D, asking: &Asking)
where
    D::Output: Send,
{
    tokio::spawn(timeout(asking.check.timeout.0 + FAREWELL, connection));
}

async fn http<S>(stream: S, scheme: &str, asking: &Asking) -> Option<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Asking { host, check, .. } = asking;
    let request = |uri: String| {
        Request::get(uri)
            .header("host", host.as_str())
            .header("user-agent", "pathloom-health")
            .body(Full::<Bytes>::default())
    };
    if spoken(check.check, asking.protocol) == Protocol::Http2 {
        let request = request(format!("{scheme}://{host}{}", check.path)).ok()?;
        return Some(over_http2(stream, request, asking).await?.status());
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    drive(connection, asking);
    Some(sender.send_request(request(check.path.clone()).ok()?).await.ok()?.status())
}

/// Sends a request over HTTP/2. The connection ends once its answer was dropped.
async fn over_http2<S>(stream: S, request: Request<Full<Bytes>>, asking: &Asking) -> Option<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.ok()?;
    drive(connection, asking);
    sender.send_request(request).await.ok()
}

async fn grpc<S>(stream: S, scheme: &str, asking: &Asking) -> Result<(), Unwell>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let message = Asked { service: asking.check.service.clone() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    let request = Request::post(format!("{scheme}://{}/grpc.health.v1.Health/Check", asking.host))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(framed.freeze()))
        .map_err(|_| Unwell::Garbled)?;
    let (parts, body) = over_http2(stream, request, asking).await.ok_or(Unwell::Garbled)?.into_parts();
    if parts.status != StatusCode::OK {
        return Err(Unwell::Status(parts.status.as_u16()));
    }
    let collected = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| Unwell::Garbled)?;
    let code = |headers: &HeaderMap| headers.get("grpc-status").and_then(|v| v.to_str().ok()?.parse::<u16>().ok());
    match collected.trailers().and_then(code).or_else(|| code(&parts.headers)) {
        Some(0) => serving(&collected.to_bytes()),
        Some(code) => Err(Unwell::Grpc(code)),
        None => Err(Unwell::Garbled),
    }
}

/// What a message of the service says.
fn serving(framed: &[u8]) -> Result<(), Unwell> {
    let [0, a, b, c, d, message @ ..] = framed else { return Err(Unwell::Garbled) };
    if u32::from_be_bytes([*a, *b, *c, *d]) as usize != message.len() {
        return Err(Unwell::Garbled);
    }
    match Said::decode(message) {
        Ok(Said { status: SERVING }) => Ok(()),
        Ok(_) => Err(Unwell::NotServing),
        Err(_) => Err(Unwell::Garbled),
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
