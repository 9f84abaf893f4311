//! What is known of a Kubernetes cluster: a service's endpoints by its EndpointSlices; routes of the Gateway API, with the
//! Services that they name and the ReferenceGrants that let them, and their status; pods that want to be captured.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `watch` | a watch of one kind of objects |
//! | `slices` | EndpointSlices, and what they say together |
//! | `objects` | the watches of routes, Services and ReferenceGrants |
//! | `pods` | the watches of a node's pods and of namespaces |
//! | `status` | what is written into the routes' status |
//!
//! A service without a pod that is ready has no endpoints, and one that was deleted has none either.
//!
//! **Rights.** `list` and `watch` of `endpointslices` (API group `discovery.k8s.io`) in the service's namespace. For routes:
//! `list` and `watch` of `httproutes`, `grpcroutes` and `referencegrants` (`gateway.networking.k8s.io`) and of `services`;
//! `patch` of the routes' `status` only where it is written. For pods: `list` and `watch` of `pods` and `namespaces`,
//! everywhere. The server and the credentials are those of the pod, or of the file that `KUBECONFIG`
//! names, read anew after each failure. Credentials that a program makes (`exec`) cannot be had with
//! `process.privileges: least`, under which no program is started.

mod objects;
mod pods;
mod slices;
mod status;
mod watch;

pub use objects::watch_routes;
pub use pods::follow_pods;

use super::Source;
use super::finds::{Fault, Finds};
use crate::config::Port;
use async_trait::async_trait;
use kube::api::DynamicObject;
use slices::{SERVICE_LABEL, Slices};
use watch::{Scope, Sees, Target};

/// A service.
pub struct Service {
    /// None is the proxy's own.
    namespace: Option<String>,
    name: String,
    port: Option<Port>,
    most: usize,
}

/// What is known of it, and who is told.
struct Seen {
    service: Service,
    slices: Slices,
    finds: Finds,
}

impl Service {
    pub fn new(service: &str, port: Option<Port>, most: usize) -> Self {
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, service),
        };
        Self { namespace, name: name.to_owned(), port, most }
    }
}

impl Sees for Seen {
    fn replace(&mut self, all: Vec<DynamicObject>) {
        self.slices.replace(all);
    }

    fn set(&mut self, object: DynamicObject) {
        self.slices.set(object);
    }

    fn remove(&mut self, object: &DynamicObject) {
        self.slices.remove(object);
    }

    fn is_right(&mut self) {
        let Service { name, port, most, .. } = &self.service;
        let listing = self.slices.gather(name, port.as_ref()).finish(*most);
        if self.slices.is_empty() {
            let text = format!("there is no slice of a service `{name}`");
            return self.finds.partly(listing, Fault::NoSuchName, text);
        }
        self.finds.good(listing);
    }

    fn failed(&mut self, fault: Fault, text: String) {
        self.finds.failed(fault, text);
    }
}

#[async_trait]
impl Source for Service {
    async fn run(self: Box<Self>, finds: Finds) {
        let target = Target {
            kind: watch::kind("discovery.k8s.io", "EndpointSlice", "v1", "endpointslices"),
            scope: self.namespace.clone().map_or(Scope::Own, Scope::Namespace),
            labels: format!("{SERVICE_LABEL}={}", self.name),
            fields: String::new(),
        };
        target.watch(&mut Seen { service: *self, slices: Slices::default(), finds }).await;
    }

    fn is_watched(&self) -> bool {
        true
    }
}
