//! One health check of one endpoint: over TCP, HTTP/1.1, HTTP/2 or gRPC (`grpc.health.v1`).
//!
//! Each check opens a connection of its own: whether one can be opened is part of the question. hyper speaks for it; this
//! is not the request path.

use crate::balance::Unwell;
use crate::capture;
use crate::config::{Check, HealthCheck, Protocol};
use crate::observe::none_left;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// `ServingStatus::SERVING`.
const SERVING: i32 = 1;

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
pub async fn probe(
    address: SocketAddr,
    mark: Option<u32>,
    protocol: Protocol,
    check: &HealthCheck,
) -> Option<Result<(), Unwell>> {
    let asked = async {
        match connect(address, mark).await {
            Ok(stream) => Some(ask(stream, address, protocol, check).await),
            Err(error) if none_left(&error) => None,
            Err(_) => Some(Err(Unwell::NoConnection)),
        }
    };
    tokio::time::timeout(check.timeout.0, asked).await.unwrap_or(Some(Err(Unwell::Late)))
}

async fn ask(stream: TcpStream, address: SocketAddr, protocol: Protocol, check: &HealthCheck) -> Result<(), Unwell> {
    match check.check {
        Check::Off | Check::Tcp => Ok(()),
        Check::Http => {
            let answer = http(stream, protocol, address, check).await.ok_or(Unwell::Garbled)?;
            let wanted = answer.status().as_u16() == check.status;
            if wanted { Ok(()) } else { Err(Unwell::Status(answer.status().as_u16())) }
        }
        Check::Grpc => grpc(stream, address, &check.service).await,
    }
}

/// Opens a connection, which the rules that capture connections leave alone where there are any.
async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let Some(mark) = mark else { return TcpStream::connect(address).await };
    let stream = TcpStream::from_std(capture::begin(address, Some(mark))?)?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

async fn http(
    stream: TcpStream,
    protocol: Protocol,
    address: SocketAddr,
    check: &HealthCheck,
) -> Option<Response<Incoming>> {
    let request = |uri: String| {
        Request::get(uri)
            .header("host", address.to_string())
            .header("user-agent", "pathloom-health")
            .body(Full::default())
    };
    match protocol {
        Protocol::Http1 | Protocol::Tcp => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            let driven = tokio::spawn(connection);
            let answer = sender.send_request(request(check.path.clone()).ok()?).await.ok();
            driven.abort();
            answer
        }
        Protocol::Http2 => over_http2(stream, request(format!("http://{address}{}", check.path)).ok()?).await,
    }
}

/// Sends a request over HTTP/2. The connection is driven until its answer was dropped.
async fn over_http2(stream: TcpStream, request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.ok()?;
    tokio::spawn(connection);
    sender.send_request(request).await.ok()
}

async fn grpc(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), Unwell> {
    let message = Asked { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(framed.freeze()))
        .map_err(|_| Unwell::Garbled)?;
    let (parts, body) = over_http2(stream, request).await.ok_or(Unwell::Garbled)?.into_parts();
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
mod tests {
    use super::*;

    #[test]
    fn only_serving_is_well() {
        let framed = |status: i32| {
            let message = Said { status }.encode_to_vec();
            [&[0, 0, 0, 0, message.len() as u8][..], &message].concat()
        };
        assert_eq!(serving(&framed(1)), Ok(()));
        assert_eq!((serving(&framed(2)), serving(&framed(0))), (Err(Unwell::NotServing), Err(Unwell::NotServing)));
        for garbled in [&[][..], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(serving(garbled), Err(Unwell::Garbled), "{garbled:?}");
        }
    }
}
