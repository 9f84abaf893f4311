//! Listening sockets that go from a process to the one that takes its place, so that no connection is refused between.
//!
//! ```text
//! the next process                       this one, at its Unix socket
//!   pathloom-handover 1    ---------->
//!                          <----------   the sockets and their names, some at a time; then a line `end`
//!   (binds what is missing, serves)
//!   serving                ---------->   leaves: closes its sockets, finishes what is under way
//! ```
//! The next process asks, and says when it serves. Until then this one goes on as before, so that a next process which
//! cannot start (a wrong configuration, a binary that crashes) changes nothing. Meanwhile both accept.
//!
//! Pingora has such a hand-over too. It passes on at most 32 sockets, which is one listener on a large machine; the old
//! process leaves whether or not the new one came up; and everybody may write to its socket. Here only the same user
//! is heard.

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt::socket_peercred,
};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const HELLO: &str = "pathloom-handover 1\n";
const SERVING: &str = "serving\n";
/// A line that ends the list. No socket has this name.
const END: &str = "end\n";
/// How many sockets go in one message; the kernel takes 253.
const AT_ONCE: usize = 64;
/// A name's longest, in bytes: an address and a number.
const LONGEST_NAME: usize = 128;
/// How long the other process may take to say the next thing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the next process may take until it serves.
const START: Duration = Duration::from_secs(60);

/// Sockets by their names: `ADDRESS#NUMBER` for listeners, and what the process adds.
pub type Sockets = BTreeMap<String, OwnedFd>;

/// What went wrong between two processes.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}", .path.display())]
pub struct HandoverError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> HandoverError {
    move |source| HandoverError { doing, path: path.to_owned(), source }
}

/// What another process gave.
#[derive(Debug)]
pub struct Taken {
    /// Its sockets.
    pub sockets: Sockets,
    stream: UnixStream,
}

impl Taken {
    /// Tells the other process that this one serves: it leaves then.
    ///
    /// # Errors
    /// When it is gone; then there is nobody left to tell.
    pub fn serving(mut self) -> io::Result<()> {
        self.stream.write_all(SERVING.as_bytes())
    }
}

/// Asks the process that listens at `path` for its sockets. `None` when there is no such process.
///
/// # Errors
/// When there is one and it does not give them: it serves on then, and starting beside it would take half of its
/// connections.
pub fn take(path: &Path) -> Result<Option<Taken>, HandoverError> {
    let failed = failed("cannot take over the sockets of the process at", path);
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let asked = (|| {
        stream.set_read_timeout(Some(PATIENCE))?;
        same_user(&stream)?;
        stream.write_all(HELLO.as_bytes())?;
        receive(&stream)
    })();
    asked.map(|sockets| Some(Taken { sockets, stream })).map_err(failed)
}

/// A place where the next process can ask.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    path: PathBuf,
}

impl Offer {
    /// Opens the place. Call it when the process before has been told that this one serves: its place is taken away.
    ///
    /// # Errors
    /// When the path cannot be had.
    pub fn open(path: &Path) -> Result<Self, HandoverError> {
        let failed = failed("cannot offer the sockets to a next process at", path);
        let opened = (|| {
            match std::fs::symlink_metadata(path) {
                Ok(there) if !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
                }
                Ok(_) => std::fs::remove_file(path)?,
                Err(_) => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        })();
        opened.map(|listener| Self { listener, path: path.to_owned() }).map_err(failed)
    }

    /// Waits for a process that asks, gives it the `sockets`, and returns once it serves. One that does not come so far
    /// is told to the log. Blocks: for a thread of its own.
    pub fn wait(self, sockets: impl Fn() -> Sockets) {
        for asking in self.listener.incoming() {
            match asking.and_then(|stream| give(stream, &sockets())) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "a next process did not come up; this one serves on");
                }
            }
        }
    }
}

