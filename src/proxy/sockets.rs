//! Listening sockets: one for each listener and core, bound before anything else starts, and handed over to the next
//! process through Pingora's table of descriptors.
//!
//! All sockets of a listener share the address by `SO_REUSEPORT`, so the kernel spreads connections over the cores. It
//! would also let two proxies share it by mistake, so the address is first tried without: whoever holds it then makes
//! the start fail with the address named.
//!
//! **Hand-over.** Each socket stands in Pingora's table under `ADDRESS#CORE`, by number; the cores own them. A process
//! that takes over finds them there and takes each by `pidfd_getfd` on itself, the one safe way from a number to an
//! owned descriptor, and then closes the number's own. Pingora passes on at most 32 sockets and 2 KiB of keys.

use pingora::server::{Fds, ListenFds};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

/// How many connections wait in the kernel for a core to accept them.
const BACKLOG: i32 = 4096;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
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

/// A socket's name in Pingora's table.
pub(super) fn key(address: SocketAddr, core: usize) -> String {
    format!("{address}#{core}")
}

/// Takes the sockets that another process handed over; what is missing is bound. Sockets that nobody claims are closed.
pub(super) fn adopt(
    fds: &ListenFds,
    listeners: &[SocketAddr],
    cores: usize,
) -> Result<BTreeMap<SocketAddr, Bound>, BindError> {
    let mut table = fds.lock();
    let mut all = BTreeMap::new();
    for address in listeners {
        let inherited: Vec<_> = (0..cores).filter_map(|core| table.get(&key(*address, core)).copied()).collect();
        let sockets = inherited.into_iter().map(own).collect::<io::Result<Vec<_>>>();
        let named = |source| BindError { address: *address, source };
        let mut sockets = sockets.map_err(named)?;
        let bound = match sockets.first().map(TcpListener::local_addr) {
            None => bind(*address, cores)?,
            Some(actual) => {
                let actual = actual.map_err(named)?;
                while sockets.len() < cores {
                    let next = socket(actual, true).and_then(|s| s.listen(BACKLOG).map(|()| s)).map_err(named)?;
                    sockets.push(next.into());
                }
                Bound { actual, sockets }
            }
        };
        all.insert(*address, bound);
    }
    // Ours are owned now; the numbers that came with the table are not needed any more.
    let (keys, _) = table.serialize();
    let others: HashSet<String> = keys.into_iter().filter(|k| !k.contains('#')).collect();
    table.close_unclaimed(&others);
    for (address, bound) in &all {
        enter(&mut table, *address, bound);
    }
    Ok(all)
}

fn own(number: i32) -> io::Result<TcpListener> {
    let this: Pid = getpid();
    let process = pidfd_open(this, PidfdFlags::empty())?;
    let socket = Socket::from(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?);
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Enters a listener's sockets into the table. They must be taken out before they are closed.
pub(super) fn enter(table: &mut Fds, address: SocketAddr, bound: &Bound) {
    for (core, socket) in bound.sockets.iter().enumerate() {
        table.add(key(address, core), socket.as_raw_fd());
    }
}

/// Takes sockets out of the table, so that a stale number is never handed over.
pub(super) fn remove(table: &mut Fds, gone: impl Fn(&str) -> bool) {
    let (keys, numbers) = table.serialize();
    let (keys, numbers) = keys.into_iter().zip(numbers).filter(|(key, _)| !gone(key)).unzip();
    *table = Fds::new();
    table.deserialize(keys, numbers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use std::sync::Arc;

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
    fn sockets_are_handed_over_and_the_missing_ones_bound() {
        let before = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = before.actual;
        // As they come out of the other process: numbers that nobody owns.
        let mut table = Fds::new();
        table.add(key(address, 0), before.sockets[0].try_clone().unwrap().into_raw_fd());
        let gone = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        table.add(key(gone.actual, 0), gone.sockets[0].try_clone().unwrap().into_raw_fd());
        table.add("admin".into(), 0);
        drop((before, gone.sockets));
        let fds: ListenFds = Arc::new(table.into());
        let adopted = adopt(&fds, &[address], 2).unwrap();
        let sockets = &adopted[&address].sockets;
        assert_eq!((sockets.len(), adopted[&address].actual), (2, address));
        for _ in 0..20 {
            std::net::TcpStream::connect(address).unwrap();
        }
        let accepted = sockets.iter().map(|s| std::iter::from_fn(|| s.accept().ok()).count()).sum::<usize>();
        assert_eq!(accepted, 20, "none waits at a socket that nobody serves");
        assert!(std::net::TcpStream::connect(gone.actual).is_err(), "what nobody claims is closed");
        let mut table = fds.lock();
        assert!(table.get(&key(address, 1)).is_some() && table.get("admin").is_some());
        remove(&mut table, |key| key.contains('#'));
        assert_eq!(table.serialize().0, ["admin"]);
    }
}
