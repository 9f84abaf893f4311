//! The examples of RFC 7541, appendix C. (C.1, numbers: `number`.)

use super::{lines, request, response, trailers};
use crate::proxy::wire2::inflate::{Inflate, Refused};
use crate::proxy::wire2::number::put_short;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// C.2: a literal that is indexed, one that is not, one that never is, and an indexed field.
#[test]
fn single_fields() {
    let mut inflate = Inflate::new(4096);
    let custom =
        trailers(&mut inflate, &hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572")).unwrap();
    assert_eq!(lines(&custom), [("custom-key", "custom-header")]);
    assert_eq!(inflate.table().sizes(), (1, 55));

    let mut inflate = Inflate::new(4096);
    let path = [hex("040c 2f73 616d 706c 652f 7061 7468"), hex("82 86")].concat();
    assert_eq!(request(&mut inflate, &path).unwrap().0.uri, "/sample/path");
    assert_eq!(inflate.table().sizes(), (0, 0));

    let secret = trailers(&mut inflate, &hex("1008 7061 7373 776f 7264 0673 6563 7265 74")).unwrap();
    assert_eq!(lines(&secret), [("password", "secret")]);
    assert!(secret["password"].is_sensitive() && !custom["custom-key"].is_sensitive());
    assert_eq!(inflate.table().sizes(), (0, 0));

    assert_eq!(trailers(&mut inflate, &hex("82")).unwrap_err(), Refused::Stream(super::super::Code::PROTOCOL_ERROR));
    assert_eq!(inflate.table().sizes(), (0, 0));
}

/// C.3 without and C.4 with Huffman coding.
#[test]
fn requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut inflate = Inflate::new(4096);
        let mut read = |at: usize| {
            let (parts, _) = request(&mut inflate, &hex(blocks[at])).unwrap();
            (parts.method.to_string(), parts.uri.to_string(), parts.headers, inflate.table().sizes())
        };
        let (method, uri, headers, sizes) = read(0);
        assert_eq!((&*method, &*uri, lines(&headers), sizes), ("GET", "http://www.example.com/", vec![], (1, 57)));
        let (_, uri, headers, sizes) = read(1);
        let expected = vec![("cache-control", "no-cache")];
        assert_eq!((&*uri, lines(&headers), sizes), ("http://www.example.com/", expected, (2, 110)));
        let (_, uri, headers, sizes) = read(2);
        let expected = vec![("custom-key", "custom-value")];
        assert_eq!((&*uri, lines(&headers), sizes), ("https://www.example.com/index.html", expected, (3, 164)));
    }
}

/// C.5 without and C.6 with Huffman coding, both with a table of 256 bytes, from which fields are evicted.
#[test]
fn responses() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e \
         1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d \
         4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 \
         7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b \
         97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf \
         cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let location = "https://www.example.com";
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    for blocks in [plain, coded] {
        let mut inflate = Inflate::new(4096);
        // 256: the example's peers agreed on it before.
        assert_eq!(inflate.skip(&[0x3f, 0xe1, 0x01]), Ok(()));
        let mut read = |at: usize| {
            let (parts, _) = response(&mut inflate, &hex(blocks[at])).unwrap();
            (parts.status.as_u16(), parts.headers, inflate.table().sizes())
        };
        for (at, expected) in [302, 307].into_iter().enumerate() {
            let (status, headers, sizes) = read(at);
            assert_eq!((status, sizes), (expected, (4, 222)));
            let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
            assert_eq!(lines(&headers), [("cache-control", "private"), date, ("location", location)]);
        }
        let (status, headers, sizes) = read(2);
        assert_eq!((status, sizes), (200, (3, 215)));
        let expected = [
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", location),
            ("content-encoding", "gzip"),
            ("set-cookie", cookie),
        ];
        assert_eq!(lines(&headers), expected);
    }
}

/// The examples' strings are encoded to the same bytes.
#[test]
fn strings_are_encoded_as_in_the_examples() {
    for (text, bytes) in [
        ("www.example.com", "8c f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
        ("no-cache", "86 a8eb 1064 9cbf"),
        ("custom-value", "89 25a8 49e9 5bb8 e8b4 bf"),
        ("Mon, 21 Oct 2013 20:13:21 GMT", "96 d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff"),
    ] {
        let mut out = Vec::new();
        put_short(&mut out, text.as_bytes());
        assert_eq!(out, hex(bytes), "{text}");
    }
}
