//! Each unit's forms, its bounds, and that what is written reads back.

use super::*;
use proptest::prelude::*;

fn time(text: &str) -> Result<Duration, UnitError> {
    text.parse::<Timespan>().map(|span| span.0)
}

#[test]
fn times_are_read_in_every_unit() {
    for (text, expected) in [
        ("0s", Duration::ZERO),
        ("1ns", Duration::from_nanos(1)),
        ("250us", Duration::from_micros(250)),
        ("250ms", Duration::from_millis(250)),
        ("1.5s", Duration::from_millis(1_500)),
        ("0.000000001s", Duration::from_nanos(1)),
        ("90s", Duration::from_secs(90)),
        ("5m", Duration::from_secs(300)),
        ("0.5h", Duration::from_secs(1_800)),
        ("87600h", MAX_TIMESPAN),
    ] {
        assert_eq!(time(text), Ok(expected), "{text}");
    }
}

#[test]
fn a_time_that_cannot_be_read_shows_the_right_form() {
    for (text, message, remedy) in [
        ("5", "without its unit", "write `5s`"),
        ("0", "without its unit", "write `0s`"),
        ("1.5", "without its unit", "write `1.5s`"),
        ("5sec", "`sec` is no unit", "`5s`"),
        ("5 s", "` s` is no unit", "`5s`"),
        ("1d", "`d` is no unit", "`1h`"),
        ("1m30s", "`m30s` is no unit", "`10m`"),
        ("-1s", "not a length", "`5s`"),
        ("+1s", "not a length", "`5s`"),
        (".5s", "not a length", "`5s`"),
        ("1.s", "not a length", "`5s`"),
        ("1..5s", "not a length", "`5s`"),
        ("", "not a length", "`5s`"),
        ("s", "not a length", "`5s`"),
        ("NaN", "not a length", "`5s`"),
        ("inf", "not a length", "`5s`"),
        ("1e3s", "`e3s` is no unit", "`5s`"),
        ("٣s", "not a length", "`5s`"),
        ("87600.1h", "too long", "`87600h`"),
        ("87601h", "too long", "`87600h`"),
        ("99999999999999999999999999h", "too long", "`87600h`"),
        ("18446744073709551615h", "too long", "`87600h`"),
    ] {
        let error = time(text).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn shares_are_read_and_bounded() {
    for (text, expected) in
        [("0%", 0.0), ("7%", 0.07), ("2.5%", 0.025), ("100%", 1.0), ("100.0%", 1.0), ("0.1%", 0.001), ("33.3%", 0.333)]
    {
        assert_eq!(text.parse::<Share>(), Ok(Share(expected)), "{text}");
    }
    for (text, message, remedy) in [
        ("0.02", "without its `%`", "write `2%`"),
        ("20", "without its `%`", "write `20%`"),
        ("0", "without its `%`", "write `0%`"),
        ("1", "without its `%`", "write `1%`"),
        ("101", "not a share", "`100%`"),
        ("100.1%", "more than the whole", "`100%`"),
        ("-1%", "not a share", "`0%`"),
        ("NaN", "not a share", "`0%`"),
        ("inf", "not a share", "`0%`"),
        ("nan%", "not a share", "`0%`"),
        ("%", "not a share", "`0%`"),
        ("1e1%", "not a share", "`0%`"),
        ("20 %", "not a share", "`20%`"),
        ("", "not a share", "`20%`"),
    ] {
        let error = text.parse::<Share>().unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
    assert!(format!("{}%", "9".repeat(400)).parse::<Share>().is_err());
}

#[test]
fn sizes_are_read_and_bounded() {
    for (text, expected) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)] {
        assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(expected)), "{text}");
    }
    for (text, message, remedy) in [
        ("64", "without its unit", "write `64B`, or `64KiB`"),
        ("64KB", "not a number of bytes", "write `64KiB`"),
        ("64kb", "not a number of bytes", "write `64KiB`"),
        ("64kib", "not a number of bytes", "write `64KiB`"),
        ("1.5MiB", "not a number of bytes", "whole number"),
        ("1TiB", "not a number of bytes", "`1GiB`"),
        ("-1B", "not a number of bytes", "`512B`"),
        ("", "not a number of bytes", "`512B`"),
        ("17179869184GiB", "more than can be counted", "`1GiB`"),
        ("18446744073709551616B", "more than can be counted", "`1GiB`"),
    ] {
        let error = text.parse::<ByteSize>().unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
    assert_eq!("17179869183GiB".parse::<ByteSize>(), Ok(ByteSize(u64::MAX - (1 << 30) + 1)));
    assert_eq!("18446744073709551615B".parse::<ByteSize>(), Ok(ByteSize(u64::MAX)));
}

