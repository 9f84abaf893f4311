//! Values with their unit: `250ms`, `64KiB`, `20%`, `100/s`, `10.1.2.0/24`.
//!
//! Each type here is read from the form that it is written in, and written in the form that it is read from, so the
//! effective configuration can be loaded again. A bare number where a unit belongs is an error that shows the right
//! form. Bounds that no section could sensibly widen are kept here: a share lies in 0% to 100%, a length of time is at
//! most [`MAX_TIMESPAN`], a network's address has no bits set beyond its prefix.
//!
//! An error is two lines: what is wrong, then the remedy. `load` takes them apart again.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The longest [`Timespan`]: ten years. Adding more to a clock's reading could overflow it.
pub const MAX_TIMESPAN: Duration = Duration::from_secs(87_600 * 3_600);

/// A length of time, written `250ms`, `1s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timespan(pub Duration);

/// A share of a whole, 0 to 1, written `20%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Share(pub f64);

/// A number of bytes, written `64KiB`, `1MiB`, `512B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

/// So many requests in a time, written `100/s`, `600/m`, `1000/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time: `s`, `m` or `h`.
    pub per: char,
}

/// A network of source addresses, written `10.1.2.16/28`; a lone address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceNet {
    /// The network's address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

/// Why a value with a unit could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl UnitError {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.message, self.remedy)
    }
}

impl std::error::Error for UnitError {}

/// A value as it is written, cut into its number and its unit: `1.5s` is `1`, `5`, `s`.
struct Quantity<'a> {
    whole: &'a str,
    fraction: &'a str,
    unit: &'a str,
}

/// Cuts `text` after its number; `None` when it does not start with one.
fn quantity(text: &str) -> Option<Quantity<'_>> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let dangling = number.contains('.') && fraction.is_empty();
    (!whole.is_empty() && digits(whole) && digits(fraction) && !dangling).then_some(Quantity { whole, fraction, unit })
}

const TIME_UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl FromStr for Timespan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write a number and its unit: `250ms`, `5s`, `10m` or `1h`";
        let wrong = || UnitError::new(format!("`{text}` is not a length of time"), remedy);
        let Quantity { whole, fraction, unit } = quantity(text).ok_or_else(wrong)?;
        if unit.is_empty() {
            return Err(UnitError::new(
                format!("`{text}` is a length of time without its unit"),
                format!("write `{text}s`, or `{text}ms` if milliseconds are meant"),
            ));
        }
        let Some((_, scale)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError::new(
                format!("`{text}` is not a length of time: `{unit}` is no unit of time"),
                remedy,
            ));
        };
        let too_long = || {
            UnitError::new(
                format!("`{text}` is too long"),
                format!("the longest that can be written is `{}`", Timespan(MAX_TIMESPAN)),
            )
        };
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        // Nine digits of an hour's fraction are below a microsecond; what is finer than a nanosecond is dropped.
        let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let fraction: u128 = fraction.parse().map_err(|_| wrong())?;
        let nanos = u128::from(whole) * u128::from(*scale) + fraction * u128::from(*scale) / 1_000_000_000;
        if nanos > MAX_TIMESPAN.as_nanos() {
            return Err(too_long());
        }
        let nanos = u64::try_from(nanos).map_err(|_| too_long())?;
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for Timespan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in TIME_UNITS {
            if nanos.is_multiple_of(u128::from(scale)) {
                return write!(f, "{}{unit}", nanos / u128::from(scale));
            }
        }
        write!(f, "{nanos}ns")
    }
}

impl From<Timespan> for Duration {
    fn from(span: Timespan) -> Self {
        span.0
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write a share as `20%`, from `0%` to `100%`";
        let wrong = || UnitError::new(format!("`{text}` is not a share"), remedy);
        if let Ok(bare) = text.parse::<f64>() {
            return Err(bare_share(text, bare));
        }
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let Some(Quantity { unit: "", .. }) = quantity(number) else {
            return Err(wrong());
        };
        // Scaled in decimal, so that `7%` is the double nearest to 0.07.
        let share: f64 = format!("{number}e-2").parse().map_err(|_| wrong())?;
        if !(0.0..=1.0).contains(&share) {
            return Err(UnitError::new(format!("`{text}` is more than the whole"), remedy));
        }
        Ok(Self(share))
    }
}

fn bare_share(text: &str, value: f64) -> UnitError {
    let message = format!("`{text}` is a share without its `%`");
    if (0.0..1.0).contains(&value) && value != 0.0 {
        UnitError::new(message, format!("write `{}`", Share(value)))
    } else if (1.0..=100.0).contains(&value) || value == 0.0 {
        UnitError::new(message, format!("write `{text}%`"))
    } else {
        UnitError::new(format!("`{text}` is not a share"), "write a share as `20%`, from `0%` to `100%`")
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_finite() {
            return write!(f, "{}%", self.0);
        }
        // The shortest decimal that reads back, its point moved two places: exact, where `self.0 * 100.0` rounds.
        let decimal = self.0.to_string();
        let (whole, fraction) = decimal.split_once('.').unwrap_or((&decimal, ""));
        let mut shifted: String = whole.to_owned();
        shifted.extend(fraction.chars().chain("00".chars()).take(2));
        let rest: String = fraction.chars().skip(2).collect();
        let (sign, digits) = shifted.strip_prefix('-').map_or(("", shifted.as_str()), |digits| ("-", digits));
        let digits = digits.trim_start_matches('0');
        f.write_str(sign)?;
        f.write_str(if digits.is_empty() { "0" } else { digits })?;
        if !rest.is_empty() {
            write!(f, ".{rest}")?;
        }
        f.write_str("%")
    }
}

