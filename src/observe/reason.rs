//! Why a request failed: one stable code each, shared by the access log, the metric and the `Proxy-Status` header.

use http::StatusCode;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $status:ident, $proxy_status:literal;)+) => {
        /// Why a request failed, as an operator can act on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The stable code.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)+ }
            }

            /// The status that the client gets, where no answer had begun.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Reason::$name => StatusCode::$status,)+ }
            }

            /// The error type of RFC 9209, section 2.3.
            #[must_use]
            pub fn proxy_status(self) -> &'static str {
                match self { $(Reason::$name => $proxy_status,)+ }
            }

            /// The whole `Proxy-Status` header (RFC 9209).
            #[must_use]
            pub fn proxy_status_header(self) -> &'static str {
                match self {
                    $(Reason::$name => concat!("pathloom; error=", $proxy_status, "; details=\"", $code, "\""),)+
                }
            }

            /// The code and what it means.
            #[must_use]
            pub fn in_words(self) -> &'static str {
                // A doc comment's text begins with a space.
                match self { $(Reason::$name => concat!($code, ":", $($doc),+),)+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// No workload is configured for the connection's listener and source address.
    UnknownSource = "unknown_source", FORBIDDEN, "http_request_denied";
    /// The listener wants clients to prove who they are, and this one spoke plain text.
    TlsRequired = "tls_required", FORBIDDEN, "http_request_denied";
    /// No rule allows this client this request.
    NotAllowed = "not_allowed", FORBIDDEN, "http_request_denied";
    /// No route matches the request.
    NoRoute = "no_route", NOT_FOUND, "destination_not_found";
    /// The route leads to a Kubernetes Service that does not exist or may not be used.
    UnresolvedBackend = "unresolved_backend", INTERNAL_SERVER_ERROR, "destination_not_found";
    /// The cluster has no endpoint that may get requests.
    NoEndpoints = "no_endpoints", SERVICE_UNAVAILABLE, "destination_unavailable";
    /// The route or the workload has sent as many requests as its rate limit lets through.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "http_request_denied";
    /// The cluster is overloaded, and more important requests come first.
    Shed = "shed", SERVICE_UNAVAILABLE, "destination_unavailable";
    /// The cluster has as many requests under way as it may, and this one may not wait.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "connection_limit_reached";
    /// The cluster had as many requests under way as it may for as long as this one could wait.
    QueueTimeout = "queue_timeout", SERVICE_UNAVAILABLE, "connection_limit_reached";
    /// The endpoint has as many connections as it may.
    EndpointConnections = "endpoint_connections", SERVICE_UNAVAILABLE, "connection_limit_reached";
    /// The endpoint refused the connection.
    ConnectRefused = "connect_refused", BAD_GATEWAY, "connection_refused";
    /// The endpoint did not accept the connection in time.
    ConnectTimeout = "connect_timeout", GATEWAY_TIMEOUT, "connection_timeout";
    /// The system gave this proxy no file descriptor, port or memory for a connection to the endpoint.
    NoDescriptors = "no_descriptors", SERVICE_UNAVAILABLE, "connection_limit_reached";
    /// The connection to the endpoint could not be made.
    ConnectFailed = "connect_failed", BAD_GATEWAY, "destination_unavailable";
    /// The connection to the endpoint could not be secured: it speaks no TLS that both know, or refused our certificate.
    UpstreamTls = "upstream_tls", BAD_GATEWAY, "tls_protocol_error";
    /// The endpoint did not prove to be whom the cluster expects.
    UpstreamIdentity = "upstream_identity", BAD_GATEWAY, "tls_certificate_error";
    /// This node has no identity to prove itself with to the endpoint.
    NoIdentity = "no_identity", SERVICE_UNAVAILABLE, "proxy_configuration_error";
    /// The endpoint closed or reset the connection before its answer began.
    UpstreamReset = "upstream_reset", BAD_GATEWAY, "connection_terminated";
    /// The endpoint's answer was not HTTP.
    UpstreamProtocol = "upstream_protocol", BAD_GATEWAY, "http_protocol_error";
    /// The endpoint's answer did not begin in time.
    ResponseTimeout = "response_timeout", GATEWAY_TIMEOUT, "http_response_timeout";
    /// The whole request took longer than it may.
    RequestTimeout = "request_timeout", GATEWAY_TIMEOUT, "http_response_timeout";
    /// Nothing moved on the request's or the answer's body for too long.
    IdleTimeout = "idle_timeout", GATEWAY_TIMEOUT, "connection_read_timeout";
    /// The endpoint's answer broke off in the middle of its body.
    ResponseIncomplete = "response_incomplete", BAD_GATEWAY, "http_response_incomplete";
    /// The client's request was not proper HTTP, or cannot be passed on.
    BadRequest = "bad_request", BAD_REQUEST, "http_request_error";
    /// The request's head, or what an HTTP/2 client begins with, was not complete in time.
    HeadersTimeout = "headers_timeout", REQUEST_TIMEOUT, "http_request_error";
    /// The request's body is longer than its route lets through.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "http_request_denied";
    /// The client's body broke off.
    RequestIncomplete = "request_incomplete", BAD_REQUEST, "http_request_error";
    /// The client went away before its answer was complete.
    ClientGone = "client_gone", BAD_REQUEST, "http_request_error";
    /// The endpoint refused to switch protocols as it had announced, or the switch broke.
    UpgradeFailed = "upgrade_failed", BAD_GATEWAY, "http_upgrade_failed";
    /// The request or connection came through this mesh too many times: proxies pass it on to each other.
    Loop = "loop", LOOP_DETECTED, "proxy_loop_detected";
    /// The connection did not begin with a PROXY header, as those from its source must.
    ProxyHeader = "proxy_header", BAD_REQUEST, "http_request_error";
    /// The captured connection was meant for an address that no cluster has, and such are refused.
    UnknownDestination = "unknown_destination", FORBIDDEN, "destination_not_found";
    /// The proxy left before it was over: the drain's time had passed.
    Shutdown = "shutdown", SERVICE_UNAVAILABLE, "connection_terminated";
    /// The route sends its callers elsewhere, which is no failure.
    Redirected = "redirected", FOUND, "proxy_internal_response";
    /// The route answers some requests with an error on purpose.
    FaultAbort = "fault_abort", SERVICE_UNAVAILABLE, "proxy_internal_response";
    /// The proxy itself is at fault.
    Internal = "internal", INTERNAL_SERVER_ERROR, "proxy_internal_error";
}

