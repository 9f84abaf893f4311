//! The least that a proxy can do on tokio: one thread, httparse, a read and a write in each direction.
//!
//! Each client's connection has an upstream connection of its own, by turns over the endpoints. Heads pass on as they
//! came; a body is as long as `content-length` says. No route, no pool, no limit, no header of its own, no statistics:
//! nobody should run it. What a proxy costs above this is what its features cost.

use crate::Fallible;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BUFFER: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

#[derive(clap::Args, Debug)]
pub struct Options {
    #[arg(long)]
    listen: SocketAddr,
    /// The endpoints.
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
}

/// Serves until it is killed.
///
/// # Errors
/// When it cannot listen.
pub fn run(options: &Options) -> Fallible<()> {
    crate::process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = tokio::task::LocalSet::new();
    let (turn, to) = (Rc::new(Cell::new(0_usize)), Rc::new(options.to.clone()));
    local.block_on(&runtime, async move {
        let listener = TcpListener::bind(options.listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            let (turn, to) = (turn.clone(), to.clone());
            tokio::task::spawn_local(async move {
                turn.set(turn.get().wrapping_add(1));
                if let Some(address) = to.get(turn.get() % to.len()) {
                    // A connection that breaks has ended; there is nobody to tell.
                    let _ = relay(client, *address).await;
                }
            });
        }
    })
}

async fn relay(mut client: TcpStream, address: SocketAddr) -> Fallible<()> {
    let mut upstream = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        if !pass(&mut client, &mut upstream, &mut buffer, request).await? {
            return Ok(());
        }
        pass(&mut upstream, &mut client, &mut buffer, response).await?;
    }
}

/// A head's length and its body's, once the head is whole.
type Parsed = Fallible<Option<(usize, u64)>>;

/// Passes one message on; false when there was none.
async fn pass(
    from: &mut TcpStream,
    to: &mut TcpStream,
    buffer: &mut [u8],
    parse: fn(&[u8]) -> Parsed,
) -> Fallible<bool> {
    let mut filled = 0;
    let (head, body) = loop {
        let read = from.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        if read == 0 {
            return Ok(false);
        }
        filled += read;
        if let Some(parsed) = parse(buffer.get(..filled).unwrap_or_default())? {
            break parsed;
        }
    };
    to.write_all(buffer.get(..filled).unwrap_or_default()).await?;
    let mut left = (head as u64 + body).checked_sub(filled as u64).ok_or("more than one message")?;
    while left > 0 {
        let read = from.read(buffer).await?;
        if read == 0 {
            return Err("an incomplete body".into());
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        left = left.checked_sub(read as u64).ok_or("more than one message")?;
    }
    Ok(true)
}

fn request(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    Ok(Some((length, body(request.headers)?)))
}

fn response(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
    Ok(Some((length, body(response.headers)?)))
}

fn body(headers: &[httparse::Header<'_>]) -> Fallible<u64> {
    match headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length")) {
        Some(header) => Ok(std::str::from_utf8(header.value)?.parse()?),
        None => Ok(0),
    }
}