const BYTE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write a whole number and its unit: `512B`, `64KiB`, `1MiB` or `1GiB`";
        let wrong = || UnitError::new(format!("`{text}` is not a number of bytes"), remedy);
        let Quantity { whole, fraction, unit } = quantity(text).ok_or_else(wrong)?;
        if unit.is_empty() && fraction.is_empty() {
            return Err(UnitError::new(
                format!("`{text}` is a number of bytes without its unit"),
                format!("write `{text}B`, or `{text}KiB` if kibibytes are meant"),
            ));
        }
        if !fraction.is_empty() {
            return Err(wrong());
        }
        let Some((_, scale)) = BYTE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(
                match BYTE_UNITS
                    .iter()
                    .find(|(name, _)| name.replace('i', "").eq_ignore_ascii_case(&unit.replace('i', "")))
                {
                    Some((meant, _)) => UnitError::new(wrong().message, format!("write `{whole}{meant}`")),
                    None => wrong(),
                },
            );
        };
        whole
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*scale))
            .map(Self)
            .ok_or_else(|| UnitError::new(format!("`{text}` is more than can be counted"), remedy))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in BYTE_UNITS {
            if self.0 != 0 && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Rate {
    /// So many a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        let seconds = match self.per {
            'h' => 3_600.0,
            'm' => 60.0,
            _ => 1.0,
        };
        f64::from(self.count) / seconds
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write a whole number above 0 and the time that it is for: `100/s`, `600/m` or `1000/h`";
        let wrong = || UnitError::new(format!("`{text}` is not a rate"), remedy);
        let (count, unit) = match text.split_once('/') {
            Some(parts) => parts,
            None if text.bytes().all(|b| b.is_ascii_digit()) => {
                let message = format!("`{text}` is a rate without its time");
                return Err(UnitError::new(message, format!("write `{text}/s` if a second is meant")));
            }
            None => return Err(wrong()),
        };
        let per = match unit.trim() {
            "s" => 's',
            "m" => 'm',
            "h" => 'h',
            _ => return Err(wrong()),
        };
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        if count == 0 { Err(wrong()) } else { Ok(Self { count, per }) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

/// An address as a number, its bits left-aligned in 128.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

impl SourceNet {
    /// Whether `address` lies in the network. An IPv4 address that arrives mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && (bits(address) ^ bits(self.address)) & mask(self.prefix) == 0
    }

    /// Whether any address lies in both networks.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let wider = if self.prefix <= other.prefix { self } else { other };
        wider.contains(self.address) && wider.contains(other.address)
    }

    /// How many bits an address of this network's family has.
    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for SourceNet {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let remedy = "write a network as `10.1.2.16/28` or `fd00::/8`, or one address as `10.1.2.17`";
        let wrong = || UnitError::new(format!("`{text}` is not a network of addresses"), remedy);
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = Self::width(address);
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if prefix > width {
            return Err(UnitError::new(
                format!("`/{prefix}` is longer than an address, which has {width} bits"),
                remedy,
            ));
        }
        let kept = bits(address) & mask(prefix);
        if kept != bits(address) {
            let network = match address {
                IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::from_bits(u32::try_from(kept >> 96).unwrap_or(0))),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::from_bits(kept)),
            };
            return Err(UnitError::new(
                format!("`{text}` has address bits beyond its first {prefix}"),
                format!("write `{network}/{prefix}` for the network, or `{address}` for the one address"),
            ));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for SourceNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == Self::width(self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

/// Reads a value by its `FromStr`, and gives a bare number the same treatment, so that its error shows the right form.
pub(super) struct Written<T> {
    pub what: &'static str,
    pub value: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// Gives a type that has `FromStr` and `Display` the serde and schema implementations that say the same. What is written
/// like a number and is none (`0600`) is read as text (`deserialize_str`).
macro_rules! written {
    ($type:ident, $what:literal, $pattern:literal, $read:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.$read(Written { what: $what, value: std::marker::PhantomData })
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // A value may also name an environment variable, which only the loader can judge.
                json_schema!({ "type": "string", "pattern": concat!($pattern, r"|\$\{") })
            }
        }
    };
}

pub(super) use written;

written!(Timespan, "a length of time such as `250ms`", r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h)$", deserialize_any);
written!(Share, "a share such as `20%`", r"^[0-9]+(\.[0-9]+)?%$", deserialize_any);
written!(ByteSize, "a number of bytes such as `64KiB`", r"^[0-9]+(B|KiB|MiB|GiB)$", deserialize_any);
written!(Rate, "a rate such as `100/s`", r"^[0-9]+/[smh]$", deserialize_any);
written!(SourceNet, "a network such as `10.1.2.16/28`", r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$", deserialize_any);

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
