//! Which requests the operators' port answers at all.
//!
//! A page of somebody's web site can make the browser of an operator ask `http://rebound.example:9900/config`, with
//! that name resolving to 127.0.0.1 (DNS rebinding), and then read the answer, because to the browser it is the page's
//! own site. Such a request carries the foreign name as its `Host`. Nobody can rebind an address, so only addresses,
//! `localhost` and the node's own name are answered.

use http::{HeaderMap, Uri, header};
use std::net::{IpAddr, Ipv6Addr};

/// The name that a request is refused for; `None` where it may be answered.
///
/// A request without any host comes from no browser (a health check by HTTP/1.0) and is answered.
pub fn foreign_host<'a>(uri: &'a Uri, headers: &'a HeaderMap, node: &str) -> Option<String> {
    let named = headers.get_all(header::HOST).iter().map(|v| v.as_bytes());
    named
        .chain(uri.authority().map(|a| a.as_str().as_bytes()))
        .find(|host| !own(host, node))
        .map(|host| String::from_utf8_lossy(host).chars().take(100).collect())
}

fn own(host: &[u8], node: &str) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
        });
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if digits(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(node)
}

fn digits(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        foreign_host(&Uri::from_static("/"), &headers, "node-7").is_some()
    }

    #[test]
    fn addresses_localhost_and_the_node_are_answered_and_names_are_not() {
        for host in [
            "127.0.0.1:9900",
            "10.1.2.3",
            "[::1]:9900",
            "[fe80::1]",
            "localhost",
            "LOCALHOST:1",
            "node-7:9900",
            "Node-7",
        ] {
            assert!(!refused(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::1",
            "[evil]:80",
            "",
            "127.0.0.1:x",
            "a@localhost",
        ] {
            assert!(refused(host), "{host:?}");
        }
    }

    #[test]
    fn every_host_that_is_named_counts() {
        let mut headers = HeaderMap::new();
        let absolute = Uri::from_static("http://evil.example/config");
        assert_eq!(foreign_host(&Uri::from_static("/"), &headers, "n"), None);
        assert_eq!(foreign_host(&absolute, &headers, "n").as_deref(), Some("evil.example"));
        headers.append(header::HOST, "localhost".parse().unwrap());
        headers.append(header::HOST, "evil.example".parse().unwrap());
        assert!(foreign_host(&Uri::from_static("/"), &headers, "n").is_some());
    }
}
