//! Listening sockets: one for each listener and core, bound before anything else starts, or taken over from the process
//! before (`handover`).
//!
//! All sockets of a listener share the address by `SO_REUSEPORT`, so the kernel spreads connections over the cores. It
//! would also let two proxies share it by mistake, so the address is first tried without: whoever holds it then makes
//! the start fail with the address named.

use super::handover::Sockets;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections wait in the kernel for a core to accept them.
pub(super) const BACKLOG: i32 = 4096;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(.source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has the address; end that one, or change the workload's `listen`".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address; change the workload's `listen`".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "the system does not allow it; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

/// One listener's sockets, one a core.
#[derive(Debug)]
pub(super) struct Bound {
    /// The address in fact, which differs from the configured one where that has port 0.
    pub actual: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

/// Binds one socket a core.
pub(super) fn bind(address: SocketAddr, cores: usize) -> Result<Bound, BindError> {
    let bind = || -> io::Result<Bound> {
        if address.port() != 0 {
            drop(socket(address, false)?);
        }
        let first = socket(address, true)?;
        first.listen(BACKLOG)?;
        let first = TcpListener::from(first);
        let actual = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..cores {
            let next = socket(actual, true)?;
            next.listen(BACKLOG)?;
            sockets.push(next.into());
        }
        Ok(Bound { actual, sockets })
    };
    bind().map_err(|source| BindError { address, source })
}

/// Lets a listener's sockets take connections that were meant for other addresses (TPROXY).
pub(super) fn make_transparent(address: SocketAddr, sockets: &[TcpListener]) -> Result<(), BindError> {
    let allow = |socket: &TcpListener| {
        let socket = SockRef::from(socket);
        if address.is_ipv4() {
            return socket.set_ip_transparent_v4(true);
        }
        // One for both families takes IPv4 connections by the same flag.
        socket.set_ip_transparent_v6(true)
    };
    sockets.iter().try_for_each(allow).map_err(|error| {
        let text = format!("{error}: `capture: tproxy` needs the right to do so, CAP_NET_ADMIN (run as root)");
        BindError { address, source: io::Error::new(error.kind(), text) }
    })
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the process before, long closed, must not keep the address.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Takes a listener's sockets from those that another process handed over, all of them: connections may wait at each.
/// What is missing up to one a core is bound; `None` when there is none of this listener.
pub(super) fn adopt(sockets: &mut Sockets, address: SocketAddr, cores: usize) -> Result<Option<Bound>, BindError> {
    let prefix = format!("{address}#");
    let mut adopt = || -> io::Result<Option<Bound>> {
        let names: Vec<String> = sockets.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        let mut inherited: Vec<TcpListener> = names.iter().filter_map(|n| sockets.remove(n)).map(Into::into).collect();
        let Some(first) = inherited.first() else { return Ok(None) };
        let actual = first.local_addr()?;
        inherited.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        while inherited.len() < cores {
            let next = socket(actual, true)?;
            next.listen(BACKLOG)?;
            inherited.push(next.into());
        }
        Ok(Some(Bound { actual, sockets: inherited }))
    };
    adopt().map_err(|source| BindError { address, source })
}

/// The sockets that are listened on, once more, for the process that takes this one's place.
#[derive(Debug, Clone, Default)]
pub struct Listening(Arc<Mutex<BTreeMap<SocketAddr, Vec<TcpListener>>>>);

impl Listening {
    /// Sockets of their own for another process, under the names by which it finds them.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(address, sockets): (&SocketAddr, &Vec<TcpListener>)| {
            let address = *address;
            let named = |(index, socket): (usize, &TcpListener)| {
                socket.try_clone().map(|socket| (format!("{address}#{index}"), socket.into()))
            };
            // One that cannot be copied (no descriptor is left) is bound anew by the other process.
            sockets.iter().enumerate().map(named).filter_map(Result::ok).collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    }

    /// Lets connections come to a listener that were meant for other addresses.
    pub(super) fn make_transparent(&self, address: SocketAddr) -> Result<(), BindError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make_transparent(address, all.get(&address).map(Vec::as_slice).unwrap_or_default())
    }

    pub(super) fn enter(&self, address: SocketAddr, bound: &Bound) {
        let sockets = bound.sockets.iter().filter_map(|socket| socket.try_clone().ok()).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, sockets);
    }

    /// Forgets a listener that is to be closed: its sockets would stay open here.
    pub(super) fn forget(&self, address: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    pub(super) fn forget_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        assert!(bind(address, 2).unwrap_err().to_string().starts_with(&format!("cannot listen on {address}: ")));
        let shared = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let error = bind(shared.actual, 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse, "not even one that shares by SO_REUSEPORT");
    }

    #[test]
    fn all_sockets_of_a_listener_are_taken_over_and_the_missing_ones_bound() {
        let before = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let other = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listening = Listening::default();
        listening.enter(before.actual, &before);
        listening.enter(other.actual, &other);
        for cores in [1, 3] {
            let mut sockets = listening.sockets();
            assert_eq!(sockets.len(), 3);
            let adopted = adopt(&mut sockets, before.actual, cores).unwrap().unwrap();
            assert_eq!((adopted.sockets.len(), adopted.actual), (cores.max(2), before.actual));
            assert!(adopt(&mut sockets, before.actual, cores).unwrap().is_none(), "they can be taken once");
            assert_eq!(sockets.len(), 1, "the other listener's is left");
            for _ in 0..20 {
                std::net::TcpStream::connect(before.actual).unwrap();
            }
            let accepted =
                adopted.sockets.iter().map(|s| std::iter::from_fn(|| s.accept().ok()).count()).sum::<usize>();
            assert_eq!(accepted, 20, "none waits at a socket that nobody serves");
        }
        listening.forget(other.actual);
        drop(other.sockets);
        assert_eq!(listening.sockets().len(), 2);
        listening.forget_all();
        drop(before.sockets);
        assert!(std::net::TcpStream::connect(before.actual).is_err(), "nothing keeps them open");
    }
}
