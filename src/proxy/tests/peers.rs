//! Who speaks with a proxy under test: clients of both versions, and servers.

use super::support::{Body, empty, full};
use crate::config::Protocol;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::net::TcpStream;

pub struct Client1(pub hyper::client::conn::http1::SendRequest<Body>);
pub struct Client2(pub hyper::client::conn::http2::SendRequest<Body>);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

pub async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Answer { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers }
}

impl Client1 {
    pub async fn send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", "shop".parse().unwrap());
        }
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        read(self.send(Request::get(path).body(empty()).unwrap()).await.unwrap()).await
    }
}

impl Client2 {
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let request = Request::get(format!("http://shop{path}")).body(empty()).unwrap();
        read(self.send(request).await.unwrap()).await
    }
}

/// A server of ours, and how many connections it got.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Sends each frame of a request's body back as it comes.
    pub async fn mirror(protocol: Protocol) -> Self {
        Self::http(protocol, |request| async move { Response::new(request.into_body().map_err(Into::into).boxed()) })
            .await
    }

    /// Serves HTTP with this function.
    pub async fn http<F, R>(protocol: Protocol, serve: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::tcp(move |stream| {
            let serve = serve.clone();
            async move {
                let service = hyper::service::service_fn(move |request| {
                    let answer = serve(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let io = TokioIo::new(stream);
                let _ = match protocol {
                    Protocol::Http1 => {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
                    }
                    Protocol::Http2 => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                    }
                    Protocol::Tcp => panic!("this is a server of HTTP"),
                };
            }
        })
        .await
    }

    /// Serves each connection with this function.
    pub async fn tcp<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        // The usual queue holds 128: of a burst beyond that some would be asked to try again in a second.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        Self { address, connections }
    }

    /// Answers each request with what it got: method, target, headers a line each, an empty line, the body.
    pub async fn echo(protocol: Protocol) -> Self {
        Self::http(protocol, |request| async move {
            let (parts, body) = request.into_parts();
            let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let collected = body.collect().await;
            let Ok(collected) = collected else { return Response::new(full("broken")) };
            if let Some(trailers) = collected.trailers() {
                for (name, value) in trailers {
                    text.push_str(&format!("trailer {name}: {}\n", value.to_str().unwrap()));
                }
            }
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&collected.to_bytes()));
            Response::new(full(text))
        })
        .await
    }
}
