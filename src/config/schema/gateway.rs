//! Routes that Kubernetes' Gateway API declares.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Routes from Kubernetes' Gateway API: HTTPRoutes and GRPCRoutes whose parents are Services, or Gateways that are named here. They stand behind those of `routes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayApi {
    /// Whether they are watched and followed.
    pub enabled: bool,
    /// The namespaces whose routes and Services count; all when empty. Where it is one alone, its Services are known by their short names, too.
    pub namespaces: Vec<String>,
    /// Gateways, as `namespace/name`, whose routes are followed as well, for the hosts that they name.
    pub gateways: Vec<String>,
    /// The DNS domain of the Kubernetes cluster, with which the full names of Services end.
    pub domain: String,
    /// A cluster of this file whose settings the clusters for Services take, all but where endpoints come from; the defaults when it is not said.
    pub template: Option<String>,
    /// Whether this proxy writes into each route's status what became of it; one proxy of the mesh is enough, and it needs the right to `patch` their `status`.
    pub status: bool,
    /// The most rules of the routing table that come from there; a route that has no room any more is left out whole, the youngest first.
    pub most_rules: usize,
    /// The most clusters that are made for it; each is one watch at the API server.
    pub most_clusters: usize,
}

impl Default for GatewayApi {
    fn default() -> Self {
        Self {
            enabled: false,
            namespaces: Vec::new(),
            gateways: Vec::new(),
            domain: "cluster.local".into(),
            template: None,
            status: false,
            most_rules: 2_000,
            most_clusters: 100,
        }
    }
}
