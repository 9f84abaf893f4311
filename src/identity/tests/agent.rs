//! What an agent may give, and what becomes of it.

use super::handshakes::meet;
use super::*;
use crate::observe::log::for_tests::Lines;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const SOCKET: &str = "unix:///run/agent.sock";

fn configured() -> Identity {
    Identity { workload_api: Some(SOCKET.parse().unwrap()), ..Identity::default() }
}

fn der(pem: &str) -> Vec<u8> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.unwrap().to_vec());
    all.collect::<Vec<_>>().concat()
}

/// What the agent of an authority gives, made of what `pathloom ca` issues.
fn svid(issued: &Issued, id: &str, bundle: &str) -> Svid {
    Svid {
        id: id.to_owned(),
        hint: String::new(),
        chain: der(&issued.certificate),
        key: PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap().secret_der().to_vec(),
        bundle: der(bundle),
    }
}

fn one(svid: Svid) -> Offer {
    Offer { svids: vec![svid], federated: Vec::new() }
}

fn given(ca: &Authority, id: &str) -> Offer {
    one(svid(&issued(ca, id), id, ca.certificate()))
}

/// An identity from an agent, and that agent.
fn from(config: &Identity) -> (Arc<Identities>, Agent) {
    let identities = Arc::new(Identities::default());
    identities.configure(config).unwrap();
    (identities, Agent::of(config).unwrap())
}

fn alarm(identities: &Identities) -> Option<String> {
    identities.status()["alarm"]["reason"].as_str().map(str::to_owned)
}

fn name(identities: &Identities) -> String {
    identities.current().unwrap().id().to_string()
}

#[test]
fn what_an_agent_gives_is_taken_as_files_are() {
    let ca = authority("mesh");
    let (identities, agent) = from(&configured());
    let dial = identities.dial(&mesh("mesh"), Protocol::Http2).unwrap();
    assert!(identities.not_ready().is_some() && identities.current().is_none() && alarm(&identities).is_none());
    identities.offer(&agent, &given(&ca, "spiffe://mesh/a"));
    assert_eq!((name(&identities).as_str(), identities.not_ready()), ("spiffe://mesh/a", None));
    let status = identities.status();
    assert_eq!((&status["trust_domain"], &status["files"]), (&"mesh".into(), &serde_json::Value::Null));
    assert_eq!(status["workload_api"]["socket"], SOCKET);
    assert_eq!(status["workload_api"]["connected"], true);
    let first = dial.secured().unwrap();
    // Renewed: new connections alone.
    identities.offer(&agent, &given(&ca, "spiffe://mesh/a"));
    assert!(dial.epoch() > first.epoch && dial.secured().unwrap().epoch == dial.epoch());
    let met = meet(&identities, &mesh("spiffe://mesh/a"), Protocol::Http2, &identities);
    assert_eq!((met.client, met.server.unwrap().id), (Ok(()), id("spiffe://mesh/a")));
}

#[test]
fn the_same_again_changes_nothing() {
    let ca = authority("mesh");
    let (identities, agent) = from(&configured());
    let dial = identities.dial(&mesh("mesh"), Protocol::Http2).unwrap();
    let offer = given(&ca, "spiffe://mesh/a");
    identities.offer(&agent, &offer);
    let (first, epoch) = (identities.current().unwrap(), dial.epoch());
    identities.offer(&agent, &offer);
    identities.configure(&configured()).unwrap();
    assert!(Arc::ptr_eq(&first, &identities.current().unwrap()) && dial.epoch() == epoch);
}

