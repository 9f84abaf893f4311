//! What a cluster does about failures: further tries, health checks, and leaving endpoints alone.

use super::{millis, secs};
use crate::config::units::{ByteSize, Share, Timespan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// At how many further endpoints a request may be tried at most: it remembers where it was in a place of fixed size.
pub const MAX_RETRIES: u32 = 5;

/// When a request that failed is tried at another endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How many further endpoints a request may be tried at; 0 never tries again.
    pub attempts: u32,
    /// How many tries of requests that may have reached an endpoint there may be on top, as a share of all requests; 3 a second are always allowed.
    pub budget: Share,
    /// How long an endpoint may take to begin its answer while another could be tried instead; `0s` is as long as without.
    pub per_try: Timespan,
    /// After what a request is tried again; all but `connect` hold for what may safely be repeated alone (idempotent methods, or a route that says so).
    pub on: Vec<RetryOn>,
    /// How much of a request's body is kept to be sent again; a request with more is not tried again once it was sent.
    pub body: ByteSize,
}

/// After what a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection could be made, or the endpoint says that it did nothing with the request.
    Connect,
    /// The connection was reset or closed before the answer began, or what came was no answer.
    Reset,
    /// The endpoint answered with 502, 503 or 504.
    Gateway,
    /// The endpoint answered with gRPC's UNAVAILABLE and nothing else.
    Unavailable,
}

/// When a second endpoint is asked as well because the first one has not answered yet. The first answer is passed on, and the other request is cancelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hedging {
    /// After how long without an answer: `off`, `auto` (as long as 95 of 100 requests to the cluster took of late), or a length of time.
    pub after: HedgeAfter,
    /// How many second requests there may be at most, as a share of those that may have one; each also counts against `retries.budget`.
    pub share: Share,
}

/// After how long without an answer a second endpoint is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HedgeAfter {
    /// Never.
    #[default]
    Off,
    /// After as long as 95 of 100 requests took.
    Auto,
    /// After so long.
    Set(Timespan),
}

/// How endpoints are asked whether they are well, beside what requests see of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What is asked.
    pub check: Check,
    /// The path that an `http` check asks for.
    pub path: String,
    /// The status that an `http` check wants.
    pub status: u16,
    /// The service that a `grpc` check asks about; empty asks about the whole server.
    pub service: String,
    /// How often each endpoint is asked, give or take a tenth.
    pub every: Timespan,
    /// How long an answer may take.
    pub timeout: Timespan,
    /// How many good answers in a row make an endpoint well that was not; its very first one counts at once.
    pub rise: u32,
    /// How many bad answers in a row make an endpoint unwell.
    pub fall: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Nothing.
    #[default]
    Off,
    /// Whether a connection can be opened, and secured where the cluster has `tls`.
    Tcp,
    /// Whether a GET is answered with the expected status.
    Http,
    /// What `grpc.health.v1.Health/Check` says.
    Grpc,
}

/// When an endpoint that fails is left alone, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// How many failures in a row eject an endpoint (connection refused or reset, or no answer in time); 0 never ejects.
    pub consecutive_failures: u32,
    /// By how many standard deviations an endpoint's success rate must lie below the others' mean to be ejected; 0 never ejects.
    pub success_rate: f64,
    /// By which factor an endpoint's mean latency must lie above the median of the others to be ejected; 0 never ejects, and leaves it to the model to steer around slow ones.
    pub latency: f64,
    /// Over which time success rates and latencies are compared.
    pub interval: Timespan,
    /// How many requests an endpoint must have had in that time to be compared.
    pub volume: u32,
    /// The share of the endpoints that comparing may leave ejected; with it or without, one may be.
    pub most: Share,
    /// How long the first ejection lasts; each further one lasts twice as long, up to `longest`.
    pub first: Timespan,
    /// How long an ejection lasts at most.
    pub longest: Timespan,
    /// When fewer than this share of the endpoints are healthy, all of them get requests.
    pub panic_below: Share,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            budget: Share(0.2),
            per_try: secs(0),
            on: vec![RetryOn::Connect, RetryOn::Reset, RetryOn::Gateway, RetryOn::Unavailable],
            body: ByteSize(64 * 1024),
        }
    }
}

impl Default for Hedging {
    fn default() -> Self {
        Self { after: HedgeAfter::Off, share: Share(0.05) }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            check: Check::Off,
            path: "/".into(),
            status: 200,
            service: String::new(),
            every: secs(5),
            timeout: millis(1_000),
            rise: 2,
            fall: 3,
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            success_rate: 1.9,
            latency: 0.0,
            interval: secs(10),
            volume: 100,
            most: Share(0.5),
            first: secs(5),
            longest: secs(60),
            panic_below: Share(0.5),
        }
    }
}
