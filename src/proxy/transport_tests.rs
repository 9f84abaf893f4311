//! Secured connections between two sockets of this machine.

use super::*;
use crate::config::{ClusterTls, Identity, Protocol};
use crate::identity::Identities;
use crate::identity::ca::{Authority, Request};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// More than any socket's buffers hold.
const MUCH: usize = 24 << 20;

fn piece(at: usize) -> Vec<u8> {
    (at..(at + 50_000).min(MUCH)).map(|i| (i % 251) as u8).collect()
}

/// Both ends: who connects, and who accepts.
async fn pair() -> (Transport, Transport) {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("mesh".parse().unwrap()).unwrap();
    let issued = ca.issue(&Request::new("spiffe://mesh/a".parse().unwrap(), Duration::from_secs(60))).unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        Some(folder.path().join(name))
    };
    let identities = Arc::new(Identities::default());
    let identity = Identity {
        certificate: file("cert", &issued.certificate),
        key: file("key", &issued.key),
        bundle: file("bundle", ca.certificate()),
        ..Identity::default()
    };
    identities.configure(&identity).unwrap();
    let mesh = ClusterTls { identity: "mesh".parse().unwrap(), ..ClusterTls::default() };
    let secured = identities.dial(&mesh, Protocol::Http1).unwrap().secured().unwrap();
    let config = identities.current().unwrap().server.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let (address, until) = (near.peer_addr().unwrap(), Instant::now() + Duration::from_secs(60));
    let scratch = Rc::default();
    let near = connect(&identities.handshakes, &secured, address, near, until, &scratch);
    let (near, far) = tokio::join!(near, accept(config, far, Bytes::new(), &scratch));
    (near.unwrap(), far.unwrap())
}

/// Reads to the end, which is announced or not, and checks every byte.
async fn read_all(from: &mut Transport) -> (usize, io::Result<usize>) {
    let (mut at, mut block) = (0, vec![0; 64 << 10]);
    loop {
        match from.read(&mut block).await {
            Ok(read) if read > 0 => {
                assert!(block[..read].iter().enumerate().all(|(i, b)| *b == ((at + i) % 251) as u8), "at {at}");
                at += read;
            }
            end => return (at, end),
        }
    }
}

#[tokio::test]
async fn what_counts_as_written_arrives_although_the_connection_is_cut_right_after() {
    let (mut near, mut far) = pair().await;
    let writing = async move {
        let mut at = 0;
        while at < MUCH {
            at += near.write(&piece(at)).await.unwrap();
        }
        near.cut();
    };
    let (read, ()) = tokio::join!(read_all(&mut far), writing);
    assert_eq!(read.0, MUCH);
    assert_eq!(read.1.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "the end was not announced");
}

#[tokio::test]
async fn a_connection_that_is_closed_or_dropped_says_so() {
    for shut in [true, false] {
        let (mut near, mut far) = pair().await;
        near.write_all(&piece(0)).await.unwrap();
        if shut {
            near.shutdown().await.unwrap();
        }
        drop(near);
        let (read, end) = read_all(&mut far).await;
        assert_eq!((read, end.unwrap()), (50_000, 0));
    }
}

#[tokio::test]
async fn who_may_not_wait_writes_what_fits_and_nothing_twice() {
    let (mut near, mut far) = pair().await;
    let mut at = 0;
    while at < MUCH {
        match near.try_write(&piece(at)) {
            Ok(written) => at += written,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(at < MUCH, "nobody reads");
    let rest = async move {
        while at < MUCH {
            let piece = piece(at);
            // In two parts, as a head with its body.
            let parts = [io::IoSlice::new(&piece[..piece.len() / 2]), io::IoSlice::new(&piece[piece.len() / 2..])];
            at += std::future::poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &parts)).await.unwrap();
        }
    };
    let (read, ()) = tokio::join!(read_all(&mut far), rest);
    assert_eq!((read.0, read.1.unwrap()), (MUCH, 0));
}

#[tokio::test]
async fn a_connection_is_stale_once_something_came_that_nobody_asked_for() {
    for closes in [true, false] {
        let (mut near, mut far) = pair().await;
        assert!(!near.stale() && !far.stale());
        if closes {
            drop(far)
        } else {
            far.write_all(b"x").await.unwrap()
        }
        let since = std::time::Instant::now();
        while !near.stale() {
            assert!(since.elapsed() < Duration::from_secs(20));
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn two_may_read_and_write_one_connection() {
    let (near, mut far) = pair().await;
    let joint = near.joint();
    let mut writer = joint.clone();
    let writing = async move {
        let mut at = 0;
        while at < MUCH {
            at += writer.write(&piece(at)).await.unwrap();
        }
    };
    let reading = std::future::poll_fn(|cx| {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        joint.with(|stream| Pin::new(stream).poll_read(cx, &mut byte)).map(|read| read.map(|()| byte.filled().to_vec()))
    });
    let answering = async {
        let mut byte = [1];
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [0]);
        far.write_all(b"!").await.unwrap();
        let mut far = Joined { inner: &mut far, at: 1 };
        far.rest().await;
    };
    let (answer, (), ()) = tokio::join!(reading, writing, answering);
    assert_eq!(answer.unwrap(), b"!");
    assert!(joint.alone().is_some());
}

/// The rest of what is written, of which something was read.
struct Joined<'a> {
    inner: &'a mut Transport,
    at: usize,
}

impl Joined<'_> {
    async fn rest(&mut self) {
        let mut block = vec![0; 64 << 10];
        while self.at < MUCH {
            let read = self.inner.read(&mut block).await.unwrap();
            assert!(read > 0 && block[..read].iter().enumerate().all(|(i, b)| *b == ((self.at + i) % 251) as u8));
            self.at += read;
        }
    }
}