#[test]
fn whatever_an_agent_gives_the_last_good_identity_stays_and_an_alarm_says_why() {
    let ca = authority("mesh");
    let (identities, agent) = from(&Identity { trust_domain: Some("mesh".parse().unwrap()), ..configured() });
    let good = svid(&issued(&ca, "spiffe://mesh/a"), "spiffe://mesh/a", ca.certificate());
    let with = |change: fn(&mut Svid)| {
        let mut svid = good.clone();
        change(&mut svid);
        one(svid)
    };
    let elsewhere = authority("other");
    let later = Request { from: SystemTime::now() + HOUR, ..Request::new(id("spiffe://mesh/a"), 2 * HOUR) };
    let bad = [
        (Offer::default(), "empty"),
        (with(|s| s.chain.clear()), "empty"),
        (with(|s| s.key.clear()), "empty"),
        (with(|s| s.bundle.clear()), "empty"),
        (with(|s| s.chain = b"garbage".to_vec()), "broken"),
        (with(|s| s.chain.truncate(s.chain.len() - 1)), "broken"),
        (with(|s| s.chain.push(0)), "broken"),
        (with(|s| s.key.truncate(20)), "broken"),
        (with(|s| s.bundle = vec![0x30; 1 << 20]), "broken"),
        (with(|s| s.key = svid(&issued(&authority("x"), "spiffe://x/a"), "", "").key), "key_mismatch"),
        (with(|s| s.bundle = der(authority("mesh").certificate())), "untrusted"),
        (with(|s| s.id = "spiffe://mesh/b".to_owned()), "wrong_id"),
        (given(&elsewhere, "spiffe://other/a"), "wrong_id"),
        (one(svid(&expired(&ca, "spiffe://mesh/a"), "spiffe://mesh/a", ca.certificate())), "expired"),
        (one(svid(&ca.issue(&later).unwrap(), "spiffe://mesh/a", ca.certificate())), "not_yet_valid"),
    ];
    // At the start as later.
    for (offer, code) in &bad {
        identities.offer(&agent, offer);
        assert_eq!(alarm(&identities).as_deref(), Some(*code));
        assert!(identities.current().is_none() && identities.not_ready().unwrap().contains(SOCKET));
    }
    identities.offer(&agent, &one(good.clone()));
    let first = identities.current().unwrap();
    for (offer, code) in &bad {
        assert_eq!(alarm(&identities), None);
        identities.offer(&agent, offer);
        assert_eq!(alarm(&identities).as_deref(), Some(*code));
        assert!(Arc::ptr_eq(&first, &identities.current().unwrap()), "{code}");
        assert_eq!(identities.not_ready(), None, "the last good one serves");
        identities.offer(&agent, &one(good.clone()));
    }
}

#[test]
fn of_several_the_first_is_taken_or_the_one_with_the_hint() {
    let ca = authority("mesh");
    let hinted = |id: &str, hint: &str| {
        let svid = svid(&issued(&ca, id), id, ca.certificate());
        Svid { hint: hint.to_owned(), ..svid }
    };
    let svids =
        vec![hinted("spiffe://mesh/a", "one"), hinted("spiffe://mesh/b", "two"), hinted("spiffe://mesh/c", "two")];
    let offer = Offer { svids, federated: Vec::new() };
    for (hint, expected) in
        [(None, "spiffe://mesh/a"), (Some("one"), "spiffe://mesh/a"), (Some("two"), "spiffe://mesh/b")]
    {
        let (identities, agent) = from(&Identity { hint: hint.map(str::to_owned), ..configured() });
        identities.offer(&agent, &offer);
        assert_eq!(name(&identities), expected, "{hint:?}");
    }
    let (identities, agent) = from(&Identity { hint: Some("three".into()), ..configured() });
    identities.offer(&agent, &offer);
    assert_eq!(alarm(&identities).as_deref(), Some("no_such_hint"));
}

#[test]
fn an_agent_that_is_away_is_an_alarm_that_is_logged_once_each_way() {
    let ca = authority("mesh");
    let (identities, agent) = from(&configured());
    let offer = given(&ca, "spiffe://mesh/a");
    identities.offer(&agent, &offer);
    let first = identities.current().unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        for attempt in 0..5 {
            identities.none_from(&agent, "agent_unreachable", format!("nobody there, attempt {attempt}"));
            assert_eq!(alarm(&identities).as_deref(), Some("agent_unreachable"));
            assert_eq!(identities.status()["workload_api"]["connected"], false);
            assert!(Arc::ptr_eq(&first, &identities.current().unwrap()) && identities.not_ready().is_none());
        }
        assert!(identities.status()["alarm"]["text"].as_str().unwrap().contains("attempt 4"));
        identities.offer(&agent, &offer);
        assert_eq!(alarm(&identities), None);
    });
    let said = lines.text();
    assert_eq!((said.matches("ERROR").count(), said.matches("well again").count()), (1, 1), "{said}");
    assert!(Arc::ptr_eq(&first, &identities.current().unwrap()), "it is the same one");
}

