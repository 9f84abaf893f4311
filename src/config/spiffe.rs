//! SPIFFE ids as they are written: `spiffe://trust-domain/path` (the SPIFFE-ID standard, sections 2 and 2.4), and where a
//! Workload API is (the Workload Endpoint standard, section 4).
//!
//! An id that exists is well formed, so that ids can be compared as text: the trust domain and the path have one
//! spelling each, without ports, queries, percent signs, empty or dotted segments.

use super::units::{UnitError, Written, written};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// The longest trust domain and the longest id, in bytes (section 2.3).
const MAX_DOMAIN: usize = 255;
const MAX_ID: usize = 2048;

/// The name of a mesh within which ids are handed out: `mesh.example`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// Who a workload is: `spiffe://mesh.example/shop/frontend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins, with its slash.
    path: usize,
}

/// Ids that a rule means: one (`spiffe://mesh/shop/frontend`), or all below a path (`spiffe://mesh/shop/*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SpiffePattern {
    /// This one.
    One(SpiffeId),
    /// All that begin with this, which ends in a slash, and go on.
    Below(Arc<str>),
}

/// Whom a cluster's endpoints must prove to be by a certificate of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ExpectedPeer {
    /// Nobody: no certificates of the mesh are spoken of.
    #[default]
    Off,
    /// Anybody of the trust domain.
    Mesh,
    /// This workload.
    One(SpiffeId),
}

/// The Unix socket of a SPIFFE Workload API: `unix:///run/spire/agent.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadApi(PathBuf);

/// The longest path of a Unix socket on Linux, in bytes.
const MAX_SOCKET: usize = 107;

fn domain(text: &str) -> Result<(), &'static str> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match text {
        "" => Err("its trust domain is empty"),
        _ if text.len() > MAX_DOMAIN => Err("its trust domain is longer than 255 characters"),
        _ if !text.bytes().all(letter) => {
            Err("a trust domain has small letters, digits, `.`, `-` and `_`, and no port or user")
        }
        _ => Ok(()),
    }
}

/// A path without its first slash.
fn path(text: &str) -> Result<(), &'static str> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    for segment in text.split('/') {
        match segment {
            "" => return Err("its path has an empty part"),
            "." | ".." => return Err("its path has a part of dots"),
            _ if !segment.bytes().all(letter) => {
                return Err("a path has letters, digits, `.`, `-`, `_` and `/`");
            }
            _ => {}
        }
    }
    Ok(())
}

fn wrong(text: &str, why: &str, remedy: &str) -> UnitError {
    UnitError::new(format!("`{}` is no SPIFFE id: {why}", text.escape_default()), remedy)
}

impl FromStr for SpiffeId {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |why| wrong(text, why, "write it as `spiffe://trust-domain/path`");
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with `spiffe://`"))?;
        if text.len() > MAX_ID {
            return Err(wrong("it is longer than 2048 characters"));
        }
        let (before, after) = rest.split_once('/').ok_or_else(|| wrong("it has no path"))?;
        domain(before).and_then(|()| path(after)).map_err(wrong)?;
        Ok(Self { text: text.into(), path: SCHEME.len() + before.len() })
    }
}

impl SpiffeId {
    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain that it belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path).unwrap_or_default()
    }

    /// Whether it belongs to a trust domain.
    #[must_use]
    pub fn is_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == &*domain.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&SpiffeId> for TrustDomain {
    fn from(id: &SpiffeId) -> Self {
        Self(id.trust_domain().into())
    }
}

impl FromStr for TrustDomain {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write it as `mesh.example`";
        domain(text).map_err(|why| UnitError::new(format!("`{text}` is no trust domain: {why}"), remedy))?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffePattern {
    /// Whether an id is meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::One(one) => one == id,
            Self::Below(prefix) => id.text.starts_with(&**prefix),
        }
    }

    /// The trust domain whose ids it means.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        match self {
            Self::One(id) => id.trust_domain(),
            Self::Below(prefix) => prefix.strip_prefix(SCHEME).and_then(|p| p.split('/').next()).unwrap_or_default(),
        }
    }
}

