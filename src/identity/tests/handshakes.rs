//! Two proxies, both ways, in memory.

use super::*;
use rustls::{ClientConnection, Connection, ServerConnection};
use std::io;

/// How it went on the client's side and on the server's, and whom the server saw.
pub(super) struct Met {
    pub client: Result<(), Handshake>,
    pub server: Result<Peer, Handshake>,
    protocol: Option<Vec<u8>>,
}

pub(super) fn meet(client: &Arc<Identities>, tls: &ClusterTls, protocol: Protocol, server: &Arc<Identities>) -> Met {
    let dial = client.dial(tls, protocol).unwrap();
    let secured = dial.secured().unwrap();
    let mut client = Connection::from(ClientConnection::new(secured.config.clone(), secured.name.clone()).unwrap());
    let mut server = Connection::from(ServerConnection::new(server.current().unwrap().server.clone()).unwrap());
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    for _ in 0..10 {
        at_client = at_client.and(pass(&mut server, &mut client));
        at_server = at_server.and(pass(&mut client, &mut server));
    }
    let peer = || peer_of(&server.peer_certificates().unwrap()[0]).unwrap();
    let protocol = server.alpn_protocol().map(<[u8]>::to_vec);
    Met { client: at_client, server: at_server.map(|()| peer()), protocol }
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), Handshake> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        let failed = |error| Handshake::failed(&io::Error::new(io::ErrorKind::InvalidData, error));
        to.process_new_packets().map_err(failed)?;
    }
    Ok(())
}

#[test]
fn both_sides_know_each_other_and_agree_on_a_protocol() {
    let ca = authority("mesh");
    let folder = |name: &str| Folder::new(&issued(&ca, name), ca.certificate());
    let (a, b) = (folder("spiffe://mesh/a"), folder("spiffe://mesh/b"));
    let (client, server) = (a.identities(), b.identities());
    for (protocol, word) in [(Protocol::Http1, "http/1.1"), (Protocol::Http2, "h2")] {
        for expected in ["mesh", "spiffe://mesh/b"] {
            let met = meet(&client, &mesh(expected), protocol, &server);
            assert_eq!(met.client, Ok(()));
            assert_eq!(met.server.unwrap().id, id("spiffe://mesh/a"));
            assert_eq!(met.protocol.as_deref(), Some(word.as_bytes()));
        }
    }
}

#[test]
fn an_endpoint_of_another_trust_domain_is_refused_although_its_authority_is_believed() {
    let (mesh_ca, other_ca) = (authority("mesh"), authority("other"));
    let both = [mesh_ca.certificate(), other_ca.certificate()].concat();
    let ours = Folder::new(&issued(&mesh_ca, "spiffe://mesh/a"), &both).identities();
    let other = Folder::new(&issued(&other_ca, "spiffe://other/a"), &both).identities();
    let met = meet(&ours, &mesh("mesh"), Protocol::Http1, &other);
    assert_eq!(met.client, Err(Handshake::WrongIdentity));
    let met = meet(&other, &mesh("mesh"), Protocol::Http1, &other);
    assert_eq!(met.client, Ok(()), "it is only elsewhere");
    // A client that does not look at ids.
    let names = Request { names: vec!["b.example".into()], ..Request::new(id("spiffe://mesh/b"), HOUR) };
    let named = Folder::new(&mesh_ca.issue(&names).unwrap(), &both).identities();
    let met = meet(&other, &mesh("spiffe://other/b"), Protocol::Http1, &named);
    assert_eq!(met.client, Err(Handshake::WrongIdentity));
}

