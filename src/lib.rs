//! Pathloom: a service-mesh sidecar that routes each request along the path a graph neural network expects to be best.
//!
//! Two loops meet in two places: requests write `links` and read the generation in `balance`; the tick in `control`
//! does the opposite. Whoever reads one loop never needs to know the other.

pub mod admin;
pub mod admission;
pub mod app;
pub mod balance;
pub mod capture;
pub mod config;
pub mod control;
pub mod demo;
pub mod discovery;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod graph;
pub mod health;
pub mod identity;
pub mod links;
pub mod mesh;
pub mod observe;
pub mod proxy;
pub mod record;
pub mod route;
pub mod scorer;
pub mod secure;
pub mod workload_api;

#[cfg(test)]
mod house_tests;
