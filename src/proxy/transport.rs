//! A connection's bytes: plain TCP, or TLS over it. What is plain pays a branch.
//!
//! **Reading** goes through `ahead`, or a long body would take a system call for every few kilobytes.
//!
//! **Writing.** The rest of the proxy takes a write that is done for bytes that the kernel has. TLS has a buffer of its
//! own between the two, so a write here is done when that is empty again; until then whoever writes is told to wait, and
//! comes back with the same bytes, as all writers here do. So nothing is ever left behind, nobody needs to flush, and
//! back-pressure works as it does on plain sockets. What is written at once becomes one record, up to 16 KiB.
//!
//! **Closing.** An end of the peer's that no `close_notify` announces is an error (`UnexpectedEof`), so that nobody can
//! cut a body short. Ours is sent when the connection is closed in good order, and when it is dropped with nothing under
//! way.

use super::ahead::{Ahead, ahead};
use super::wire1::{Out, Raw, Scratch};
use crate::identity::{Handshake, Handshakes, Peer, Secured, peer_of};
use crate::secure;
use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsStream};

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A connection that is secured.
#[derive(Debug)]
pub(super) struct Tls {
    stream: TlsStream<Raw<Ahead, TcpStream>>,
    /// So many bytes were taken of whoever writes, and are not with the kernel yet.
    owed: usize,
    /// It is closed in the middle of a message, which the other side must be able to tell from its end.
    cut: bool,
}

/// The first byte of a TLS connection: its first record holds a part of a handshake.
pub(super) const FIRST_BYTE: u8 = 0x16;

/// After how long without a byte the kernel asks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Secures a client's connection, on which `read` came already.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    read: Bytes,
    scratch: &Rc<Scratch>,
) -> io::Result<Transport> {
    let stream = TlsAcceptor::from(config).accept(ahead(stream, read, scratch.clone())).await?;
    Ok(Transport::of(TlsStream::Server(stream)))
}

/// Secures a connection to an endpoint.
pub(super) async fn connect(
    handshakes: &Handshakes,
    secured: &Secured,
    address: SocketAddr,
    stream: TcpStream,
    until: Instant,
    scratch: &Rc<Scratch>,
) -> Result<Transport, Handshake> {
    let ahead = ahead(stream, Bytes::new(), scratch.clone());
    let stream = secure::connect(handshakes, secured, address, ahead, until).await?;
    Ok(Transport::of(TlsStream::Client(stream)))
}

impl Transport {
    fn of(stream: TlsStream<Raw<Ahead, TcpStream>>) -> Self {
        Self::Tls(Box::new(Tls { stream, owed: 0, cut: false }))
    }

    /// Who the client has proven to be.
    pub(super) fn peer(&self) -> Option<Peer> {
        let Self::Tls(tls) = self else { return None };
        tls.stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(peer_of)
    }

    /// Whether something came that nobody asked for, or the other side closed. Costs no system call unless there is
    /// something to be read.
    pub(super) fn stale(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                !matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(tls) => {
                // What TLS itself has to say goes no further.
                at_once(|cx| Pin::new(&mut tls.stream).poll_read(cx, &mut ReadBuf::new(&mut [0]))).is_some()
            }
        }
    }

    /// Writes what can be written at once.
    pub(super) fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write(data),
            Self::Tls(tls) => at_once(|cx| Pin::new(&mut **tls).poll_write(cx, data))
                .unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// What was written breaks off here, which the other side must be able to tell from its end.
    pub(super) fn cut(&mut self) {
        if let Self::Tls(tls) = self {
            tls.cut = true;
        }
    }

    /// Closes the connection in the middle of what is said on it: with a reset, which no end looks like.
    pub(super) fn reset(mut self) {
        self.cut();
        if let Self::Plain(stream) = &self {
            // Where that is refused the connection is gone.
            let _ = stream.set_zero_linger();
        }
    }

    /// Asks the kernel now and then whether the other side is still there, where nothing may move for long.
    pub(super) fn keep_alive(&self) {
        // Without it the idle limit finds out later.
        let _ = self.socket().set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
    }

    /// Acknowledges now what came. A kernel waits up to 40 ms for something to send along, and who writes a head and a body
    /// one after the other without `TCP_NODELAY` holds the body back until then (Nagle's algorithm, RFC 9293, section 3.7.4).
    pub(super) fn acknowledge(&self) {
        // Without it the body comes later.
        let _ = self.socket().set_tcp_quickack(true);
    }

    /// Whether the kernel acknowledges at once, or waits for something to send along.
    #[cfg(test)]
    pub(super) fn acknowledges(&self) -> bool {
        self.socket().tcp_quickack().unwrap()
    }

    /// Lets the kernel wait, as it does after a few requests and answers.
    #[cfg(test)]
    pub(super) fn delay(&self) {
        self.socket().set_tcp_quickack(false).unwrap();
    }

    fn socket(&self) -> SockRef<'_> {
        SockRef::from(match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.stream.get_ref().0.stream(),
        })
    }

    /// For reading and writing by two.
    pub(super) fn joint(self) -> Joint {
        Joint(Rc::new(RefCell::new(self)))
    }
}

impl Tls {
    /// Reads once into a block.
    pub(super) fn poll_read_into(&mut self, cx: &mut Context<'_>, block: &mut BytesMut) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(block)).poll(cx)
    }

    /// Waits until the kernel has what was taken, and says how much that was.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.owed)))
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if self.owed == 0 && !self.cut {
            // As far as it goes without waiting: the connection is closed in any case.
            let _ = at_once(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        }
    }
}

/// What can be done at once; nothing where it would have to wait. The runtime's word that a task has had its turn does not
/// count: it would look as if there was nothing to be read.
fn at_once<T>(ask: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let asked = pin!(tokio::task::unconstrained(std::future::poll_fn(ask)));
    match asked.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Whether the other side ended the connection because it does not like us: what it says in place of an answer.
pub(super) fn rejected(error: &io::Error) -> bool {
    Handshake::is_tls(error)
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.owed == 0 {
            self.owed = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        }
        self.poll_settle(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.owed == 0 {
            self.owed = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data))?;
        }
        self.poll_settle(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, buf),
        }
    }
}

/// Passes on to whichever it is.
macro_rules! either {
    ($this:expr, $stream:ident => $do:expr) => {
        match $this {
            Transport::Plain(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
            Transport::Tls(tls) => {
                let $stream = Pin::new(&mut **tls);
                $do
            }
        }
    };
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => stream.poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => stream.poll_shutdown(cx))
    }
}

impl Out for Transport {
    fn write_now(&mut self, data: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Plain(stream) => stream.write_now(data),
            Self::Tls(_) => None,
        }
    }
}

/// A connection that two read from and write to, on one thread.
#[derive(Debug, Clone)]
pub(super) struct Joint(Rc<RefCell<Transport>>);

impl Joint {
    /// Works with it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Transport) -> T) -> T {
        work(&mut self.0.borrow_mut())
    }

    /// The connection, once nobody else has it.
    pub(super) fn alone(self) -> Option<Transport> {
        Some(Rc::try_unwrap(self.0).ok()?.into_inner())
    }
}

impl AsyncWrite for Joint {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| Pin::new(stream).poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| Pin::new(stream).poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_shutdown(cx))
    }
}

impl Out for Joint {
    fn write_now(&mut self, data: &[u8]) -> Option<io::Result<usize>> {
        self.with(|stream| stream.write_now(data))
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
