//! An agent that says what it is told to, right or wrong: HTTP/2 over a Unix socket, frame by frame.

use super::super::wire::X509SvidResponse;
use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is said on each call, and again whenever it is something else.
#[derive(Clone)]
pub enum Says {
    /// Nothing at all, and it goes on listening.
    Nothing,
    /// An answer.
    Answer(X509SvidResponse),
    /// These bytes of a body.
    Bytes(Vec<u8>),
    /// A status, with its words.
    Status(u32, &'static str),
    /// It closes the connection.
    Closes,
    /// It neither reads nor writes any more.
    Deaf,
}

/// The agent. It goes when it is dropped, and its connections with it.
pub struct Scripted {
    pub says: watch::Sender<Says>,
    pub calls: Arc<Mutex<Vec<Request<()>>>>,
    _serving: JoinSet<()>,
}

/// Where agents of a test are.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Scripted {
    /// Listens, in the place of whoever did before.
    pub fn start(socket: &Path, says: Says) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (says, heard) = watch::channel(says);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let kept = calls.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, heard.clone(), kept.clone()));
            }
        });
        Self { says, calls, _serving: serving }
    }

    pub fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

async fn converse(stream: UnixStream, mut says: watch::Receiver<Says>, calls: Arc<Mutex<Vec<Request<()>>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let Some(Ok((request, respond))) = connection.accept().await else { return };
    calls.lock().unwrap().push(request.map(drop));
    let mut answer = Answer { respond, body: None };
    loop {
        let said = says.borrow_and_update().clone();
        match said {
            Says::Nothing => {}
            Says::Answer(message) => answer.data(framed(&message)),
            Says::Bytes(bytes) => answer.data(bytes.into()),
            Says::Status(code, words) => answer.end(code, words),
            Says::Closes => return,
            Says::Deaf => std::future::pending().await,
        }
        tokio::select! {
            more = connection.accept() => if more.is_none() { return },
            changed = says.changed() => if changed.is_err() { return },
        }
    }
}

/// A message with the five bytes before it.
pub fn framed(message: &X509SvidResponse) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(encoded.len().try_into().unwrap());
    framed.put_slice(&encoded);
    framed.freeze()
}

struct Answer {
    respond: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
}

impl Answer {
    fn head() -> Response<()> {
        Response::builder().header("content-type", "application/grpc").body(()).unwrap()
    }

    fn data(&mut self, bytes: Bytes) {
        let respond = &mut self.respond;
        let body = self.body.get_or_insert_with(|| respond.send_response(Self::head(), false).unwrap());
        let _ = body.send_data(bytes, false);
    }

    fn end(&mut self, code: u32, words: &'static str) {
        let mut status = HeaderMap::new();
        status.insert("grpc-status", code.into());
        status.insert("grpc-message", words.parse().unwrap());
        match &mut self.body {
            Some(body) => drop(body.send_trailers(status)),
            None => {
                let mut head = Self::head();
                head.headers_mut().extend(status);
                drop(self.respond.send_response(head, true));
            }
        }
    }
}
