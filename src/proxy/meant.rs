//! Where a captured connection was going before the kernel redirected it, and whether it goes round in a circle.

use super::core::{Core, Listener};
use super::own::canonical;
use crate::config::CaptureMode;
use socket2::SockRef;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio::net::TcpStream;

/// Where a connection was going; none where it was made to the listener itself.
pub(super) fn meant_for(
    stream: &TcpStream,
    capture: CaptureMode,
    listener: &Listener,
    peer: SocketAddr,
) -> Option<SocketAddr> {
    let local = canonical(stream.local_addr().ok()?);
    let meant = match capture {
        CaptureMode::Off => return None,
        // The kernel left the destination as it was.
        CaptureMode::Tproxy => local,
        CaptureMode::Outbound | CaptureMode::Inbound => {
            let socket = SockRef::from(stream);
            // Asked in the family of what came: one socket may serve both.
            let asked =
                if peer.ip().to_canonical().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
            canonical(asked.ok()?.as_socket()?)
        }
    };
    // By REDIRECT what is meant for others differs from where it arrives; by TPROXY nothing does.
    let to_listener = match capture {
        CaptureMode::Tproxy => meant.port() == listener.actual.port() && is_here(meant.ip()),
        _ => meant == local,
    };
    (!to_listener).then_some(meant)
}

/// Whether a captured connection would come back for ever: it is one of this proxy's own, or goes to it.
pub(super) fn goes_round(core: &Core, listener: &Listener, peer: SocketAddr, meant: SocketAddr) -> bool {
    if core.gauges.own.has(peer, meant) {
        return true;
    }
    let held = core.generation();
    let mut listeners = held.generation.routes.listeners();
    let to_listener = meant.port() == listener.actual.port() || listeners.any(|own| own.port() == meant.port());
    to_listener && listens_on(core, listener, meant)
}

/// Whether one of this proxy's listeners is reached at an address.
fn listens_on(core: &Core, listener: &Listener, address: SocketAddr) -> bool {
    let held = core.generation();
    let reached = |own: SocketAddr| {
        own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified() && is_here(address.ip()))
    };
    reached(listener.actual) || held.generation.routes.listeners().any(reached)
}

/// Whether an address is one of this machine's own: only those can be bound. Costs a few system calls.
fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_here_or_elsewhere() {
        assert!(is_here([127, 0, 0, 1].into()));
        // TEST-NET-1 (RFC 5737) is nobody's.
        assert!(!is_here([192, 0, 2, 1].into()));
    }
}
