//! How handshakes end: a word for each way, counted by side.

use crate::observe::metrics::{Family, Kind, Measure, Value};
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Who began the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client.
    Downstream,
    /// This proxy, to an endpoint.
    Upstream,
}

impl Side {
    const ALL: [(Self, &'static str); 2] = [(Self::Downstream, "downstream"), (Self::Upstream, "upstream")];
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)+) => {
        /// How a handshake ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Handshake { $($(#[doc = $doc])+ $name,)+ }

        impl Handshake {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Handshake] = &[$(Handshake::$name,)+];

            /// The stable word.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Handshake::$name => $code,)+ }
            }
        }
    };
}

outcomes! {
    /// The peer is who it should be.
    Done = "ok";
    /// The client spoke plain text to a listener that wants TLS.
    PlainText = "plain_text";
    /// It took too long.
    Timeout = "timeout";
    /// The peer went away.
    Closed = "closed";
    /// The peer showed no certificate.
    NoCertificate = "no_certificate";
    /// The peer's certificate does not come from an authority of the bundle, or is broken.
    Untrusted = "untrusted";
    /// The peer's certificate has expired, or is not valid yet.
    Expired = "expired";
    /// The peer's certificate names another trust domain, another id than expected, none, or several.
    WrongIdentity = "wrong_identity";
    /// The peer refused our certificate.
    Refused = "refused";
    /// This node has no certificate to show.
    NoIdentity = "no_identity";
    /// The peer spoke no TLS, or none that could be agreed on.
    Protocol = "protocol";
}

impl Handshake {
    /// What an error of a connection says of its handshake.
    #[must_use]
    pub fn failed(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        match (tls, error.kind()) {
            (Some(error), _) => Self::of(error),
            (None, io::ErrorKind::TimedOut) => Self::Timeout,
            (None, _) => Self::Closed,
        }
    }

    fn of(error: &Error) -> Self {
        use CertificateError as C;
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(why) => match why {
                C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. } => Self::Expired,
                C::NotValidForName | C::NotValidForNameContext { .. } | C::Other(_) => Self::WrongIdentity,
                _ => Self::Untrusted,
            },
            Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                // What an authority of the same name with another key signed.
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            ) => Self::Refused,
            Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => Self::Refused,
            _ => Self::Protocol,
        }
    }

    /// Whether a connection's error came from TLS, and not from the network.
    #[must_use]
    pub fn is_tls(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|e| e.is::<Error>())
    }
}

/// Handshakes by side and outcome. They are rare enough that all threads may count in one place.
#[derive(Debug, Default)]
pub struct Handshakes([[AtomicU64; Handshake::ALL.len()]; 2]);

impl Handshakes {
    /// Counts one.
    pub fn count(&self, side: Side, outcome: Handshake) {
        if let Some(count) = self.0.get(side as usize).and_then(|side| side.get(outcome as usize)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// So many of a side ended like this.
    #[must_use]
    pub fn seen(&self, side: Side, outcome: Handshake) -> u64 {
        self.0.get(side as usize).and_then(|side| side.get(outcome as usize)).map_or(0, |count| count.load(Relaxed))
    }

    /// The metric. A side without a handshake has no series.
    #[must_use]
    pub fn family(&self) -> Family {
        let help = "TLS handshakes that are over, by who began the connection and how they ended.";
        let mut family = Family::new("tls_handshakes", Kind::Counter, Measure::Number, help);
        for (side, name) in Side::ALL {
            let counts: Vec<u64> = Handshake::ALL.iter().map(|outcome| self.seen(side, *outcome)).collect();
            if counts.iter().all(|n| *n == 0) {
                continue;
            }
            for (outcome, count) in Handshake::ALL.iter().zip(counts) {
                let labels = vec![("side", name.to_owned()), ("outcome", outcome.code().to_owned())];
                family.samples.push((labels, Value::Count(count)));
            }
        }
        family
    }
}
