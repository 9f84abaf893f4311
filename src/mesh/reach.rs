//! Where others reach what listens here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where packets go that leave this machine; none is sent (RFC 5737 keeps the address for documentation).
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The address by which others reach what listens here: where it listens on every address, the one that packets to the
/// first seed leave by.
pub async fn reachable(listen: SocketAddr, seeds: &[String]) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let mut seed = ELSEWHERE;
    for name in seeds {
        if let Some(found) = tokio::net::lookup_host(name).await.ok().and_then(|mut all| all.next()) {
            seed = found;
            break;
        }
    }
    let any: IpAddr = if seed.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(seed)?;
        socket.local_addr()
    });
    let ip = own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |own| own.ip());
    SocketAddr::new(ip, listen.port())
}
