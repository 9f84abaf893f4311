//! One call of `SpiffeWorkloadAPI/FetchX509SVID`: an answer at once, and one for each change.
//!
//! tonic speaks gRPC and hyper HTTP/2; both are in the house already. The three messages are written by hand, as a
//! generator would write them from `workload.proto`; what is not named here is not read (revocation lists).

use crate::identity::{Offer, Svid};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// The largest answer, in bytes; as much as is read of a file.
pub(super) const MAX_ANSWER: usize = 4 << 20;
/// The largest head of an answer, in bytes.
const MAX_HEAD: u32 = 16 << 10;
/// How much of what an agent says of itself is repeated, in characters.
const MAX_WORDS: usize = 200;
/// The header without which agents refuse to answer, because no browser or proxy can be made to send it.
const HEADER: &str = "workload.spiffe.io";

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct X509SvidRequest {}

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
// What is derived would show the key.
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl std::fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl From<X509SvidResponse> for Offer {
    fn from(response: X509SvidResponse) -> Self {
        let svid = |s: X509Svid| Svid {
            id: s.spiffe_id,
            hint: s.hint,
            chain: s.x509_svid,
            key: s.x509_svid_key,
            bundle: s.bundle,
        };
        Self {
            svids: response.svids.into_iter().map(svid).collect(),
            federated: response.federated_bundles.into_iter().collect(),
        }
    }
}

/// Why nothing comes from an agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Away {
    /// Nobody listens, or this process may not connect.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It takes the call and says nothing.
    #[error("it has not answered within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It has no identity for this process.
    #[error("it gives this process no identity: {0}")]
    Refused(String),
    /// What it says is no Workload API's answer, or too large.
    #[error("its answer cannot be used: {0}")]
    Garbled(String),
    /// The call or the connection is over.
    #[error("the call to it is over: {0}")]
    BrokeOff(String),
}

impl Away {
    /// The stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "agent_unreachable",
            Self::Silent(_) => "agent_silent",
            Self::Refused(_) => "agent_refused",
            Self::Garbled(_) => "agent_garbled",
            Self::BrokeOff(_) => "agent_broke_off",
        }
    }

    fn of(status: &Status) -> Self {
        // What has a cause is an error of the connection, and the first cause says the most.
        let cause = std::iter::successors(status.source(), |&error| error.source()).last();
        if let Some(cause) = cause {
            return Self::BrokeOff(cause.to_string());
        }
        let words: String = status.message().chars().take(MAX_WORDS).flat_map(char::escape_debug).collect();
        let words = if words.is_empty() { status.code().description().to_owned() } else { words };
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(words),
            Code::Internal | Code::OutOfRange | Code::Unimplemented => Self::Garbled(words),
            _ => Self::BrokeOff(words),
        }
    }
}

/// A call that goes on. Dropping it closes its connection, also one that is stuck.
pub(super) struct Asked {
    answers: Streaming<X509SvidResponse>,
    /// As long as it lives, the agent is not told that this side is about to leave.
    _grpc: Grpc<Connection>,
    _tasks: Ends,
}

impl Asked {
    /// Connects and asks. A quiet agent is pinged each `ping`, and has `pong` to answer.
    pub async fn ask(socket: &Path, ping: Duration, pong: Duration) -> Result<Self, Away> {
        let stream = UnixStream::connect(socket).await.map_err(Away::Unreachable)?;
        let broke_off = |error: hyper::Error| Away::BrokeOff(error.to_string());
        let tasks = Tasks::default();
        let ends = Ends(tasks.clone());
        let (sender, driver) = Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(ping)
            .keep_alive_timeout(pong)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        tasks.execute(async move {
            // How it ended is told by the call.
            let _ = driver.await;
        });
        let origin = Uri::from_static("http://localhost");
        let mut grpc = Grpc::with_origin(Connection(sender), origin).max_decoding_message_size(MAX_ANSWER);
        grpc.ready().await.map_err(broke_off)?;
        let mut request = tonic::Request::new(X509SvidRequest {});
        request.metadata_mut().insert(HEADER, MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
        let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
        let answered = grpc.server_streaming(request, path, codec).await.map_err(|status| Away::of(&status))?;
        Ok(Self { answers: answered.into_inner(), _grpc: grpc, _tasks: ends })
    }

    /// Waits for the next answer.
    pub async fn next(&mut self) -> Result<Offer, Away> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer.into()),
            Ok(None) => Err(Away::BrokeOff("it ended the call".to_owned())),
            Err(status) => Err(Away::of(&status)),
        }
    }
}

/// What drives a connection.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

/// Ends these tasks when it is dropped. They hold their own set, so it would never go by itself.
struct Ends(Tasks);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// The connection, as tonic wants it.
struct Connection(SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
