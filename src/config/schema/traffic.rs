//! What a route does to its requests beyond choosing a cluster, and who stays with which endpoint.

use crate::config::units::{ByteSize, Share, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the endpoint is asked for in place of what the client asked for. `x-forwarded-host` keeps the client's word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Stands in the place of the prefix that `match.path_prefix` found; `/` takes it away.
    pub path_prefix: Option<String>,
    /// Stands in the place of the whole path; the query stays.
    pub path: Option<String>,
    /// The host that the endpoint is asked for, with a port where it needs one.
    pub host: Option<String>,
}

/// The proxy answers by itself and sends the client elsewhere: to what is named here, the rest as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// The answer's status: 301, 302, 303, 307 or 308. With 307 and 308 the client keeps method and body.
    pub status: u16,
    /// The scheme to ask with; the port that was asked for is left out then.
    pub scheme: Option<Scheme>,
    /// The host to ask, with a port where it needs one.
    pub host: Option<String>,
    /// The port to ask at the host that was asked; with `host` it is written there.
    pub port: Option<u16>,
    /// The path to ask for, with a query of its own or else the one that was asked with.
    pub path: Option<String>,
    /// Stands in the place of the prefix that `match.path_prefix` found; `/` takes it away.
    pub path_prefix: Option<String>,
}

/// A URL's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// What happens to headers on their way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// The request's, on their way to the endpoint.
    pub request: HeaderEdits,
    /// The answer's, on their way to the client; answers that the proxy gives by itself are left alone.
    pub response: HeaderEdits,
}

/// Headers that are removed, set and added, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Headers with the one value that each has from here on.
    pub set: BTreeMap<String, String>,
    /// Headers with a value that comes on top of those that are there.
    pub add: BTreeMap<String, String>,
    /// Headers that go no further.
    pub remove: Vec<String>,
}

/// What goes wrong on purpose, to see how callers take it. It is marked in the log and in the metrics, and no endpoint is
/// blamed for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Requests that wait before they are sent.
    pub delay: Delay,
    /// Requests that are answered with an error, and sent nowhere.
    pub abort: Abort,
}

/// Requests that wait before they are sent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Delay {
    /// How long.
    pub time: Timespan,
    /// Of the route's requests, so many.
    pub share: Share,
}

/// Requests that are answered with an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Abort {
    /// The answer's status, 400 to 599; gRPC callers get the gRPC status that it stands for.
    pub status: u16,
    /// Of the route's requests, so many; of those that wait first, as many.
    pub share: Share,
}

/// Copies of requests that another cluster gets as well. Its answers are dropped, and nothing is learnt from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// The cluster that gets the copies, each with the header `x-mirrored: pathloom`.
    pub cluster: Option<String>,
    /// Of the route's requests, so many are copied.
    pub share: Share,
    /// Requests with a longer body than this are not copied.
    pub max_body: ByteSize,
}

/// Who stays with which endpoint: requests with the same header, cookie or source address go to the same one as long as it
/// is healthy, by Maglev hashing. Requests without it go by the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Affinity {
    /// By this header's value.
    pub header: Option<String>,
    /// By this cookie's value.
    pub cookie: Option<String>,
    /// By the client's address.
    pub source: bool,
}

impl Default for Abort {
    fn default() -> Self {
        Self { status: 503, share: Share(0.0) }
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self { cluster: None, share: Share(1.0), max_body: ByteSize(64 * 1024) }
    }
}

impl Default for Redirect {
    fn default() -> Self {
        Self { status: 302, scheme: None, host: None, port: None, path: None, path_prefix: None }
    }
}

impl Redirect {
    /// Whether it sends anybody anywhere.
    #[must_use]
    pub fn is_set(&self) -> bool {
        let Self { status: _, scheme, host, port, path, path_prefix } = self;
        scheme.is_some() || host.is_some() || port.is_some() || path.is_some() || path_prefix.is_some()
    }
}