fn net(text: &str) -> SourceNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn networks_hold_their_addresses_and_no_others() {
    let v4 = net("10.1.2.16/28");
    for (address, held) in [
        ("10.1.2.15", false),
        ("10.1.2.16", true),
        ("10.1.2.31", true),
        ("10.1.2.32", false),
        ("::ffff:10.1.2.17", true),
        ("::1", false),
    ] {
        assert_eq!(v4.contains(ip(address)), held, "{address}");
    }
    assert!(net("0.0.0.0/0").contains(ip("255.255.255.255")) && !net("0.0.0.0/0").contains(ip("::1")));
    assert!(net("::/0").contains(ip("ffff::1")) && !net("::/0").contains(ip("1.2.3.4")));
    assert!(net("fd00::/8").contains(ip("fdff::1")) && !net("fd00::/8").contains(ip("fe00::")));
    assert!(net("10.0.0.1").contains(ip("10.0.0.1")) && !net("10.0.0.1").contains(ip("10.0.0.0")));
    assert!(net("10.0.0.0/8").overlaps(&v4) && v4.overlaps(&net("10.0.0.0/8")) && !v4.overlaps(&net("10.1.2.32/28")));
}

#[test]
fn a_network_that_cannot_be_read_shows_the_right_form() {
    for (text, message, remedy) in [
        ("10.1.2.17/28", "beyond its first 28", "write `10.1.2.16/28` for the network, or `10.1.2.17`"),
        ("fd00::1/8", "beyond its first 8", "write `fd00::/8`"),
        ("10.1.2.3/33", "longer than an address, which has 32", "`10.1.2.16/28`"),
        ("::/129", "longer than an address, which has 128", "`fd00::/8`"),
        ("10.1.2.3/256", "not a network", "`10.1.2.16/28`"),
        ("10.1.2.3/+8", "not a network", "`10.1.2.16/28`"),
        ("10.1.2.3/", "not a network", "`10.1.2.16/28`"),
        ("10.1.2", "not a network", "`10.1.2.16/28`"),
        ("10.1.2.3:80", "not a network", "`10.1.2.16/28`"),
        ("", "not a network", "`10.1.2.16/28`"),
    ] {
        let error = text.parse::<SourceNet>().unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn values_are_written_in_their_largest_whole_unit() {
    for (nanos, written) in [
        (0, "0s"),
        (1, "1ns"),
        (1_500_000, "1500us"),
        (250_000_000, "250ms"),
        (90_000_000_000, "90s"),
        (3_600_000_000_000, "1h"),
    ] {
        assert_eq!(Timespan(Duration::from_nanos(nanos)).to_string(), written);
    }
    for (share, written) in [
        (0.0, "0%"),
        (0.001, "0.1%"),
        (0.07, "7%"),
        (0.29, "29%"),
        (0.5, "50%"),
        (1.0, "100%"),
        (0.333, "33.3%"),
        (f64::NAN, "NaN%"),
    ] {
        assert_eq!(Share(share).to_string(), written);
    }
    assert_eq!(ByteSize(1_536).to_string(), "1536B");
    assert_eq!(ByteSize(3 << 20).to_string(), "3MiB");
    assert_eq!(net("10.1.2.3/32").to_string(), "10.1.2.3");
}

proptest! {
    #[test]
    fn times_read_back(nanos in 0..=87_600_u64 * 3_600_000_000_000) {
        let span = Timespan(Duration::from_nanos(nanos));
        prop_assert_eq!(span.to_string().parse(), Ok(span));
    }

    #[test]
    fn shares_read_back(share in 0.0..=1.0_f64) {
        prop_assert_eq!(Share(share).to_string().parse(), Ok(Share(share)));
    }

    #[test]
    fn the_smallest_shares_read_back(bits in 0..0x3ff0_0000_0000_0000_u64) {
        let share = Share(f64::from_bits(bits));
        prop_assert_eq!(share.to_string().parse(), Ok(share));
    }

    #[test]
    fn sizes_read_back(size in any::<u64>()) {
        prop_assert_eq!(ByteSize(size).to_string().parse(), Ok(ByteSize(size)));
    }

    #[test]
    fn networks_read_back(address in any::<u128>(), v4 in any::<bool>(), prefix in 0..=128_u8) {
        let prefix = if v4 { prefix.min(32) } else { prefix };
        let kept = address & mask(prefix);
        let address = if v4 { IpAddr::V4(((kept >> 96) as u32).into()) } else { IpAddr::V6(kept.into()) };
        let net = SourceNet { address, prefix };
        prop_assert_eq!(net.to_string().parse(), Ok(net));
        prop_assert!(net.contains(address));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9.]{0,6}[a-zA-Z%/]{0,4}") {
        let _ = (time(&text), text.parse::<Share>(), text.parse::<ByteSize>(), text.parse::<SourceNet>());
    }
}
