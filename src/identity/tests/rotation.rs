//! Files that change under a running process.

use super::*;
use std::time::Instant;

/// A machine under load may be slow; what never happens takes for ever.
const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
pub(super) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let since = Instant::now();
    while !happened() {
        assert!(since.elapsed() < PATIENCE, "{what} never happened");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn alarm(identities: &Identities) -> Option<String> {
    identities.status()["alarm"]["reason"].as_str().map(str::to_owned)
}

fn gauge(identities: &Identities, name: &str) -> Vec<crate::observe::metrics::Value> {
    let families = identities.families();
    families.iter().filter(|f| f.name == name).flat_map(|f| f.samples.iter().map(|(_, v)| v.clone())).collect()
}

#[test]
fn another_certificate_is_taken_for_new_connections_and_old_settings_stay_as_they_are() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let identities = folder.identities();
    let dial = identities.dial(&mesh("mesh"), Protocol::Http2).unwrap();
    let (before, secured) = (identities.current().unwrap(), dial.secured().unwrap());
    assert_eq!(secured.epoch, dial.epoch());
    folder.put(&issued(&ca, "spiffe://mesh/b"));
    until("the new identity", || identities.current().unwrap().id().as_str() == "spiffe://mesh/b");
    assert_eq!(before.id().as_str(), "spiffe://mesh/a");
    until("the new epoch", || dial.epoch() > secured.epoch && dial.secured().unwrap().epoch == dial.epoch());
    assert_eq!(alarm(&identities), None);
}

#[test]
fn the_same_files_change_nothing() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let identities = folder.identities();
    let dial = identities.dial(&mesh("mesh"), Protocol::Http2).unwrap();
    let (epoch, before) = (dial.epoch(), identities.current().unwrap());
    identities.configure(&folder.config()).unwrap();
    assert!(Arc::ptr_eq(&before, &identities.current().unwrap()) && dial.epoch() == epoch);
}

#[test]
fn whatever_replaces_the_files_the_last_good_identity_stays_and_an_alarm_says_why() {
    let ca = authority("mesh");
    let good = issued(&ca, "spiffe://mesh/a");
    let folder = Folder::new(&good, ca.certificate());
    let identities = folder.identities();
    let first = identities.current().unwrap();
    assert_eq!(gauge(&identities, "identity_alarm"), [crate::observe::metrics::Value::Count(0)]);
    let bad = [
        ("cert.pem", "-----BEGIN CERTIFICATE-----\ngarbage".to_owned(), "broken"),
        ("key.pem", issued(&ca, "spiffe://mesh/a").key, "key_mismatch"),
        ("cert.pem", expired(&ca, "spiffe://mesh/a").certificate, "key_mismatch"),
        ("bundle.pem", authority("mesh").certificate().to_owned(), "untrusted"),
    ];
    for (name, text, code) in bad {
        folder.write(name, &text);
        until(code, || alarm(&identities).as_deref() == Some(code));
        assert!(Arc::ptr_eq(&first, &identities.current().unwrap()), "{name}");
        assert_eq!(gauge(&identities, "identity_alarm"), [crate::observe::metrics::Value::Count(1)]);
        folder.put(&good);
        folder.write("bundle.pem", ca.certificate());
        until("the end of the alarm", || alarm(&identities).is_none());
        assert!(Arc::ptr_eq(&first, &identities.current().unwrap()), "{name}");
    }
    folder.put(&expired(&ca, "spiffe://mesh/a"));
    until("expired", || alarm(&identities).as_deref() == Some("expired"));
    assert!(Arc::ptr_eq(&first, &identities.current().unwrap()));
    assert_eq!(identities.not_ready(), None, "the last good one serves");
}

