//! The proxies, their configurations, and the certificates that all use.

use crate::parties::Endpoints;
use crate::process::Running;
use crate::{Fallible, Options};
use pathloom::identity::ca::{Authority, Request};
use pathloom_benches::STILL;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The name in every certificate, beside its SPIFFE id: HAProxy and nginx check names.
pub const NAME: &str = "bench.mesh";
/// The C library copies long pieces by `rep movsb` where a processor is good at that, which callgrind counts as an instruction a
/// byte: 64 KiB that are copied once would count for more than their decryption.
const COPIES: &str = "glibc.cpu.hwcaps=-ERMS,-FSRM";
/// What all agree on.
const SUITE: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;

/// Where TLS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// With the client.
    pub client: bool,
    /// With the endpoint.
    pub endpoint: bool,
}

impl Side {
    pub const NONE: Self = Self { client: false, endpoint: false };
    pub const CLIENT: Self = Self { client: true, endpoint: false };
    pub const ENDPOINT: Self = Self { client: false, endpoint: true };
    /// All four.
    pub const ALL: [Self; 4] = [Self::NONE, Self::CLIENT, Self::ENDPOINT, Self { client: true, endpoint: true }];

    /// In words.
    pub fn words(self) -> &'static str {
        match (self.client, self.endpoint) {
            (false, false) => "none",
            (true, false) => "from the client",
            (false, true) => "to the endpoint",
            (true, true) => "both",
        }
    }

    fn place(self) -> usize {
        usize::from(self.client) + 2 * usize::from(self.endpoint)
    }
}

/// Where a client asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The proxy's address.
    pub address: SocketAddr,
    /// The host that is asked for.
    pub host: &'static str,
    /// Whether it asks over mTLS.
    pub secured: bool,
}

/// One authority, and the certificate that everybody shows.
pub struct Certificates {
    folder: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Certificates {
    /// Issues them into a folder: `ca.pem`, `cert.pem`, `key.pem`, and `both.pem` for HAProxy.
    pub fn issue(folder: &Path) -> Fallible<Self> {
        let authority = Authority::new("mesh.local".parse()?)?;
        let mut request = Request::new("spiffe://mesh.local/bench".parse()?, Duration::from_secs(24 * 3600));
        request.names.push(NAME.to_owned());
        let issued = authority.issue(&request)?;
        std::fs::write(folder.join("ca.pem"), authority.certificate())?;
        std::fs::write(folder.join("cert.pem"), &issued.certificate)?;
        std::fs::write(folder.join("key.pem"), &issued.key)?;
        std::fs::write(folder.join("both.pem"), format!("{}{}", issued.certificate, issued.key))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes())?)?;
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == SUITE);
        Ok(Self {
            folder: folder.to_owned(),
            chain: vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?],
            key: PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?,
            roots: Arc::new(roots),
            provider: Arc::new(provider),
        })
    }

    /// For the client.
    pub fn client(&self) -> Fallible<ClientConfig> {
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        Ok(config)
    }

    /// For endpoints. They hand no tickets out, as a sidecar would not.
    pub fn server(&self) -> Fallible<Arc<ServerConfig>> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone()).build()?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pathloom,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Pathloom, Self::Haproxy, Self::Nginx];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pathloom => "Pathloom",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }
}

/// A proxy that can be started.
pub struct Proxy {
    kind: Kind,
    folder: PathBuf,
    words: Vec<String>,
    /// By `Side::place`.
    listens: [SocketAddr; 4],
}

impl Proxy {
    /// Writes its configuration.
    pub fn new(
        kind: Kind,
        options: &Options,
        folder: &Path,
        certificates: &Certificates,
        endpoints: &Endpoints,
    ) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        // All are held until all are known, so that they differ.
        let held = (0..5).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let free = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let &[a, b, c, d, admin] = free.as_slice() else { return Err("five ports".into()) };
        let mut listens = [a, b, c, d];
        let file = folder.join("config.yaml");
        let path = file.display().to_string();
        let (text, words) = match kind {
            Kind::Pathloom => {
                // One listener for clients in plain text and one for those over TLS; the host says which endpoints.
                listens = [a, b, a, b];
                let program = options.pathloom.display().to_string();
                (pathloom([a, b, admin], certificates, endpoints), vec![program, "run".into(), "--config".into(), path])
            }
            Kind::Haproxy => (
                haproxy(listens, certificates, endpoints),
                vec![options.haproxy.clone(), "-db".into(), "-f".into(), path],
            ),
            Kind::Nginx => {
                let errors = folder.join("error.log").display().to_string();
                let text = nginx(listens, folder, certificates, endpoints);
                (text, vec![options.nginx.clone(), "-e".into(), errors, "-c".into(), path])
            }
        };
        std::fs::write(&file, text)?;
        Ok(Self { kind, folder: folder.to_owned(), words, listens })
    }

    /// Where what is spoken like this is asked.
    pub fn target(&self, sides: Side) -> Target {
        let host = if sides.endpoint { "secured.shop" } else { "plain.shop" };
        let address = self.listens.get(sides.place()).copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        Target { address, host, secured: sides.client }
    }

    /// A folder of its own.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it, below another program where `wrapper` names one, and waits until it serves.
    pub fn start(&self, wrapper: &[String]) -> Fallible<Running> {
        let mut words = wrapper.iter().chain(&self.words);
        let mut command = Command::new(words.next().ok_or("no program")?);
        command.args(words).env("GLIBC_TUNABLES", COPIES);
        let mut running = Running::start(command, &self.folder.join("log"))?;
        running
            .ready(&self.listens.map(|address| address.port()))
            .map_err(|error| format!("{}: {error}", self.kind.name()))?;
        Ok(running)
    }
}

