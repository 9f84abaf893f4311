//! The client and the endpoints: blocking, a thread for each of the endpoints' connections.

use crate::Fallible;
use crate::proxies::{Certificates, NAME, Target};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A longer answer than this takes would never come: below callgrind a handshake takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many endpoints there are of each kind.
pub const ENDPOINTS: usize = 4;
/// A short body and a long one.
const SHORT: usize = 1024;
const LONG: usize = 64 * 1024;

/// What is asked, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One request after another on a connection.
    Kept,
    /// Each on a new connection, with a full handshake.
    New,
    /// Each on a new connection, whose handshake is to resume what was before.
    Resumed,
    /// One after another on a connection, and the endpoint closes its own after each.
    NewEndpoint,
    /// A long answer.
    Down,
    /// A long request.
    Up,
}

impl Load {
    /// How many of it are counted: the lower number, and by how many the higher one is higher.
    pub fn amount(self) -> (usize, usize) {
        match self {
            Self::Kept => (100, 1_000),
            Self::New | Self::Resumed | Self::NewEndpoint => (10, 100),
            Self::Down | Self::Up => (20, 200),
        }
    }

    fn request(self, host: &str) -> Vec<u8> {
        let path = match self {
            Self::NewEndpoint => "/close",
            Self::Down => "/long",
            _ => "/items/7",
        };
        let (method, body) = if self == Self::Up { ("POST", LONG) } else { ("GET", 0) };
        let length = if body > 0 { format!("content-length: {body}\r\n") } else { String::new() };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: tls/1\r\naccept: */*\r\n{length}\r\n");
        [head.into_bytes(), vec![b'x'; body]].concat()
    }

    fn answers(self) -> usize {
        match self {
            Self::Down => LONG,
            _ => SHORT,
        }
    }
}

/// Endpoints that answer at once, some in plain text and some over mTLS.
pub struct Endpoints {
    /// Those in plain text.
    pub plain: Vec<SocketAddr>,
    /// Those over mTLS.
    pub secured: Vec<SocketAddr>,
}

impl Endpoints {
    /// Starts them. They end with the process.
    pub fn start(certificates: &Certificates) -> Fallible<Self> {
        let config = certificates.server()?;
        let all = |secured: bool| -> Fallible<Vec<SocketAddr>> {
            (0..ENDPOINTS).map(|_| endpoint(secured.then(|| config.clone()))).collect()
        };
        Ok(Self { plain: all(false)?, secured: all(true)? })
    }
}

fn endpoint(tls: Option<Arc<ServerConfig>>) -> Fallible<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tls = tls.clone();
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                match tls.map(ServerConnection::new) {
                    None => answer(stream),
                    Some(Ok(connection)) => answer(StreamOwned::new(connection, stream)),
                    Some(Err(error)) => eprintln!("tls: an endpoint: {error}"),
                }
            });
        }
    });
    Ok(address)
}

/// Answers what comes on a connection, until its end or until it is asked to close.
fn answer(stream: impl Read + Write) {
    let message = |length: usize, more: &str| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{more}\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    };
    let (short, long, last) = (message(SHORT, ""), message(LONG, ""), message(SHORT, "connection: close\r\n"));
    let mut stream = BufReader::with_capacity(LONG, stream);
    let (mut line, mut body) = (String::new(), 0);
    let mut wanted = &short;
    loop {
        line.clear();
        match stream.read_line(&mut line) {
            Ok(1..) => {}
            _ => return,
        }
        let lower = line.to_ascii_lowercase();
        if lower.starts_with("get /close ") {
            wanted = &last;
        } else if lower.starts_with("get /long ") {
            wanted = &long;
        } else if let Some(length) = lower.strip_prefix("content-length:") {
            body = length.trim().parse().unwrap_or(0);
        } else if line == "\r\n" {
            let taken = std::io::copy(&mut (&mut stream).take(body), &mut std::io::sink());
            let sent = taken.and_then(|_| stream.get_mut().write_all(wanted)).and_then(|()| stream.get_mut().flush());
            if sent.is_err() || std::ptr::eq(wanted, &raw const last) {
                return;
            }
            (wanted, body) = (&short, 0);
        }
    }
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// A client that waits for each answer before it asks again.
pub struct Client {
    target: Target,
    load: Load,
    request: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
    open: Option<Box<dyn Both>>,
    buffer: Vec<u8>,
    handshakes: BTreeMap<&'static str, usize>,
}

impl Client {
    /// One that has asked nothing yet.
    pub fn new(certificates: &Certificates, target: Target, load: Load) -> Fallible<Self> {
        let mut tls = certificates.client()?;
        if load != Load::Resumed {
            tls.resumption = Resumption::disabled();
        }
        let tls = target.secured.then(|| Arc::new(tls));
        let request = load.request(target.host);
        let buffer = vec![0; LONG * 2];
        Ok(Self { target, load, request, tls, open: None, buffer, handshakes: BTreeMap::new() })
    }

    /// What it asks.
    pub fn load(&self) -> Load {
        self.load
    }

    /// How its handshakes went, in words.
    pub fn handshakes(&self) -> String {
        self.handshakes.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    }

    /// Asks so many times.
    pub fn ask(&mut self, times: usize) -> Fallible<()> {
        (0..times).try_for_each(|_| self.once())
    }

    fn connect(&mut self) -> Fallible<Box<dyn Both>> {
        let mut stream = TcpStream::connect(self.target.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let mut connection = ClientConnection::new(tls.clone(), ServerName::try_from(NAME)?)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let kind = match connection.handshake_kind() {
            Some(HandshakeKind::Full) => "full",
            Some(HandshakeKind::Resumed) => "resumed",
            Some(HandshakeKind::FullWithHelloRetryRequest) => "full, twice",
            None => "unfinished",
        };
        *self.handshakes.entry(kind).or_default() += 1;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }

    fn once(&mut self) -> Fallible<()> {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(&self.request)?;
        stream.flush()?;
        let mut filled = 0;
        loop {
            let read = stream.read(self.buffer.get_mut(filled..).unwrap_or_default())?;
            filled += read;
            let text = self.buffer.get(..filled).unwrap_or_default();
            let head = text.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            if read == 0 || (head.is_some() && !text.starts_with(b"HTTP/1.1 200 ")) {
                return Err(format!("{:?} got: {}", self.load, String::from_utf8_lossy(text)).into());
            }
            if head.is_some_and(|head| filled >= head + self.load.answers()) {
                break;
            }
        }
        if !matches!(self.load, Load::New | Load::Resumed) {
            self.open = Some(stream);
        }
        Ok(())
    }
}
