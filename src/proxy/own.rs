//! The proxy's own connections, where they may come back to it: marked, so that the kernel's rules leave them alone, and
//! known by their two ends, so that one that comes back all the same does not go round for ever.
//!
//! **Captured.** The kernel's rules are somebody else's to get wrong: without a rule for our mark, what we open to a
//! captured address comes back to us, is passed on, comes back, until no descriptor is left. A connection of ours that was
//! captured is cut at once: it comes from where one of ours comes from, and was meant for where that one went. Both ends
//! count: the kernel gives one port to several connections that go to different places, ours and other people's.
//!
//! **Sent back.** A proxy may well call itself: from a workload's listener to that of a service on the same node. So a
//! connection passed on as it is carries its number of rounds, as PROXY headers do, and is cut after as many. Who it comes
//! from is enough for that, since what merely has a port in common with one of ours never comes to so many rounds.
//!
//! A connection is entered under the lock under which it is begun, since it may come back before the call that begins it
//! returns; whoever asks waits for those few microseconds, once a connection and never for a request on one. What comes back
//! from another address than it was opened from (through NAT or another node) is not known here: the limits of connections
//! hold for that.

use super::core::Core;
use super::gauges::ProxyGauges;
use crate::capture;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// From where, and to where.
type Way = (SocketAddr, SocketAddr);
/// The least of all addresses.
const LEAST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The open connections of ours that may come back, and by how many of us each came before it was opened: as many entries
/// as there are such connections.
#[derive(Debug, Default)]
pub(super) struct OwnConnections(Mutex<BTreeMap<Way, u8>>);

impl OwnConnections {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Way, u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a connection, and enters it before anybody may ask for it: on the same machine it may have arrived before the
    /// call that begins it returns.
    fn open(
        &self,
        address: SocketAddr,
        rounds: u8,
        begin: impl FnOnce() -> io::Result<std::net::TcpStream>,
    ) -> io::Result<(std::net::TcpStream, Way)> {
        let mut all = self.all();
        let stream = begin()?;
        let way = (canonical(stream.local_addr()?), canonical(address));
        all.insert(way, rounds);
        Ok((stream, way))
    }

    fn forget(&self, way: &Way) {
        self.all().remove(way);
    }

    /// Whether a connection from there to there is ours.
    pub(super) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.all().contains_key(&(canonical(from), canonical(to)))
    }

    /// By how many of us a connection from there came: none, where nothing that we opened comes from there.
    pub(super) fn rounds(&self, from: SocketAddr) -> u8 {
        let from = canonical(from);
        let all = self.all();
        let ours = all.range((from, LEAST)..).take_while(|((local, _), _)| *local == from);
        ours.map(|(_, rounds)| rounds.saturating_add(1)).max().unwrap_or(0)
    }
}

/// An open connection of ours.
pub(super) struct Own {
    gauges: Arc<ProxyGauges>,
    way: Way,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.gauges.own.forget(&self.way);
    }
}

/// Opens a connection that is known as ours, for one that came by so many of us.
pub(super) async fn connect(core: &Core, address: SocketAddr, rounds: u8) -> io::Result<(TcpStream, Own)> {
    let mark = core.generation().generation.routes.connections().mark;
    let (stream, way) = core.gauges.own.open(address, rounds, || capture::begin(address, mark))?;
    let own = Own { gauges: core.gauges.clone(), way };
    let stream = TcpStream::from_std(stream)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_may_be_ours_towards_one_place_and_another_programs_towards_another() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (here, mapped) = (address("10.0.0.1:40000"), address("[::ffff:10.0.0.1]:40000"));
        let (there, elsewhere) = (address("10.0.0.2:80"), address("[fd00::2]:80"));
        let own = OwnConnections::default();
        assert_eq!((own.has(here, there), own.rounds(here)), (false, 0));
        own.all().extend([((here, there), 0), ((here, elsewhere), 4), ((address("10.0.0.1:40001"), there), 9)]);
        assert!(own.has(here, there) && own.has(mapped, there) && own.has(here, elsewhere));
        assert!(!own.has(here, address("10.0.0.3:80")), "whoever has the port towards others is somebody else");
        assert_eq!((own.rounds(here), own.rounds(mapped)), (5, 5), "the one that went round most");
        assert_eq!(own.rounds(address("10.0.0.1:39999")), 0);
        own.forget(&(here, elsewhere));
        assert_eq!(own.rounds(here), 1, "the other one is still there");
        own.forget(&(here, there));
        assert_eq!((own.rounds(here), own.all().len()), (0, 1));
    }
}
