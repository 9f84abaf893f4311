//! A connection on a listener that does more than serve HTTP: what comes first on it, and what it then is.
//!
//! ```text
//! TLS of ours, where the listener asks for it -> TCP, or HTTP (`conn`)
//! ```
//! Listeners that only serve HTTP never come here.

use super::conn::{self, Conn, Proven};
use super::core::{Core, Listener};
use super::tcp::{self, To};
use super::transport::{FIRST_BYTE, Transport};
use super::watch::Watch;
use crate::config::ListenerProtocol;
use crate::identity::TlsMode;
use crate::route::Door;
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that has just come in.
pub(super) struct Arriving {
    core: Rc<Core>,
    listener: Rc<Listener>,
    watch: Rc<Watch>,
    peer: SocketAddr,
}

/// What a look at the first bytes said.
enum Look<T> {
    Known(T),
    /// Nothing came that says it, for too long.
    Late,
    /// The client has ended its sending before.
    Ended,
    /// The connection broke.
    Broke,
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Rc<Listener>, door: &Door) {
    let watch = Watch::new(&core.deadlines);
    let arriving = Arriving { core, listener, watch, peer };
    match door.protocol {
        ListenerProtocol::Tcp => arriving.pass_on(stream, BytesMut::new()).await,
        ListenerProtocol::Http | ListenerProtocol::Detect => arriving.http(stream, BytesMut::new()).await,
    }
}

impl Arriving {
    /// Serves it as HTTP.
    async fn http(self, stream: TcpStream, read: BytesMut) {
        conn::serve_http(self.core, Transport::Plain(stream), read, self.peer.ip(), self.listener, self.watch).await;
    }

    /// Passes it on as TCP.
    async fn pass_on(self, stream: TcpStream, mut read: BytesMut) {
        let mut stream = Transport::Plain(stream);
        let mode = self.core.generation().generation.routes.tls(self.listener.address);
        let mut proven = None;
        if mode != TlsMode::Disabled {
            let core = &self.core;
            let within = if mode == TlsMode::Strict { core.limits.request_headers.0 } else { core.limits.detect.0 };
            let first = |read: &[u8]| read.first().map(|byte| *byte == FIRST_BYTE);
            match (self.look(&mut stream, &mut read, within, first).await, stream) {
                (Look::Known(true), Transport::Plain(plain)) => {
                    let secured = conn::secure(core, &self.listener, &self.watch, plain, read.split().freeze()).await;
                    let Some((who, secured)) = secured else { return };
                    (stream, proven) = (secured, Some(who));
                }
                (Look::Broke, _) => return,
                (_, plain) => {
                    stream = plain;
                    proven = conn::plain_text(core, mode);
                }
            }
        }
        let port = self.listener.actual.port();
        self.carry(stream, read.freeze(), proven, To::Route(port, None)).await;
    }

    /// Passes it on to where it goes.
    async fn carry(self, stream: Transport, read: Bytes, proven: Option<Box<Proven>>, to: To<'_>) {
        let Self { core, listener, watch, peer } = self;
        watch.deadline.clear();
        let conn = Conn::new(core, listener, (peer.ip().to_canonical(), proven), false, watch);
        tcp::serve(&conn, stream, read, to).await;
    }

    /// Reads until what came says what it is, for so long at most.
    async fn look<T>(
        &self,
        stream: &mut Transport,
        read: &mut BytesMut,
        within: Duration,
        known: impl Fn(&[u8]) -> Option<T>,
    ) -> Look<T> {
        let (core, watch) = (&self.core, &self.watch);
        watch.deadline.set(core.clock.now() + within);
        std::future::poll_fn(|cx| {
            watch.deadline.register(cx.waker());
            loop {
                if let Some(known) = known(read) {
                    return Poll::Ready(Look::Known(known));
                }
                match core.scratch.poll_read(cx, stream, false) {
                    Poll::Ready(Ok((new, _))) if new.is_empty() => return Poll::Ready(Look::Ended),
                    Poll::Ready(Ok((new, _))) => read.extend_from_slice(&new),
                    Poll::Ready(Err(_)) => return Poll::Ready(Look::Broke),
                    Poll::Pending if watch.deadline.reached() => return Poll::Ready(Look::Late),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}