fn give(mut stream: UnixStream, sockets: &Sockets) -> io::Result<()> {
    same_user(&stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    expect(&mut stream, HELLO)?;
    send(&stream, sockets)?;
    stream.set_read_timeout(Some(START))?;
    expect(&mut stream, SERVING)
}

/// Reads what must come, and nothing else.
fn expect(stream: &mut UnixStream, what: &str) -> io::Result<()> {
    let mut said = vec![0; what.len()];
    stream.read_exact(&mut said)?;
    if said == what.as_bytes() { Ok(()) } else { Err(invalid("the other process speaks another version of this")) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn same_user(stream: &UnixStream) -> io::Result<()> {
    let (theirs, ours) = (socket_peercred(stream)?.uid, rustix::process::geteuid());
    if theirs == ours || theirs.is_root() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other process belongs to another user"))
}

/// Each message holds names, a line each, and as many sockets.
fn send(stream: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let all: Vec<(&String, BorrowedFd<'_>)> = sockets.iter().map(|(name, socket)| (name, socket.as_fd())).collect();
    for some in all.chunks(AT_ONCE) {
        let names: String = some.iter().map(|(name, _)| format!("{name}\n")).collect();
        let numbers: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| *socket).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&numbers)) {
            return Err(io::Error::other("the sockets do not fit into a message"));
        }
        let sent =
            retry_on_intr(|| sendmsg(stream, &[IoSlice::new(names.as_bytes())], &mut control, SendFlags::NOSIGNAL))?;
        // The sockets went with the first byte.
        (&mut &*stream).write_all(names.as_bytes().get(sent..).unwrap_or_default())?;
    }
    (&mut &*stream).write_all(END.as_bytes())
}

fn receive(stream: &UnixStream) -> io::Result<Sockets> {
    let (mut text, mut numbers) = (Vec::new(), Vec::new());
    while !text.ends_with(END.as_bytes()) {
        let mut bytes = [0; AT_ONCE * LONGEST_NAME];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = retry_on_intr(|| {
            recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                numbers.extend(sockets);
            }
        }
        if read.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process broke off"));
        }
        text.extend_from_slice(bytes.get(..read.bytes).unwrap_or_default());
    }
    let names: Vec<String> = BufReader::new(text.as_slice()).lines().collect::<io::Result<_>>()?;
    let names = names.split_last().map_or([].as_slice(), |(_, names)| names);
    if names.len() != numbers.len() {
        return Err(invalid("the other process gave other sockets than it named"));
    }
    Ok(names.iter().cloned().zip(numbers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    fn listeners(count: usize) -> (Vec<TcpListener>, impl Fn() -> Sockets) {
        let all: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let kept: Vec<_> = all.iter().map(|l| l.try_clone().unwrap()).collect();
        let give =
            move || kept.iter().enumerate().map(|(i, l)| (format!("l#{i}"), l.try_clone().unwrap().into())).collect();
        (all, give)
    }

    #[test]
    fn any_number_of_sockets_arrives_under_its_names_and_serves() {
        for count in [0, 1, AT_ONCE, 3 * AT_ONCE + 1] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("handover.sock");
            assert!(take(&path).unwrap().is_none(), "nobody is there yet");
            let (before, give) = listeners(count);
            let offer = Offer::open(&path).unwrap();
            let waiting = thread::spawn(move || offer.wait(give));
            let mut taken = take(&path).unwrap().unwrap();
            let sockets = std::mem::take(&mut taken.sockets);
            assert_eq!(sockets.len(), count);
            taken.serving().unwrap();
            waiting.join().unwrap();
            for (i, listener) in before.iter().enumerate() {
                let inherited = TcpListener::from(sockets[&format!("l#{i}")].try_clone().unwrap());
                assert_eq!(inherited.local_addr().unwrap(), listener.local_addr().unwrap());
            }
            if let Some(first) = before.first() {
                let address = first.local_addr().unwrap();
                drop(before);
                let client = TcpStream::connect(address).unwrap();
                let inherited = TcpListener::from(sockets["l#0"].try_clone().unwrap());
                assert_eq!(inherited.accept().unwrap().1, client.local_addr().unwrap());
            }
            assert!(take(&path).unwrap().is_none(), "a place that nobody looks after is no process");
        }
    }

    #[test]
    fn a_process_that_does_not_come_up_or_speaks_another_language_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.sock");
        let (before, give) = listeners(2);
        let offer = Offer::open(&path).unwrap();
        let waiting = thread::spawn(move || offer.wait(give));
        drop(take(&path).unwrap().unwrap());
        let mut other = UnixStream::connect(&path).unwrap();
        other.write_all(b"pathloom-handover 9\n").unwrap();
        let mut said = String::new();
        assert!(matches!(other.read_to_string(&mut said), Ok(0) | Err(_)), "{said}");
        assert!(!waiting.is_finished());
        drop(before);
        take(&path).unwrap().unwrap().serving().unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn the_place_is_for_this_user_alone_and_no_file_is_lost_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.sock");
        let offer = Offer::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(offer);
        drop(Offer::open(&path).unwrap());
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "data").unwrap();
        let error = Offer::open(&precious).unwrap_err().to_string();
        assert!(error.contains("precious: there is a file that is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "data");
    }

    #[test]
    fn who_answers_with_nonsense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.sock");
        for answer in ["", "l#0\nend\n", "half"] {
            let listener = UnixListener::bind(&path).unwrap();
            let answering = thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                stream.write_all(answer.as_bytes()).unwrap();
                let mut hello = vec![0; HELLO.len()];
                stream.read_exact(&mut hello).unwrap();
            });
            let error = take(&path).unwrap_err().to_string();
            assert!(error.starts_with("cannot take over the sockets of the process at "), "{error}");
            answering.join().unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }
}
