//! Endpoints that answer as fast as they can and only count, so that a hundred thousand requests cost the sidecar's time
//! and not the test's. Requests must have no body, and their heads nothing that a request's end could be taken for.

use crate::fleet::raw::RawEndpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One such endpoint, on HTTP/1.1.
#[derive(Debug)]
pub struct CountingEndpoint {
    endpoint: RawEndpoint,
    requests: Arc<AtomicU64>,
    delay_us: Arc<AtomicU64>,
}

impl CountingEndpoint {
    /// Starts it.
    pub async fn start() -> Self {
        let (requests, delay_us) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let knobs = (requests.clone(), delay_us.clone());
        let endpoint = RawEndpoint::start(move |stream| {
            let knobs = knobs.clone();
            async move { drop(serve(stream, &knobs.0, &knobs.1).await) }
        })
        .await;
        Self { endpoint, requests, delay_us }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Requests that it saw.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// Lets each request wait so long.
    pub fn slow(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, SeqCst);
    }
}

async fn serve(mut stream: TcpStream, requests: &AtomicU64, delay_us: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut seen = 0u32;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        for byte in &buffer[..read] {
            seen = seen << 8 | u32::from(*byte);
            if seen == u32::from_be_bytes(*b"\r\n\r\n") {
                requests.fetch_add(1, SeqCst);
                match delay_us.load(SeqCst) {
                    0 => {}
                    delay => tokio::time::sleep(Duration::from_micros(delay)).await,
                }
                stream.write_all(ANSWER).await?;
            }
        }
    }
}
