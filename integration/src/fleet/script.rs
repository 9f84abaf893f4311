//! What an [`super::Endpoint`] does with a request, by its path:
//!
//! | path | it |
//! | --- | --- |
//! | `/echo` | sends the request's body back as it comes, and its trailers |
//! | `/bytes/N` | sends N bytes of the pattern; the length is announced with `?length` |
//! | `/sink` | takes the body in and says how many bytes were right: `N ok`, or where the first wrong one was |
//! | `/trailers/N` | sends N bytes and the trailers `x-check: N` and `x-end: yes` |
//! | `/break/N` | announces 2 N bytes and breaks off after N; with `?chunked` it announces none |
//! | `/delay/MS` | answers after so long |
//! | `/work/MS` | answers after so long, a few at a time (`State::workers`); the others wait their turn |
//! | `/hold` | answers once the gate is open |
//! | `/gate/N` | sends the head and N bytes at once, N more once the gate is open |
//! | `/slow-reader` | answers at once, and reads the body only once the gate is open |
//! | `/never` | never answers |
//! | `/status/N` | answers with this status |
//! | `/refuse` | answers 413 without reading the body, so that it never asks for it with a 100 |
//! | `/headers` | sends the request's headers back, one a line |
//! | `/upgrade/NAME` | switches to the protocol NAME, in which it echoes |
//! | `/websocket` | switches to WebSocket, in which it echoes messages |
//! | a gRPC content type | is the service in `grpc` |
//! | anything else | says hello: the endpoint's number and the request's id |

use super::{Counted, State, grpc};
use crate::BoxError;
use crate::body::{self, Body};
use crate::client::{ENDPOINT, TEST_ID};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Counts a request as cancelled unless it was answered.
struct Answering<'a>(&'a State, bool);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, SeqCst);
        }
    }
}

pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let id = request.headers().get(TEST_ID).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if let Some(id) = id {
        state.journal.saw(id, state.number);
    }
    state.requests.fetch_add(1, SeqCst);
    let head = request.method() == Method::HEAD;
    if request.version() == Version::HTTP_2 {
        state.http2.fetch_add(1, SeqCst);
    }
    let active = Counted::one(&state.active);
    let mut answering = Answering(&state, false);
    let delay = state.delay_us.load(SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    let mut response = match state.status.load(SeqCst) {
        0 => perform(&state, request, id).await?,
        code => status(StatusCode::from_u16(code)?),
    };
    if head {
        // hyper leaves out the body of such an answer on HTTP/1.1 only.
        *response.body_mut() = body::empty();
    }
    answering.1 = true;
    drop(answering);
    drop(active);
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(ENDPOINT), HeaderValue::from(state.number));
    if let Some(id) = id {
        headers.insert(HeaderName::from_static(TEST_ID), HeaderValue::from(id));
    }
    if state.orca.load(SeqCst) {
        let load = HeaderValue::from_static("TEXT cpu_utilization=0.5, rps_fractional=10");
        headers.insert(HeaderName::from_static("endpoint-load-metrics"), load);
    }
    Ok(response)
}

async fn perform(state: &Arc<State>, request: Request<Incoming>, id: Option<u64>) -> Result<Response<Body>, BoxError> {
    if grpc::is(&request) {
        return Ok(grpc::answer(state, request).await);
    }
    let path = request.uri().path().to_owned();
    let mut steps = path.trim_start_matches('/').splitn(2, '/');
    let (verb, argument) = (steps.next().unwrap_or(""), steps.next().unwrap_or(""));
    let number = || argument.parse::<u64>().map_err(|e| format!("{path}: {e}"));
    let query = request.uri().query().unwrap_or("").to_owned();
    Ok(match verb {
        "echo" => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
        "bytes" if query == "length" => sized(number()?, body::patterned(number()?)),
        "bytes" => Response::new(body::patterned(number()?)),
        "sink" => sink(state, request.into_body()).await?,
        "trailers" => trailers(number()?),
        "break" if query == "chunked" => Response::new(body::broken_after(number()?)),
        "break" => sized(number()? * 2, body::broken_after(number()?)),
        "delay" => {
            tokio::time::sleep(Duration::from_millis(number()?)).await;
            hello(state, id)
        }
        "work" => {
            let workers = state.workers.lock().unwrap().clone();
            let _worker = workers.acquire().await?;
            tokio::time::sleep(Duration::from_millis(number()?)).await;
            hello(state, id)
        }
        "hold" => {
            state.gate().await;
            hello(state, id)
        }
        "gate" => gated(state.clone(), number()?),
        "slow-reader" => slow_reader(state.clone(), request.into_body()),
        "never" => std::future::pending().await,
        "status" => status(StatusCode::from_u16(number()? as u16)?),
        "refuse" => status(StatusCode::PAYLOAD_TOO_LARGE),
        "headers" => headers(request.headers()),
        "upgrade" => upgrade(request, argument)?,
        "websocket" => websocket(request)?,
        _ => hello(state, id),
    })
}

