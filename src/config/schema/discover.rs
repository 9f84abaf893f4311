//! Where a cluster's endpoints come from, beside those that are listed.

use crate::config::words::PortVisitor;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One source of endpoints: exactly one of `file`, `dns` and `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Discover {
    /// A YAML file with endpoints as they are written in a cluster (`endpoints: [{ address: 10.1.2.3:8080 }]`); it is read again when it changes.
    pub file: Option<PathBuf>,
    /// A name whose A and AAAA records are the endpoints, on `port`; or one such as `_http._tcp.catalog.shop`, whose SRV records bring ports and weights.
    pub dns: Option<String>,
    /// A service whose EndpointSlices are the endpoints: `namespace/service`, or `service` in the proxy's own namespace.
    pub kubernetes: Option<String>,
    /// The port of what `dns` finds; of a Kubernetes service the number that its pods listen on or the port's name, needed where it has several.
    pub port: Option<Port>,
    /// The DNS servers that are asked (`10.0.0.53:53`); those of the system when empty.
    pub nameservers: Vec<SocketAddr>,
    /// The most endpoints that are taken from it; what is beyond is left out, and said.
    pub most: usize,
}

impl Default for Discover {
    fn default() -> Self {
        Self { file: None, dns: None, kubernetes: None, port: None, nameservers: Vec::new(), most: 1_000 }
    }
}

impl Discover {
    /// Whether the name is one of SRV records (RFC 2782: `_service._proto.name`).
    #[must_use]
    pub fn is_srv(&self) -> bool {
        self.dns.as_ref().is_some_and(|name| name.starts_with('_'))
    }
}

/// What it is called in logs and metrics: `dns catalog.shop:8080`, `file /etc/catalog.yaml`, `kubernetes shop/catalog:http`.
impl fmt::Display for Discover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |f: &mut fmt::Formatter<'_>| self.port.as_ref().map_or(Ok(()), |port| write!(f, ":{port}"));
        if let Some(path) = &self.file {
            write!(f, "file {}", path.display())
        } else if let Some(name) = &self.dns {
            write!(f, "dns {name}")?;
            port(f)
        } else if let Some(service) = &self.kubernetes {
            write!(f, "kubernetes {service}")?;
            port(f)
        } else {
            f.write_str("nothing")
        }
    }
}

/// A port by its number or its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Port {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortVisitor)
    }
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": r"^[a-z0-9-]{1,15}$|\$\{" },
        ] })
    }
}
