//! The watches of a node's pods and of all namespaces, from which follows whom to capture.
//!
//! What was told last stays while the API server is away or refuses. The log says once that a watch fails, with the remedy,
//! and once that it works again.

use super::objects::json;
use super::watch::{Scope, Sees, Target, kind};
use crate::discovery::finds::Fault;
use crate::discovery::listing::told;
use crate::discovery::pods::{Pods, Wanted, Watched};
use kube::api::DynamicObject;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// One of the two, and whom it tells.
struct Seen {
    kind: Watched,
    pods: Arc<Mutex<Pods>>,
    wanted: watch::Sender<Option<Wanted>>,
    most: usize,
    fails: bool,
}

/// Follows the pods of a node for ever: whom to capture, `most` addresses at most, once that is known. Call it on a runtime.
pub fn follow_pods(node: &str, most: usize) -> watch::Receiver<Option<Wanted>> {
    let (wanted, told) = watch::channel(None);
    let pods = Arc::new(Mutex::new(Pods::default()));
    let watches = [
        (Watched::Pods, kind("", "Pod", "v1", "pods"), format!("spec.nodeName={node}")),
        (Watched::Namespaces, kind("", "Namespace", "v1", "namespaces"), String::new()),
    ];
    for (watched, kind, fields) in watches {
        let target = Target { kind, scope: Scope::All, labels: String::new(), fields };
        let mut seen = Seen { kind: watched, pods: pods.clone(), wanted: wanted.clone(), most, fails: false };
        tokio::spawn(async move { target.watch(&mut seen).await });
    }
    told
}

impl Seen {
    fn change(&self, change: impl FnOnce(&mut Pods)) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pods);
        // Under the lock, so that what is told last is what was known last.
        let now = pods.wanted(self.most);
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != now;
            if news {
                *wanted = now;
            }
            news
        });
    }

    fn plural(&self) -> &'static str {
        match self.kind {
            Watched::Pods => "pods",
            Watched::Namespaces => "namespaces",
        }
    }
}

impl Sees for Seen {
    fn replace(&mut self, all: Vec<DynamicObject>) {
        let all: Vec<Value> = all.iter().map(json).collect();
        self.change(|pods| pods.replace(self.kind, all.iter()));
    }

    fn set(&mut self, object: DynamicObject) {
        self.change(|pods| pods.set(self.kind, &json(&object)));
    }

    fn remove(&mut self, object: &DynamicObject) {
        self.change(|pods| pods.remove(self.kind, &json(object)));
    }

    fn is_right(&mut self) {
        if std::mem::take(&mut self.fails) {
            tracing::info!(of = self.plural(), "Kubernetes answers again");
        }
    }

    fn failed(&mut self, fault: Fault, text: String) {
        if std::mem::replace(&mut self.fails, true) {
            return;
        }
        let (of, reason) = (self.plural(), fault.code());
        let remedy = match fault {
            Fault::Denied => {
                "give this account the right to list and watch them in all namespaces (the chart's `rbac.create`)"
            }
            Fault::Unavailable => "run it in a pod with a service account, or name a file in KUBECONFIG",
            _ => "it is asked again and again",
        };
        tracing::warn!(of, reason, "Kubernetes cannot be asked, what was known last stays: {}; {remedy}", told(text));
    }
}
