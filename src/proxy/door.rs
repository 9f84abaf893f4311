//! A connection on a listener that does more than serve HTTP: what comes first on it, and what it then is.
//!
//! ```text
//! where was it going? -> PROXY header -> whose is that address? -> TLS of ours -> what is spoken?
//!   (captured)          (from some)      a cluster's, for TCP ------------------------------------> `tcp`, to it
//!                                        a cluster's, for HTTP -------------------> HTTP ---------> `conn`
//!                                        nobody's ------------------------------------------------> `tcp`, there
//!   (not captured)                                                                  HTTP ---------> `conn`
//!                                                                                   TLS, other ---> `tcp`, by route
//! ```
//! Listeners that only serve HTTP never come here.
//!
//! **A client that says nothing** may wait for the server to speak. Where a TCP route would take its connection it is taken
//! after `listeners.detect`; where none would, it can only be a client of HTTP that has no request yet.

use super::conn::{self, Conn, DRAIN_IDLE, Proven, Who};
use super::core::{Core, Listener};
use super::headers::MAX_HOPS;
use super::io::spoken;
use super::meant::{goes_round, meant_for};
use super::proxy_header::{self, Header, NoHeader};
use super::sniff::{MOST, Sniffed, sniff};
use super::tcp::{self, Ends, To};
use super::transport::{FIRST_BYTE, Transport};
use super::watch::Watch;
use crate::config::{ListenerProtocol, Protocol, Unknown};
use crate::identity::TlsMode;
use crate::observe::Reason;
use crate::route::Door;
use bytes::{Buf, BytesMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that has just come in.
struct Arriving {
    core: Rc<Core>,
    listener: Rc<Listener>,
    watch: Rc<Watch>,
    /// Who came, and to where: as the connection says, or as somebody who is believed says of it.
    ends: Ends,
    /// Where it was going, where it was captured.
    meant: Option<SocketAddr>,
}

/// What a look at the first bytes said.
enum Look<T> {
    Known(T),
    /// Nothing came that says it, for too long, or the client has ended its sending before.
    Unknown,
    /// The connection broke.
    Broke,
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Rc<Listener>, door: &Door) {
    let Ok(local) = stream.local_addr() else { return };
    let meant = meant_for(&stream, door.capture, &listener, peer);
    let hops = core.gauges.own.rounds(peer);
    let ends = Ends { client: peer, server: meant.unwrap_or(local), hops };
    let watch = Watch::new(&core.deadlines);
    let mut arriving = Arriving { core, listener, watch, ends, meant };
    let mut stream = Transport::Plain(stream);
    if let Some(meant) = meant
        && goes_round(&arriving.core, &arriving.listener, peer, meant)
    {
        tracing::warn!(%peer, %meant, "a connection of this proxy's own was captured, and cut: the kernel's rules must leave out its mark or user");
        return arriving.refuse(stream, Reason::Loop);
    }
    if usize::from(hops) >= MAX_HOPS {
        return arriving.refuse(stream, Reason::Loop);
    }
    let mut read = BytesMut::new();
    if door.expects_header(peer.ip())
        && let Err(reason) = arriving.header(&mut stream, &mut read).await
    {
        return arriving.refuse(stream, reason);
    }
    arriving.find(stream, read, door).await;
}

impl Arriving {
    /// Closes a connection that goes nowhere, and says why.
    fn refuse(self, stream: Transport, reason: Reason) {
        let conn =
            Conn::new(self.core, self.listener, (self.ends.client.ip().to_canonical(), None, None), false, self.watch);
        tcp::refuse(&conn, stream, reason);
    }

    /// Reads the PROXY header that must come first.
    async fn header(&mut self, stream: &mut Transport, read: &mut BytesMut) -> Result<(), Reason> {
        let within = self.core.limits.request_headers.0;
        let known = |read: &[u8]| proxy_header::read(read).transpose();
        match self.look(stream, read, within, known).await {
            Look::Known(Ok(Header { hops, .. })) if usize::from(hops) >= MAX_HOPS => Err(Reason::Loop),
            Look::Known(Ok(Header { length, addresses, hops })) => {
                read.advance(length.min(read.len()));
                let (client, server) = addresses.unwrap_or((self.ends.client, self.ends.server));
                self.ends = Ends { client, server, hops: hops.saturating_add(1).max(self.ends.hops) };
                Ok(())
            }
            Look::Known(Err(NoHeader)) | Look::Unknown => Err(Reason::ProxyHeader),
            Look::Broke => Err(Reason::ClientGone),
        }
    }

    /// Finds out where it goes, and how.
    async fn find(self, stream: Transport, read: BytesMut, door: &Door) {
        let held = self.core.generation();
        let connections = held.generation.routes.connections();
        let Some(meant) = self.meant else {
            let port = self.listener.actual.port();
            return match door.protocol {
                ListenerProtocol::Tcp => self.pass_on(stream, read, To::Route(port, None)).await,
                ListenerProtocol::Detect => self.find_out(stream, read, To::Route(port, None)).await,
                ListenerProtocol::Http => self.http(stream, read).await,
            };
        };
        let Some(id) = connections.destination(meant) else {
            return match connections.unknown {
                Unknown::Pass => self.pass_on(stream, read, To::Address(meant)).await,
                Unknown::Refuse => self.refuse(stream, Reason::UnknownDestination),
            };
        };
        let http = held.generation.cluster(id).is_some_and(|cluster| cluster.protocol != Protocol::Tcp);
        match door.protocol {
            ListenerProtocol::Http if http => self.http(stream, read).await,
            ListenerProtocol::Detect if http => self.find_out(stream, read, To::Cluster(id)).await,
            _ => self.pass_on(stream, read, To::Cluster(id)).await,
        }
    }

    /// Serves it as HTTP.
    async fn http(self, stream: Transport, read: BytesMut) {
        let Self { core, listener, watch, ends, meant } = self;
        let client = (ends.client.ip().to_canonical(), meant.map(Box::new));
        conn::serve_http(core, stream, read, client, listener, watch).await;
    }

    /// Passes it on as TCP.
    async fn pass_on(self, stream: Transport, read: BytesMut, to: To<'_>) {
        let within = match self.tls() {
            TlsMode::Disabled => return self.carry(stream, read, None, to).await,
            TlsMode::Permissive => self.core.limits.detect.0,
            TlsMode::Strict => self.core.limits.request_headers.0,
        };
        let first = |read: &[u8]| read.first().map(|byte| *byte == FIRST_BYTE);
        let (mut stream, mut read) = (stream, read);
        match self.look(&mut stream, &mut read, within, first).await {
            Look::Known(true) => {
                let Some((proven, stream)) = self.secure(stream, read).await else { return };
                self.carry(stream, BytesMut::new(), Some(proven), to).await;
            }
            Look::Known(false) | Look::Unknown => {
                let proven = conn::plain_text(&self.core, self.tls());
                self.carry(stream, read, proven, to).await;
            }
            Look::Broke => {}
        }
    }

    /// Finds out by its first bytes what is spoken on it.
    async fn find_out(self, mut stream: Transport, mut read: BytesMut, to: To<'_>) {
        let mut proven = None;
        let mut sniffed = self.sniffed(&mut stream, &mut read, to).await;
        if self.tls() != TlsMode::Disabled {
            if matches!(sniffed, Look::Known(Sniffed::Tls(_))) {
                let Some((who, secured)) = self.secure(stream, read).await else { return };
                (stream, read, proven) = (secured, BytesMut::new(), Some(who));
                sniffed = self.sniffed(&mut stream, &mut read, to).await;
            } else {
                proven = conn::plain_text(&self.core, self.tls());
            }
        }
        match sniffed {
            Look::Broke => {}
            Look::Known(Sniffed::Tls(name)) => {
                let to = if let To::Route(port, _) = to { To::Route(port, name.as_deref()) } else { to };
                self.carry(stream, read, proven, to).await;
            }
            Look::Known(Sniffed::Other) | Look::Unknown if self.takes_tcp(to) => {
                self.carry(stream, read, proven, to).await;
            }
            // What is no HTTP is told so in the words of HTTP.
            Look::Known(_) | Look::Unknown => self.speak(stream, read, proven).await,
        }
    }

    /// Whether a connection that is no HTTP would go anywhere.
    fn takes_tcp(&self, to: To<'_>) -> bool {
        match to {
            To::Route(port, name) => self.core.generation().generation.routes.connections().find(port, name).is_some(),
            To::Cluster(_) | To::Address(_) => true,
        }
    }

    /// What is spoken, as far as the client says it in time.
    async fn sniffed(&self, stream: &mut Transport, read: &mut BytesMut, to: To<'_>) -> Look<Sniffed> {
        let limits = &self.core.limits;
        let within = if self.takes_tcp(to) { limits.detect.0 } else { limits.idle.0 };
        self.look(stream, read, within, sniff).await
    }

    /// Speaks HTTP with a client of which it is known who it is.
    async fn speak(self, stream: Transport, mut read: BytesMut, proven: Option<Box<Proven>>) {
        let known = spoken(&read).filter(|_| !read.is_empty());
        let first = match known {
            Some(spoken) => Some((stream, read.split().freeze(), spoken)),
            None => conn::first_bytes(&self.core, &self.listener, &self.watch, stream, read).await,
        };
        let Some(first) = first else { return };
        let Self { core, listener, watch, ends, meant } = self;
        let who: Who = (ends.client.ip().to_canonical(), proven, meant.map(Box::new));
        conn::speak(core, listener, watch, who, first).await;
    }

    fn tls(&self) -> TlsMode {
        self.core.generation().generation.routes.tls(self.listener.address)
    }

    async fn secure(&self, stream: Transport, read: BytesMut) -> Option<(Box<Proven>, Transport)> {
        let Transport::Plain(plain) = stream else { return None };
        conn::secure(&self.core, &self.listener, &self.watch, plain, read.freeze()).await
    }

    /// Passes it on to where it goes.
    async fn carry(self, stream: Transport, read: BytesMut, proven: Option<Box<Proven>>, to: To<'_>) {
        let Self { core, listener, watch, ends, .. } = self;
        watch.deadline.clear();
        let conn = Conn::new(core, listener, (ends.client.ip().to_canonical(), proven, None), false, watch);
        tcp::serve(&conn, stream, read.freeze(), to, ends).await;
    }

    /// Reads until what came says what it is, for so long at most, and no more than `MOST`.
    async fn look<T>(
        &self,
        stream: &mut Transport,
        read: &mut BytesMut,
        within: Duration,
        known: impl Fn(&[u8]) -> Option<T>,
    ) -> Look<T> {
        let (core, watch) = (&self.core, &self.watch);
        watch.deadline.set(core.clock.now() + within);
        let mut leaving = false;
        std::future::poll_fn(|cx| {
            watch.deadline.register(cx.waker());
            loop {
                if let Some(known) = known(read) {
                    return Poll::Ready(Look::Known(known));
                }
                if read.len() >= 2 * MOST {
                    return Poll::Ready(Look::Unknown);
                }
                match core.scratch.poll_read(cx, stream, false) {
                    Poll::Ready(Ok((new, _))) if new.is_empty() => return Poll::Ready(Look::Unknown),
                    Poll::Ready(Ok((new, _))) => read.extend_from_slice(&new),
                    Poll::Ready(Err(_)) => return Poll::Ready(Look::Broke),
                    Poll::Pending => break,
                }
            }
            if (core.draining.get() || self.listener.closed.get()) && !leaving && read.is_empty() {
                leaving = true;
                watch.deadline.set(core.clock.now() + DRAIN_IDLE);
            }
            if !watch.deadline.reached() {
                return Poll::Pending;
            }
            // Who said nothing until the listener was closed had nothing to say.
            Poll::Ready(if leaving && read.is_empty() { Look::Broke } else { Look::Unknown })
        })
        .await
    }
}
