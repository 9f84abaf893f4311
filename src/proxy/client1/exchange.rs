//! One request on a connection, until its answer's head is there.
//!
//! The request is written and the answer read at once: an endpoint may answer before it has all of the body. When it
//! can no longer be written to, it is still listened to, because it may have said why before it closed (RFC 9112,
//! section 9.5).

use super::super::attempts::suspect;
use super::super::early::Early;
use super::super::transport;
use super::super::wire1::{Decoder, Framing, Malformed, Names, Scratch, Unwritten, may_end};
use super::answer::{self, Head, Keep, Parsed};
use super::send::Sending;
use super::{Connection, Stream};
use crate::observe::Reason;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::task::{Context, Poll};

/// What an answer's head may take, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// How many informational answers may come before the final one.
const MAX_INFORMATIONAL: u8 = 100;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Ended {
    /// The connection was gone before anything was written.
    Unused,
    /// It was closed before anything of an answer came.
    Silent,
    /// It was closed in the middle of the answer's head.
    Reset,
    /// What came is no answer.
    Malformed,
    /// The client's body broke off.
    Broken,
    /// The endpoint refused our certificate, or what it spoke was no TLS.
    Rejected,
}

impl Ended {
    pub(in crate::proxy) fn reason(self) -> Reason {
        match self {
            Self::Unused | Self::Silent | Self::Reset => Reason::UpstreamReset,
            Self::Malformed => Reason::UpstreamProtocol,
            Self::Broken => Reason::RequestIncomplete,
            Self::Rejected => Reason::UpstreamTls,
        }
    }
}

/// A request on its connection.
pub(in crate::proxy) struct Exchange {
    connection: Box<Connection>,
    /// The part of a head that came.
    partial: BytesMut,
    informational: u8,
    /// The endpoint takes no more.
    deaf: bool,
}

impl Exchange {
    pub(in crate::proxy) fn new(connection: Box<Connection>) -> Self {
        Self { connection, partial: BytesMut::new(), informational: 0, deaf: false }
    }

    /// The connection, which is at the answer's body now.
    pub(in crate::proxy) fn into_connection(self) -> Box<Connection> {
        self.connection
    }

    /// Goes on until the answer's head is there, and puts it at `place`.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
        sending: &mut Sending,
        early: Early<'_>,
        place: &mut Option<Head>,
    ) -> Poll<Result<(), Ended>> {
        loop {
            if !self.deaf {
                self.write(cx, sending)?;
            }
            match self.connection.poll_fill(cx, scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) if transport::rejected(&error) => return Poll::Ready(Err(Ended::Rejected)),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(self.over())),
                Poll::Ready(Ok(_)) => {}
            }
            match self.read(sending, early, &mut scratch.names.borrow_mut(), place) {
                Ok(Some((framing, Keep(keep)))) => {
                    self.connection.body = Decoder::new(framing);
                    self.connection.hurry();
                    self.connection.keep &= keep && !self.deaf;
                    return Poll::Ready(self.answered(sending, scratch, place.as_ref()));
                }
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Err(Ended::Malformed)),
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, sending: &mut Sending) -> Result<(), Ended> {
        let Stream::Whole(stream) = &mut self.connection.stream else { return Ok(()) };
        match sending.writer.poll(cx, stream) {
            Poll::Ready(Err(Unwritten::Broken)) => Err(Ended::Broken),
            Poll::Ready(Err(Unwritten::Closed)) if !sending.writer.begun => Err(Ended::Unused),
            Poll::Ready(Err(Unwritten::Closed)) => {
                self.deaf = true;
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn over(&self) -> Ended {
        if self.partial.is_empty() && self.informational == 0 { Ended::Silent } else { Ended::Reset }
    }

    /// Looks for the head in what was read.
    fn read(
        &mut self,
        sending: &mut Sending,
        early: Early<'_>,
        names: &mut Names,
        place: &mut Option<Head>,
    ) -> Result<Option<(Framing, Keep)>, Malformed> {
        let bytes = &mut self.connection.buf;
        if !self.partial.is_empty() {
            let seen = self.partial.len();
            self.partial.extend_from_slice(bytes);
            *bytes = Bytes::new();
            if !may_end(&self.partial, seen) {
                return if self.partial.len() > MAX_HEAD { Err(Malformed) } else { Ok(None) };
            }
            *bytes = self.partial.split().freeze();
        }
        if !bytes.is_empty()
            && let Some(lines) = &mut sending.lines
            && let (keep, Some(buffer)) = (sending.writer.whole(), sending.writer.spent())
        {
            // The request is out, and an answer there: the buffer serves that, or each request would hold two.
            lines.lend(buffer, keep);
        }
        while !bytes.is_empty() {
            let before = bytes.len();
            let parsed = answer::parse(bytes, &sending.method, &mut sending.spare, &mut sending.lines, names, place)?;
            if before - bytes.len() > MAX_HEAD {
                return Err(Malformed);
            }
            match parsed {
                Parsed::Final(framing, keep) => return Ok(Some((framing, keep))),
                Parsed::Informational(status) => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Err(Malformed);
                    }
                    let head = place.take();
                    if let Some(latch) = early.latch.filter(|_| status == StatusCode::CONTINUE) {
                        latch.open();
                    }
                    if let (Some(hints), Some(head)) = (early.hints, head) {
                        hints.give(head);
                    }
                }
                Parsed::Partial => {
                    self.partial.extend_from_slice(bytes);
                    *bytes = Bytes::new();
                }
            }
        }
        Ok(None)
    }

    fn answered(&mut self, sending: &mut Sending, scratch: &Scratch, head: Option<&Head>) -> Result<(), Ended> {
        if sending.writer.done() || self.deaf {
            if !sending.writer.whole() {
                scratch.recycle(std::mem::take(&mut sending.writer.out));
            }
        } else if head.is_some_and(|h| h.parts.status == StatusCode::SWITCHING_PROTOCOLS) {
            return Err(Ended::Malformed);
        } else if !(sending.writer.whole() && head.is_some_and(suspect)) {
            self.connection.detach(std::mem::take(sending));
        }
        // Whoever may send it again decides first (`attempts`), and has it detached then.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dialing;
    use super::super::super::server1::tests::core;
    use super::*;
    use crate::balance::EndpointId;
    use crate::config::Timeouts;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test(flavor = "local")]
    async fn a_head_whose_body_waits_for_that_is_acknowledged_at_once() {
        for framing in ["content-length: 5", "transfer-encoding: chunked", "connection: close"] {
            let (core, listener) = (core(), TcpListener::bind("127.0.0.1:0").await.unwrap());
            let address = listener.local_addr().unwrap();
            let (stream, open) = dialing::connect_to(&core, address, &Timeouts::default(), 0).await.unwrap();
            let (mut endpoint, _) = listener.accept().await.unwrap();
            stream.delay();
            assert!(!stream.acknowledges());
            let connection = Connection::new((stream, 0), EndpointId(1), Duration::ZERO, open);
            let mut exchange = Exchange::new(connection);
            endpoint.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
            let (mut sending, mut head) = (Sending::default(), None);
            std::future::poll_fn(|cx| exchange.poll(cx, &core.scratch, &mut sending, Early::default(), &mut head))
                .await
                .unwrap();
            let connection = exchange.into_connection();
            let Stream::Whole(stream) = &connection.stream else { panic!("{framing}: it is gone") };
            assert!(stream.acknowledges(), "{framing}");
        }
    }
}
