//! Which pods of a node want to be captured, and at which addresses.
//!
//! | the pod's annotation `pathloom.dev/capture` | its namespace's label, or else annotation, of that name | it is captured |
//! | --- | --- | --- |
//! | `enabled` | | yes |
//! | `disabled` | | no |
//! | none, or something else | `enabled` | yes |
//! | none, or something else | | no |
//!
//! Never captured are pods on the node's network (their address is everybody's there), those that have ended (their address
//! may be another's by now), and Pathloom's own. What is neither of the two words is ignored, counted, and named once.
//!
//! Nothing is said before both the pods and the namespaces were listed once: a pod that is not known yet is not one that is
//! gone. Objects are read leniently; what is no address is passed over.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The annotation, and the label.
pub const CAPTURE: &str = "pathloom.dev/capture";
/// The label by which Pathloom's own pods are known, and its value.
const OWN: (&str, &str) = ("app.kubernetes.io/name", "pathloom");
/// How much of a word that means nothing is kept, in characters.
const MAX_WORD: usize = 100;

/// What a pod, or a namespace, says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Enabled,
    Disabled,
    /// A word that means nothing.
    Nonsense(String),
}

/// A pod, as far as it matters.
#[derive(Debug)]
struct Pod {
    namespace: String,
    says: Said,
    /// None where it is never captured.
    addresses: BTreeSet<IpAddr>,
}

/// All pods of a node, and all namespaces.
#[derive(Debug, Default)]
pub struct Pods {
    /// By namespace and name; none before they were listed.
    pods: Option<BTreeMap<String, Pod>>,
    /// Those that say something; none before they were listed.
    namespaces: Option<BTreeMap<String, Said>>,
}

/// Which kind of objects is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// The pods of the node.
    Pods,
    /// All namespaces.
    Namespaces,
}

/// Whom to capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// How many pods they have.
    pub pods: usize,
    /// How many pods are on the node.
    pub of: usize,
    /// How many addresses there is no room for.
    pub left_out: usize,
    /// How many words there are that mean nothing.
    pub ignored: usize,
}

impl Pods {
    /// These are all.
    pub fn replace<'a>(&mut self, kind: Watched, all: impl Iterator<Item = &'a Value>) {
        match kind {
            Watched::Pods => {
                let before = self.pods.replace(BTreeMap::new()).unwrap_or_default();
                all.for_each(|object| self.set_pod(object, |name| before.get(name).map(|pod| pod.says.clone())));
            }
            Watched::Namespaces => {
                let before = self.namespaces.replace(BTreeMap::new()).unwrap_or_default();
                all.for_each(|object| self.set_namespace(object, |name| before.get(name).cloned()));
            }
        }
    }

    /// This one is new, or another than it was.
    pub fn set(&mut self, kind: Watched, object: &Value) {
        let name = name(object);
        match kind {
            Watched::Pods => {
                let before = self.pods.as_ref().and_then(|pods| Some(pods.get(&name)?.says.clone()));
                self.set_pod(object, |_| before);
            }
            Watched::Namespaces => {
                let before = self.namespaces.as_ref().and_then(|all| all.get(&name).cloned());
                self.set_namespace(object, |_| before);
            }
        }
    }

    /// This one is gone.
    pub fn remove(&mut self, kind: Watched, object: &Value) {
        let name = name(object);
        match kind {
            Watched::Pods => drop(self.pods.as_mut().and_then(|pods| pods.remove(&name))),
            Watched::Namespaces => drop(self.namespaces.as_mut().and_then(|all| all.remove(&name))),
        }
    }

    /// Whom to capture, `most` addresses at most; none while that is not known.
    #[must_use]
    pub fn wanted(&self, most: usize) -> Option<Wanted> {
        let (pods, namespaces) = (self.pods.as_ref()?, self.namespaces.as_ref()?);
        let wants = |pod: &&Pod| {
            let says = match &pod.says {
                Said::Nothing | Said::Nonsense(_) => namespaces.get(&pod.namespace),
                said => Some(said),
            };
            says == Some(&Said::Enabled) && !pod.addresses.is_empty()
        };
        let said = pods.values().map(|pod| &pod.says).chain(namespaces.values());
        let ignored = said.filter(|said| matches!(said, Said::Nonsense(_))).count();
        let mut wanted = Wanted { of: pods.len(), ignored, ..Wanted::default() };
        for pod in pods.values().filter(wants) {
            wanted.pods += 1;
            for address in &pod.addresses {
                if wanted.addresses.len() < most {
                    wanted.addresses.insert(*address);
                } else if !wanted.addresses.contains(address) {
                    wanted.left_out += 1;
                }
            }
        }
        Some(wanted)
    }

    fn set_pod(&mut self, object: &Value, before: impl FnOnce(&str) -> Option<Said>) {
        let Some(pods) = &mut self.pods else { return };
        let (name, pod) = (name(object), Pod::of(object));
        name_nonsense("pod", &name, &pod.says, before(&name));
        pods.insert(name, pod);
    }

    fn set_namespace(&mut self, object: &Value, before: impl FnOnce(&str) -> Option<Said>) {
        let Some(namespaces) = &mut self.namespaces else { return };
        let name = name(object);
        let says = match Said::of(said(object, "labels", CAPTURE)) {
            Said::Nothing => Said::of(said(object, "annotations", CAPTURE)),
            label => label,
        };
        name_nonsense("namespace", &name, &says, before(&name));
        match says {
            Said::Nothing => namespaces.remove(&name),
            says => namespaces.insert(name, says),
        };
    }
}

