//! The answer to a request that could not be served: status, a short text, and `Proxy-Status` (RFC 9209).
//!
//! gRPC clients read a status of their own, so a request with `content-type: application/grpc` gets HTTP 200 with
//! `grpc-status` and `grpc-message` in a trailers-only response.

use super::body::ResponseBody;
use crate::observe::Reason;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use std::borrow::Cow;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request failed, and how its answer differs from what the reason usually gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub reason: Reason,
    /// In place of the reason's own status.
    pub status: Option<StatusCode>,
    /// In place of the reason's own sentence.
    pub detail: Option<&'static str>,
    /// After how many seconds it may be worth trying again.
    pub retry_after_s: Option<u64>,
}

/// When it may be worth trying again where there was no room, in seconds: what `Retry-After` can say least.
const RETRY_AFTER_S: u64 = 1;

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        let no_room = matches!(
            reason,
            Reason::Shed
                | Reason::Overloaded
                | Reason::QueueTimeout
                | Reason::EndpointConnections
                | Reason::NoDescriptors
        );
        Self { reason, status: None, detail: None, retry_after_s: no_room.then_some(RETRY_AFTER_S) }
    }
}

impl Failure {
    pub(super) const fn bad_request(detail: &'static str) -> Self {
        Self { reason: Reason::BadRequest, status: None, detail: Some(detail), retry_after_s: None }
    }

    pub(super) const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// It may be worth trying again after so many seconds.
    pub(super) const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The status that the client gets.
    pub(super) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }

    /// The answer.
    pub(super) fn response(&self, request_id: &HeaderValue, grpc: bool, close: bool) -> Response<ResponseBody> {
        // Refusals are many when there is too much to do: what can be written beforehand is.
        let said: Cow<'static, str> = match self.detail {
            None => self.reason.in_words().into(),
            Some(detail) => format!("{}: {}", self.reason.code(), detail.trim()).into(),
        };
        let mut response = if grpc {
            let mut response = Response::new(ResponseBody::empty());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from(grpc_code(self.reason, self.status())));
            if let Ok(message) = HeaderValue::from_str(&said) {
                headers.insert(GRPC_MESSAGE, message);
            }
            response
        } else {
            let body = [said.as_bytes(), b"\nrequest ", request_id.as_bytes(), b"\n"].concat();
            let mut response = Response::new(ResponseBody::full(body.into()));
            *response.status_mut() = self.status();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        };
        let headers = response.headers_mut();
        headers.insert(PROXY_STATUS, HeaderValue::from_static(self.reason.proxy_status_header()));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(X_REQUEST_ID, request_id.clone());
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The gRPC status of a failure, by gRPC's mapping of HTTP statuses, with timeouts told apart.
fn grpc_code(reason: Reason, status: StatusCode) -> u16 {
    match reason {
        Reason::FaultAbort => match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        },
        Reason::Redirected => 2,
        Reason::RequestIncomplete | Reason::ClientGone => 1,
        Reason::ResponseTimeout | Reason::RequestTimeout | Reason::IdleTimeout | Reason::HeadersTimeout => 4,
        Reason::UnknownSource | Reason::UnknownDestination | Reason::NotAllowed | Reason::TlsRequired => 7,
        Reason::RateLimited | Reason::BodyTooLarge => 8,
        Reason::NoRoute => 12,
        Reason::BadRequest | Reason::ProxyHeader | Reason::UpstreamProtocol | Reason::Internal | Reason::Loop => 13,
        Reason::NoEndpoints
        | Reason::UnresolvedBackend
        | Reason::Shed
        | Reason::Overloaded
        | Reason::QueueTimeout
        | Reason::EndpointConnections
        | Reason::Shutdown
        | Reason::NoDescriptors
        | Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::UpstreamTls
        | Reason::UpstreamIdentity
        | Reason::NoIdentity
        | Reason::UpstreamReset
        | Reason::ResponseIncomplete
        | Reason::UpgradeFailed => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body;

    #[test]
    fn the_answer_names_the_reason() {
        let id = HeaderValue::from_static("id-1");
        let answer = Failure::from(Reason::NoEndpoints).response(&id, false, true);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[PROXY_STATUS], "pathloom; error=destination_unavailable; details=\"no_endpoints\"");
        assert_eq!(
            (&answer.headers()["x-request-id"], &answer.headers()["connection"]),
            (&id, &HeaderValue::from_static("close"))
        );
        assert!(answer.body().size_hint().exact().unwrap() > 20);
    }

    #[test]
    fn overload_is_told_with_its_status_and_when_to_come_back() {
        let id = HeaderValue::from_static("id-1");
        for (failure, status, grpc, after) in [
            // Its bucket says when.
            (Failure::from(Reason::RateLimited).retry_after(7), 429, "8", "7"),
            (Reason::Shed.into(), 503, "14", "1"),
            (Reason::Overloaded.into(), 503, "14", "1"),
            (Reason::QueueTimeout.into(), 503, "14", "1"),
            (Reason::EndpointConnections.into(), 503, "14", "1"),
            (Reason::NoDescriptors.into(), 503, "14", "1"),
        ] {
            let answer = failure.response(&id, false, false);
            assert_eq!((answer.status().as_u16(), &answer.headers()[RETRY_AFTER].to_str().unwrap()), (status, &after));
            let answer = failure.response(&id, true, false);
            assert_eq!(answer.headers()[&GRPC_STATUS], grpc);
            assert_eq!(answer.headers()[RETRY_AFTER], after);
            assert!(!failure.reason.blames_endpoint(), "{failure:?}");
        }
        for reason in [Reason::NoRoute, Reason::NoEndpoints, Reason::Shutdown, Reason::ResponseTimeout] {
            assert!(!Failure::from(reason).response(&id, false, false).headers().contains_key(RETRY_AFTER));
        }
    }

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        let id = HeaderValue::from_static("id-1");
        let answer = Failure::from(Reason::ResponseTimeout).response(&id, true, false);
        assert_eq!((answer.status(), &answer.headers()[GRPC_STATUS]), (StatusCode::OK, &HeaderValue::from_static("4")));
        assert!(answer.headers()[GRPC_MESSAGE].to_str().unwrap().starts_with("response_timeout: "));
        assert!(answer.body().is_end_stream());
    }

    #[test]
    fn an_injected_status_becomes_what_it_stands_for_in_grpc() {
        let id = HeaderValue::from_static("id-1");
        for (status, code) in [(400, "13"), (401, "16"), (403, "7"), (404, "12"), (429, "14"), (503, "14"), (500, "2")]
        {
            let failure = Failure::from(Reason::FaultAbort).with_status(StatusCode::from_u16(status).unwrap());
            let answer = failure.response(&id, true, false);
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()[GRPC_STATUS], code, "{status}");
        }
    }
}
