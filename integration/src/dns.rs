//! A DNS server that does what a test says: answers, lies, fails, or says nothing; by UDP and by TCP, on one port.
//!
//! It reads a question as RFC 1035 writes it (section 4.1) and writes the answer by hand, since what it has to be able to
//! write is just what a library for DNS servers would refuse to.

use crate::ports;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A record's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An A or AAAA record, whichever the address is.
    Address(IpAddr),
    /// An SRV record: priority, weight, port, target.
    Srv(u16, u16, u16, String),
}

impl Data {
    fn kind(&self) -> u16 {
        match self {
            Self::Address(IpAddr::V4(_)) => A,
            Self::Address(IpAddr::V6(_)) => AAAA,
            Self::Srv(..) => SRV,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Self::Address(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Self::Srv(priority, weight, port, target) => {
                let mut bytes: Vec<u8> = [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                bytes.extend(name(target));
                bytes
            }
        }
    }
}

/// What the server does with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Records with a TTL in seconds; of those the kind that is asked for.
    Records(Vec<Data>, u32),
    /// There is no such name (NXDOMAIN), for so many seconds.
    NoSuchName(u32),
    /// The server cannot answer (SERVFAIL).
    Failure,
    /// Nothing at all.
    Silence,
    /// Bytes that are no DNS.
    Garbage,
    /// The records, in an answer to another question's number.
    OtherId(Vec<Data>),
    /// The records, as another name's.
    OtherName(Vec<Data>),
    /// The records, by TCP only: by UDP it says that there is more than fits.
    TooLong(Vec<Data>, u32),
}

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What it does, and what it was asked.
#[derive(Debug, Default)]
struct Script {
    replies: Mutex<BTreeMap<String, Reply>>,
    /// How often each name was asked for, and how often by TCP.
    asked: Mutex<BTreeMap<String, (usize, usize)>>,
}

/// A running server.
#[derive(Debug)]
pub struct DnsServer {
    /// Where it listens.
    pub address: SocketAddr,
    script: Arc<Script>,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Starts one for which no name exists.
    ///
    /// # Panics
    /// When no port is free for both UDP and TCP.
    pub async fn start() -> Self {
        let script = Arc::new(Script::default());
        for _ in 0..20 {
            let address = ports::free(ports::own_ip(2));
            if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address).await, TcpListener::bind(address).await) {
                let mut server = Self { address, script, tasks: JoinSet::new() };
                server.serve(udp, tcp);
                return server;
            }
        }
        panic!("no port for UDP and TCP");
    }

    fn serve(&mut self, udp: UdpSocket, tcp: TcpListener) {
        let script = self.script.clone();
        self.tasks.spawn(async move {
            let mut question = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut question).await {
                if let Some(answer) = script.answer(&question[..length], false) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let script = self.script.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                connections.spawn(serve_tcp(stream, script.clone()));
            }
        });
    }

    /// From now on the name is answered like this, whatever is asked of it.
    pub fn says(&self, name: &str, reply: Reply) {
        self.script.replies.lock().unwrap().insert(name.to_ascii_lowercase(), reply);
    }

    /// From now on the name has these addresses.
    pub fn has(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>, ttl_s: u32) {
        self.says(name, Reply::Records(addresses.into_iter().map(Data::Address).collect(), ttl_s));
    }

    /// How often a name was asked for.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        self.script.asked.lock().unwrap().get(name).map_or(0, |asked| asked.0)
    }

    /// How often of these by TCP.
    #[must_use]
    pub fn asked_by_tcp(&self, name: &str) -> usize {
        self.script.asked.lock().unwrap().get(name).map_or(0, |asked| asked.1)
    }

    /// Goes away: nobody listens any more.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again where it did before.
    ///
    /// # Panics
    /// When somebody else took the port.
    pub async fn start_again(&mut self) {
        let udp = UdpSocket::bind(self.address).await.expect("its own port again");
        let tcp = TcpListener::bind(self.address).await.expect("its own port again");
        self.serve(udp, tcp);
    }
}

