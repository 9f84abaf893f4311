//! Questions to DNS servers, by hickory.
//!
//! Nothing is cached here: the source asks when the TTL is over and never before. The system's configuration
//! (`/etc/resolv.conf` with its search list, `/etc/hosts`) is read anew after a failure, so that a machine that moved to
//! another network finds its servers. A name that is asked of `nameservers` is taken as it is written.

use super::Fault;
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long one server may take to answer before it is asked again, or another one is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each is asked.
const ATTEMPTS: usize = 2;
/// How long the answer to one question may take in all, with every server of the list and every name of the search list.
const MAX_PATIENCE: Duration = Duration::from_secs(15);

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones come first.
    pub priority: u16,
    /// Its share of the requests, relative to others of its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The name that the service has addresses under.
    pub target: String,
}

/// What a question came to.
#[derive(Debug, Clone)]
pub enum Answer<T> {
    /// Records, at least one, and how long they hold.
    Records(Vec<T>, Duration),
    /// That there are none, and for how long there are none, where the server says so.
    Nothing(Fault, Option<Duration>),
    /// Nothing that could be understood.
    Failed(Fault, String),
}

/// Whoever answers.
#[async_trait]
pub trait Asked: Send + Sync {
    /// The addresses of a name.
    async fn addresses(&self, name: &str, family: Family) -> Answer<IpAddr>;
    /// The SRV records of a name.
    async fn services(&self, name: &str) -> Answer<Srv>;
}

/// DNS servers.
pub struct Hickory {
    /// Those of the system when empty.
    nameservers: Vec<SocketAddr>,
    /// Made when it is needed, and again after a failure.
    resolver: Mutex<Option<TokioResolver>>,
}

impl Hickory {
    pub fn new(nameservers: Vec<SocketAddr>) -> Self {
        Self { nameservers, resolver: Mutex::default() }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut kept = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*kept {
            return Ok(resolver.clone());
        }
        let mut builder = if self.nameservers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.nameservers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        (options.cache_size, options.timeout, options.attempts) = (0, PATIENCE, ATTEMPTS);
        if !self.nameservers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let resolver = builder.build()?;
        *kept = Some(resolver.clone());
        Ok(resolver)
    }

    /// The records of one kind that a name has.
    async fn ask<T>(&self, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Answer<T> {
        let name =
            if self.nameservers.is_empty() || name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let asked = async { self.resolver()?.lookup(name.as_str(), kind).await };
        let answer = tokio::time::timeout(MAX_PATIENCE, asked).await.unwrap_or(Err(NetError::Timeout));
        match answer {
            Ok(lookup) => {
                let answers = || lookup.answers().iter();
                let records: Vec<T> = answers().filter_map(|record| read(&record.data)).collect();
                // Of a chain of names the first that is too old ends it.
                let ttl = answers().map(|record: &Record| record.ttl).min().unwrap_or_default();
                if records.is_empty() {
                    return Answer::Nothing(Fault::NoRecords, None);
                }
                Answer::Records(records, Duration::from_secs(ttl.into()))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let exists = none.response_code != hickory_resolver::proto::op::ResponseCode::NXDomain;
                let fault = if exists { Fault::NoRecords } else { Fault::NoSuchName };
                Answer::Nothing(fault, none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())))
            }
            Err(error) => {
                *self.resolver.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Answer::Failed(fault(&error), format!("{kind} of {name}: {error}"))
            }
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn fault(error: &NetError) -> Fault {
    match error {
        NetError::Timeout => Fault::Timeout,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => Fault::Unreachable,
        NetError::Dns(_) => Fault::ServerFailure,
        _ => Fault::Invalid,
    }
}

#[async_trait]
impl Asked for Hickory {
    async fn addresses(&self, name: &str, family: Family) -> Answer<IpAddr> {
        let kind = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
        self.ask(name, kind, |data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .await
    }

    async fn services(&self, name: &str) -> Answer<Srv> {
        self.ask(name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => {
                Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target.to_ascii() })
            }
            _ => None,
        })
        .await
    }
}
