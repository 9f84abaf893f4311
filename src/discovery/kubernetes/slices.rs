//! EndpointSlices (`discovery.k8s.io/v1`) and what they say together.
//!
//! A service has several slices, which change one after another: an instance that moves between two of them is in both for a
//! moment, and counts once, as ready as the readier of them says.
//!
//! | `ready` | `serving` | `terminating` | the instance |
//! | --- | --- | --- | --- |
//! | true, or not said | | | is ready (also while it leaves, where the service says so: `publishNotReadyAddresses`) |
//! | false | true | true | is terminating |
//! | false | | | is not ready |
//!
//! Slices are read leniently: an entry that is nonsense is left out, counted, and takes nothing else along. A slice that is
//! nonsense as a whole stays as it was.

use crate::config::{Endpoint, Port};
use crate::discovery::listing::{Gathering, Ignored, Readiness};
use kube::api::DynamicObject;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The label that says which service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// All slices of a service, by their names.
#[derive(Debug, Default)]
pub struct Slices(BTreeMap<String, Known>);

/// A slice, and whether its last version could not be read.
#[derive(Debug, Default)]
struct Known {
    slice: Slice,
    unreadable: bool,
    /// The service that it says it belongs to.
    service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Value>>,
    #[serde(default)]
    ports: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    target_ref: Option<Target>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Target {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct SlicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<i64>,
    #[serde(default)]
    protocol: Option<String>,
}

impl Conditions {
    fn readiness(&self) -> Readiness {
        match (self.ready, self.serving, self.terminating) {
            (None | Some(true), _, _) => Readiness::Ready,
            (Some(false), Some(true), Some(true)) => Readiness::Terminating,
            (Some(false), _, _) => Readiness::NotReady,
        }
    }
}

impl Slices {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These are all.
    pub fn replace(&mut self, all: Vec<DynamicObject>) {
        let names: Vec<String> = all.iter().filter_map(|object| object.metadata.name.clone()).collect();
        self.0.retain(|name, _| names.contains(name));
        all.into_iter().for_each(|object| self.set(object));
    }

    /// This one is new, or another than it was.
    pub fn set(&mut self, object: DynamicObject) {
        let Some(name) = object.metadata.name else { return };
        let known = self.0.entry(name).or_default();
        known.service = object.metadata.labels.and_then(|mut labels| labels.remove(SERVICE_LABEL));
        match serde_json::from_value(object.data) {
            Ok(slice) => (known.slice, known.unreadable) = (slice, false),
            Err(_) => known.unreadable = true,
        }
    }

    /// This one is gone.
    pub fn remove(&mut self, object: &DynamicObject) {
        if let Some(name) = &object.metadata.name {
            self.0.remove(name);
        }
    }

    /// All instances of the service, on the port that is meant.
    pub fn gather(&self, service: &str, port: Option<&Port>) -> Gathering {
        let mut gathering = Gathering::default();
        for (name, known) in &self.0 {
            if known.unreadable {
                gathering.ignore(Ignored::Unreadable, format!("slice {name}"));
            }
            if known.service.as_deref().is_some_and(|its| its != service) {
                gathering.ignore(Ignored::Unreadable, format!("slice {name} of another service"));
                continue;
            }
            known.slice.gather(name, port, &mut gathering);
        }
        gathering
    }
}

impl Slice {
    fn gather(&self, name: &str, wanted: Option<&Port>, gathering: &mut Gathering) {
        let instances = self.endpoints.iter().flatten();
        let port = match self.port(wanted) {
            Ok(port) => port,
            Err(why) => {
                for _ in instances {
                    gathering.ignore(Ignored::BadPort, format!("slice {name}: {why}"));
                }
                return;
            }
        };
        for value in instances {
            let Ok(instance) = Instance::deserialize(value) else {
                gathering.ignore(Ignored::Unreadable, format!("slice {name}: {value}"));
                continue;
            };
            // The others, where there are any, are the same instance.
            let written = instance.addresses.first().map_or("", String::as_str);
            let address = written.parse::<IpAddr>().ok().filter(|ip| match self.address_type.as_str() {
                "IPv4" => ip.is_ipv4(),
                "IPv6" => ip.is_ipv6(),
                // Names are for others to resolve (`FQDN`).
                _ => false,
            });
            let Some(ip) = address else {
                gathering.ignore(Ignored::BadAddress, format!("slice {name}: {} {written}", self.address_type));
                continue;
            };
            let readiness = instance.conditions.as_ref().map_or(Readiness::Ready, Conditions::readiness);
            let pod = instance.target_ref.filter(|target| target.kind == "Pod" && !target.name.is_empty());
            let endpoint = Endpoint {
                address: SocketAddr::new(ip, port),
                zone: instance.zone.unwrap_or_default(),
                host: instance.node_name.unwrap_or_default(),
                weight: 1,
                metadata: pod.map(|target| ("pod".to_owned(), target.name)).into_iter().collect(),
            };
            gathering.add(endpoint, readiness);
        }
    }

