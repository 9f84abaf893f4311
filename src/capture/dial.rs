//! Beginning a connection that the kernel's rules leave alone.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Begins a connection that carries this mark, and does not wait for it: it is there, or has failed, when it can be written
/// to.
///
/// # Errors
/// When it cannot be marked (which needs CAP_NET_ADMIN), or fails at once.
pub fn begin(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark).inspect_err(|error| {
            tracing::warn!(%error, "a connection cannot be marked as the proxy's own: it needs CAP_NET_ADMIN, or `capture.user`");
        })?;
    }
    match socket.connect(&address.into()) {
        Err(error) if !under_way(&error) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
        || error.kind() == io::ErrorKind::WouldBlock
}
