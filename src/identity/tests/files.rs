//! What files may hold.

use super::*;

fn refused(folder: &Folder) -> (&'static str, String) {
    let refused = Material::load(&folder.files()).unwrap_err();
    (refused.code(), refused.to_string())
}

#[test]
fn good_files_are_taken_with_their_id_and_their_end() {
    let ca = authority("mesh");
    let folder = Folder::new(&issued(&ca, "spiffe://mesh/shop/a"), ca.certificate());
    let material = Material::load(&folder.files()).unwrap();
    assert_eq!((material.id.as_str(), material.domain.to_string().as_str()), ("spiffe://mesh/shop/a", "mesh"));
    let left = material.expires.duration_since(SystemTime::now()).unwrap();
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    assert!(material.bundle_expires > material.expires);
}

#[test]
fn what_is_wrong_is_named_with_its_file() {
    let ca = authority("mesh");
    let good = issued(&ca, "spiffe://mesh/a");
    let folder = || Folder::new(&good, ca.certificate());
    let with = |name: &str, text: &str| {
        let folder = folder();
        folder.write(name, text);
        let (code, text) = refused(&folder);
        assert!(text.contains(name), "{text}");
        code
    };
    let cut = |text: &str| text[..text.len() - 40].to_owned();
    assert_eq!(with("cert.pem", ""), "empty");
    assert_eq!(with("cert.pem", &cut(&good.certificate)), "broken");
    assert_eq!(with("cert.pem", &good.key), "empty");
    assert_eq!(with("cert.pem", &format!("{}{}", good.certificate, cut(ca.certificate()))), "broken");
    assert_eq!(with("key.pem", ""), "empty");
    assert_eq!(with("key.pem", &cut(&good.key)), "broken");
    assert_eq!(with("key.pem", &issued(&ca, "spiffe://mesh/a").key), "key_mismatch");
    assert_eq!(with("bundle.pem", ""), "empty");
    assert_eq!(with("bundle.pem", &cut(ca.certificate())), "broken");
    assert_eq!(with("bundle.pem", authority("mesh").certificate()), "untrusted");
    let gone = folder();
    std::fs::remove_file(gone.path("key.pem")).unwrap();
    assert_eq!(refused(&gone).0, "unreadable");
}

#[test]
fn a_certificate_is_valid_now_and_names_one_id_of_the_trust_domain() {
    let ca = authority("mesh");
    assert_eq!(refused(&Folder::new(&expired(&ca, "spiffe://mesh/a"), ca.certificate())).0, "expired");
    let now = SystemTime::now();
    let later = Request { from: now + HOUR, until: now + 2 * HOUR, ..Request::new(id("spiffe://mesh/a"), HOUR) };
    assert_eq!(refused(&Folder::new(&ca.issue(&later).unwrap(), ca.certificate())).0, "not_yet_valid");
    let mut files = Folder::new(&issued(&ca, "spiffe://mesh/a"), ca.certificate());
    let elsewhere = Files { trust_domain: Some("other".parse().unwrap()), ..files.files() };
    assert_eq!(Material::load(&elsewhere).unwrap_err().code(), "wrong_id");
    for uris in [&[][..], &["spiffe://mesh/a", "spiffe://mesh/b"], &["https://mesh/a"], &["spiffe://mesh"]] {
        files = Folder::new(&naming(uris), NAMING.certificate());
        let (code, text) = refused(&files);
        assert_eq!(code, "wrong_id", "{text}");
    }
    files = Folder::new(&naming(&["spiffe://mesh/a"]), NAMING.certificate());
    assert!(Material::load(&files.files()).is_ok());
}

/// An authority that vouches for whatever it is asked to.
struct Naming {
    certificate: rcgen::Certificate,
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pem: String,
}

impl Naming {
    fn certificate(&self) -> &str {
        &self.pem
    }
}

static NAMING: LazyLock<Naming> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let pem = certificate.pem();
    Naming { certificate, params, key, pem }
});

fn naming(uris: &[&str]) -> Issued {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.subject_alt_names.extend(uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())));
    let issuer = rcgen::Issuer::from_params(&NAMING.params, &NAMING.key);
    assert!(!NAMING.certificate.der().is_empty());
    Issued { certificate: params.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() }
}

#[test]
fn no_key_is_ever_shown() {
    let ca = authority("mesh");
    let good = issued(&ca, "spiffe://mesh/a");
    let folder = Folder::new(&good, ca.certificate());
    let identities = folder.identities();
    let secret: Vec<&str> = good.key.lines().filter(|l| !l.starts_with("-----")).collect();
    assert!(!secret.is_empty());
    let dial = identities.dial(&mesh("mesh"), Protocol::Http1).unwrap();
    let mut shown = format!("{identities:?} {:?} {dial:?} {:?}", identities.current(), dial.secured());
    shown += &identities.status().to_string();
    folder.write("cert.pem", &good.key);
    shown += &refused(&folder).1;
    for line in secret {
        assert!(!shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}