#[test]
fn a_client_of_another_trust_domain_is_refused_by_the_server() {
    let (mesh_ca, other_ca) = (authority("mesh"), authority("other"));
    let both = [mesh_ca.certificate(), other_ca.certificate()].concat();
    let other = Folder::new(&issued(&other_ca, "spiffe://other/a"), &both).identities();
    let ours = Folder::new(&issued(&mesh_ca, "spiffe://mesh/a"), &both).identities();
    let secured = ours.dial(&mesh("mesh"), Protocol::Http1).unwrap().secured().unwrap();
    let server = ours.current().unwrap();
    let mut client_config = rustls::ClientConfig::clone(&secured.config);
    // Shows the other's certificate, and looks at the server as one of `mesh` does.
    client_config.client_auth_cert_resolver =
        other.dial(&mesh("mesh"), Protocol::Http1).unwrap().secured().unwrap().config.client_auth_cert_resolver.clone();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client_config), secured.name.clone()).unwrap());
    let mut server = Connection::from(ServerConnection::new(server.server.clone()).unwrap());
    let mut at_server = Ok(());
    for _ in 0..10 {
        let _ = pass(&mut server, &mut client);
        at_server = at_server.and(pass(&mut client, &mut server));
    }
    assert_eq!(at_server, Err(Handshake::WrongIdentity));
}

#[test]
fn an_endpoint_that_is_not_the_expected_workload_is_refused() {
    let ca = authority("mesh");
    let a = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate()).identities();
    let met = meet(&a, &mesh("spiffe://mesh/b"), Protocol::Http2, &a);
    assert_eq!(met.client, Err(Handshake::WrongIdentity));
    assert_eq!(met.server, Err(Handshake::Refused));
}

#[test]
fn a_peer_whose_authority_is_not_in_the_bundle_is_refused() {
    let (one, two) = (authority("mesh"), authority("mesh"));
    let a = Folder::new(&issued(&one, "spiffe://mesh/a"), one.certificate()).identities();
    let b = Folder::new(&issued(&two, "spiffe://mesh/a"), two.certificate()).identities();
    let met = meet(&a, &mesh("mesh"), Protocol::Http1, &b);
    assert_eq!((met.client, met.server), (Err(Handshake::Untrusted), Err(Handshake::Refused)));
    // The server alone does not believe the client.
    let both = [one.certificate(), two.certificate()].concat();
    let b = Folder::new(&issued(&two, "spiffe://mesh/a"), &both).identities();
    let trusting = Folder::new(&issued(&one, "spiffe://mesh/a"), &both).identities();
    let met = meet(
        &trusting,
        &mesh("mesh"),
        Protocol::Http1,
        &Folder::new(&issued(&two, "spiffe://mesh/b"), two.certificate()).identities(),
    );
    assert_eq!(met.server, Err(Handshake::Untrusted));
    assert_eq!(meet(&trusting, &mesh("mesh"), Protocol::Http1, &b).client, Ok(()));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ca = authority("mesh");
    let request = Request { names: vec!["localhost".into()], ..Request::new(id("spiffe://mesh/a"), HOUR) };
    let folder = Folder::new(&ca.issue(&request).unwrap(), ca.certificate());
    let server = folder.identities();
    let outside = ClusterTls {
        name: Some("localhost".into()),
        authorities: Some(folder.path("bundle.pem")),
        ..ClusterTls::default()
    };
    let met = meet(&server, &outside, Protocol::Http1, &server);
    assert_eq!(met.server, Err(Handshake::NoCertificate));
}

#[test]
fn an_endpoint_outside_proves_its_name() {
    let ca = authority("mesh");
    let request = Request { names: vec!["api.example.com".into()], ..Request::new(id("spiffe://mesh/a"), HOUR) };
    let folder = Folder::new(&ca.issue(&request).unwrap(), ca.certificate());
    let server = folder.identities();
    let outside = |name: &str| ClusterTls {
        name: Some(name.into()),
        authorities: Some(folder.path("bundle.pem")),
        ..ClusterTls::default()
    };
    // Believed, and then turned away for want of a certificate.
    let right = meet(&server, &outside("api.example.com"), Protocol::Http1, &server);
    assert_eq!((right.client, right.server), (Err(Handshake::Refused), Err(Handshake::NoCertificate)));
    let wrong = meet(&server, &outside("api.example.org"), Protocol::Http1, &server);
    assert_eq!((wrong.client, wrong.server), (Err(Handshake::WrongIdentity), Err(Handshake::Refused)));
}
