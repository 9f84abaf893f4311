//! Agents that follow pods take turns: one keeps the sets, and the next one waits.
//!
//! While a DaemonSet is updated two of them run beside each other for a moment. The one that holds a name in the node's
//! network (an abstract Unix socket, which ends with its process however that ends) keeps the sets; one that comes later
//! connects to it and waits for the end of that connection. One that leaves and sees somebody wait leaves the sets to the
//! next; else it empties them. Only agents of the same user count: whoever else takes the name is named and passed over.

use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// The name.
const NAME: &str = "pathloom-capture";
/// The wait before the name is tried again that somebody had a moment ago.
const AGAIN: Duration = Duration::from_millis(50);
/// How often it is tried.
const TRIES: usize = 20;

/// The right to keep the sets.
#[derive(Debug)]
pub struct Turn(Option<UnixListener>);

/// Who has the right.
#[derive(Debug)]
pub enum Tried {
    /// This one.
    Mine(Turn),
    /// Another one: this ends when that one ends.
    Others(Wait),
}

/// The connection to the one who has it.
#[derive(Debug)]
pub struct Wait(UnixStream);

impl Turn {
    /// Takes the right, where nobody has it. Call it on a runtime.
    ///
    /// # Errors
    /// When the system has no sockets to give.
    pub async fn take() -> io::Result<Tried> {
        Self::take_named(NAME).await
    }

    async fn take_named(name: &str) -> io::Result<Tried> {
        let address = SocketAddr::from_abstract_name(name)?;
        for _ in 0..TRIES {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    return Ok(Tried::Mine(Self(Some(listener))));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
            match UnixStream::connect_addr(&address) {
                Ok(stream) if is_ours(&stream) => return Ok(Tried::Others(Wait(stream))),
                Ok(_) => break,
                // It went between the two questions.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
        tracing::warn!(
            name,
            "somebody else's process has the name by which agents take turns: two agents on this node would not know of \
             each other"
        );
        Ok(Tried::Mine(Self(None)))
    }

    /// Whether somebody waits for the right.
    #[must_use]
    pub fn somebody_waits(&self) -> bool {
        let Some(listener) = &self.0 else { return false };
        // As long as the connection is there so is whoever made it.
        let waits = |mut stream: UnixStream| {
            let told = stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0]));
            told.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        std::iter::from_fn(|| listener.accept().ok()).any(|(stream, _)| is_ours(&stream) && waits(stream))
    }
}

impl Wait {
    /// Waits until the one who has the right ends, or gives it up. Call it on a runtime.
    ///
    /// # Errors
    /// When the system has no means to wait.
    pub async fn until_it_ends(self) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(self.0)?;
        // Nothing is ever said.
        let _ = stream.read(&mut [0]).await;
        Ok(())
    }
}

/// Whether the process at the other end is of the same user.
fn is_ours(stream: &UnixStream) -> bool {
    let theirs = rustix::net::sockopt::socket_peercred(stream);
    theirs.is_ok_and(|theirs| theirs.uid == rustix::process::geteuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn turn(name: &str) -> Turn {
        match Turn::take_named(name).await.unwrap() {
            Tried::Mine(turn) => turn,
            Tried::Others(_) => panic!("somebody has it"),
        }
    }

    async fn wait(name: &str) -> Wait {
        match Turn::take_named(name).await.unwrap() {
            Tried::Mine(_) => panic!("nobody has it"),
            Tried::Others(wait) => wait,
        }
    }

    #[tokio::test]
    async fn the_next_one_waits_for_the_end_of_the_first_who_sees_it_wait() {
        let name = format!("pathloom-test-turns-{}", std::process::id());
        let first = turn(&name).await;
        assert!(!first.somebody_waits());
        let next = wait(&name).await;
        assert!(first.somebody_waits());
        let waiting = tokio::spawn(next.until_it_ends());
        drop(first);
        waiting.await.unwrap().unwrap();
        // Who gave up waiting does not count.
        let second = turn(&name).await;
        drop(wait(&name).await);
        assert!(!second.somebody_waits());
        let patient = wait(&name).await;
        drop(wait(&name).await);
        assert!(second.somebody_waits());
        drop(patient);
    }
}