#[test]
fn a_certificate_that_expires_while_it_is_in_force_raises_the_alarm_and_stays() {
    let ca = authority("mesh");
    let brief =
        Request { until: SystemTime::now() + Duration::from_secs(3), ..Request::new(id("spiffe://mesh/a"), HOUR) };
    let folder = Folder::new(&ca.issue(&brief).unwrap(), ca.certificate());
    let identities = folder.identities();
    assert!(identities.current().is_some() && alarm(&identities).is_none());
    until("the alarm", || alarm(&identities).as_deref() == Some("expired"));
    assert!(identities.current().is_some());
    folder.put(&issued(&ca, "spiffe://mesh/a"));
    until("the end of the alarm", || alarm(&identities).is_none());
}

#[test]
fn an_identity_that_is_missing_at_the_start_is_taken_when_it_comes() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    std::fs::rename(folder.path("key.pem"), folder.path("away")).unwrap();
    let identities = folder.identities();
    let dial = identities.dial(&mesh("mesh"), Protocol::Http1).unwrap();
    assert!(identities.current().is_none() && dial.secured().is_none());
    assert!(identities.not_ready().unwrap().contains("key.pem"));
    std::fs::rename(folder.path("away"), folder.path("key.pem")).unwrap();
    until("the identity", || identities.current().is_some());
    assert!(dial.secured().is_some() && identities.not_ready().is_none());
}

#[test]
fn who_says_the_same_shares_its_settings_and_others_do_not() {
    let identities = Arc::new(Identities::default());
    assert!(identities.dial(&ClusterTls::default(), Protocol::Http1).is_none());
    let dial = |expected: &str, protocol| identities.dial(&mesh(expected), protocol).unwrap();
    let one = dial("mesh", Protocol::Http1);
    assert!(Arc::ptr_eq(&one, &dial("mesh", Protocol::Http1)));
    let serials = [&one, &dial("mesh", Protocol::Http2), &dial("spiffe://mesh/a", Protocol::Http1)].map(|d| d.serial);
    assert!(serials[0] != serials[1] && serials[1] != serials[2] && serials[0] != serials[2]);
}

#[test]
fn a_configuration_without_an_identity_has_none() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let identities = folder.identities();
    identities.configure(&Identity::default()).unwrap();
    assert!(identities.current().is_none() && identities.not_ready().is_none() && identities.status().is_null());
    identities.configure(&folder.config()).unwrap();
    assert!(identities.current().is_some());
    folder.put(&issued(&ca, "spiffe://mesh/b"));
    until("the new identity", || identities.current().unwrap().id().as_str() == "spiffe://mesh/b");
}

#[test]
fn authorities_outside_the_mesh_are_taken_when_they_come_and_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let identities = Arc::new(Identities::default());
    let file = folder.path().join("authorities.pem");
    let outside =
        ClusterTls { name: Some("a.example".into()), authorities: Some(file.clone()), ..ClusterTls::default() };
    let dial = identities.dial(&outside, Protocol::Http1).unwrap();
    assert!(dial.secured().is_none());
    std::fs::write(&file, authority("one").certificate()).unwrap();
    until("the authorities", || dial.secured().is_some());
    let first = dial.epoch();
    // Broken ones change nothing, and others all.
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
    std::fs::write(&file, authority("two").certificate()).unwrap();
    until("other authorities", || dial.epoch() > first && dial.secured().unwrap().epoch == dial.epoch());
    // An identity that comes and changes is nothing to them.
    let ca = authority("mesh");
    let mesh = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let second = dial.epoch();
    identities.configure(&mesh.config()).unwrap();
    assert!(identities.current().is_some());
    assert_eq!(dial.epoch(), second);
}

#[test]
fn another_trust_domain_in_the_configuration_counts_although_the_files_are_the_same() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let identities = folder.identities();
    let first = identities.current().unwrap();
    let said = Identity { trust_domain: Some("mesh".parse().unwrap()), ..folder.config() };
    identities.configure(&said).unwrap();
    assert!(!Arc::ptr_eq(&first, &identities.current().unwrap()));
    let other = Identity { trust_domain: Some("other".parse().unwrap()), ..folder.config() };
    identities.configure(&other).unwrap();
    assert_eq!(alarm(&identities).as_deref(), Some("wrong_id"));
    assert_eq!(identities.current().unwrap().material.domain.to_string(), "mesh", "the last good one stays");
}