impl Reason {
    /// Its position in `ALL`.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether the endpoint, rather than the client, the proxy or the configuration, is at fault.
    #[must_use]
    pub fn blames_endpoint(self) -> bool {
        match self {
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::UpstreamTls
            | Reason::UpstreamIdentity
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::ResponseTimeout
            | Reason::ResponseIncomplete
            | Reason::UpgradeFailed => true,
            // Whole-request and idle timeouts may be a slow client's doing.
            Reason::RequestTimeout
            | Reason::IdleTimeout
            | Reason::UnknownSource
            | Reason::TlsRequired
            | Reason::NotAllowed
            | Reason::NoIdentity
            | Reason::NoRoute
            | Reason::UnresolvedBackend
            | Reason::NoEndpoints
            | Reason::RateLimited
            | Reason::Shed
            | Reason::Overloaded
            | Reason::QueueTimeout
            | Reason::EndpointConnections
            | Reason::NoDescriptors
            | Reason::BadRequest
            | Reason::HeadersTimeout
            | Reason::BodyTooLarge
            | Reason::RequestIncomplete
            | Reason::ClientGone
            | Reason::Loop
            | Reason::ProxyHeader
            | Reason::UnknownDestination
            | Reason::Shutdown
            | Reason::Redirected
            | Reason::FaultAbort
            | Reason::Internal => false,
        }
    }
}

/// Whether an error says that this process or machine has nothing left to open a connection with, whoever it is to.
#[must_use]
pub fn none_left(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let left = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| left.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_positions_agree() {
        let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().enumerate().all(|(i, r)| r.index() == i));
        for reason in Reason::ALL {
            assert_eq!(reason.in_words(), format!("{}: {}", reason.code(), reason.meaning().trim()));
        }
    }
}
