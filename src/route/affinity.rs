//! By what requests stay with an endpoint: a number that is the same for all that belong together.
//!
//! The number must be the same in every proxy and in every version of it, or a caller would change endpoints with the
//! proxy that it happens to come by: so it is FNV-1a (64 bits, which nobody will change) with the finaliser of
//! SplitMix64 behind it, because FNV's upper bits say little of short texts. Who writes the header can choose the
//! number, and so the endpoint; that is what affinity is.

use super::pairs;
use crate::config;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use std::net::IpAddr;

/// By what a cluster's requests stay with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// By this header's first value.
    Header(HeaderName),
    /// By this cookie's first value.
    Cookie(Box<str>),
    /// By the client's address.
    Source,
}

impl Affinity {
    pub(super) fn compile(affinity: &config::Affinity) -> Option<Self> {
        match affinity {
            config::Affinity { header: Some(name), .. } => name.parse().ok().map(Self::Header),
            config::Affinity { cookie: Some(name), .. } => Some(Self::Cookie(name.as_str().into())),
            config::Affinity { source: true, .. } => Some(Self::Source),
            _ => None,
        }
    }

    /// The header that it asks for.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            Self::Cookie(_) => Some(&COOKIE),
            Self::Source => None,
        }
    }

    /// The number of a request; none where it brings nothing to stay by.
    #[must_use]
    pub fn number(&self, headers: &HeaderMap, client: IpAddr) -> Option<u64> {
        match self {
            Self::Header(name) => headers.get(name).map(|value| stable_hash(value.as_bytes())),
            Self::Cookie(name) => pairs::cookies(headers, name).next().map(stable_hash),
            Self::Source => Some(match client.to_canonical() {
                IpAddr::V4(v4) => stable_hash(&v4.octets()),
                IpAddr::V6(v6) => stable_hash(&v6.octets()),
            }),
        }
    }
}

/// A hash that never changes.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    scattered(bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

/// Another number for each number, all bits of which depend on all of its bits: one step of SplitMix64.
#[must_use]
pub fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(affinity: config::Affinity, headers: &[(&'static str, &str)], client: &str) -> Option<u64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Affinity::compile(&affinity).unwrap().number(&map, client.parse().unwrap())
    }

    #[test]
    fn requests_that_belong_together_have_the_same_number_and_others_another() {
        let by_header = || config::Affinity { header: Some("X-User".into()), ..Default::default() };
        let ann = number(by_header(), &[("x-user", "ann")], "10.0.0.1");
        assert_eq!(ann, number(by_header(), &[("x-user", "ann"), ("cookie", "a=1")], "10.0.0.2"));
        assert!(ann.is_some() && ann != number(by_header(), &[("x-user", "bob")], "10.0.0.1"));
        assert_eq!(number(by_header(), &[], "10.0.0.1"), None);
        let by_cookie = || config::Affinity { cookie: Some("session".into()), ..Default::default() };
        let session = number(by_cookie(), &[("cookie", "a=1; session=ann")], "10.0.0.1");
        assert_eq!(session, ann, "the same text");
        assert_eq!(number(by_cookie(), &[("cookie", "sessions=ann")], "10.0.0.1"), None);
        let by_source = || config::Affinity { source: true, ..Default::default() };
        let one = number(by_source(), &[], "10.0.0.1");
        assert_eq!(one, number(by_source(), &[("x-user", "ann")], "::ffff:10.0.0.1"));
        assert_ne!(one, number(by_source(), &[], "10.0.0.2"));
        assert_eq!(Affinity::compile(&config::Affinity::default()), None);
    }

    #[test]
    fn the_hash_is_what_it_was_in_every_version() {
        assert_eq!(scattered(0), 0xe220_a839_7b1d_cdaf, "SplitMix64's first number from the seed 0");
        assert_eq!(stable_hash(b""), scattered(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable_hash(b"a"), scattered(0xaf63_dc4c_8601_ec8c), "FNV-1a's published value for `a`");
    }
}
