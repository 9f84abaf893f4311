//! ReferenceGrants (`gateway.networking.k8s.io/v1beta1`): who of another namespace may lead to a Service.
//!
//! A grant stands in the namespace of the Service, and says from which kinds of objects of which namespaces to which of its
//! own objects references are allowed. Without one there are none, as the API has it. A word in it that is not known here
//! allows nothing.

use super::types::{Key, Meta};
use serde::Deserialize;
use serde_json::Value;

/// The API group of routes, as grants name it.
const ROUTES: &str = "gateway.networking.k8s.io";

/// What one grant allows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Grant {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct To {
    group: String,
    kind: String,
    /// All objects of the kind without it.
    name: Option<String>,
}

impl Grant {
    /// Reads one: its namespace, its name, and what it allows; nothing where that cannot be read. None where it has no name.
    pub fn read(object: &Value) -> Option<((String, String), Self)> {
        let meta = Meta::deserialize(object.get("metadata")?).ok()?;
        if meta.name.is_empty() || meta.namespace.is_empty() {
            return None;
        }
        let grant = object.get("spec").and_then(|spec| Self::deserialize(spec).ok()).unwrap_or_default();
        Some(((meta.namespace, meta.name), grant))
    }

    /// Whether a route may lead to this Service of the grant's namespace.
    pub fn permits(&self, route: &Key, service: &str) -> bool {
        let from =
            |from: &From| from.group == ROUTES && from.kind == route.kind.name() && from.namespace == route.namespace;
        let to = |to: &To| {
            let named = to.name.as_deref().filter(|name| !name.is_empty());
            to.group.is_empty() && to.kind == "Service" && named.is_none_or(|name| name == service)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}
