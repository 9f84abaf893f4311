//! Addresses nobody else has.
//!
//! A port is found by binding port 0 and letting go of it, which races with everybody who asks for a port meanwhile,
//! outgoing connections included. So each test process takes an address of its own in 127.0.0.0/8 (outgoing
//! connections use 127.0.0.1) and gives no port twice; should somebody take one all the same, `sidecar` tries again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

/// The loopback address of this process, in a block `part` of its own (0 to 3).
#[must_use]
pub fn own_ip(part: u8) -> IpAddr {
    let pid = std::process::id();
    // 127.16.0.0 and up: far from the addresses that tests write out.
    let second = 16 + (pid >> 14) % 200;
    let third = (pid >> 6) % 256;
    let fourth = ((pid % 64) << 2 | u32::from(part % 4)).clamp(1, 254);
    IpAddr::V4(Ipv4Addr::new(127, second as u8, third as u8, fourth as u8))
}

/// Another loopback address of this process: the `n`th of 30, none of which is in a block.
#[must_use]
pub fn another_ip(n: u8) -> IpAddr {
    let IpAddr::V4(own) = own_ip(0) else { unreachable!("an IPv4 address") };
    let [_, _, third, fourth] = own.octets();
    IpAddr::V4(Ipv4Addr::new(127, 220 + n % 30, third, fourth))
}

/// What was given out: the kernel may well name the same port twice in a row.
static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

/// A free port on `ip`, another one each time.
///
/// # Panics
/// When the machine has none.
#[must_use]
pub fn free(ip: IpAddr) -> SocketAddr {
    loop {
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let all: BTreeSet<_> = (0..500).map(|_| free(own_ip(0))).collect();
        assert_eq!(all.len(), 500);
    }
}