fn hello(state: &State, id: Option<u64>) -> Response<Body> {
    let id = id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    Response::new(body::full(format!("endpoint {} saw {id}\n", state.number)))
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{code}\n")));
    *response.status_mut() = code;
    response
}

fn sized(length: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn trailers(length: u64) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", HeaderValue::from(length));
    trailers.insert("x-end", HeaderValue::from_static("yes"));
    let mut response = Response::new(body::with_trailers(length, trailers));
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-check, x-end"));
    response
}

async fn sink(state: &State, mut taken: Incoming) -> Result<Response<Body>, BoxError> {
    let mut checked = body::Checked::default();
    while let Some(frame) = taken.frame().await {
        if let Ok(data) = frame?.into_data() {
            checked.take(&data);
            state.taken.fetch_add(data.len() as u64, SeqCst);
        }
    }
    let verdict = checked.wrong_at.map_or_else(|| "ok".to_owned(), |at| format!("wrong at {at}"));
    Ok(Response::new(body::full(format!("{} {verdict}", checked.length))))
}

fn gated(state: Arc<State>, length: u64) -> Response<Body> {
    let first = body::piece(0, length);
    let second = body::piece(first.len() as u64, length);
    let later = stream::once(async move {
        state.gate().await;
        Ok(Frame::data(second))
    });
    Response::new(body::streamed(stream::once(async { Ok(Frame::data(first)) }).chain(later)))
}

fn slow_reader(state: Arc<State>, taken: Incoming) -> Response<Body> {
    let answer = stream::once(async move {
        state.gate().await;
        let counted = taken.map_frame(move |frame| {
            let read = frame.data_ref().map_or(0, Bytes::len);
            state.taken.fetch_add(read as u64, SeqCst);
            frame
        });
        let (checked, _, error) = body::drain(counted).await;
        Ok(Frame::data(Bytes::from(format!("{} {:?} {error:?}", checked.length, checked.wrong_at))))
    });
    Response::new(body::streamed(answer))
}

fn headers(headers: &HeaderMap) -> Response<Body> {
    let line = |(n, v): (&HeaderName, &HeaderValue)| format!("{n}: {}\n", String::from_utf8_lossy(v.as_bytes()));
    Response::new(body::full(headers.iter().map(line).collect::<String>()))
}

fn switching(protocol: &str) -> Result<Response<Body>, BoxError> {
    let builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    Ok(builder.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol).body(body::empty())?)
}

fn upgrade(mut request: Request<Incoming>, protocol: &str) -> Result<Response<Body>, BoxError> {
    if request.headers().get(header::UPGRADE).is_none_or(|v| v != protocol) {
        return Ok(status(StatusCode::UPGRADE_REQUIRED));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgraded.await?);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match io.read(&mut buffer).await? {
                0 => break,
                n => io.write_all(&buffer[..n]).await?,
            }
        }
        io.shutdown().await?;
        Ok::<_, BoxError>(())
    });
    switching(protocol)
}

fn websocket(mut request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return Ok(status(StatusCode::UPGRADE_REQUIRED));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgraded.await?);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(message) = socket.next().await {
            let message = message?;
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok::<_, BoxError>(())
    });
    let mut response = switching("websocket")?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse()?);
    Ok(response)
}
