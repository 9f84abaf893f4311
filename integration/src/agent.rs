//! A SPIFFE agent on tonic, which hands out what a test tells it to: the Workload API over a Unix socket.
//!
//! As SPIRE's does, it refuses who does not send the header `workload.spiffe.io: true`, answers a call at once and again
//! for each change, and says `PERMISSION_DENIED` to whom it has no identity for.

use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {}

/// `X509SVIDResponse`: what the agent has for a workload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Given {
    /// Its identities.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
    /// Revocation lists, which nobody here reads.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// Authorities of other trust domains, by the domain's id.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`: one identity.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Svid {
    /// The SPIFFE id.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The certificates, in DER one after another.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// The key, as PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The authorities, in DER one after another.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// What tells it from others.
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl Svid {
    /// What stands in PEM files.
    ///
    /// # Panics
    /// When they hold something else.
    #[must_use]
    pub fn of_files(id: &str, certificate: &Path, key: &Path, bundle: &Path) -> Self {
        Self {
            spiffe_id: id.to_owned(),
            x509_svid: in_der(certificate),
            x509_svid_key: PrivateKeyDer::from_pem_file(key).expect("a key").secret_der().to_vec(),
            bundle: in_der(bundle),
            hint: String::new(),
        }
    }
}

/// The certificates of a PEM file, in DER one after another.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn in_der(file: &Path) -> Vec<u8> {
    let all = CertificateDer::pem_file_iter(file).expect("a file of certificates");
    all.flat_map(|certificate| certificate.expect("a certificate").to_vec()).collect()
}

/// An agent. It goes when it is dropped.
#[derive(Debug)]
pub struct Agent {
    folder: TempDir,
    given: watch::Sender<Option<Given>>,
    calls: Arc<AtomicUsize>,
    serving: JoinSet<()>,
}

impl Agent {
    /// One that is not there yet.
    ///
    /// # Panics
    /// When there is no place for its socket.
    #[must_use]
    pub fn absent() -> Self {
        let folder = TempDir::new().expect("a temporary directory");
        Self { folder, given: watch::Sender::new(None), calls: Arc::default(), serving: JoinSet::new() }
    }

    /// One that has this to give.
    #[must_use]
    pub fn giving(svid: Svid) -> Self {
        let mut agent = Self::absent();
        agent.give(svid);
        agent.come();
        agent
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The configuration's section for an identity from it.
    #[must_use]
    pub fn yaml(&self) -> String {
        format!("identity: {{ workload_api: 'unix://{}' }}\n", self.socket().display())
    }

    /// Gives one identity from now on.
    pub fn give(&self, svid: Svid) {
        self.give_all(Given { svids: vec![svid], ..Given::default() });
    }

    /// Gives this from now on.
    pub fn give_all(&self, given: Given) {
        self.given.send_replace(Some(given));
    }

    /// Gives nothing to anybody.
    pub fn refuse(&self) {
        self.given.send_replace(None);
    }

    /// How often it was asked.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Dies, with all its connections; its socket stays, as that of a process that is killed.
    pub async fn die(&mut self) {
        self.serving.shutdown().await;
    }

    /// Begins to listen.
    ///
    /// # Panics
    /// When it cannot.
    pub fn come(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).expect("a socket");
        // Open to every process of the machine, as agents are: they tell who asks by other means.
        for (path, mode) in [(self.folder.path(), 0o755), (&self.socket(), 0o777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        }
        let (given, calls) = (self.given.subscribe(), self.calls.clone());
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (given, calls) = (given.clone(), calls.clone());
                let service = service_fn(move |request| {
                    calls.fetch_add(1, SeqCst);
                    let given = given.clone();
                    async move { Ok::<_, Infallible>(answer(given, request).await) }
                });
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // A sidecar that leaves is no error of the agent's.
                    let _ = connection.await;
                });
            }
        });
    }
}

async fn answer(given: watch::Receiver<Option<Given>>, request: Request<Incoming>) -> Response<tonic::body::Body> {
    if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
        return Status::unimplemented("no such method").into_http();
    }
    Grpc::new(ProstCodec::<Given, Asked>::default()).server_streaming(Fetch(given), request).await
}

struct Fetch(watch::Receiver<Option<Given>>);

impl ServerStreamingService<Asked> for Fetch {
    type Response = Given;
    type ResponseStream = BoxStream<'static, Result<Given, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Asked>) -> Self::Future {
        let header = request.metadata().get("workload.spiffe.io").is_some_and(|value| value == "true");
        let mut given = self.0.clone();
        given.mark_changed();
        Box::pin(async move {
            if !header {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            let answers = stream::unfold(Some(given), |given| async move {
                let mut given = given?;
                given.changed().await.ok()?;
                let now = given.borrow_and_update().clone();
                Some(match now {
                    Some(now) => (Ok(now), Some(given)),
                    None => (Err(Status::new(Code::PermissionDenied, "no identity issued")), None),
                })
            });
            Ok(tonic::Response::new(answers.boxed()))
        })
    }
}

impl From<Svid> for Given {
    fn from(svid: Svid) -> Self {
        Self { svids: vec![svid], ..Self::default() }
    }
}
