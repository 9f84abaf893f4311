//! The data path over real loopback sockets, against hyper servers and raw ones.

mod bodies;
mod clients;
mod early;
mod endpoints;
mod exchange;
mod hedges;
mod http2;
mod life;
mod mirrors;
mod peers;
mod retries;
mod shapes;
mod slow_clients;
mod spans;
mod special;
mod stricter;
mod support;
mod tcp;
mod times;
mod trial;
