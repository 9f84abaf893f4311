//! Endpoints that are a socket and a closure: garbage, resets, silence.

use crate::ports;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One such endpoint. Dropping it closes its listener; what it is at goes on.
#[derive(Debug)]
pub struct RawEndpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that it accepted.
    pub connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl RawEndpoint {
    /// Hands every connection to `script`.
    ///
    /// # Panics
    /// When the machine has no free port.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        script: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ports::own_ip(1), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, SeqCst);
                tokio::spawn(script(stream));
            }
        });
        Self { address, connections, serving }
    }

    /// Answers every request with these bytes and closes.
    pub async fn saying(bytes: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        })
        .await
    }

    /// Answers with these bytes, and resets the connection instead of ending it.
    pub async fn resetting_after(bytes: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            // The bytes must be on their way to the reader before the reset overtakes them.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            reset(stream);
        })
        .await
    }

    /// Accepts, reads, and says nothing.
    pub async fn silent() -> Self {
        Self::start(|mut stream| async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        })
        .await
    }
}

impl Drop for RawEndpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Closes a connection with a reset.
pub fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    drop(stream);
}

/// Reads a request's head and gives it, with whatever came along.
pub async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while crate::client::raw::find(&head, b"\r\n\r\n").is_none() {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => head.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    head
}
