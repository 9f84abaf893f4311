//! The collector of traces: how it is spoken to, over HTTP or gRPC, in plain text or by TLS.
//!
//! The official exporter does the speaking. What is added here is whom TLS believes and what it shows, the headers that
//! the collector asks for, and the reason why a batch was not taken, which the exporter over HTTP keeps to itself.
//!
//! **TLS's files** are read when the exporter is made, so that a wrong one is named at once, and again before a batch
//! that finds one of them replaced. Then the exporter is made anew, with new connections; where that fails the old one
//! goes on, with what it has, until a file is replaced again.
//!
//! **Headers** go to the collector and nowhere else: redirects are not followed, and no error holds any of them.

use super::TracesError;
use crate::config::touch::{FileMark, mark_of};
use crate::config::{CollectorTls, Otlp, Traces};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::transport::{ClientTlsConfig, Identity};

/// How long the collector may take over a batch, retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest file of certificates that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A collector, as the configuration has it.
pub(super) struct Collector {
    config: Traces,
    resource: Resource,
    exporter: SpanExporter,
    /// TLS's files, as they were when they were read.
    marks: Vec<FileMark>,
    /// Why the last batch over HTTP was not taken.
    why: Why,
}

type Why = Arc<Mutex<Option<String>>>;

impl Collector {
    /// To be called on a runtime. Nothing is connected yet.
    ///
    /// # Errors
    /// When the collector's address is none, or one of TLS's files is of no use.
    pub fn new(config: Traces, resource: Resource) -> Result<Self, TracesError> {
        let (marks, why) = (marks(&config.tls), Why::default());
        let exporter = exporter(&config, &resource, &why)?;
        Ok(Self { config, resource, exporter, marks, why })
    }

    /// Takes over what has been replaced of TLS's files; whether there was any that is of use.
    pub fn refresh(&mut self) -> bool {
        let marks = marks(&self.config.tls);
        if marks == self.marks {
            return false;
        }
        self.marks = marks;
        match exporter(&self.config, &self.resource, &self.why) {
            Ok(exporter) => {
                self.exporter = exporter;
                tracing::info!("the files for TLS with the trace collector were read anew");
                true
            }
            Err(error) => {
                tracing::error!(%error, "TLS with the trace collector goes on with what it had");
                false
            }
        }
    }

    /// Sends a batch; otherwise says why it was not taken.
    pub async fn send(&self, batch: Vec<SpanData>) -> Result<(), String> {
        let taken = self.exporter.export(batch).await;
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.map_err(|error| match why {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        })
    }
}

fn marks(tls: &CollectorTls) -> Vec<FileMark> {
    [&tls.authorities, &tls.certificate, &tls.key].into_iter().flatten().map(|file| mark_of(file)).collect()
}

fn exporter(config: &Traces, resource: &Resource, why: &Why) -> Result<SpanExporter, TracesError> {
    let endpoint = config.otlp.trim();
    let refused = |reason: String| TracesError::Endpoint { endpoint: endpoint.to_owned(), reason };
    let tls = match endpoint.split_once("://") {
        Some(("http", _)) => None,
        Some(("https", _)) => Some(Tls::read(&config.tls)?),
        _ => return Err(refused("it begins neither with `http://` nor with `https://`".to_owned())),
    };
    let (builder, headers) = (SpanExporter::builder(), headers(config));
    let made = match config.protocol {
        Otlp::Http => {
            let client = Telling { client: client(tls)?, headers, why: why.clone() };
            let builder = builder.with_http().with_protocol(Protocol::HttpBinary).with_http_client(client);
            builder.with_endpoint(endpoint).with_timeout(TIMEOUT).build()
        }
        Otlp::Grpc => {
            let mut builder = builder.with_tonic().with_endpoint(endpoint).with_timeout(TIMEOUT);
            if let Some(tls) = tls {
                builder = builder.with_tls_config(tls.for_grpc());
            }
            builder.with_metadata(MetadataMap::from_headers(headers)).build()
        }
    };
    let mut made = made.map_err(|error| refused(error.to_string()))?;
    made.set_resource(resource);
    Ok(made)
}

/// The headers that the collector is sent, marked so that nobody writes them down.
fn headers(config: &Traces) -> HeaderMap {
    let all = config.headers.iter().filter_map(|(name, value)| {
        let mut value = HeaderValue::from_str(value.reveal()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    });
    all.collect()
}

fn client(tls: Option<Tls>) -> Result<HyperClient<HttpsConnector<HttpConnector>>, TracesError> {
    let config = match tls {
        Some(tls) => tls.config,
        // Nobody is believed where no TLS is spoken.
        None => believing(RootCertStore::empty())?.with_no_client_auth(),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    Ok(HyperClient::new(connector, TIMEOUT, None))
}

type Believing = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn believing(roots: RootCertStore) -> Result<Believing, TracesError> {
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| TracesError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots))
}

/// Whom TLS believes, and what it shows.
struct Tls {
    roots: RootCertStore,
    /// The certificate and its key, in PEM.
    shown: Option<(Vec<u8>, Vec<u8>)>,
    config: ClientConfig,
}