impl Said {
    fn of(word: Option<&str>) -> Self {
        match word {
            None => Self::Nothing,
            Some("enabled") => Self::Enabled,
            Some("disabled") => Self::Disabled,
            Some(other) => Self::Nonsense(other.chars().take(MAX_WORD).collect()),
        }
    }
}

impl Pod {
    fn of(object: &Value) -> Self {
        let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        let over = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
        let never = over || spec["hostNetwork"] == true || said(object, "labels", OWN.0) == Some(OWN.1);
        let listed = status["podIPs"].as_array().into_iter().flatten().map(|ip| &ip["ip"]);
        // Older servers say the first one alone.
        let told = listed.chain([&status["podIP"]]).filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        let of_the_node = |ip: &IpAddr| status["hostIP"].as_str().is_some_and(|host| host.parse() == Ok(*ip));
        let usable = |ip: &IpAddr| !never && !ip.is_unspecified() && !ip.is_loopback() && !of_the_node(ip);
        Self {
            namespace: metadata["namespace"].as_str().unwrap_or_default().to_owned(),
            says: Said::of(said(object, "annotations", CAPTURE)),
            addresses: told.map(|ip| ip.to_canonical()).filter(usable).collect(),
        }
    }
}

/// Tells the log of a word that means nothing, once.
fn name_nonsense(kind: &'static str, name: &str, says: &Said, before: Option<Said>) {
    if let Said::Nonsense(said) = says
        && before.as_ref() != Some(says)
    {
        tracing::warn!(kind, name, said, "`{CAPTURE}` is ignored here: write `enabled` or `disabled`");
    }
}

/// One of its labels or annotations.
fn said<'a>(object: &'a Value, of: &str, key: &str) -> Option<&'a str> {
    object["metadata"].get(of)?.get(key)?.as_str()
}

