//! `pathloom ca`.

use super::ca::{CaError, init, issue};
use super::*;
use crate::config::Timespan;
use std::os::unix::fs::MetadataExt;

#[test]
fn what_it_makes_is_an_identity_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("a/b");
    let bundle = init(&at, "mesh.local".parse().unwrap()).unwrap();
    let (certificate, key) =
        issue(&at, id("spiffe://mesh.local/shop/cart"), None, vec!["localhost".into()], Timespan(HOUR)).unwrap();
    assert_eq!(
        (certificate.file_name().unwrap(), key.file_name().unwrap()),
        ("cart.pem".as_ref(), "cart-key.pem".as_ref())
    );
    let material = Material::load(&Files { certificate, key, bundle, trust_domain: None }).unwrap();
    assert_eq!(material.id.as_str(), "spiffe://mesh.local/shop/cart");
}

#[test]
fn its_files_are_their_owners_alone_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), "mesh".parse().unwrap()).unwrap();
    let again = |name| issue(folder.path(), id("spiffe://mesh/a"), name, Vec::new(), Timespan(HOUR));
    again(None).unwrap();
    again(Some("b")).unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    let before = std::fs::read(folder.path().join("a-key.pem")).unwrap();
    assert!(matches!(again(None), Err(CaError::Exists(path)) if exists(&path)));
    assert!(matches!(init(folder.path(), "mesh".parse().unwrap()), Err(CaError::Exists(_))));
    // Half of a pair is there.
    std::fs::remove_file(folder.path().join("a.pem")).unwrap();
    assert!(matches!(again(None), Err(CaError::Exists(_))) && !exists(&folder.path().join("a.pem")));
    assert_eq!(std::fs::read(folder.path().join("a-key.pem")).unwrap(), before);
}

#[test]
fn it_hands_out_ids_of_its_own_trust_domain_only() {
    let folder = tempfile::tempdir().unwrap();
    let ask = || issue(folder.path(), id("spiffe://other/a"), None, Vec::new(), Timespan(HOUR));
    assert!(matches!(ask(), Err(CaError::NoAuthority(_))));
    init(folder.path(), "mesh".parse().unwrap()).unwrap();
    assert!(matches!(ask(), Err(CaError::Elsewhere { .. })));
}