impl FromStr for SpiffePattern {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write `spiffe://trust-domain/path` for one, or `spiffe://trust-domain/path/*` for all below";
        let rename = |error: UnitError| UnitError::new(error.message, remedy);
        let Some(prefix) = text.strip_suffix('*') else { return text.parse().map(Self::One).map_err(rename) };
        let without = prefix.strip_suffix('/').ok_or_else(|| wrong(text, "a `*` stands alone after a `/`", remedy))?;
        // An id of the domain's own, where the pattern means all of the domain.
        let id = if without.get(SCHEME.len()..).is_some_and(|rest| rest.contains('/')) {
            without.parse::<SpiffeId>()
        } else {
            format!("{without}/any").parse()
        };
        id.map_err(rename)?;
        Ok(Self::Below(prefix.into()))
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(id) => id.fmt(f),
            Self::Below(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl FromStr for ExpectedPeer {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "off" => Ok(Self::Off),
            "mesh" => Ok(Self::Mesh),
            _ => text.parse().map(Self::One).map_err(|error: UnitError| {
                let remedy = "write `off`, `mesh`, one id such as `spiffe://mesh.example/shop/catalog`, or a DNS name \
                              as `tls: { name: api.example.com }`";
                UnitError::new(error.message, remedy)
            }),
        }
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Mesh => f.write_str("mesh"),
            Self::One(id) => id.fmt(f),
        }
    }
}

impl WorkloadApi {
    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.0
    }
}

impl FromStr for WorkloadApi {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |why: &str, remedy: &str| {
            UnitError::new(format!("`{}` is no Workload API: {why}", text.escape_default()), remedy)
        };
        let how = "write `unix:///run/spire/agent.sock`";
        if text.starts_with("tcp:") {
            let why = "over TCP an agent cannot tell who asks, and keys would travel as plain text";
            return Err(wrong(why, "have the agent listen on a Unix socket, and write `unix:///run/spire/agent.sock`"));
        }
        let rest = text.strip_prefix("unix:").ok_or_else(|| wrong("it does not begin with `unix://`", how))?;
        // Of a URI's two ways to write that there is no host, agents' documentation uses both.
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if !path.starts_with('/') {
            return Err(wrong("its path does not begin with `/`", how));
        }
        if path.ends_with('/') || path.contains(['?', '#', '%', '\0']) {
            return Err(wrong("its path is not that of a file, or has `?`, `#` or `%`", how));
        }
        if path.len() > MAX_SOCKET {
            return Err(wrong(
                "its path is longer than 107 bytes, which no Unix socket's can be",
                "use a shorter path",
            ));
        }
        Ok(Self(path.into()))
    }
}

impl fmt::Display for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

