//! One instance of a service, as a process of its own, which behaves as its standard input says.
//!
//! It speaks HTTP/1.1 and HTTP/2 and answers any request after `?ms` milliseconds with `?size` bytes of the pattern, its name
//! and the request's id; a request's body is read and checked against the pattern. `/healthz` says that it is well.
//!
//! | a line | from then on |
//! | --- | --- |
//! | `ok` | as above |
//! | `hang` | it takes connections, and neither reads nor writes |
//! | `reset` | a connection on which a request comes is reset |
//! | `garbage` | what it writes is noise |
//! | `trickle` | the head comes at once, the body a few bytes at a time |
//! | `status N` | requests get this status, at once; health checks, too, where N is 503 |
//! | `slow MS` | every request takes so much longer |
//! | `leave` | it closes its listener, finishes what is under way, and ends |
//!
//! It ends with its standard input, so that none outlives whoever started it.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use pathloom_integration::BoxError;
use pathloom_integration::body::{self, Body};
use pathloom_integration::client::{ENDPOINT, TEST_ID};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

/// How often whoever hangs looks whether it still should.
const LOOK: Duration = Duration::from_millis(20);
/// How a body trickles: so many bytes, so far apart.
const DROP: (usize, Duration) = (8, Duration::from_millis(200));

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    Ok,
    /// Connections are taken, nothing more.
    Hang,
    /// Connections with a request are reset.
    Reset,
    /// Noise.
    Garbage,
    /// Bodies trickle.
    Trickle,
    /// Each request gets this.
    Status(u16),
    /// Each takes so many milliseconds more.
    Slow(u64),
    /// It leaves.
    Leave,
}

impl Mode {
    /// The line that says so.
    #[must_use]
    pub fn line(self) -> String {
        match self {
            Self::Ok => "ok".to_owned(),
            Self::Hang => "hang".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Garbage => "garbage".to_owned(),
            Self::Trickle => "trickle".to_owned(),
            Self::Status(status) => format!("status {status}"),
            Self::Slow(ms) => format!("slow {ms}"),
            Self::Leave => "leave".to_owned(),
        }
    }

    fn of(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "ok" => Self::Ok,
            "hang" => Self::Hang,
            "reset" => Self::Reset,
            "garbage" => Self::Garbage,
            "trickle" => Self::Trickle,
            "status" => Self::Status(rest.parse().ok()?),
            "slow" => Self::Slow(rest.parse().ok()?),
            "leave" => Self::Leave,
            _ => return None,
        })
    }
}

struct State {
    name: HeaderValue,
    mode: Cell<Mode>,
    leave: Notify,
}

/// Serves until it is told to leave.
///
/// # Panics
/// When it cannot listen, or is told what it does not understand.
pub async fn serve(listen: SocketAddr, name: &str) {
    let name = HeaderValue::from_str(name).expect("a name");
    let state = Rc::new(State { name, mode: Cell::new(Mode::Ok), leave: Notify::new() });
    let listener = TcpListener::bind(listen).await.expect("its own address");
    let mut lines = lines();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => {
                    let mode = Mode::of(&line).unwrap_or_else(|| panic!("what is `{line}`?"));
                    state.mode.set(mode);
                    if mode == Mode::Leave {
                        break;
                    }
                }
                None => return,
            },
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let _ = stream.set_nodelay(true);
                    connections.spawn_local(converse(stream, state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    state.leave.notify_waiters();
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(10), finished).await;
}

/// The lines of standard input, until it ends.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn converse(stream: TcpStream, state: Rc<State>) {
    let mut builder = auto::Builder::new(Local);
    builder.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let asked = state.clone();
    let service = service_fn(move |request| answer(asked.clone(), request));
    let io = TokioIo::new(Troubled { stream, state: state.clone(), wait: None });
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    tokio::select! {
        // How a connection ends is the caller's business.
        ended = connection.as_mut() => return drop(ended),
        () = state.leave.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Tasks of this one thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn answer(state: Rc<State>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked = |key: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok()).unwrap_or(0)
    };
    let health = request.uri().path() == "/healthz";
    let id = request.headers().get(TEST_ID).cloned();
    let mut took = state.mode.get();
    let (checked, _, broken) = body::drain(request.into_body()).await;
    if let Some(error) = broken {
        return Err(error);
    }
    let slower = if let Mode::Slow(ms) = took { ms } else { 0 };
    let refused = match took {
        Mode::Status(503) => Some(503),
        Mode::Status(status) if !health => Some(status),
        _ => None,
    };
    let wait = if refused.is_some() { 0 } else { asked("ms") + slower };
    if wait > 0 {
        sleep(Duration::from_millis(wait)).await;
    }
    if health {
        took = Mode::Ok;
    }
    let size = asked("size");
    let (status, body) = match (refused, checked.wrong_at, took) {
        (Some(status), ..) => (StatusCode::from_u16(status)?, body::full("no\n")),
        (None, Some(at), _) => (StatusCode::UNPROCESSABLE_ENTITY, body::full(format!("wrong at {at}\n"))),
        (None, None, Mode::Trickle) => (StatusCode::OK, trickle(size)),
        (None, None, _) => (StatusCode::OK, body::patterned(size)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(ENDPOINT, state.name.clone());
    response.headers_mut().insert("x-taken", HeaderValue::from(checked.length));
    if let Some(id) = id {
        response.headers_mut().insert(TEST_ID, id);
    }
    Ok(response)
}

fn trickle(size: u64) -> Body {
    let (drop, apart) = DROP;
    body::streamed(
        futures_util::stream::unfold(0, move |sent| async move {
            if sent >= size {
                return None;
            }
            sleep(apart).await;
            let piece: Bytes = body::piece(sent, (size - sent).min(drop as u64));
            let next = sent + piece.len() as u64;
            Some((Ok(Frame::data(piece)), next))
        })
        .boxed(),
    )
}

/// A connection that does to its bytes what the mode says.
struct Troubled {
    stream: TcpStream,
    state: Rc<State>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Troubled {
    /// Waits for as long as it should hang.
    fn hang(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.state.mode.get() == Mode::Hang {
            ready!(self.wait.get_or_insert_with(|| Box::pin(sleep(LOOK))).as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    fn reset(&self) -> io::Error {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for Troubled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.hang(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        match self.state.mode.get() {
            Mode::Reset if buf.filled().len() > before => Poll::Ready(Err(self.reset())),
            // What came while it began to hang is as good as not read.
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Troubled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.hang(cx));
        match self.state.mode.get() {
            Mode::Reset => Poll::Ready(Err(self.reset())),
            Mode::Garbage => Pin::new(&mut self.stream).poll_write(cx, &body::piece(7, buf.len() as u64)),
            _ => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
