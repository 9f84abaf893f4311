//! What the written pages have in common: numbers, and which figures stand in which order.

use crate::bench::{Case, Proxy};
use crate::results::{Results, Row};

/// A figure of a row.
pub type Figure = fn(&Row) -> Option<f64>;

/// A case's heading.
pub fn title(case: Case) -> &'static str {
    match case {
        Case::Http1 => "HTTP/1.1 on both sides, 1 KB (`h1`)",
        Case::Http2ToHttp1 => "HTTP/2 without TLS, HTTP/1.1 upstream, 1 KB (`h2c-h1`)",
        Case::Http2 => "HTTP/2 without TLS on both sides, calls like gRPC's of 64 bytes (`h2c-h2c`)",
    }
}

pub fn is_rival(name: &str) -> bool {
    Proxy::all().iter().any(|proxy| proxy.name == name && proxy.is_rival())
}

/// The rows of a case, as the proxies stand in the list.
pub fn rows(results: &Results, case: Case) -> Vec<&Row> {
    ordered(results.rows.iter().filter(|r| r.case == case.name()).collect())
}

/// What memory comes to: the figure, with shared pages shared out in brackets, or the limit that stands in the way.
pub fn held(results: &Results, proxy: &str, case: &str, connections: usize) -> String {
    let row = results.memory.iter().find(|m| m.proxy == proxy && m.case == case && m.connections == connections);
    match row.map(|m| (m.rss_mb, m.pss_mb, m.limit)) {
        Some((Some(rss), Some(pss), _)) => format!("{} ({})", number(Some(rss), 1), number(Some(pss), 1)),
        Some((.., Some(limit))) => format!("its limit is {}", number(Some(limit as f64), 0)),
        _ => String::new(),
    }
}

/// As the proxies stand in the list, the load without one first.
pub fn ordered(mut rows: Vec<&Row>) -> Vec<&Row> {
    rows.sort_by_key(|row| Proxy::all().iter().position(|p| p.name == row.proxy).map_or(0, |at| at + 1));
    rows
}

/// A number with commas between thousands, or nothing.
pub fn number(value: Option<f64>, digits: usize) -> String {
    let Some(value) = value else { return String::new() };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| format!("{sign}{grouped}"), |fraction| format!("{sign}{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!(number(Some(1_234_567.0), 0), "1,234,567");
        assert_eq!(number(Some(-1234.56), 1), "-1,234.6");
        assert_eq!(number(Some(0.5), 2), "0.50");
    }
}
