//! The closed loop: policies against each other in the simulator, under the same arrivals and faults.

pub mod ejection;
pub mod policies;
