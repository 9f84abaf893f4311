//! The data path over real loopback sockets, against hyper servers and raw ones.

mod exchange;
mod support;
