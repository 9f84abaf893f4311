//! Checks of endpoints on this machine: secured by two nodes' identities, or as bare as a socket.

use super::*;
use crate::config::{ClusterTls, Identity, Timespan};
use crate::identity::ca::{Authority, Request as Order};
use crate::identity::{Identities, peer_of};
use hyper::service::service_fn;
use ppp::v2;
use rustls::ServerConfig;
use std::convert::Infallible;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

const KINDS: [Check; 3] = [Check::Tcp, Check::Http, Check::Grpc];

#[test]
fn only_serving_is_well() {
    assert_eq!(serving(&framed(1)), Ok(()));
    assert_eq!((serving(&framed(2)), serving(&framed(0))), (Err(Unwell::NotServing), Err(Unwell::NotServing)));
    for garbled in [&[][..], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 1, 8]] {
        assert_eq!(serving(garbled), Err(Unwell::Garbled), "{garbled:?}");
    }
}

fn framed(status: i32) -> Vec<u8> {
    let message = Said { status }.encode_to_vec();
    [&[0, 0, 0, 0, message.len() as u8][..], &message].concat()
}

fn authority() -> Authority {
    Authority::new("mesh".parse().unwrap()).unwrap()
}

/// A node, and the files of its identity.
struct Node {
    folder: TempDir,
    identities: Arc<Identities>,
}

impl Node {
    /// Its certificate is from `ca`; it believes who is from `believed`.
    fn new(ca: &Authority, id: &str, believed: &[&Authority]) -> Self {
        let node = Self { folder: TempDir::new().unwrap(), identities: Arc::default() };
        let bundle: String = believed.iter().map(|authority| authority.certificate()).collect();
        std::fs::write(node.folder.path().join("bundle"), bundle).unwrap();
        node.becomes(ca, id);
        node
    }

    fn becomes(&self, ca: &Authority, id: &str) {
        let order = Order::new(id.parse().unwrap(), Duration::from_secs(3600));
        let issued = ca.issue(&order).unwrap();
        let file = |name: &str| Some(self.folder.path().join(name));
        for (name, text) in [("cert", &issued.certificate), ("key", &issued.key)] {
            std::fs::write(file(name).unwrap(), text).unwrap();
        }
        let (certificate, key, bundle) = (file("cert"), file("key"), file("bundle"));
        self.identities.configure(&Identity { certificate, key, bundle, ..Identity::default() }).unwrap();
        assert_eq!(self.identities.current().unwrap().id().as_str(), id);
    }

    fn server(&self) -> Arc<ServerConfig> {
        self.identities.current().unwrap().server.clone()
    }

    /// How it asks an endpoint, which must prove to be this.
    fn asking(&self, address: SocketAddr, check: Check, protocol: Protocol, expected: &str) -> Asking {
        let tls = ClusterTls { identity: expected.parse().unwrap(), ..ClusterTls::default() };
        let dial = self.identities.dial(&tls, spoken(check, protocol));
        assert!(dial.is_some());
        Asking { protocol, dial, ..plain(address, check) }
    }

    async fn asks(&self, address: SocketAddr, check: Check, expected: &str) -> Result<(), Unwell> {
        let asking = self.asking(address, check, Protocol::Http1, expected);
        probe(&asking, &self.identities.handshakes).await.unwrap()
    }

    fn shook(&self, outcome: Handshake) -> u64 {
        self.identities.handshakes.seen(Side::Upstream, outcome)
    }
}

fn plain(address: SocketAddr, check: Check) -> Asking {
    let check = HealthCheck { check, timeout: Timespan(Duration::from_secs(60)), ..HealthCheck::default() };
    let (host, protocol) = (address.to_string(), Protocol::Http1);
    Asking { address, host, protocol, check, dial: None, proxy_protocol: false, mark: None }
}

/// What an endpoint saw of a request.
#[derive(Debug, PartialEq)]
struct Seen {
    id: Option<String>,
    alpn: String,
    /// The name that TLS asked for.
    name: Option<String>,
    host: String,
}

/// An endpoint that is well, over TLS.
async fn endpoint(config: Arc<ServerConfig>) -> (SocketAddr, UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, sees) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(config.clone(), stream, seen.clone()));
        }
    });
    (address, sees)
}

async fn serve(config: Arc<ServerConfig>, stream: TcpStream, seen: UnboundedSender<Seen>) {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let tls = stream.get_ref().1;
    let id = tls.peer_certificates().and_then(|c| peer_of(&c[0])).map(|peer| peer.id.to_string());
    let alpn = String::from_utf8(tls.alpn_protocol().unwrap_or_default().to_vec()).unwrap();
    let name = tls.server_name().map(str::to_owned);
    let http2 = alpn == "h2";
    let service = service_fn(move |request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        let host = authority.unwrap_or_else(|| request.headers()["host"].to_str().unwrap().to_owned());
        let _ = seen.send(Seen { id: id.clone(), alpn: alpn.clone(), name: name.clone(), host });
        let grpc = request.uri().path() == "/grpc.health.v1.Health/Check";
        let body = Bytes::from(if grpc { framed(SERVING) } else { b"well".to_vec() });
        async { Ok::<_, Infallible>(Response::builder().header("grpc-status", "0").body(Full::new(body)).unwrap()) }
    });
    let io = TokioIo::new(stream);
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

