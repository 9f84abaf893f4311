//! Where a rule's requests go: a Service and its port, as a cluster.
//!
//! What a rule says of waiting for an answer and of trying again belongs to clusters here. So rules that say different things
//! of one Service have clusters of their own for it.

use crate::config::{Cluster, Discover, Port, Protocol, RetryOn, Timespan};
use std::time::Duration;

/// What a rule says of its backends beyond their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Terms {
    /// How long an endpoint may take to begin its answer.
    pub answer_within: Option<Duration>,
    /// How many further endpoints a request may be tried at.
    pub attempts: Option<u32>,
    /// Whether it is tried again after 502, 503 and 504.
    pub gateway_errors: bool,
}

/// A backend's cluster: the Service, its port, and what else makes it another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub namespace: String,
    pub service: String,
    pub port: u16,
    /// As EndpointSlices name it.
    pub port_name: String,
    pub http2: bool,
    pub terms: Terms,
}

impl Backend {
    /// The name of its cluster.
    pub fn cluster(&self) -> String {
        let mut name = format!("kube.{}.{}.{}", self.namespace, self.service, self.port);
        if self.http2 {
            name.push_str(".h2");
        }
        let Terms { answer_within, attempts, gateway_errors } = self.terms;
        if let Some(within) = answer_within {
            name.push_str(&format!(".{}ms", within.as_millis()));
        }
        if let Some(attempts) = attempts {
            name.push_str(&format!(".{attempts}-retries"));
        }
        if gateway_errors {
            name.push_str(".gateway-errors");
        }
        name
    }

    /// Its cluster, by this template.
    pub fn made(&self, template: &Cluster) -> Cluster {
        let mut cluster = unresolved(template);
        cluster.service = format!("{}.{}", self.service, self.namespace);
        cluster.discover = vec![Discover {
            kubernetes: Some(format!("{}/{}", self.namespace, self.service)),
            port: Some(self.port_name.clone()).filter(|name| !name.is_empty()).map(Port::Name),
            ..Discover::default()
        }];
        if self.http2 {
            cluster.protocol = Protocol::Http2;
        }
        let Terms { answer_within, attempts, gateway_errors } = self.terms;
        if let Some(within) = answer_within {
            cluster.timeouts.response_headers = Timespan(within);
        }
        let retries = &mut cluster.retries;
        retries.attempts = attempts.unwrap_or(retries.attempts);
        let after = [(RetryOn::Connect, attempts.is_some() || gateway_errors), (RetryOn::Gateway, gateway_errors)];
        for (after, _) in after.into_iter().filter(|(_, wanted)| *wanted) {
            if !retries.on.contains(&after) {
                retries.on.push(after);
            }
        }
        cluster
    }
}

/// A cluster without endpoints, by this template.
pub fn unresolved(template: &Cluster) -> Cluster {
    let (endpoints, discover, addresses) = Default::default();
    Cluster { service: String::new(), endpoints, discover, addresses, ..template.clone() }
}