/// Questions and answers on a connection, each after its length.
async fn serve_tcp(mut stream: TcpStream, script: Arc<Script>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some(answer) = script.answer(&question, true) else { continue };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

impl Script {
    fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let asked = Question::read(question)?;
        {
            let mut count = self.asked.lock().unwrap();
            let count = count.entry(asked.name.clone()).or_default();
            count.0 += 1;
            count.1 += usize::from(tcp);
        }
        let reply = self.replies.lock().unwrap().get(&asked.name).cloned().unwrap_or(Reply::NoSuchName(1));
        match reply {
            Reply::Records(data, ttl) => Some(asked.records(&data, ttl)),
            Reply::NoSuchName(ttl) => Some(asked.nothing(3, ttl)),
            Reply::Failure => Some(asked.head(2, false, 0, 0)),
            Reply::Silence => None,
            Reply::Garbage => Some(vec![0xff; 40]),
            Reply::OtherId(data) => {
                let mut answer = asked.records(&data, 60);
                answer[0] ^= 0x55;
                Some(answer)
            }
            Reply::OtherName(data) => {
                let other = Question {
                    raw: [name("evil.example"), asked.raw[asked.raw.len() - 4..].to_vec()].concat(),
                    ..asked
                };
                Some(other.records(&data, 60))
            }
            Reply::TooLong(_, _) if !tcp => Some(asked.head(0, true, 0, 0)),
            Reply::TooLong(data, ttl) => Some(asked.records(&data, ttl)),
        }
    }
}

/// A name as it goes over the wire.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// The question as it was asked: name, kind, class.
    raw: Vec<u8>,
}

impl Question {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
        let raw = bytes.get(12..at + 4)?.to_vec();
        Some(Self { id: [bytes[0], bytes[1]], name: labels.join("."), kind, raw })
    }

    /// The answer's head and the question; records follow.
    fn head(&self, code: u8, cut: bool, answers: u16, authorities: u16) -> Vec<u8> {
        let mut out = self.id.to_vec();
        // An answer; authoritative; recursion was wanted and is available.
        out.extend([0x85 | if cut { 0x02 } else { 0 }, 0x80 | code]);
        out.extend([1, answers, authorities, 0].iter().flat_map(|count: &u16| count.to_be_bytes()));
        out.extend(&self.raw);
        out
    }

    /// Those records that are of the kind; where there are none, that there are none.
    fn records(&self, data: &[Data], ttl: u32) -> Vec<u8> {
        let of_kind: Vec<&Data> = data.iter().filter(|d| d.kind() == self.kind).collect();
        if of_kind.is_empty() {
            return self.nothing(0, ttl);
        }
        let mut out = self.head(0, false, of_kind.len() as u16, 0);
        for data in of_kind {
            let bytes = data.bytes();
            // The name is that of the question, at byte 12.
            out.extend([0xc0, 12]);
            out.extend(self.kind.to_be_bytes());
            out.extend(1u16.to_be_bytes());
            out.extend(ttl.to_be_bytes());
            out.extend((bytes.len() as u16).to_be_bytes());
            out.extend(bytes);
        }
        out
    }

    /// No records, and an SOA record that says for how long.
    fn nothing(&self, code: u8, ttl: u32) -> Vec<u8> {
        let mut out = self.head(code, false, 0, 1);
        let mut soa = [name("ns.test"), name("admin.test")].concat();
        soa.extend([1, 60, 60, 60, ttl].iter().flat_map(|n: &u32| n.to_be_bytes()));
        out.extend(name("test"));
        out.extend(SOA.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend((soa.len() as u16).to_be_bytes());
        out.extend(soa);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(name("Catalog.Test"));
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1u16.to_be_bytes());
        bytes
    }

    #[test]
    fn a_question_is_answered_as_scripted() {
        let script = Script::default();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        script.replies.lock().unwrap().insert("catalog.test".to_owned(), Reply::Records(vec![Data::Address(ip)], 7));
        let answer = script.answer(&question(A), false).unwrap();
        assert_eq!((&answer[..2], answer[3] & 0x0f, answer[7]), (&[0xab, 0xcd][..], 0, 1));
        assert!(answer.ends_with(&[0, 0, 0, 7, 0, 4, 10, 0, 0, 1]));
        let none = script.answer(&question(AAAA), true).unwrap();
        assert_eq!((none[3] & 0x0f, none[7], none[9]), (0, 0, 1), "no records, and who says so");
        assert_eq!(script.asked.lock().unwrap()["catalog.test"], (2, 1));
    }
}