/// An endpoint that does this with its connections.
async fn bare<F: Future<Output = ()> + Send + 'static>(script: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    address
}

#[tokio::test]
async fn a_check_proves_who_this_node_is_and_speaks_what_alpn_says() {
    let ca = authority();
    let (near, far) = (Node::new(&ca, "spiffe://mesh/near", &[&ca]), Node::new(&ca, "spiffe://mesh/far", &[&ca]));
    let (address, mut sees) = endpoint(far.server()).await;
    for (check, protocol, alpn) in [
        (Check::Http, Protocol::Http1, "http/1.1"),
        (Check::Http, Protocol::Http2, "h2"),
        (Check::Http, Protocol::Tcp, "http/1.1"),
        (Check::Grpc, Protocol::Http1, "h2"),
        (Check::Grpc, Protocol::Http2, "h2"),
        (Check::Grpc, Protocol::Tcp, "h2"),
    ] {
        for expected in ["mesh", "spiffe://mesh/far"] {
            let asking = near.asking(address, check, protocol, expected);
            assert_eq!(probe(&asking, &near.identities.handshakes).await, Some(Ok(())), "{check:?} {protocol:?}");
            let (id, alpn) = (Some("spiffe://mesh/near".to_owned()), alpn.to_owned());
            assert_eq!(sees.recv().await, Some(Seen { id, alpn, name: None, host: address.to_string() }));
        }
    }
    assert_eq!(near.shook(Handshake::Done), 12);
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Tcp] {
        let asking = near.asking(address, Check::Tcp, protocol, "mesh");
        assert_eq!(probe(&asking, &near.identities.handshakes).await, Some(Ok(())), "{protocol:?}");
    }
    assert_eq!(near.shook(Handshake::Done), 15, "a check of the connection alone is one of TLS, too");
    assert!(sees.try_recv().is_err(), "and asks nothing");
}

#[tokio::test]
async fn whoever_does_not_prove_what_is_expected_is_asked_nothing() {
    let (ca, other) = (authority(), authority());
    let near = Node::new(&ca, "spiffe://mesh/near", &[&ca]);
    let (address, mut sees) = endpoint(Node::new(&ca, "spiffe://mesh/far", &[&ca]).server()).await;
    let (strange, mut sees_strange) = endpoint(Node::new(&other, "spiffe://mesh/far", &[&other]).server()).await;
    for check in KINDS {
        let wrong = near.asks(address, check, "spiffe://mesh/other").await;
        assert_eq!(wrong, Err(Unwell::Unsecured(Handshake::WrongIdentity)), "{check:?}");
        let untrusted = near.asks(strange, check, "mesh").await;
        assert_eq!(untrusted, Err(Unwell::Unsecured(Handshake::Untrusted)), "{check:?}");
    }
    assert!(sees.try_recv().is_err() && sees_strange.try_recv().is_err());
    assert_eq!((near.shook(Handshake::WrongIdentity), near.shook(Handshake::Untrusted)), (3, 3));
}

#[tokio::test]
async fn an_endpoint_that_refuses_this_nodes_certificate_is_not_well_although_the_handshake_was_done() {
    let (ca, other) = (authority(), authority());
    let near = Node::new(&ca, "spiffe://mesh/near", &[&ca, &other]);
    let (address, mut sees) = endpoint(Node::new(&other, "spiffe://mesh/far", &[&other]).server()).await;
    for check in KINDS {
        for _ in 0..5 {
            let refused = near.asks(address, check, "mesh").await;
            assert_eq!(refused, Err(Unwell::Unsecured(Handshake::Refused)), "{check:?}");
        }
    }
    assert!(sees.try_recv().is_err());
}

