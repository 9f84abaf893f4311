//! Where an identity comes from: three files, or the agent behind a SPIFFE Workload API.

use super::TrustDomain;
use super::material::Place;
use crate::config::{self, WorkloadApi};
use std::fmt;
use std::path::{Path, PathBuf};

/// Files that hold an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The leaf, and what is between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities.
    pub bundle: PathBuf,
    /// What the leaf must belong to; its own where it is not said.
    pub trust_domain: Option<TrustDomain>,
}

impl Files {
    /// Those of a configuration, which are all there or none.
    #[must_use]
    pub fn of(identity: &config::Identity) -> Option<Self> {
        Some(Self {
            certificate: identity.certificate.clone()?,
            key: identity.key.clone()?,
            bundle: identity.bundle.clone()?,
            trust_domain: identity.trust_domain.clone(),
        })
    }

    /// All of them.
    pub fn paths(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.bundle]
    }
}

/// The agent behind a Workload API, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where it is.
    pub api: WorkloadApi,
    /// Which of several SVIDs is wanted; the first one where it is not said.
    pub hint: Option<String>,
    /// What the leaf must belong to; its own where it is not said.
    pub trust_domain: Option<TrustDomain>,
    /// Other trust domains that are believed, by the authorities that the agent names for them.
    pub federated: Vec<TrustDomain>,
}

impl Agent {
    /// That of a configuration.
    #[must_use]
    pub fn of(identity: &config::Identity) -> Option<Self> {
        Some(Self {
            api: identity.workload_api.clone()?,
            hint: identity.hint.clone(),
            trust_domain: identity.trust_domain.clone(),
            federated: identity.federated.clone(),
        })
    }

    /// How what it gave is called where it is refused.
    pub(super) fn place(&self) -> Place {
        Place(format!("the answer of {}", self.api))
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.api.fmt(f)
    }
}

/// Where an identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Files, which are read when they change.
    Files(Files),
    /// An agent, which says when there is something new.
    Agent(Agent),
}

impl Source {
    /// That of a configuration.
    pub fn of(identity: &config::Identity) -> Option<Self> {
        Agent::of(identity).map(Self::Agent).or_else(|| Files::of(identity).map(Self::Files))
    }

    /// The files, where there are some.
    pub fn files(&self) -> Option<&Files> {
        match self {
            Self::Files(files) => Some(files),
            Self::Agent(_) => None,
        }
    }

    /// The agent, where there is one.
    pub fn agent(&self) -> Option<&Agent> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Files(_) => None,
        }
    }

    /// How the certificate's place is called.
    pub fn certificate(&self) -> Place {
        match self {
            Self::Files(files) => Place::from(files.certificate.as_path()),
            Self::Agent(agent) => agent.place(),
        }
    }
}

/// What an agent gave in one answer. Nothing of it is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The identities that the agent has for this process.
    pub svids: Vec<Svid>,
    /// Authorities of other trust domains, in DER one after another, by the domain's id.
    pub federated: Vec<(String, Vec<u8>)>,
}

/// One identity, as an agent gives it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Svid {
    /// Its SPIFFE id.
    pub id: String,
    /// What tells it from others.
    pub hint: String,
    /// The leaf, and what is between it and the authority, in DER one after another.
    pub chain: Vec<u8>,
    /// The leaf's key, as PKCS #8 in DER.
    pub key: Vec<u8>,
    /// The authorities of its trust domain, in DER one after another.
    pub bundle: Vec<u8>,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("hint", &self.hint).finish_non_exhaustive()
    }
}
