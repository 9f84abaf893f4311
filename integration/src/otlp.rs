//! A receiver of traces that speaks OTLP as a collector does, over gRPC and over HTTP on one address: the official
//! protobufs and the service that their generator made of them, with nothing behind it but a list of spans. It may want
//! TLS, and a certificate of who sends.
//!
//! It may be slow, or hang: then it takes what it is sent and never says so.

use crate::ports;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codegen::Service;

/// A span that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// `service.name` of whoever sent it.
    pub service: String,
    /// `service.instance.id` of whoever sent it; empty where it has none.
    pub instance: String,
    /// Whether it came over gRPC.
    pub grpc: bool,
    /// The headers of the request that it came with.
    pub headers: HeaderMap,
    /// The span.
    pub span: Span,
}

impl Arrived {
    /// An attribute, as text.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|a| a.key == key)?.value.clone()?.value?;
    Some(match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        any_value::Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    })
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// At once.
    AtOnce,
    /// So much later.
    After(Duration),
    /// Never.
    Never,
}

#[derive(Debug, Clone)]
struct Taking {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    answers: Answers,
}

impl Taking {
    async fn take(&self, request: ExportTraceServiceRequest, headers: HeaderMap, grpc: bool) {
        for of_resource in request.resource_spans {
            let attributes = of_resource.resource.map(|r| r.attributes).unwrap_or_default();
            let of = |key| attribute(&attributes, key).unwrap_or_default();
            let (service, instance) = (of("service.name"), of("service.instance.id"));
            let spans = of_resource.scope_spans.into_iter().flat_map(|s| s.spans);
            let all = spans.map(|span| {
                let (service, instance, headers) = (service.clone(), instance.clone(), headers.clone());
                Arrived { service, instance, grpc, headers, span }
            });
            self.arrived.lock().unwrap().extend(all);
        }
        match self.answers {
            Answers::AtOnce => {}
            Answers::After(delay) => tokio::time::sleep(delay).await,
            Answers::Never => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, export) = request.into_parts();
        self.take(export, metadata.into_headers(), true).await;
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    /// Where it listens, for both protocols.
    pub address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(answers: Answers) -> Self {
        Self::listen((ports::own_ip(3), 0).into(), answers, None).await
    }

    /// Starts one at an address that speaks TLS alone: with this certificate and key, to those who have a certificate of
    /// this authority; all are files in PEM.
    ///
    /// # Panics
    /// When somebody else is there, or the files are of no use.
    pub async fn start_secured(address: SocketAddr, [certificate, key, authority]: [&Path; 3]) -> Self {
        let all = |file| CertificateDer::pem_file_iter(file).expect("a file").map(|one| one.expect("a certificate"));
        let mut roots = RootCertStore::empty();
        all(authority).for_each(|authority| roots.add(authority).expect("an authority"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(all(certificate).collect(), PrivateKeyDer::from_pem_file(key).expect("a key"))
            .expect("a certificate and its key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::listen(address, Answers::AtOnce, Some(Arc::new(config).into())).await
    }

    async fn listen(address: SocketAddr, answers: Answers, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let taking = Taking { arrived: arrived.clone(), answers };
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taking = taking.clone();
                let (service, tls) = (service_fn(move |request| answer(taking.clone(), request)), tls.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Self { address, arrived, serving }
    }

    /// Leaves: nobody is at its address any more.
    pub async fn stop(&self) {
        self.serving.abort();
        crate::wait::until("the receiver to be gone", || self.serving.is_finished()).await;
    }

    /// What `telemetry.traces` says to reach it over HTTP.
    #[must_use]
    pub fn http(&self) -> String {
        format!("otlp: 'http://{}/v1/traces'", self.address)
    }

    /// What `telemetry.traces` says to reach it over gRPC.
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("otlp: 'http://{}', protocol: grpc", self.address)
    }

    /// What arrived so far.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// The spans of a trace by their ids; empty as long as one's parent is missing, or there is more than one root.
    #[must_use]
    pub fn tree(&self, trace_id: &[u8]) -> BTreeMap<Vec<u8>, Arrived> {
        let all = self.arrived().into_iter().filter(|a| a.span.trace_id == trace_id);
        let all: BTreeMap<_, _> = all.map(|a| (a.span.span_id.clone(), a)).collect();
        let roots = all.values().filter(|a| a.span.parent_span_id.iter().all(|b| *b == 0)).count();
        let known =
            |a: &Arrived| a.span.parent_span_id.iter().all(|b| *b == 0) || all.contains_key(&a.span.parent_span_id);
        if roots == 1 && all.values().all(known) { all } else { BTreeMap::new() }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(taking: Taking, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is = |request: &Request<Incoming>, kind: &str| {
        request.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(kind.as_bytes()))
    };
    if is(&request, "application/grpc") {
        return TraceServiceServer::new(taking).call(request).await;
    }
    let body = |bytes: Vec<u8>| Body::new(Full::new(Bytes::from(bytes)));
    let refused = |status| Ok(Response::builder().status(status).body(body(Vec::new())).expect("an answer"));
    if request.uri().path() != "/v1/traces" || !is(&request, "application/x-protobuf") {
        return refused(StatusCode::NOT_FOUND);
    }
    let headers = request.headers().clone();
    let Ok(bytes) = request.into_body().collect().await else { return refused(StatusCode::BAD_REQUEST) };
    let Ok(export) = ExportTraceServiceRequest::decode(bytes.to_bytes()) else {
        return refused(StatusCode::BAD_REQUEST);
    };
    taking.take(export, headers, false).await;
    let answer = Response::builder().header("content-type", "application/x-protobuf");
    Ok(answer.body(body(ExportTraceServiceResponse::default().encode_to_vec())).expect("an answer"))
}
