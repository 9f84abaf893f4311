//! What is wrong with an endpoint that gets no requests, as `/routing` says it.

use crate::identity::Handshake;
use std::fmt;

/// Why an endpoint is left alone, by what requests saw of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// It failed so often in a row.
    InARow(u32),
    /// Its success rate, and the others' mean.
    SuccessRate(f32, f32),
    /// Its mean latency and the median of the others', in seconds.
    Latency(f32, f32),
}

impl Fault {
    /// All kinds' names in metrics, by `index`.
    pub const KINDS: [&'static str; 3] = ["consecutive_failures", "success_rate", "latency"];

    /// Its kind's place among `KINDS`.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::InARow(_) => 0,
            Self::SuccessRate(..) => 1,
            Self::Latency(..) => 2,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(failures) => write!(f, "{failures} failures in a row"),
            Self::SuccessRate(own, mean) => {
                write!(f, "{:.1}% of its requests succeeded, of the others' {:.1}%", own * 100.0, mean * 100.0)
            }
            Self::Latency(own_s, median_s) => {
                write!(f, "a mean latency of {:.1} ms, the others' being {:.1} ms", own_s * 1e3, median_s * 1e3)
            }
        }
    }
}

/// Why an endpoint is not well, by the word of its health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwell {
    /// It was not asked yet.
    Unchecked,
    /// No connection could be opened.
    NoConnection,
    /// Its connection could not be secured, or was refused as it was secured.
    Unsecured(Handshake),
    /// No answer came in time.
    Late,
    /// The answer was not understood, or broke off.
    Garbled,
    /// It answered with this status.
    Status(u16),
    /// It failed with this gRPC status.
    Grpc(u16),
    /// It says that it does not serve.
    NotServing,
}

impl Unwell {
    /// Whether nothing could be asked of the endpoint yet, which says nothing of it.
    #[must_use]
    pub fn unasked(self) -> bool {
        matches!(self, Self::Unchecked | Self::Unsecured(Handshake::NoIdentity))
    }
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("its first health check is not done yet"),
            Self::NoConnection => f.write_str("its health check could not connect"),
            Self::Unsecured(Handshake::NoIdentity) => f.write_str(
                "its health check waits: this node has no identity to show, or no authorities to believe (no_identity)",
            ),
            Self::Unsecured(outcome) => {
                write!(f, "its health check's TLS failed ({}): {}", outcome.code(), what_failed(*outcome))
            }
            Self::Late => f.write_str("its health check was not answered in time"),
            Self::Garbled => f.write_str("its health check's answer was not understood"),
            Self::Status(status) => write!(f, "its health check was answered with {status}"),
            Self::Grpc(status) => write!(f, "its health check failed with gRPC status {status}"),
            Self::NotServing => f.write_str("its health check says that it does not serve"),
        }
    }
}

/// How a handshake with an endpoint failed, in words about the endpoint.
fn what_failed(outcome: Handshake) -> &'static str {
    match outcome {
        Handshake::Timeout => "it did not answer the handshake in time",
        Handshake::Closed => "it closed the connection within the handshake",
        Handshake::NoCertificate => "it shows no certificate",
        Handshake::Untrusted => "no authority that is believed vouches for its certificate",
        Handshake::Expired => "its certificate has expired, or is not valid yet",
        Handshake::WrongIdentity => "it proves to be another than the cluster's `tls` expects",
        Handshake::Refused => "it refuses this node's certificate",
        Handshake::NoIdentity => "this node has no identity to show",
        Handshake::Protocol | Handshake::PlainText => "it speaks no TLS, or none that could be agreed on",
        Handshake::Done => "it broke off afterwards",
    }
}
