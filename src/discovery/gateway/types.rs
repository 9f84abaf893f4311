//! HTTPRoutes and GRPCRoutes (`gateway.networking.k8s.io/v1`) and Services, as far as they are used here. (ReferenceGrants stand
//! in `grants`.)
//!
//! What is not known is ignored, as the API wants of its readers, but for what would change where a request goes and is not
//! supported: that is read, so that it can be refused by its name. Words stay as they are written: `translate` judges them.
//! (The crate `gateway-api` has types for all of it, made for another version of kube, whose unknown words fail a whole list.)

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a route is, and by it what its matches look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It stands before HTTPRoutes of the same Service.
    Grpc,
    /// The other kind.
    Http,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Grpc];

    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }

    /// What the API server calls many of them.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Http => "httproutes",
            Self::Grpc => "grpcroutes",
        }
    }
}

/// Which object it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

impl std::fmt::Display for Key {
    /// `HTTPRoute shop/catalog`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// What is looked at of an object's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// RFC 3339 in UTC: as texts in the order of time.
    pub creation_timestamp: String,
    pub resource_version: String,
}

/// A route as it was told last.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteObject {
    /// Which version of it.
    pub meta: Meta,
    /// What it asks for; where that cannot be read, why, and whose requests it is for as far as that can.
    pub spec: Result<Spec, (String, Vec<ParentRef>)>,
    /// What is said of it in `status.parents`, by everybody.
    pub parents: Vec<Value>,
}

impl RouteObject {
    /// Reads one. None where it has no name.
    pub fn read(kind: Kind, object: &Value) -> Option<(Key, Self)> {
        let meta = Meta::deserialize(object.get("metadata")?).ok()?;
        if meta.name.is_empty() || meta.namespace.is_empty() {
            return None;
        }
        let key = Key { namespace: meta.namespace.clone(), name: meta.name.clone(), kind };
        let raw = object.get("spec").unwrap_or(&Value::Null);
        let spec = match kind {
            Kind::Http => RawSpec::<HttpMatch>::deserialize(raw).map(|spec| Spec::of(spec, Matches::Http)),
            Kind::Grpc => RawSpec::<GrpcMatch>::deserialize(raw).map(|spec| Spec::of(spec, Matches::Grpc)),
        };
        let spec = spec.map_err(|error| {
            let parents = raw.get("parentRefs").and_then(Value::as_array).into_iter().flatten();
            (error.to_string(), parents.filter_map(|parent| ParentRef::deserialize(parent).ok()).collect())
        });
        let parents = object.pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default();
        Some((key, Self { meta, spec, parents }))
    }
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub parents: Vec<ParentRef>,
    pub hostnames: Vec<String>,
    pub rules: Vec<Rule>,
}

impl Spec {
    fn of<M>(raw: RawSpec<M>, matches: impl Fn(Vec<M>) -> Matches) -> Self {
        let rule = |rule: RawRule<M>| Rule {
            matches: matches(rule.matches),
            filters: rule.filters,
            backends: rule.backend_refs,
            timeouts: rule.timeouts,
            retry: rule.retry,
            session: rule.session_persistence.is_some(),
        };
        Self { parents: raw.parent_refs, hostnames: raw.hostnames, rules: raw.rules.into_iter().map(rule).collect() }
    }
}

/// One rule of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub matches: Matches,
    pub filters: Vec<Filter>,
    pub backends: Vec<BackendRef>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    /// Whether it says something of `sessionPersistence`.
    pub session: bool,
}

/// What its requests look like: one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Matches {
    Http(Vec<HttpMatch>),
    Grpc(Vec<GrpcMatch>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "M: Deserialize<'de>")]
struct RawSpec<M> {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    #[serde(default = "Vec::new")]
    rules: Vec<RawRule<M>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "M: Deserialize<'de>")]
struct RawRule<M> {
    #[serde(default = "Vec::new")]
    matches: Vec<M>,
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    retry: Option<Retry>,
    #[serde(default)]
    session_persistence: Option<Value>,
}

/// Whose requests a route is for.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<u16>,
}

impl ParentRef {
    /// As the API writes it, with what was left out.
    pub fn json(&self) -> Value {
        let mut json = serde_json::json!({ "group": self.group(), "kind": self.kind(), "name": self.name });
        if let Value::Object(map) = &mut json {
            map.extend(self.namespace.as_ref().map(|namespace| ("namespace".to_owned(), namespace.as_str().into())));
            map.extend(self.section_name.as_ref().map(|name| ("sectionName".to_owned(), name.as_str().into())));
            map.extend(self.port.map(|port| ("port".to_owned(), port.into())));
        }
        json
    }

    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or("gateway.networking.k8s.io")
    }

    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Gateway")
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    pub path: Option<ValueMatch>,
    pub headers: Vec<NamedMatch>,
    pub query_params: Vec<NamedMatch>,
    pub method: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    pub method: Option<MethodMatch>,
    pub headers: Vec<NamedMatch>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ValueMatch {
    #[serde(rename = "type")]
    pub how: Option<String>,
    pub value: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct NamedMatch {
    #[serde(rename = "type")]
    pub how: Option<String>,
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct MethodMatch {
    #[serde(rename = "type")]
    pub how: Option<String>,
    pub service: Option<String>,
    pub method: Option<String>,
}

/// What happens to requests; the key that belongs to `type` says how.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    #[serde(rename = "type")]
    pub what: String,
    pub request_header_modifier: Option<HeaderFilter>,
    pub response_header_modifier: Option<HeaderFilter>,
    pub request_redirect: Option<RedirectFilter>,
    pub url_rewrite: Option<RewriteFilter>,
    pub request_mirror: Option<MirrorFilter>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct HeaderFilter {
    pub set: Vec<NamedMatch>,
    pub add: Vec<NamedMatch>,
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RedirectFilter {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status_code: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct RewriteFilter {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    #[serde(rename = "type")]
    pub how: String,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorFilter {
    pub backend_ref: BackendRef,
    pub percent: Option<u32>,
    pub fraction: Option<Fraction>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: Option<u32>,
}

/// Who gets requests.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct BackendRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    pub filters: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Retry {
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    pub backoff: Option<String>,
}

/// What is known of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceObject {
    /// Its ports by their numbers.
    pub ports: BTreeMap<u16, ServicePort>,
    /// Whether it is another name for a host elsewhere, which has no endpoints.
    pub external: bool,
}

/// A port of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    /// As EndpointSlices name it; empty where it is the only one.
    pub name: String,
    /// Whether HTTP/2 is spoken there, as it says itself (`appProtocol`).
    pub http2: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: String,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

impl ServiceObject {
    /// Reads one: its namespace, its name and what is known of it. A port that cannot be read is none.
    pub fn read(object: &Value) -> Option<((String, String), Self)> {
        let meta = Meta::deserialize(object.get("metadata")?).ok()?;
        let ports = object.pointer("/spec/ports").and_then(Value::as_array);
        let read = ports.into_iter().flatten().filter_map(|port| RawPort::deserialize(port).ok());
        let tcp = read.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let ports = tcp.map(|port| {
            let http2 = matches!(port.app_protocol.as_deref(), Some("kubernetes.io/h2c" | "grpc" | "h2c"));
            (port.port, ServicePort { name: port.name, http2 })
        });
        let external = object.pointer("/spec/type").is_some_and(|kind| kind == "ExternalName");
        Some(((meta.namespace, meta.name), Self { ports: ports.collect(), external }))
    }
}
