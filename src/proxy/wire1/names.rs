//! Headers as they are written on the wire, remembered.
//!
//! Endpoints and clients send the same few names again and again, many with the same value. To find out which name a text is (in
//! lower case, one of those that `http` knows, or a new one) and that a value holds nothing forbidden costs several
//! times what it costs to see that it is what came last time. The table is a core's own and small; names that share a
//! place take it from each other. A value that changes often is not kept: it would be copied for nothing.
//!
//! Names that the routes in force ask for mean something to this proxy whatever they are (`route_by`).

use super::super::seen::Seen;
use super::Malformed;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, TRAILER, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

/// How many names are remembered.
const PLACES: usize = 128;
/// The longest name and the longest value that are, in bytes.
const LONGEST_NAME: usize = 32;
const LONGEST_VALUE: usize = 64;
/// How often a value may change until it is kept no more.
const MAX_CHANGES: u8 = 4;

#[derive(Debug, Default)]
pub(in crate::proxy) struct Names {
    known: Vec<Option<Known>>,
    /// Those that routes ask for.
    routed: Vec<HeaderName>,
}

#[derive(Debug)]
struct Known {
    text: [u8; LONGEST_NAME],
    length: usize,
    name: HeaderName,
    kind: Kind,
    /// How its line begins.
    start: LineStart,
    value: Option<HeaderValue>,
    changes: u8,
}

/// What a header may mean to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    /// Nothing. Of `Date` it matters only that it is there.
    Plain,
    Host,
    /// `Content-Length`.
    Length,
    /// `Content-Type`: of an answer it means nothing.
    Type,
    Other,
}

/// How a header's line begins: the end of the line before, its name, and what comes before its value.
#[derive(Debug)]
pub(in crate::proxy) struct LineStart {
    pub text: Box<[u8]>,
    /// It is `Date`.
    pub date: bool,
}

impl LineStart {
    pub(in crate::proxy) fn of(name: &HeaderName) -> Self {
        let text = [b"\r\n", name.as_str().as_bytes(), b": "].concat();
        Self { text: text.into(), date: name == DATE }
    }
}

/// A header that was read.
#[derive(Debug)]
pub(in crate::proxy) struct Header {
    pub name: HeaderName,
    pub value: HeaderValue,
    /// It means nothing to a proxy.
    pub plain: bool,
}

impl Names {
    /// Reads a header, both parts of which lie in `block`.
    pub(in crate::proxy) fn read(&mut self, block: &Bytes, line: &httparse::Header<'_>) -> Result<Header, Malformed> {
        let text = line.name.as_bytes();
        let place = place(text);
        if let Some(Some(known)) = self.known.get_mut(place)
            && known.text.get(..known.length) == Some(text)
        {
            let value = known.value_of(block, line.value)?;
            return Ok(Header { name: known.name.clone(), value, plain: known.kind == Kind::Plain });
        }
        let name = HeaderName::from_bytes(text).map_err(|_| Malformed)?;
        let kind = if self.routed.contains(&name) { Kind::Other } else { kind(&name) };
        if text.len() <= LONGEST_NAME {
            self.remember(place, text, &name, kind);
        }
        Ok(Header { name, value: part(block, line.value)?, plain: kind == Kind::Plain })
    }

    /// What a header means whose name is known, and how its line begins.
    pub(in crate::proxy) fn known(&self, text: &str) -> Option<(Kind, &LineStart)> {
        let known = self.known.get(place(text.as_bytes()))?.as_ref()?;
        (known.text.get(..known.length) == Some(text.as_bytes())).then_some((known.kind, &known.start))
    }

    /// From now on routes ask for these.
    pub(in crate::proxy) fn route_by<'n>(&mut self, names: impl Iterator<Item = &'n HeaderName>) {
        self.known.clear();
        self.routed = names.cloned().collect();
    }

    fn remember(&mut self, place: usize, text: &[u8], name: &HeaderName, kind: Kind) {
        if self.known.is_empty() {
            self.known.resize_with(PLACES, || None);
        }
        let mut kept = [0; LONGEST_NAME];
        kept.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        if let Some(slot) = self.known.get_mut(place) {
            let (name, length) = (name.clone(), text.len());
            let start = LineStart::of(&name);
            *slot = Some(Known { text: kept, length, name, kind, start, value: None, changes: 0 });
        }
    }
}

