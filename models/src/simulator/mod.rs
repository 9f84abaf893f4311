//! A discrete-event simulator of a mesh.

pub mod balancer;
pub mod mesh;
pub mod topology;