    /// The port that is meant: by its number, by its name, or the only one. A slice may know no ports at all (it stands for
    /// all of them); then a number is taken as it is.
    fn port(&self, wanted: Option<&Port>) -> Result<u16, String> {
        let ports: Vec<SlicePort> =
            self.ports.iter().flatten().filter_map(|value| SlicePort::deserialize(value).ok()).collect();
        let tcp = ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let known: Vec<(&str, u16)> = tcp
            .filter_map(|port| Some((port.name.as_deref().unwrap_or_default(), u16::try_from(port.port?).ok()?)))
            .collect();
        match wanted {
            Some(Port::Number(number)) if known.is_empty() && self.ports.as_ref().is_none_or(Vec::is_empty) => {
                Ok(*number)
            }
            Some(Port::Number(number)) if known.iter().any(|(_, port)| port == number) => Ok(*number),
            Some(Port::Name(name)) => {
                let named = known.iter().find(|(its, _)| its == name);
                named.map(|(_, port)| *port).ok_or_else(|| format!("there is no port {name}"))
            }
            Some(Port::Number(number)) => Err(format!("there is no port {number}")),
            None => match known.as_slice() {
                [(_, port)] => Ok(*port),
                [] => Err("there is no port".to_owned()),
                _ => Err("there are several ports, and `port` does not say which".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, data: Value) -> DynamicObject {
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { SERVICE_LABEL: "catalog" } },
        });
        object.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn slice(endpoints: Value) -> Value {
        json!({ "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] })
    }

    fn gathered(slices: &[(&str, Value)], port: Option<Port>) -> crate::discovery::Listing {
        let mut all = Slices::default();
        slices.iter().for_each(|(name, data)| all.set(object(name, data.clone())));
        all.gather("catalog", port.as_ref()).finish(100)
    }

    fn states(listing: &crate::discovery::Listing) -> Vec<(String, Readiness)> {
        listing.found().iter().map(|f| (f.endpoint.address.to_string(), f.readiness)).collect()
    }

    #[test]
    fn every_state_of_an_instance_is_told_right() {
        let state =
            |i: u8, conditions: Value| json!({ "addresses": [format!("10.0.0.{i}")], "conditions": conditions });
        let listing = gathered(
            &[(
                "a",
                slice(json!([
                    state(1, json!({ "ready": true, "serving": true, "terminating": false })),
                    state(2, json!({})),
                    { "addresses": ["10.0.0.3"] },
                    state(4, json!({ "ready": false, "serving": true, "terminating": true })),
                    state(5, json!({ "ready": false, "serving": false, "terminating": true })),
                    state(6, json!({ "ready": false, "serving": false, "terminating": false })),
                    state(7, json!({ "ready": true, "serving": true, "terminating": true })),
                    state(8, json!({ "ready": false })),
                    state(9, json!({ "ready": false, "serving": true })),
                ])),
            )],
            None,
        );
        use Readiness::{NotReady, Ready, Terminating};
        let told: Vec<Readiness> = states(&listing).into_iter().map(|(_, state)| state).collect();
        assert_eq!(told, [Ready, Ready, Ready, Terminating, NotReady, NotReady, Ready, NotReady, NotReady]);
        assert!(listing.left_out().is_empty());
    }

    #[test]
    fn zone_node_and_pod_are_known() {
        let pod = json!({ "kind": "Pod", "name": "catalog-7f", "namespace": "shop" });
        let endpoint =
            json!({ "addresses": ["10.0.0.1", "10.0.0.9"], "zone": "eu-1a", "nodeName": "node-7", "targetRef": pod });
        let listing = gathered(&[("a", slice(json!([endpoint])))], None);
        let endpoint = &listing.found()[0].endpoint;
        assert_eq!(
            (endpoint.zone.as_str(), endpoint.host.as_str(), endpoint.metadata["pod"].as_str()),
            ("eu-1a", "node-7", "catalog-7f")
        );
        assert_eq!(listing.found().len(), 1, "the second address is the same instance");
    }

    #[test]
    fn an_instance_in_two_slices_counts_once() {
        let in_state = |ready: bool| slice(json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }]));
        for order in [[true, false], [false, true]] {
            let listing = gathered(&[("a", in_state(order[0])), ("b", in_state(order[1]))], None);
            assert_eq!(states(&listing), [("10.0.0.1:8080".to_owned(), Readiness::Ready)]);
        }
    }