#[test]
fn what_expires_while_the_agent_is_away_stays_and_says_so() {
    let ca = authority("mesh");
    let (identities, agent) = from(&configured());
    let brief =
        Request { until: SystemTime::now() + Duration::from_secs(2), ..Request::new(id("spiffe://mesh/a"), HOUR) };
    identities.offer(&agent, &one(svid(&ca.issue(&brief).unwrap(), "spiffe://mesh/a", ca.certificate())));
    let expires = identities.current().unwrap().material.expires;
    identities.none_from(&agent, "agent_unreachable", "nobody there".into());
    rotation::until("the end", || SystemTime::now() > expires);
    identities.none_from(&agent, "agent_unreachable", "nobody there".into());
    assert_eq!(alarm(&identities).as_deref(), Some("expired"));
    assert!(identities.status()["alarm"]["text"].as_str().unwrap().ends_with("nobody there"));
    assert!(identities.current().is_some());
}

#[test]
fn an_agent_that_is_no_longer_asked_changes_nothing() {
    let ca = authority("mesh");
    let (identities, former) = from(&configured());
    identities.offer(&former, &given(&ca, "spiffe://mesh/a"));
    let next = Identity { workload_api: Some("unix:///run/next.sock".parse().unwrap()), ..Identity::default() };
    identities.configure(&next).unwrap();
    assert_eq!(name(&identities), "spiffe://mesh/a", "until the next one gives one");
    identities.offer(&former, &given(&ca, "spiffe://mesh/b"));
    identities.none_from(&former, "agent_unreachable", "gone".into());
    assert_eq!((name(&identities).as_str(), alarm(&identities)), ("spiffe://mesh/a", None));
    identities.offer(&Agent::of(&next).unwrap(), &given(&ca, "spiffe://mesh/c"));
    assert_eq!(name(&identities), "spiffe://mesh/c");
}

#[test]
fn an_identity_moves_from_files_to_an_agent_and_back_without_a_gap() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/files"), ca.certificate());
    let identities = folder.identities();
    identities.configure(&configured()).unwrap();
    assert_eq!(name(&identities), "spiffe://mesh/files");
    identities.offer(&Agent::of(&configured()).unwrap(), &given(&ca, "spiffe://mesh/agent"));
    assert_eq!(name(&identities), "spiffe://mesh/agent");
    // Files that change are nothing to it now.
    folder.put(&issued(&ca, "spiffe://mesh/others"));
    identities.configure(&configured()).unwrap();
    assert_eq!(name(&identities), "spiffe://mesh/agent");
    identities.configure(&folder.config()).unwrap();
    assert_eq!(name(&identities), "spiffe://mesh/others");
    identities.configure(&Identity::default()).unwrap();
    assert!(identities.current().is_none() && identities.status().is_null());
}

