//! gRPC's deadlines: `grpc-timeout` says how long a call may take (gRPC over HTTP/2, "Requests").
//!
//! What a caller asks for holds where it is shorter than what the route or the cluster allows; the endpoint is told what
//! is left of the shorter one: with each try anew, and with the first where the call waited here for it.

use super::names::GRPC_TIMEOUT;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// The largest value that may be written: eight digits.
const MOST: u128 = 99_999_999;

/// How long a call may take by its own word; none where it says nothing that can be read.
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.as_bytes();
    let (unit, digits) = text.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let value = super::headers::digits(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3_600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Says how long a call may take, in the finest unit that holds it.
pub(super) fn insert(headers: &mut HeaderMap, left: Duration) {
    let (value, unit) = match left.as_nanos() {
        n if n <= MOST => (n, 'n'),
        n if n / 1_000 <= MOST => (n / 1_000, 'u'),
        n if n / 1_000_000 <= MOST => (n / 1_000_000, 'm'),
        n => ((n / 1_000_000_000).min(MOST), 'S'),
    };
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(format!("{value}{unit}"))) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        asked(&HeaderMap::from_iter([(GRPC_TIMEOUT, text.parse().unwrap())]))
    }

    #[test]
    fn every_unit_is_understood_and_nothing_else() {
        let ms = Duration::from_millis;
        let texts = [("1H", ms(3_600_000)), ("2M", ms(120_000)), ("3S", ms(3_000)), ("99999999m", ms(99_999_999))];
        for (text, expected) in texts {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        assert_eq!((read("5u"), read("7n")), (Some(Duration::from_micros(5)), Some(Duration::from_nanos(7))));
        for text in ["", "1", "m", "-1m", "1.5S", "123456789m", "1s", "1 m"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(asked(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_said_is_what_is_left() {
        for left in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(99), Duration::from_secs(60)] {
            let mut headers = HeaderMap::new();
            insert(&mut headers, left);
            assert_eq!(asked(&headers), Some(left));
        }
        let mut headers = HeaderMap::new();
        insert(&mut headers, Duration::from_secs(1_000_000_000_000));
        assert_eq!(asked(&headers), Some(Duration::from_secs(99_999_999)));
    }
}