impl Known {
    fn value_of(&mut self, block: &Bytes, text: &[u8]) -> Result<HeaderValue, Malformed> {
        match &self.value {
            Some(value) if value.as_bytes() == text => return Ok(value.clone()),
            _ if self.changes < MAX_CHANGES => {
                self.changes += 1;
                // A copy: a part of the block would hold all of it.
                self.value = HeaderValue::from_bytes(text).ok().filter(|_| text.len() <= LONGEST_VALUE);
            }
            _ => self.value = None,
        }
        part(block, text)
    }
}

/// A value that is a part of the block.
fn part(block: &Bytes, text: &[u8]) -> Result<HeaderValue, Malformed> {
    HeaderValue::from_maybe_shared(block.slice_ref(text)).map_err(|_| Malformed)
}

/// Where a name may stand: by its length, its first letter and one near its end, in which names differ most.
fn place(text: &[u8]) -> usize {
    let letter = |at: usize| text.get(at).map_or(0, |b| usize::from(*b));
    (text.len() * 31 + letter(0) * 7 + letter(text.len().saturating_sub(2)) * 3) % PLACES
}

fn kind(name: &HeaderName) -> Kind {
    match *name {
        HOST => Kind::Host,
        CONTENT_LENGTH => Kind::Length,
        CONTENT_TYPE => Kind::Type,
        _ if plain(name) => Kind::Plain,
        _ => Kind::Other,
    }
}

/// Whether nobody needs to look at a header of this name.
fn plain(name: &HeaderName) -> bool {
    let mut seen = Seen::default();
    seen.note(name, &HeaderValue::from_static("application/grpc"));
    let unseen = Seen { date: seen.date, ..Seen::default() };
    seen == unseen && ![CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH, TRAILER].contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &mut Names, name: &str, value: &str) -> Result<Header, Malformed> {
        let block = Bytes::from(format!("{name}: {value}"));
        let name = std::str::from_utf8(&block[..name.len()]).unwrap();
        names.read(&block, &httparse::Header { name, value: &block[name.len() + 2..] })
    }

    #[test]
    fn a_header_is_the_same_however_often_it_comes_and_whatever_came_before() {
        let texts = ["Server", "server", "SERVER", "Date", "X-Powered-By", "Content-Length", "content-type"];
        let long = "x-".to_owned() + &"a".repeat(100);
        let many: Vec<String> = (0..500).map(|i| format!("x-{i}")).collect();
        let values = ["a", "a", "b", "a", "", "b", "c", "d", "e", "f", "f", &"g".repeat(100), "f", "f"];
        let mut names = Names::default();
        for value in values {
            for text in texts.iter().copied().chain([long.as_str()]).chain(many.iter().map(String::as_str)) {
                let header = read(&mut names, text, value).unwrap();
                assert_eq!(
                    (header.name.as_str(), header.value.as_bytes()),
                    (&*text.to_ascii_lowercase(), value.as_bytes())
                );
                let meant = ["content-length", "content-type"].contains(&header.name.as_str());
                assert_eq!(header.plain, !meant, "{text}");
            }
        }
    }

    #[test]
    fn what_may_not_stand_there_is_refused_whatever_came_before() {
        let mut names = Names::default();
        assert!(read(&mut names, "no name", "x").is_err() && read(&mut names, "", "x").is_err());
        for _ in 0..10 {
            assert!(read(&mut names, "x", "right").is_ok() && read(&mut names, "x", "wr\x01ng").is_err());
        }
    }

    #[test]
    fn a_value_that_changes_often_is_kept_no_more() {
        let mut names = Names::default();
        for i in 0..10 {
            read(&mut names, "date", &i.to_string()).unwrap();
            read(&mut names, "server", "same").unwrap();
        }
        let kept = |name: &str| names.known[place(name.as_bytes())].as_ref().unwrap().value.clone();
        assert_eq!((kept("date"), kept("server")), (None, Some(HeaderValue::from_static("same"))));
    }

    #[test]
    fn what_a_proxy_must_look_at_is_not_plain() {
        for name in
            ["connection", "transfer-encoding", "content-length", "keep-alive", "upgrade", "te", "via", "trailer"]
        {
            assert!(!plain(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["grpc-status", "endpoint-load-metrics", "endpoint-load-metrics-bin", "content-type"] {
            assert!(!plain(&HeaderName::from_static(name)), "{name}");
        }
        assert!(plain(&HeaderName::from_static("server")) && plain(&HeaderName::from_static("set-cookie")));
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