#[test]
fn workloads_of_another_trust_domain_are_believed_by_its_own_authorities_where_it_is_named() {
    let (mesh_ca, other_ca) = (authority("mesh"), authority("other"));
    let federated = |bundle: &Authority| vec![("spiffe://other".to_owned(), der(bundle.certificate()))];
    let named = Identity { federated: vec!["other".parse().unwrap()], ..configured() };
    let ours = |config: &Identity, federated: Vec<(String, Vec<u8>)>| {
        let (identities, agent) = from(config);
        identities.offer(&agent, &Offer { federated, ..given(&mesh_ca, "spiffe://mesh/a") });
        identities
    };
    // The other side believes us, too.
    let both_ways = Identity { federated: vec!["mesh".parse().unwrap()], ..configured() };
    let (other, agent) = from(&both_ways);
    let mesh_bundle = vec![("spiffe://mesh".to_owned(), der(mesh_ca.certificate()))];
    other.offer(&agent, &Offer { federated: mesh_bundle, ..given(&other_ca, "spiffe://other/a") });
    let call = |ours: &Arc<Identities>, expected: &str| {
        let met = meet(ours, &mesh(expected), Protocol::Http1, &other);
        (met.client, met.server.map(|peer| peer.id.to_string()))
    };
    let believing = ours(&named, federated(&other_ca));
    assert_eq!(believing.status()["federated"], serde_json::json!(["other"]));
    assert_eq!(call(&believing, "spiffe://other/a"), (Ok(()), Ok("spiffe://mesh/a".to_owned())));
    let met = meet(&other, &mesh("spiffe://mesh/a"), Protocol::Http1, &believing);
    assert_eq!(met.server.unwrap().id, id("spiffe://other/a"));
    // Whoever expects anybody expects the own trust domain.
    assert_eq!(call(&believing, "mesh").0, Err(Handshake::Untrusted));
    assert_eq!(call(&believing, "spiffe://other/b").0, Err(Handshake::WrongIdentity));
    // Named no longer, and the agent says nothing new: it is believed no longer.
    let forgetting = ours(&named, federated(&other_ca));
    forgetting.configure(&configured()).unwrap();
    assert_eq!(forgetting.status()["federated"], serde_json::json!([]));
    assert_eq!(call(&forgetting, "spiffe://other/a").0, Err(Handshake::Untrusted));
    let met = meet(&other, &mesh("spiffe://mesh/a"), Protocol::Http1, &forgetting);
    assert_eq!(met.server, Err(Handshake::Untrusted));
    // By an authority of its own alone: neither by ours nor by one that only has its name.
    for wrong in [federated(&mesh_ca), federated(&authority("other"))] {
        assert_eq!(call(&ours(&named, wrong), "spiffe://other/a").0, Err(Handshake::Untrusted));
    }
    // Not named, or not known to the agent: nobody.
    for nobody in [ours(&configured(), federated(&other_ca)), ours(&named, Vec::new())] {
        assert_eq!(call(&nobody, "spiffe://other/a").0, Err(Handshake::Untrusted));
        let met = meet(&other, &mesh("spiffe://mesh/a"), Protocol::Http1, &nobody);
        assert_eq!(met.server, Err(Handshake::Untrusted));
    }
    // An authority of the other domain vouches for nobody of ours.
    let rogue = authority("mesh");
    let fooled = ours(&named, federated(&rogue));
    let both = [rogue.certificate(), mesh_ca.certificate()].concat();
    let (posing, agent) = from(&configured());
    posing.offer(&agent, &one(svid(&issued(&rogue, "spiffe://mesh/b"), "spiffe://mesh/b", &both)));
    let met = meet(&posing, &mesh("mesh"), Protocol::Http1, &fooled);
    assert_eq!(met.server, Err(Handshake::Untrusted));
    // What is broken is named.
    let broken = Offer { federated: vec![("spiffe://other".into(), vec![1])], ..given(&mesh_ca, "spiffe://mesh/a") };
    let refused = Material::offered(&Agent::of(&named).unwrap(), &broken).unwrap_err();
    assert!(refused.code() == "broken" && refused.to_string().contains("other"), "{refused}");
}

#[test]
fn no_key_from_an_agent_is_ever_shown() {
    let ca = authority("mesh");
    let (identities, agent) = from(&configured());
    let mut offer = given(&ca, "spiffe://mesh/a");
    offer.svids[0].key = b"the secret of the agent".to_vec();
    identities.offer(&agent, &offer);
    let shown = format!("{offer:?} {} {identities:?} {:?}", identities.status(), identities.not_ready());
    assert!(!shown.contains("secret") && !shown.contains("116, 104, 101"), "{shown}");
}
