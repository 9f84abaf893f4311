//! A service: it answers with its name, after it has called another one where it is told to.
//!
//! `slow MS` on its standard input lets every answer take so much longer from then on. It ends with its standard input, so
//! that none outlives whoever started it.

use http::{HeaderValue, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pathloom_integration::body;
use pathloom_integration::client::{Connection, ENDPOINT, Version};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot};

/// How long an answer takes where nothing is slow.
const USUAL: Duration = Duration::from_millis(2);

struct State {
    name: HeaderValue,
    slower_ms: AtomicU64,
    calls: Option<SocketAddr>,
    /// Connections to what it calls that nobody uses.
    idle: Mutex<Vec<Connection>>,
}

/// Serves until its standard input ends.
///
/// # Panics
/// When it cannot listen, or is told what it does not understand.
pub async fn serve(listen: SocketAddr, name: &str, calls: Option<SocketAddr>) {
    let name = HeaderValue::from_str(name).expect("a name");
    let state = Arc::new(State { name, slower_ms: AtomicU64::new(0), calls, idle: Mutex::default() });
    let listener = TcpListener::bind(listen).await.expect("its own address");
    let (end, mut ended) = oneshot::channel::<()>();
    let told = state.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let ms = line.strip_prefix("slow ").and_then(|ms| ms.parse().ok());
            told.slower_ms.store(ms.unwrap_or_else(|| panic!("what is `{line}`?")), Relaxed);
        }
        drop(end);
    });
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            _ = &mut ended => return,
        };
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |_| answer(state.clone()));
            // How a connection ends is the caller's business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: Arc<State>) -> Result<Response<body::Body>, Infallible> {
    tokio::time::sleep(USUAL + Duration::from_millis(state.slower_ms.load(Relaxed))).await;
    let status = match state.calls {
        Some(address) => call(&state, address).await.unwrap_or(StatusCode::BAD_GATEWAY),
        None => StatusCode::OK,
    };
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(ENDPOINT, state.name.clone());
    Ok(response)
}

async fn call(state: &State, address: SocketAddr) -> Option<StatusCode> {
    let idle = state.idle.lock().await.pop().filter(Connection::usable);
    let mut connection = match idle {
        Some(connection) => connection,
        None => Version::Http1.connect(address).await.ok()?,
    };
    let status = connection.get("/").await.ok()?.status();
    state.idle.lock().await.push(connection);
    Some(status)
}