impl Tls {
    fn read(tls: &CollectorTls) -> Result<Self, TracesError> {
        let roots = authorities(tls.authorities.as_deref())?;
        let believing = believing(roots.clone())?;
        let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
            return Ok(Self { roots, shown: None, config: believing.with_no_client_auth() });
        };
        let (chain_text, chain) = certificates("certificate", certificate)?;
        let key_text = read("key", key)?;
        let wrong = |reason: String| TracesError::File { key: "key", path: key.clone(), reason };
        let secret = PrivateKeyDer::from_pem_slice(&key_text);
        let secret = secret.map_err(|error| wrong(format!("holds no private key: {error}")))?;
        let config = believing.with_client_auth_cert(chain, secret);
        let config =
            config.map_err(|error| wrong(format!("cannot be used with {}: {error}", certificate.display())))?;
        Ok(Self { roots, shown: Some((chain_text, key_text)), config })
    }

    /// The same, as gRPC's client wants it.
    fn for_grpc(self) -> ClientTlsConfig {
        let tls = ClientTlsConfig::new().trust_anchors(self.roots.roots);
        match self.shown {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        }
    }
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, TracesError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            for authority in certificates("authorities", file)?.1 {
                let wrong = |error: rustls::Error| TracesError::File {
                    key: "authorities",
                    path: file.to_owned(),
                    reason: format!("holds a certificate that is of no authority: {error}"),
                };
                roots.add(authority).map_err(wrong)?;
            }
        }
        None => {
            // One of the system's that cannot be used is none of ours to judge.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let reason = "the system has no authorities; install ca-certificates, or name a file of them";
                return Err(TracesError::Tls(reason.to_owned()));
            }
        }
    }
    Ok(roots)
}

/// A file's text, and all certificates in it.
fn certificates(key: &'static str, file: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), TracesError> {
    let text = read(key, file)?;
    let wrong = |reason: String| TracesError::File { key, path: file.to_owned(), reason };
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| wrong(format!("holds no certificates: {error}")))?;
    if all.is_empty() { Err(wrong("holds no certificate".to_owned())) } else { Ok((text, all)) }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TracesError> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    let wrong = |error| TracesError::File { key, path: file.to_owned(), reason: format!("cannot be read: {error}") };
    read.map(|_| text).map_err(wrong)
}

/// A client that remembers why it failed, with all that lies behind an error, and adds the headers.
#[derive(Debug)]
struct Telling<C> {
    client: C,
    headers: HeaderMap,
    why: Why,
}

#[async_trait]
impl<C: HttpClient> HttpClient for Telling<C> {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        request.headers_mut().extend(self.headers.clone());
        let sent = self.client.send_bytes(request).await;
        let why = sent.as_ref().err().map(|error| whole(&**error));
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        sent
    }
}

/// An error with all that lies behind it.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let said = error.to_string();
        // Some repeat what lies behind them.
        if !text.ends_with(&said) {
            text.extend([": ", &said]);
        }
        behind = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn refused(tls: CollectorTls) -> String {
        let config = Traces { otlp: "https://127.0.0.1:1/v1/traces".to_owned(), tls, ..Traces::default() };
        let made = Collector::new(config, Resource::builder_empty().build());
        made.err().map_or("nothing".to_owned(), |error| error.to_string())
    }

    #[tokio::test]
    async fn a_file_of_no_use_is_named_with_its_key_and_its_fault() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let [one, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["c".to_owned()]).unwrap());
        let certificate = file("certificate.pem", &one.cert.pem());
        let key = file("key.pem", &one.signing_key.serialize_pem());
        let another_key = file("another.pem", &other.signing_key.serialize_pem());
        let whole = CollectorTls { authorities: certificate.clone(), certificate: certificate.clone(), key };
        assert_eq!(refused(whole.clone()), "nothing");
        let none: Option<PathBuf> = Some("/none/there".into());
        for (tls, said) in [
            (
                CollectorTls { authorities: none.clone(), ..whole.clone() },
                "tls.authorities: /none/there cannot be read",
            ),
            (CollectorTls { authorities: file("a", "no PEM"), ..whole.clone() }, "a holds no certificate"),
            (CollectorTls { certificate: file("b", ""), ..whole.clone() }, "tls.certificate: "),
            (CollectorTls { key: none, ..whole.clone() }, "telemetry.traces.tls.key: /none/there cannot be read"),
            (CollectorTls { key: certificate.clone(), ..whole.clone() }, "certificate.pem holds no private key"),
            (CollectorTls { key: another_key, ..whole.clone() }, "another.pem cannot be used with "),
        ] {
            let error = refused(tls);
            assert!(error.contains(said) && !error.contains("PRIVATE"), "{error}");
        }
    }

    #[tokio::test]
    async fn files_that_are_replaced_are_read_again_and_bad_ones_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let authorities = directory.path().join("ca.pem");
        let write = |text: &str| {
            // As careful tools do it: under another name first.
            std::fs::write(directory.path().join("fresh"), text).unwrap();
            std::fs::rename(directory.path().join("fresh"), &authorities).unwrap();
        };
        let authority = || rcgen::generate_simple_self_signed(["c".to_owned()]).unwrap().cert.pem();
        write(&authority());
        let tls = CollectorTls { authorities: Some(authorities.clone()), ..CollectorTls::default() };
        let config = Traces { otlp: "https://127.0.0.1:1/v1/traces".to_owned(), tls, ..Traces::default() };
        let mut collector = Collector::new(config, Resource::builder_empty().build()).unwrap();
        assert!(!collector.refresh(), "nothing was replaced");
        write("no PEM");
        assert!(!collector.refresh(), "the old one goes on");
        assert!(!collector.refresh(), "it is not read for each batch");
        write(&authority());
        assert!(collector.refresh());
    }
}