written!(TrustDomain, "a trust domain such as `mesh.example`", r"^[a-z0-9._-]+$", deserialize_any);
written!(SpiffePattern, "a SPIFFE id such as `spiffe://mesh.example/shop/*`", r"^spiffe://.+/.+$", deserialize_any);
written!(WorkloadApi, "a Unix socket such as `unix:///run/spire/agent.sock`", r"^unix:(//)?/.+$", deserialize_any);
written!(ExpectedPeer, "`off`, `mesh` or a SPIFFE id", r"^(off|mesh|spiffe://.+/.+)$", deserialize_any);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_spelling_of_a_trust_domain_and_a_path() {
        let long = format!("spiffe://d/{}", "a".repeat(MAX_ID - 11));
        for text in ["spiffe://mesh.example/a", "spiffe://m-1_2/ns/Shop/sa/front.end", "spiffe://10.0.0.1/a", &long] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
        }
        let id: SpiffeId = "spiffe://mesh.example/ns/a".parse().unwrap();
        assert_eq!(id.trust_domain(), "mesh.example");
        assert!(id.is_of(&"mesh.example".parse().unwrap()) && !id.is_of(&"mesh.exampl".parse().unwrap()));
        let too_long = format!("{long}a");
        for text in [
            "",
            "spiffe://",
            "spiffe://mesh",
            "spiffe://mesh/",
            "spiffe:///a",
            "SPIFFE://mesh/a",
            "https://mesh/a",
            "spiffe://Mesh/a",
            "spiffe://mesh:8443/a",
            "spiffe://me@mesh/a",
            "spiffe://mesh/a/",
            "spiffe://mesh//a",
            "spiffe://mesh/a/../b",
            "spiffe://mesh/./a",
            "spiffe://mesh/%41",
            "spiffe://mesh/a?b",
            "spiffe://mesh/a#b",
            "spiffe://mesh/a b",
            "spiffe://mesh/\u{e9}",
            " spiffe://mesh/a",
            "spiffe://mesh/a\n",
            &too_long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_means_one_id_or_all_below_a_path() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let one: SpiffePattern = "spiffe://mesh/shop/a".parse().unwrap();
        assert!(one.matches(&id("spiffe://mesh/shop/a")) && !one.matches(&id("spiffe://mesh/shop/ab")));
        let shop: SpiffePattern = "spiffe://mesh/shop/*".parse().unwrap();
        assert!(shop.matches(&id("spiffe://mesh/shop/a/b")) && !shop.matches(&id("spiffe://mesh/shop")));
        assert!(!shop.matches(&id("spiffe://mesh/shopping/a")) && !shop.matches(&id("spiffe://other/shop/a")));
        let all: SpiffePattern = "spiffe://mesh/*".parse().unwrap();
        assert!(all.matches(&id("spiffe://mesh/x")) && !all.matches(&id("spiffe://mesh.evil/x")));
        assert_eq!((all.trust_domain(), shop.trust_domain(), one.trust_domain()), ("mesh", "mesh", "mesh"));
        for text in ["*", "spiffe://*", "spiffe://mesh*", "spiffe://mesh/a*", "spiffe://mesh/*/a", "spiffe://mesh//*"] {
            assert!(text.parse::<SpiffePattern>().is_err(), "{text}");
        }
        for text in ["spiffe://mesh/a", "spiffe://mesh/*", "spiffe://mesh/a/*"] {
            assert_eq!(text.parse::<SpiffePattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn whom_to_expect_is_a_word_or_an_id() {
        for text in ["off", "mesh", "spiffe://mesh/a"] {
            assert_eq!(text.parse::<ExpectedPeer>().unwrap().to_string(), text);
        }
        assert!("api.example.com".parse::<ExpectedPeer>().unwrap_err().remedy.contains("name: api.example.com"));
    }

    #[test]
    fn a_workload_api_is_a_unix_socket() {
        for (text, path) in [
            ("unix:///run/spire/agent.sock", "/run/spire/agent.sock"),
            ("unix:/run/spire/agent.sock", "/run/spire/agent.sock"),
        ] {
            let api: WorkloadApi = text.parse().unwrap();
            assert_eq!((api.socket(), api.to_string().as_str()), (Path::new(path), "unix:///run/spire/agent.sock"));
        }
        let longest = format!("unix:///{}", "a".repeat(MAX_SOCKET - 1));
        assert!(longest.parse::<WorkloadApi>().is_ok());
        let too_long = format!("{longest}a");
        for text in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix://run/agent.sock",
            "unix:agent.sock",
            "unix:///run/",
            "unix:///run/a?b",
            "unix:///run/a#b",
            "unix:///run/%61",
            "unix:///run/a\0",
            &too_long,
        ] {
            assert!(text.parse::<WorkloadApi>().is_err(), "{text}");
        }
        let tcp = "tcp://127.0.0.1:8081".parse::<WorkloadApi>().unwrap_err();
        assert!(tcp.message.contains("TCP") && tcp.remedy.contains("unix:///"), "{tcp:?}");
    }
}
