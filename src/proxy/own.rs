//! The proxy's own connections, where connections are captured: marked, so that the kernel's rules leave them alone, and
//! known by their address, so that one that is captured all the same is not passed on for ever.
//!
//! The kernel's rules are somebody else's to get wrong: without a rule for our mark, what we open to a captured address
//! comes back to us, is passed on, comes back, until no descriptor is left. So the local address of each connection of
//! ours is kept while it is open, and a connection that comes from there is refused. It is entered right after the call
//! that opens it, so that a first round may slip through, never a second.

use super::core::Core;
use super::gauges::ProxyGauges;
use crate::capture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// An open connection of ours, by its local address.
pub(super) struct Own {
    gauges: Arc<ProxyGauges>,
    address: SocketAddr,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.gauges.own().remove(&self.address);
    }
}

/// Opens a connection that is known as ours.
pub(super) async fn connect(core: &Core, address: SocketAddr) -> io::Result<(TcpStream, Own)> {
    let mark = core.generation().generation.routes.connections().mark;
    let stream = TcpStream::from_std(capture::begin(address, mark)?)?;
    let local = canonical(stream.local_addr()?);
    core.gauges.own().insert(local);
    let own = Own { gauges: core.gauges.clone(), address: local };
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok((stream, own)),
    }
}

/// An IPv4 address that arrives mapped into IPv6 as what it is.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
