//! How connections to endpoints, and to addresses that are no endpoint's, are opened: within the number that an endpoint may
//! have, in plain text or secured, and counted for as long as they are open.
//!
//! Where descriptors ran out, idle connections are closed, and it is tried once more.

use super::core::Core;
use super::gauges::{CoreGauges, ProxyGauges};
use super::own::{self, Own};
use super::transport::{self, Transport};
use crate::balance::{Endpoint, EndpointId};
use crate::config::Timeouts;
use crate::identity::{Dial, Handshake, Side};
use crate::observe::{Reason, none_left};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// One of the connections that an endpoint may have.
struct Claim {
    gauges: Arc<ProxyGauges>,
    core: usize,
    endpoint: EndpointId,
}

impl Claim {
    fn new(core: &Core, endpoint: EndpointId) -> Result<Self, Reason> {
        if core.gauges.claim_connection(core.index, endpoint) {
            Ok(Self { gauges: core.gauges.clone(), core: core.index, endpoint })
        } else {
            Err(Reason::EndpointConnections)
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.gauges.release_connection(self.core, self.endpoint);
    }
}

/// Counts an open connection to an endpoint.
pub(super) struct Open {
    gauges: Arc<ProxyGauges>,
    core: usize,
    _claim: Option<Claim>,
    _own: Option<Own>,
}

impl Open {
    fn new(core: &Core, claim: Option<Claim>, own: Option<Own>) -> Self {
        core.gauge(|g| {
            g.upstream.add(1);
            g.connected.add(1);
        });
        Self { gauges: core.gauges.clone(), core: core.index, _claim: claim, _own: own }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauges.core(self.core).into_iter().for_each(|g: &CoreGauges| g.upstream.sub(1));
    }
}

/// Opens a connection, and says what it was secured under. `rounds` is by how many of us the one came that it is opened for,
/// where nothing that is said on it tells.
pub(super) async fn connect(
    core: &Core,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    rounds: Option<u8>,
) -> Result<((Transport, u64), Open), Reason> {
    let claim = Claim::new(core, endpoint.id)?;
    let (connected, own) = match &endpoint.tls {
        None => {
            let (stream, own) = connect_plain(core, endpoint.address, timeouts, rounds).await?;
            ((Transport::Plain(stream), 0), own)
        }
        Some(dial) => connect_secured(core, endpoint, timeouts, dial, rounds).await?,
    };
    Ok((connected, Open::new(core, Some(claim), own)))
}

/// Opens a connection to an address that is no endpoint's, for one that came by so many of us.
pub(super) async fn connect_to(
    core: &Core,
    address: SocketAddr,
    timeouts: &Timeouts,
    rounds: u8,
) -> Result<(Transport, Open), Reason> {
    let (stream, own) = connect_plain(core, address, timeouts, Some(rounds)).await?;
    Ok((Transport::Plain(stream), Open::new(core, None, own)))
}

async fn connect_secured(
    core: &Core,
    endpoint: &Endpoint,
    timeouts: &Timeouts,
    dial: &Dial,
    rounds: Option<u8>,
) -> Result<((Transport, u64), Option<Own>), Reason> {
    let handshakes = &core.identities.handshakes;
    let Some(secured) = dial.secured() else {
        handshakes.count(Side::Upstream, Handshake::NoIdentity);
        return Err(Reason::NoIdentity);
    };
    let until = tokio::time::Instant::now() + timeouts.connect.0;
    let (stream, own) = connect_plain(core, endpoint.address, timeouts, rounds).await?;
    let connected = transport::connect(handshakes, &secured, endpoint.address, stream, until, &core.scratch).await;
    connected.map(|stream| ((stream, secured.epoch), own)).map_err(tls_reason)
}

/// Why a request gets no answer whose connection could not be secured.
fn tls_reason(outcome: Handshake) -> Reason {
    match outcome {
        Handshake::Untrusted | Handshake::Expired | Handshake::WrongIdentity => Reason::UpstreamIdentity,
        Handshake::Timeout => Reason::ConnectTimeout,
        Handshake::Closed => Reason::UpstreamReset,
        _ => Reason::UpstreamTls,
    }
}

async fn connect_plain(
    core: &Core,
    address: SocketAddr,
    timeouts: &Timeouts,
    rounds: Option<u8>,
) -> Result<(TcpStream, Option<Own>), Reason> {
    match dial(core, address, timeouts, rounds).await {
        Err(Reason::NoDescriptors) => {
            core.make_room();
            core.pool.close_idle(core);
            dial(core, address, timeouts, rounds).await
        }
        dialled => dialled,
    }
}

async fn dial(
    core: &Core,
    address: SocketAddr,
    timeouts: &Timeouts,
    rounds: Option<u8>,
) -> Result<(TcpStream, Option<Own>), Reason> {
    let connecting = async {
        // Of requests their own headers tell how often they came round.
        let captured = || core.generation().generation.routes.connections().captures.then_some(0);
        if let Some(rounds) = rounds.or_else(captured) {
            let (stream, own) = own::connect(core, address, rounds).await?;
            return Ok((stream, Some(own)));
        }
        Ok((TcpStream::connect(address).await?, None))
    };
    let (stream, own) = tokio::time::timeout(timeouts.connect.0, connecting)
        .await
        .map_err(|_| Reason::ConnectTimeout)?
        .map_err(|e: io::Error| match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Reason::ConnectRefused,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            _ if none_left(&e) => Reason::NoDescriptors,
            _ => Reason::ConnectFailed,
        })?;
    // A small answer must not wait for the acknowledgement of the one before; without it, it is slow, not wrong.
    let _ = stream.set_nodelay(true);
    Ok((stream, own))
}
