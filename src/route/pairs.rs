//! Cookies and the parameters of a query: names with values, found where they stand. Nothing is copied.
//!
//! A cookie's value is what stands behind its `=`, byte by byte (RFC 6265, section 4.2: quotes belong to it). A query's
//! names and values are compared as they read once decoded, as forms write them: `%20` and `+` are a space. Where a name
//! stands more than once, one of its values must be as asked, as with headers.

use http::HeaderMap;
use http::header::COOKIE;
use std::borrow::Cow;

/// The values of a request's cookies of this name.
pub fn cookies<'r>(headers: &'r HeaderMap, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Whether a query has this parameter with this value.
pub fn in_query(query: &str, name: &str, value: &str) -> bool {
    query.split('&').any(|pair| {
        let (its_name, its_value) = pair.split_once('=').unwrap_or((pair, ""));
        !pair.is_empty() && reads(its_name, name) && reads(its_value, value)
    })
}

/// The values of a query's parameters of this name, decoded: a copy only where something is to be decoded.
pub fn query_values<'r>(query: &'r str, name: &'r str) -> impl Iterator<Item = Cow<'r, [u8]>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).filter(move |(its, _)| reads(its, name)).map(
        |(_, value)| match value.bytes().any(|b| matches!(b, b'%' | b'+')) {
            true => Cow::Owned(Decoded(value.as_bytes()).collect()),
            false => Cow::Borrowed(value.as_bytes()),
        },
    )
}

/// Whether a text reads so once it is decoded.
fn reads(encoded: &str, plain: &str) -> bool {
    Decoded(encoded.as_bytes()).eq(plain.bytes())
}

/// What a text reads once it is decoded, byte by byte. A `%` that begins no code stands for itself.
struct Decoded<'t>(&'t [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.0 {
            [] => return None,
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => (b'%', self.0.get(1..).unwrap_or_default()),
            },
            [b'+', rest @ ..] => (b' ', rest),
            [byte, rest @ ..] => (*byte, rest),
        };
        self.0 = rest;
        Some(byte)
    }
}

/// A hexadecimal digit's value.
fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_wherever_it_stands() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; beta=2;alpha=3".parse().unwrap());
        headers.append(COOKIE, "beta=\"4\"; empty=; bare".parse().unwrap());
        let all = |name: &'static str| cookies(&headers, name).collect::<Vec<_>>();
        assert_eq!(all("a"), [b"1"]);
        assert_eq!(all("beta"), [&b"2"[..], b"\"4\""]);
        assert_eq!((all("alpha"), all("empty")), (vec![&b"3"[..]], vec![&b""[..]]));
        assert!(all("bare").is_empty() && all("bet").is_empty() && all("A").is_empty(), "names are told apart by case");
    }

    #[test]
    fn a_parameter_is_compared_as_it_reads() {
        for (query, name, value) in [
            ("v=2", "v", "2"),
            ("a=1&v=2&b", "v", "2"),
            ("v=1&v=2", "v", "2"),
            ("flag", "flag", ""),
            ("flag=", "flag", ""),
            ("q=a%20b", "q", "a b"),
            ("q=a+b", "q", "a b"),
            ("%71=%C3%A9", "q", "é"),
            ("q=100%", "q", "100%"),
            ("q=%zz1", "q", "%zz1"),
            ("q=a=b", "q", "a=b"),
        ] {
            assert!(in_query(query, name, value), "{query}");
        }
        for (query, name, value) in [
            ("", "", ""),
            ("", "v", "2"),
            ("v=22", "v", "2"),
            ("v=", "v", "2"),
            ("vv=2", "v", "2"),
            ("xv=2", "v", "2"),
            ("V=2", "v", "2"),
            ("q=%2", "q", "\u{2}"),
        ] {
            assert!(!in_query(query, name, value), "{query}");
        }
    }
    #[test]
    fn all_values_of_a_parameter_are_there_as_they_read() {
        let all = |query: &'static str| {
            query_values(query, "v").map(|value| String::from_utf8(value.into_owned()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("v=1&w=2&v=a%2Fb+c&v&%76=%"), ["1", "a/b c", "", "%"]);
        assert!(all("").is_empty() && all("w=v&V=1").is_empty());
        assert!(matches!(query_values("v=plain", "v").next(), Some(Cow::Borrowed(b"plain"))), "nothing is copied");
    }
}
