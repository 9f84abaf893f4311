//! Microbenchmarks. They stand apart from the workspace's default members, so that tests need not build criterion.