    #[test]
    fn the_port_is_the_one_that_is_meant() {
        let with = |ports: Value| json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": ports });
        let both = json!([{ "name": "http", "port": 80 }, { "name": "admin", "port": 81, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
        let port = |ports: &Value, port: Option<Port>| {
            let listing = gathered(&[("a", with(ports.clone()))], port);
            listing.found().first().map(|f| f.endpoint.address.port()).ok_or(listing.left_out().named())
        };
        assert_eq!(port(&both, Some(Port::Name("admin".to_owned()))), Ok(81));
        assert_eq!(port(&both, Some(Port::Number(80))), Ok(80));
        assert!(port(&both, None).unwrap_err().contains("several ports"));
        assert!(port(&both, Some(Port::Name("dns".to_owned()))).unwrap_err().contains("no port dns"), "it is no TCP");
        assert_eq!(port(&json!([{ "port": 80 }]), None), Ok(80));
        assert_eq!(port(&json!(null), Some(Port::Number(7))), Ok(7));
        assert!(port(&json!([{ "port": 70_000 }]), None).is_err());
        assert!(port(&json!([{ "port": "http" }]), None).is_err());
    }

    #[test]
    fn nonsense_takes_nothing_else_along() {
        let good = json!({ "addresses": ["10.0.0.1"] });
        let listing = gathered(
            &[
                (
                    "a",
                    slice(
                        json!([good, { "addresses": "10.0.0.2" }, 7, null, { "addresses": ["catalog.shop"] }, { "addresses": [] }, { "addresses": ["::1"] }, { "addresses": ["0.0.0.0"] }]),
                    ),
                ),
                (
                    "b",
                    json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["catalog.shop"] }], "ports": [{ "port": 1 }] }),
                ),
                ("c", json!({ "addressType": "IPv4", "endpoints": null, "ports": null })),
                ("d", json!({ "addressType": "IPv4", "endpoints": "many" })),
            ],
            None,
        );
        assert_eq!(states(&listing), [("10.0.0.1:8080".to_owned(), Readiness::Ready)]);
        let left_out = listing.left_out();
        assert_eq!((left_out.count(Ignored::Unreadable), left_out.count(Ignored::BadAddress)), (4, 5));
    }

    #[test]
    fn a_slice_that_becomes_nonsense_stays_as_it_was() {
        let mut all = Slices::default();
        all.set(object("a", slice(json!([{ "addresses": ["10.0.0.1"] }]))));
        all.set(object("a", json!({ "addressType": 7, "endpoints": [] })));
        let listing = all.gather("catalog", None).finish(9);
        assert_eq!((listing.found().len(), listing.left_out().count(Ignored::Unreadable)), (1, 1));
        all.set(object("a", slice(json!([]))));
        let listing = all.gather("catalog", None).finish(9);
        assert_eq!((listing.found().len(), listing.left_out().is_empty()), (0, true));
        all.remove(&object("a", json!({})));
        assert!(all.is_empty());
    }

    #[test]
    fn slices_of_others_are_none_of_ours() {
        let mut all = Slices::default();
        let mut other = object("a", slice(json!([{ "addresses": ["10.0.0.1"] }])));
        other.metadata.labels = Some([(SERVICE_LABEL.to_owned(), "storage".to_owned())].into());
        all.set(other);
        let listing = all.gather("catalog", None).finish(9);
        assert_eq!((listing.found().len(), listing.left_out().count(Ignored::Unreadable)), (0, 1));
    }

    #[test]
    fn a_new_list_is_the_whole_truth() {
        let mut all = Slices::default();
        all.set(object("a", slice(json!([{ "addresses": ["10.0.0.1"] }]))));
        all.set(object("b", slice(json!([{ "addresses": ["10.0.0.2"] }]))));
        all.replace(vec![object("b", slice(json!([{ "addresses": ["10.0.0.3"] }])))]);
        let listing = all.gather("catalog", None).finish(9);
        assert_eq!(states(&listing), [("10.0.0.3:8080".to_owned(), Readiness::Ready)]);
    }
}