/// Its namespace and its name, or the name alone.
fn name(object: &Value) -> String {
    let text = |key: &str| object["metadata"].get(key).and_then(Value::as_str).unwrap_or_default();
    match text("namespace") {
        "" => text("name").to_owned(),
        namespace => format!("{namespace}/{}", text("name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, says: &str, ips: &[&str]) -> Value {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({
            "metadata": { "namespace": "shop", "name": name, "annotations": { CAPTURE: says } },
            "spec": { "nodeName": "n1" },
            "status": { "phase": "Running", "hostIP": "192.168.0.1", "podIPs": ips },
        })
    }

    fn namespace(name: &str, label: &str, annotation: &str) -> Value {
        let said = |word: &str| if word.is_empty() { json!({}) } else { json!({ CAPTURE: word }) };
        json!({ "metadata": { "name": name, "labels": said(label), "annotations": said(annotation) } })
    }

    fn known(pods: &[Value], namespaces: &[Value]) -> Pods {
        let mut all = Pods::default();
        all.replace(Watched::Pods, pods.iter());
        all.replace(Watched::Namespaces, namespaces.iter());
        all
    }

    fn addresses(pods: &Pods) -> Vec<String> {
        pods.wanted(100).unwrap().addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_pod_says_it_or_its_namespace_does() {
        let pods = [
            pod("a", "enabled", &["10.0.0.1", "fd00::1"]),
            pod("b", "disabled", &["10.0.0.2"]),
            pod("c", "", &["10.0.0.3"]),
            json!({ "metadata": { "namespace": "shop", "name": "d" }, "status": { "podIP": "10.0.0.4" } }),
        ];
        assert_eq!(addresses(&known(&pods, &[])), ["10.0.0.1", "fd00::1"]);
        let all = ["10.0.0.1", "10.0.0.3", "10.0.0.4", "fd00::1"];
        assert_eq!(addresses(&known(&pods, &[namespace("shop", "enabled", "")])), all);
        assert_eq!(addresses(&known(&pods, &[namespace("shop", "", "enabled")])), all);
        assert_eq!(addresses(&known(&pods, &[namespace("shop", "disabled", "enabled")])), ["10.0.0.1", "fd00::1"]);
        assert_eq!(addresses(&known(&pods, &[namespace("depot", "enabled", "enabled")])), ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn pods_of_the_node_s_network_those_that_ended_and_pathloom_s_own_are_never_captured() {
        let changed = |name: &str, change: &dyn Fn(&mut Value)| {
            let mut pod = pod(name, "enabled", &["10.0.0.9"]);
            change(&mut pod);
            pod
        };
        let pods = [
            changed("a", &|pod| pod["spec"]["hostNetwork"] = json!(true)),
            changed("b", &|pod| pod["status"]["hostIP"] = json!("10.0.0.9")),
            changed("c", &|pod| pod["status"]["phase"] = json!("Succeeded")),
            changed("d", &|pod| pod["status"]["phase"] = json!("Failed")),
            changed("e", &|pod| pod["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "pathloom" })),
            changed("f", &|pod| pod["status"] = json!({ "phase": "Pending" })),
            changed("g", &|pod| {
                pod["status"]["podIPs"] = json!([{ "ip": "many" }, 7, { "ip": "127.0.0.1" }, { "ip": "::" }])
            }),
            json!("a pod?"),
        ];
        let wanted = known(&pods, &[namespace("shop", "enabled", "")]).wanted(100).unwrap();
        assert_eq!((wanted.addresses.len(), wanted.pods, wanted.of), (0, 0, 8), "{wanted:?}");
        // The same pod but for that is.
        assert_eq!(addresses(&known(&[pod("a", "enabled", &["10.0.0.9"])], &[])), ["10.0.0.9"]);
    }

    #[test]
    fn what_is_gone_or_changed_its_mind_is_captured_no_more() {
        let mut pods = known(
            &[pod("a", "enabled", &["10.0.0.1"]), pod("b", "", &["10.0.0.2"])],
            &[namespace("shop", "enabled", "")],
        );
        assert_eq!(addresses(&pods), ["10.0.0.1", "10.0.0.2"]);
        pods.set(Watched::Pods, &pod("a", "disabled", &["10.0.0.1"]));
        assert_eq!(addresses(&pods), ["10.0.0.2"]);
        pods.set(Watched::Namespaces, &json!({ "metadata": { "name": "shop" } }));
        assert!(addresses(&pods).is_empty());
        pods.set(Watched::Namespaces, &namespace("shop", "enabled", ""));
        assert_eq!(addresses(&pods), ["10.0.0.2"]);
        pods.remove(Watched::Namespaces, &namespace("shop", "enabled", ""));
        assert!(addresses(&pods).is_empty());
        pods.set(Watched::Pods, &pod("a", "enabled", &["10.0.0.1"]));
        pods.remove(Watched::Pods, &pod("a", "enabled", &["10.0.0.1"]));
        assert!(addresses(&pods).is_empty());
        pods.set(Watched::Pods, &pod("c", "enabled", &["10.0.0.3"]));
        pods.replace(Watched::Pods, [pod("d", "enabled", &["10.0.0.4"])].iter());
        assert_eq!(addresses(&pods), ["10.0.0.4"]);
    }

    #[test]
    fn nothing_is_said_before_both_were_listed() {
        let mut pods = Pods::default();
        pods.replace(Watched::Pods, [pod("a", "enabled", &["10.0.0.1"])].iter());
        assert_eq!(pods.wanted(100), None);
        pods.replace(Watched::Namespaces, [].iter());
        assert_eq!(pods.wanted(100).map(|wanted| wanted.pods), Some(1));
    }

    #[test]
    fn words_that_mean_nothing_are_counted_and_ignored() {
        let mut pods = known(&[pod("a", "yes", &["10.0.0.1"])], &[namespace("shop", "on", "enabled")]);
        assert!(addresses(&pods).is_empty());
        let ignored = |pods: &Pods| pods.wanted(1).unwrap().ignored;
        assert_eq!(ignored(&pods), 2);
        // The namespace still counts for a pod that says nonsense.
        pods.set(Watched::Namespaces, &namespace("shop", "enabled", ""));
        assert_eq!((addresses(&pods), ignored(&pods)), (vec!["10.0.0.1".to_owned()], 1));
        pods.remove(Watched::Pods, &pod("a", "yes", &[]));
        assert_eq!(ignored(&pods), 0);
    }

    #[test]
    fn addresses_beyond_what_there_is_room_for_are_counted() {
        let pods = known(
            &[pod("a", "enabled", &["10.0.0.1", "10.0.0.2"]), pod("b", "enabled", &["10.0.0.2", "10.0.0.3"])],
            &[],
        );
        let wanted = pods.wanted(2).unwrap();
        assert_eq!((wanted.addresses.len(), wanted.left_out, wanted.pods), (2, 1, 2));
        assert_eq!(pods.wanted(3).unwrap().left_out, 0);
    }
}
