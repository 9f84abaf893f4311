//! The keys of identity: this node's certificates, how listeners and endpoints use them, and who may do what.

use crate::config::spiffe::{ExpectedPeer, SpiffePattern, TrustDomain, WorkloadApi};
use crate::config::words::{SECTION_OR_TEXT, or_text};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::path::PathBuf;

/// This node's identity in the mesh: a SPIFFE id, proven by certificates in files that are read again whenever they change, or from a SPIFFE Workload API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// The PEM file with this node's certificate, which names its SPIFFE id, and those between it and the authority.
    pub certificate: Option<PathBuf>,
    /// The PEM file with the certificate's private key.
    pub key: Option<PathBuf>,
    /// The PEM file with the authorities that the mesh's certificates are checked against.
    pub bundle: Option<PathBuf>,
    /// The trust domain that all of the mesh belongs to; that of the own certificate when it is not said.
    pub trust_domain: Option<TrustDomain>,
    /// The Unix socket of a SPIFFE Workload API (`unix:///run/spire/agent.sock`), in place of the files: certificate, key and authorities come from there.
    pub workload_api: Option<WorkloadApi>,
    /// The hint of the certificate to use, where the Workload API gives several; the first one when it is not said.
    pub hint: Option<String>,
    /// Other trust domains whose workloads are let in by listeners, and reached by clusters that expect one of their ids; the Workload API gives their authorities.
    pub federated: Vec<TrustDomain>,
}

/// Whether clients must prove who they are by a certificate of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disabled,
    /// Plain text and mTLS on one port, told apart by the first byte.
    Permissive,
    /// mTLS; what comes in plain text is refused.
    Strict,
}

/// A rule of who may do what: all that it names must hold, and one rule is enough.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Who: SPIFFE ids, or all below a path (`spiffe://mesh.example/shop/*`); empty is everybody, proven or not.
    pub from: Vec<SpiffePattern>,
    /// The methods; empty is every method.
    pub methods: Vec<String>,
    /// The exact path.
    pub path: Option<String>,
    /// A prefix of the path, matched at `/` boundaries.
    pub path_prefix: Option<String>,
}

/// TLS towards a cluster's endpoints. A word or an id alone (`tls: mesh`) means `identity`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = or_text)]
pub struct ClusterTls {
    /// Whom the endpoints must prove to be in the mesh: `mesh` (anybody of the trust domain) or one SPIFFE id; `off` is plain text, unless there is a `name`.
    pub identity: ExpectedPeer,
    /// The DNS name that endpoints outside the mesh must prove (`api.example.com`); no certificate of ours is shown to them.
    pub name: Option<String>,
    /// The PEM file with the authorities for `name`; the system's when it is not said.
    pub authorities: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for ClusterTls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SECTION_OR_TEXT, &["identity", "name", "authorities"], ClusterTlsVisitor)
    }
}

struct ClusterTlsVisitor;

impl<'de> Visitor<'de> for ClusterTlsVisitor {
    type Value = ClusterTls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`mesh`, `off`, a SPIFFE id, or a section with `name`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ClusterTls, E> {
        Ok(ClusterTls { identity: text.parse().map_err(E::custom)?, ..ClusterTls::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClusterTls, A::Error> {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        struct Section {
            identity: ExpectedPeer,
            name: Option<String>,
            authorities: Option<PathBuf>,
        }
        let Section { identity, name, authorities } = Section::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ClusterTls { identity, name, authorities })
    }
}
