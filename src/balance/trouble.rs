//! What is wrong with an endpoint that gets no requests, as `/routing` says it.

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

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("its first health check is not done yet"),
            Self::NoConnection => f.write_str("its health check could not connect"),
            Self::Late => f.write_str("its health check was not answered in time"),
            Self::Garbled => f.write_str("its health check's answer was not understood"),
            Self::Status(status) => write!(f, "its health check was answered with {status}"),
            Self::Grpc(status) => write!(f, "its health check failed with gRPC status {status}"),
            Self::NotServing => f.write_str("its health check says that it does not serve"),
        }
    }
}
