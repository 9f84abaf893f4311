//! Header names as endpoints write them, remembered.
//!
//! Endpoints send the same few names again and again. To find out which name a text is (lower case, one of those that
//! `http` knows, or a new one) costs several times what a look at the name that was last in its place costs. The table is
//! a core's own and small; names that share a place take it from each other.

use super::super::headers::Seen;
use super::answer::Malformed;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

/// How many names are remembered: a power of two.
const PLACES: usize = 128;
/// The longest that is, in bytes.
const LONGEST: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Names(Vec<Option<Known>>);

#[derive(Debug)]
struct Known {
    text: [u8; LONGEST],
    length: usize,
    name: HeaderName,
    plain: bool,
}

impl Names {
    /// The name that a text is, and whether it means nothing to a proxy.
    pub(super) fn of(&mut self, text: &[u8]) -> Result<(HeaderName, bool), Malformed> {
        let place = place(text);
        if let Some(Some(known)) = self.0.get(place)
            && known.text.get(..known.length) == Some(text)
        {
            return Ok((known.name.clone(), known.plain));
        }
        let name = HeaderName::from_bytes(text).map_err(|_| Malformed)?;
        let plain = plain(&name);
        if text.len() <= LONGEST {
            self.remember(place, text, &name, plain);
        }
        Ok((name, plain))
    }

    fn remember(&mut self, place: usize, text: &[u8], name: &HeaderName, plain: bool) {
        if self.0.is_empty() {
            self.0.resize_with(PLACES, || None);
        }
        let mut kept = [0; LONGEST];
        kept.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(Known { text: kept, length: text.len(), name: name.clone(), plain });
        }
    }
}

/// Where a name may stand: by its length, its first letter and one near its end, in which names differ most.
fn place(text: &[u8]) -> usize {
    let letter = |at: usize| text.get(at).map_or(0, |b| usize::from(*b));
    (text.len() * 31 + letter(0) * 7 + letter(text.len().saturating_sub(2)) * 3) % PLACES
}

/// Whether nobody needs to look at a header of this name.
fn plain(name: &HeaderName) -> bool {
    let mut seen = Seen::default();
    seen.note(name, &HeaderValue::from_static("application/grpc"));
    seen == Seen::default() && *name != CONNECTION && *name != TRANSFER_ENCODING && *name != CONTENT_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_often_it_comes_and_whatever_came_before() {
        let texts =
            ["Server", "server", "SERVER", "Date", "X-Powered-By", "x-powered-by", "Content-Length", "content-type"];
        let long = "x-".to_owned() + &"a".repeat(100);
        let many: Vec<String> = (0..500).map(|i| format!("x-{i}")).collect();
        let mut names = Names::default();
        for _ in 0..3 {
            for text in texts.iter().copied().chain([long.as_str()]).chain(many.iter().map(String::as_str)) {
                let (name, plain) = names.of(text.as_bytes()).unwrap();
                assert_eq!(name.as_str(), text.to_ascii_lowercase());
                assert_eq!(plain, !["content-length", "content-type"].contains(&name.as_str()), "{name}");
            }
        }
        assert!(names.of(b"no name").is_err() && names.of(b"").is_err());
    }

    #[test]
    fn what_a_proxy_must_look_at_is_not_plain() {
        for name in ["connection", "transfer-encoding", "content-length", "keep-alive", "upgrade", "te", "via"] {
            assert!(!plain(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["grpc-status", "endpoint-load-metrics", "endpoint-load-metrics-bin", "content-type"] {
            assert!(!plain(&HeaderName::from_static(name)), "{name}");
        }
        assert!(plain(&HeaderName::from_static("date")) && plain(&HeaderName::from_static("set-cookie")));
    }

    #[test]
    fn usual_names_do_not_take_each_others_place() {
        let usual = [
            "Server",
            "Date",
            "Content-Type",
            "Content-Length",
            "Connection",
            "Last-Modified",
            "ETag",
            "Accept-Ranges",
            "Cache-Control",
            "Vary",
            "Transfer-Encoding",
            "Set-Cookie",
            "Expires",
            "Content-Encoding",
            "Location",
        ];
        for names in [usual.map(str::to_owned), usual.map(str::to_ascii_lowercase)] {
            let places: std::collections::BTreeSet<_> = names.iter().map(|n| place(n.as_bytes())).collect();
            assert_eq!(places.len(), names.len());
        }
    }
}
