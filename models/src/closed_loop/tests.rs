//! Runs: the same arrivals for all policies, the same figures for the same seed.