#[tokio::test]
async fn endpoints_that_speak_no_tls_or_nothing_at_all_are_told_apart() {
    let ca = authority();
    let near = Node::new(&ca, "spiffe://mesh/near", &[&ca]);
    let speaks_http = bare(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    })
    .await;
    let closes = bare(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let silent = bare(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    for check in KINDS {
        let failed = |outcome| Err(Unwell::Unsecured(outcome));
        assert_eq!(near.asks(speaks_http, check, "mesh").await, failed(Handshake::Protocol), "{check:?}");
        assert_eq!(near.asks(closes, check, "mesh").await, failed(Handshake::Closed), "{check:?}");
        let mut asking = near.asking(silent, check, Protocol::Http1, "mesh");
        asking.check.timeout = Timespan(Duration::from_secs(2));
        let answer = probe(&asking, &near.identities.handshakes).await;
        assert_eq!(answer, Some(failed(Handshake::Timeout)), "{check:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_to_an_end_is_well_once_its_time_is_over() {
    let ca = authority();
    let (near, far) = (Node::new(&ca, "spiffe://mesh/near", &[&ca]), Node::new(&ca, "spiffe://mesh/far", &[&ca]));
    let config = far.server();
    let keeps = bare(move |stream| {
        let config = config.clone();
        async move {
            let _kept = TlsAcceptor::from(config).accept(stream).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let mut asking = near.asking(keeps, Check::Tcp, Protocol::Http1, "mesh");
    asking.check.timeout = Timespan(Duration::from_secs(3));
    assert_eq!(probe(&asking, &near.identities.handshakes).await, Some(Ok(())));
}

#[tokio::test]
async fn without_an_identity_nothing_is_asked_and_with_the_next_one_everything_by_it() {
    let ca = authority();
    let far = Node::new(&ca, "spiffe://mesh/far", &[&ca]);
    let (address, mut sees) = endpoint(far.server()).await;
    let near = Node { folder: TempDir::new().unwrap(), identities: Arc::default() };
    std::fs::write(near.folder.path().join("bundle"), ca.certificate()).unwrap();
    let asking = near.asking(address, Check::Http, Protocol::Http1, "mesh");
    let nowhere = Asking { address: ([127, 0, 0, 1], 1).into(), ..asking.clone() };
    for asking in [&asking, &nowhere] {
        let answer = probe(asking, &near.identities.handshakes).await;
        assert_eq!(answer, Some(Err(Unwell::Unsecured(Handshake::NoIdentity))));
    }
    assert_eq!(near.shook(Handshake::NoIdentity), 2);
    for id in ["spiffe://mesh/near", "spiffe://mesh/renamed"] {
        near.becomes(&ca, id);
        assert_eq!(probe(&asking, &near.identities.handshakes).await, Some(Ok(())));
        assert_eq!(sees.recv().await.unwrap().id.as_deref(), Some(id), "the identity of the moment");
    }
}

#[tokio::test]
async fn an_endpoint_outside_the_mesh_proves_its_name_and_is_asked_by_it() {
    let ca = authority();
    let id = "spiffe://mesh/api".parse().unwrap();
    let order = Order { names: vec!["api.example".to_owned()], ..Order::new(id, Duration::from_secs(3600)) };
    let issued = ca.issue(&order).unwrap();
    let folder = TempDir::new().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, ca.certificate()).unwrap();
    let config = {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain: Result<_, _> = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(chain.unwrap(), key).unwrap())
    };
    let (address, mut sees) = endpoint(config).await;
    let identities = Arc::new(Identities::default());
    let asking = |name: &str| {
        let (name, authorities) = (Some(name.to_owned()), Some(authorities.clone()));
        let tls = ClusterTls { name, authorities, ..ClusterTls::default() };
        let dial = identities.dial(&tls, Protocol::Http1);
        Asking { dial, host: "api.example:8443".to_owned(), ..plain(address, Check::Http) }
    };
    assert_eq!(probe(&asking("api.example"), &identities.handshakes).await, Some(Ok(())));
    let (name, host) = (Some("api.example".to_owned()), "api.example:8443".to_owned());
    assert_eq!(sees.recv().await, Some(Seen { id: None, alpn: String::new(), name, host }));
    let wrong = probe(&asking("other.example"), &identities.handshakes).await;
    assert_eq!(wrong, Some(Err(Unwell::Unsecured(Handshake::WrongIdentity))));
}

#[tokio::test]
async fn where_connections_begin_with_a_proxy_header_a_check_says_that_it_comes_from_nobody() {
    let (seen, mut sees) = unbounded_channel();
    let address = bare(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut header = [0; 16];
            let read = stream.read_exact(&mut header).await;
            let _ = seen.send(read.is_ok().then(|| header.to_vec()));
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    for check in [Check::Tcp, Check::Http] {
        let asking = Asking { protocol: Protocol::Tcp, proxy_protocol: true, ..plain(address, check) };
        assert_eq!(probe(&asking, &Handshakes::default()).await, Some(Ok(())), "{check:?}");
        let bytes = sees.recv().await.unwrap().expect("a header");
        let header = v2::Header::try_from(bytes.as_slice()).unwrap();
        assert_eq!((header.command, header.addresses), (v2::Command::Local, v2::Addresses::Unspecified));
        assert_eq!(header.len(), LOCAL.len());
    }
    let _ = probe(&plain(address, Check::Tcp), &Handshakes::default()).await;
    assert_eq!(sees.recv().await.unwrap(), None, "no other connection begins with one");
}