/// Everything that a request passes through is on; what runs beside it comes once an hour, as for `make guard`.
fn pathloom([plain, secured, admin]: [SocketAddr; 3], certificates: &Certificates, endpoints: &Endpoints) -> String {
    let list = |all: &[SocketAddr]| {
        all.iter().fold(String::new(), |mut text, address| {
            let _ = write!(text, "{{ address: {address} }}, ");
            text
        })
    };
    format!(
        "process: {{ threads: 1 }}
admin: {{ listen: {admin} }}
identity: {{ certificate: {}, key: {}, bundle: {} }}
workloads:
  frontend: {{ listen: {plain} }}
  peers: {{ listen: {secured}, tls: strict }}
routes:
  - {{ match: {{ host: plain.shop }}, cluster: plain }}
  - {{ match: {{ host: secured.shop }}, cluster: secured }}
clusters:
  plain: {{ endpoints: [{}] }}
  secured: {{ tls: mesh, endpoints: [{}] }}
{STILL}",
        certificates.file("cert.pem"),
        certificates.file("key.pem"),
        certificates.file("ca.pem"),
        list(&endpoints.plain),
        list(&endpoints.secured),
    )
}

fn haproxy(listens: [SocketAddr; 4], certificates: &Certificates, endpoints: &Endpoints) -> String {
    let (both, ca) = (certificates.file("both.pem"), certificates.file("ca.pem"));
    let mut text = "global\n\tnbthread 1\n\tssl-default-bind-options ssl-min-ver TLSv1.3\n\tssl-default-server-options ssl-min-ver TLSv1.3\n\
        \tssl-default-bind-ciphersuites TLS_AES_256_GCM_SHA384\n\tssl-default-server-ciphersuites TLS_AES_256_GCM_SHA384\n\
        \ndefaults\n\tmode http\n\toption dontlognull\n\ttimeout connect 5000\n\ttimeout client 300s\n\ttimeout server 300s\n"
        .to_owned();
    for (sides, listen) in Side::ALL.iter().map(|sides| (sides, listens.get(sides.place()))) {
        let Some(listen) = listen else { continue };
        let secured = format!(" ssl crt {both} ca-file {ca} verify required");
        let name = sides.place();
        let _ = write!(text, "\nlisten l{name}\n\tbind {listen}{}\n", if sides.client { secured.as_str() } else { "" });
        let servers = if sides.endpoint { &endpoints.secured } else { &endpoints.plain };
        for (n, server) in servers.iter().enumerate() {
            let _ = writeln!(
                text,
                "\tserver s{n} {server}{}",
                if sides.endpoint { format!("{secured} verifyhost {}", NAME) } else { String::new() }
            );
        }
    }
    text
}

fn nginx(listens: [SocketAddr; 4], folder: &Path, certificates: &Certificates, endpoints: &Endpoints) -> String {
    let (cert, key, ca) = (certificates.file("cert.pem"), certificates.file("key.pem"), certificates.file("ca.pem"));
    let folder = folder.display();
    // Root, since callgrind is asked for its counts through files of the same user; else as Debian has it.
    let mut text = format!(
        "user root;\nworker_processes 1;\nmaster_process off;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 768; }}\nhttp {{\n\
         sendfile on; tcp_nopush on; types_hash_max_size 2048; default_type application/octet-stream; access_log off; gzip on;\n\
         keepalive_requests 1000000;\n\
         proxy_temp_path {folder}/proxy-temp; client_body_temp_path {folder}/body-temp;\n"
    );
    for (name, all) in [("plain", &endpoints.plain), ("secured", &endpoints.secured)] {
        let _ = write!(text, "upstream {name} {{ keepalive 64; keepalive_requests 1000000;");
        for server in all {
            let _ = write!(text, " server {server};");
        }
        text += " }\n";
    }
    for sides in Side::ALL {
        let Some(listen) = listens.get(sides.place()) else { continue };
        let _ = write!(text, "server {{ listen {listen}{};", if sides.client { " ssl" } else { "" });
        if sides.client {
            let _ = write!(
                text,
                " ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_verify_client on; ssl_client_certificate {ca}; \
                 ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384; ssl_session_cache none;"
            );
        }
        text += " location / { proxy_http_version 1.1; proxy_set_header Connection '';";
        if sides.endpoint {
            let _ = write!(
                text,
                " proxy_pass https://secured; proxy_ssl_certificate {cert}; proxy_ssl_certificate_key {key}; proxy_ssl_protocols TLSv1.3; \
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name {NAME}; \
                 proxy_ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;"
            );
        } else {
            text += " proxy_pass http://plain;";
        }
        text += " } }\n";
    }
    text + "}\n"
}
