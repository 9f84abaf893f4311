//! The watches of routes, of the Services that they name and of the ReferenceGrants that let them: one for each kind, in each namespace that counts or in all.

use super::status;
use super::watch::{Scope, Sees, Target, kind};
use crate::config::GatewayApi;
use crate::discovery::finds::Fault;
use crate::discovery::gateway::{Hub, Kind, Resource};
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// The API group of routes and grants.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// One of them, and where it tells.
struct Seen {
    watch: (Resource, Option<String>),
    hub: Arc<Hub>,
}

/// Begins all of them, and writes the routes' status where that is wanted. Call it on a runtime.
pub fn watch_routes(section: &GatewayApi, hub: &Arc<Hub>) -> Vec<AbortHandle> {
    let everywhere = [None];
    let named: Vec<Option<String>> = section.namespaces.iter().cloned().map(Some).collect();
    let namespaces: &[Option<String>] = if named.is_empty() { &everywhere } else { &named };
    let watches: Vec<_> =
        Resource::ALL.iter().flat_map(|resource| namespaces.iter().map(move |n| (*resource, n.clone()))).collect();
    hub.expect(&watches);
    let mut tasks: Vec<AbortHandle> = Vec::new();
    for watch in watches {
        let scope = watch.1.clone().map_or(Scope::All, Scope::Namespace);
        let target = Target { kind: of(watch.0), scope, labels: String::new(), fields: String::new() };
        let mut seen = Seen { watch, hub: hub.clone() };
        tasks.push(tokio::spawn(async move { target.watch(&mut seen).await }).abort_handle());
    }
    if section.status {
        tasks.push(tokio::spawn(status::write(hub.clone())).abort_handle());
    }
    tasks
}

/// What the API server knows it as.
fn of(resource: Resource) -> ApiResource {
    match resource {
        Resource::Services => kind("", "Service", "v1", resource.plural()),
        Resource::Grants => kind(GATEWAY_API, "ReferenceGrant", "v1beta1", resource.plural()),
        Resource::Routes(route) => of_routes(route),
    }
}

/// What the API server knows routes as.
pub(super) fn of_routes(route: Kind) -> ApiResource {
    kind(GATEWAY_API, route.name(), "v1", route.plural())
}

pub(super) fn json(object: &DynamicObject) -> Value {
    // What came as JSON can be written as such.
    serde_json::to_value(object).unwrap_or_default()
}

impl Sees for Seen {
    fn replace(&mut self, all: Vec<DynamicObject>) {
        let all: Vec<Value> = all.iter().map(json).collect();
        self.hub.replace(&self.watch, &all);
    }

    fn set(&mut self, object: DynamicObject) {
        self.hub.set(self.watch.0, &json(&object));
    }

    fn remove(&mut self, object: &DynamicObject) {
        self.hub.remove(self.watch.0, &json(object));
    }

    fn is_right(&mut self) {
        self.hub.works(&self.watch);
    }

    fn failed(&mut self, fault: Fault, text: String) {
        self.hub.fails(&self.watch, fault, text);
    }
}
