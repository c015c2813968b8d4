//! The kinds of value that a placeholder accepts.
//!
//! Each has one canonical spelling, compared bytewise; none accepts the empty text. A kind is asked how long the value
//! at the start of a text is: the longest run of its alphabet, or nothing when that run is no value.

use crate::spelling::{
    decimal, has_hidden, is_hex, is_hostname, is_hostname_byte, is_ip_byte, is_ipv4, is_ipv4_byte,
    is_ipv6, is_path, is_word, is_word_byte, while_all,
};
use portcullis_wire::hidden::is_hidden;
use std::fmt;

/// What a placeholder accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Lower case, 8-4-4-4-12.
    Uuid,
    /// Lower-case hexadecimal digits.
    Hex,
    /// Lower case, six pairs with colons.
    Mac,
    /// Decimal, no sign, no leading zero; both ends belong to it.
    Int(u64, u64),
    /// `[A-Za-z0-9_][A-Za-z0-9_.-]*` without `..`.
    Word,
    /// A word of at most 15 bytes.
    Ifname,
    /// Labels of letters, digits and `-`, with dots between.
    Hostname,
    /// An IPv4 or IPv6 address.
    Ip,
    /// Four decimal numbers.
    Ipv4,
    /// The shortest spelling (RFC 5952), no zone.
    Ipv6,
    /// An address, `/` and the length of a prefix.
    Cidr,
    /// An absolute path without `.`, `..`, `//` or `/` at its end; strictly beneath the given one.
    Path(Option<Box<str>>),
    /// One of these.
    One(Box<[Box<str>]>),
    /// Anything without control, format and line-separator characters.
    Text,
}

/// The names of the kinds, for suggestions.
pub(crate) const NAMES: &[&str] = &[
    "uuid", "hex", "mac", "int", "word", "ifname", "hostname", "ip", "ipv4", "ipv6", "cidr",
    "path", "one", "text",
];

impl Kind {
    /// The length of the value that `input` begins with.
    pub(crate) fn run(&self, input: &str) -> Option<usize> {
        // One loop per alphabet, with the kind chosen outside of it: this is where a decision spends its time.
        let length = match self {
            Self::Uuid => 36,
            Self::Mac => 17,
            Self::Hex => while_all(input, is_hex),
            Self::Int(..) => while_all(input, |byte| byte.is_ascii_digit()),
            Self::Word | Self::Ifname => while_all(input, is_word_byte),
            Self::Hostname => while_all(input, is_hostname_byte),
            Self::Ipv4 => while_all(input, is_ipv4_byte),
            Self::Ip | Self::Ipv6 => while_all(input, is_ip_byte),
            Self::Cidr => while_all(input, |byte| is_ip_byte(byte) || byte == b'/'),
            Self::Path(_) | Self::Text if !has_hidden(input) => input.len(),
            Self::Path(_) | Self::Text => input.find(is_hidden).unwrap_or(input.len()),
            Self::One(options) => {
                let found = options
                    .iter()
                    .filter(|option| input.starts_with(&***option));
                return found.map(|option| option.len()).max();
            }
        };
        let value = input.get(..length)?;
        (length > 0 && self.accepts(value)).then_some(length)
    }

    /// Whether `value`, all of it and of the kind's alphabet, is one.
    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Uuid => {
                matches!(
                    value.as_bytes(),
                    [
                        _,
                        _,
                        _,
                        _,
                        _,
                        _,
                        _,
                        _,
                        b'-',
                        _,
                        _,
                        _,
                        _,
                        b'-',
                        _,
                        _,
                        _,
                        _,
                        b'-',
                        _,
                        _,
                        _,
                        _,
                        b'-',
                        ..
                    ]
                ) && value.bytes().filter(|byte| is_hex(*byte)).count() == 32
            }
            Self::Mac => value.bytes().enumerate().all(|(at, byte)| match at % 3 {
                2 => byte == b':',
                _ => is_hex(byte),
            }),
            Self::Int(least, most) => {
                decimal(value).is_some_and(|number| (*least..=*most).contains(&number))
            }
            Self::Word => is_word(value),
            Self::Ifname => value.len() <= 15 && is_word(value),
            Self::Hostname => is_hostname(value),
            Self::Ipv4 => is_ipv4(value),
            Self::Ipv6 => is_ipv6(value),
            Self::Ip => is_ipv4(value) || is_ipv6(value),
            Self::Cidr => value.split_once('/').is_some_and(|(address, length)| {
                decimal(length).is_some_and(|length| {
                    (length <= 32 && is_ipv4(address)) || (length <= 128 && is_ipv6(address))
                })
            }),
            Self::Path(above) => {
                is_path(value)
                    && above.as_ref().is_none_or(|above| {
                        value
                            .strip_prefix(&**above)
                            .is_some_and(|rest| rest.starts_with('/'))
                    })
            }
            Self::Hex | Self::Text => true,
            Self::One(options) => options.iter().any(|option| **option == *value),
        }
    }

    /// Whether a value, already one, may go on with this byte: what follows a placeholder must not begin with it.
    pub(crate) fn continues(&self, byte: u8) -> bool {
        match self {
            Self::Uuid | Self::Mac => false,
            Self::Hex => is_hex(byte),
            Self::Int(..) => byte.is_ascii_digit(),
            Self::Word | Self::Ifname => is_word_byte(byte),
            Self::Hostname => is_hostname_byte(byte),
            Self::Ipv4 => is_ipv4_byte(byte),
            Self::Ip | Self::Ipv6 => is_ip_byte(byte),
            Self::Cidr => is_ip_byte(byte) || byte == b'/',
            Self::Path(_) | Self::Text => byte >= 0x20 && byte != 0x7f,
            Self::One(options) => options.iter().any(|short| {
                options.iter().any(|long| {
                    let rest = long.strip_prefix(&**short);
                    rest.is_some_and(|rest| rest.as_bytes().first() == Some(&byte))
                })
            }),
        }
    }

    /// Reads a kind as it is written after the colon.
    ///
    /// # Errors
    /// What is wrong, and what would have been right.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, String)> {
        let (name, parameter) = match text.split_once('(') {
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(parameter) => (name, Some(parameter)),
                None => return wrong("the parenthesis is not closed", format!("{text})")),
            },
            None => (text, None),
        };
        match (name, parameter) {
            ("uuid", None) => Ok(Self::Uuid),
            ("hex", None) => Ok(Self::Hex),
            ("mac", None) => Ok(Self::Mac),
            ("int", None) => Ok(Self::Int(0, u64::MAX)),
            ("int", Some(range)) => Self::parse_range(range),
            ("word", None) => Ok(Self::Word),
            ("ifname", None) => Ok(Self::Ifname),
            ("hostname", None) => Ok(Self::Hostname),
            ("ip", None) => Ok(Self::Ip),
            ("ipv4", None) => Ok(Self::Ipv4),
            ("ipv6", None) => Ok(Self::Ipv6),
            ("cidr", None) => Ok(Self::Cidr),
            ("path", None) => Ok(Self::Path(None)),
            ("path", Some(above)) if is_path(above) => Ok(Self::Path(Some(above.into()))),
            ("path", Some(_)) => wrong(
                "the path in the parentheses is not absolute and normal",
                "path(/srv/data)".to_owned(),
            ),
            ("one", Some(options)) => Self::parse_options(options),
            ("one", None) => wrong("`one` needs its alternatives", "one(a|b|c)".to_owned()),
            ("text", None) => Ok(Self::Text),
            (known, Some(_)) if NAMES.contains(&known) => {
                wrong(&format!("`{known}` takes no parentheses"), known.to_owned())
            }
            _ => {
                let meant = crate::problem::nearest(name, NAMES).map(str::to_owned);
                let all = || format!("one of: {}", NAMES.join(", "));
                wrong("there is no such kind", meant.unwrap_or_else(all))
            }
        }
    }

    fn parse_range(range: &str) -> Result<Self, (String, String)> {
        let ends = range
            .split_once("..")
            .and_then(|(least, most)| Some((decimal(least)?, decimal(most)?)));
        match ends {
            Some((least, most)) if least <= most => Ok(Self::Int(least, most)),
            _ => wrong(
                "the parentheses hold no range of two numbers, the smaller one first",
                "int(1..65535)".to_owned(),
            ),
        }
    }

    fn parse_options(options: &str) -> Result<Self, (String, String)> {
        let list: Vec<Box<str>> = options.split('|').map(Into::into).collect();
        let unique = |at: usize| !list.iter().skip(at + 1).any(|o| list.get(at) == Some(o));
        if list.iter().any(|option| option.is_empty()) {
            return wrong("an alternative is empty", "one(a|b|c)".to_owned());
        }
        if !(0..list.len()).all(unique) {
            return wrong("an alternative is there twice", "one(a|b|c)".to_owned());
        }
        Ok(Self::One(list.into()))
    }
}

fn wrong<T>(what: &str, right: String) -> Result<T, (String, String)> {
    Err((what.to_owned(), right))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid => f.write_str("uuid"),
            Self::Hex => f.write_str("hex"),
            Self::Mac => f.write_str("mac"),
            Self::Int(0, u64::MAX) => f.write_str("int"),
            Self::Int(least, most) => write!(f, "int({least}..{most})"),
            Self::Word => f.write_str("word"),
            Self::Ifname => f.write_str("ifname"),
            Self::Hostname => f.write_str("hostname"),
            Self::Ip => f.write_str("ip"),
            Self::Ipv4 => f.write_str("ipv4"),
            Self::Ipv6 => f.write_str("ipv6"),
            Self::Cidr => f.write_str("cidr"),
            Self::Path(None) => f.write_str("path"),
            Self::Path(Some(above)) => write!(f, "path({above})"),
            Self::One(options) => write!(f, "one({})", options.join("|")),
            Self::Text => f.write_str("text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;
    use proptest::prelude::*;

    fn kind(text: &str) -> Kind {
        Kind::parse(text).unwrap()
    }

    fn check(kind_text: &str, good: &[&str], bad: &[&str]) {
        let kind = kind(kind_text);
        for text in good {
            assert_eq!(kind.run(text), Some(text.len()), "{kind_text} {text:?}");
        }
        for text in bad {
            assert_ne!(kind.run(text), Some(text.len()), "{kind_text} {text:?}");
            assert_eq!(kind.run(text).filter(|length| *length == 0), None);
        }
    }

    const UUID: &str = "0c6b8f0e-31a5-4a8d-9f5b-0d4f2f6a1e77";

    #[test]
    fn each_kind_has_one_spelling_and_nothing_is_empty() {
        check(
            "uuid",
            &[UUID],
            &[
                "",
                "0C6B8F0E-31a5-4a8d-9f5b-0d4f2f6a1e77",
                "0c6b8f0e31a54a8d9f5b0d4f2f6a1e77",
                "g",
            ],
        );
        check(
            "uuid",
            &[],
            &[
                "0c6b8f0e-31a5-4a8d-9f5b-0d4f2f6a1e7-",
                "0c6b8f0e-31a5-4a8d-9f5b-0d4f2f6a1e7é",
            ],
        );
        check("hex", &["0", "00ff", "deadbeef"], &["", "FF", "0x1", "g"]);
        check(
            "mac",
            &["fa:16:3e:00:ab:cd"],
            &[
                "",
                "FA:16:3e:00:ab:cd",
                "fa-16-3e-00-ab-cd",
                "fa:16:3e:00:ab",
            ],
        );
        check(
            "int",
            &["0", "7", "42", "18446744073709551615"],
            &[
                "",
                "+5",
                "-5",
                "05",
                "00",
                "1_0",
                "18446744073709551616",
                "٣",
            ],
        );
        check(
            "int(64..128)",
            &["64", "100", "128"],
            &["63", "129", "064", "+64"],
        );
        check(
            "word",
            &["a", "_x", "A.b-c", "0"],
            &["", "-a", ".a", "..", "a..b", "a b", "a/b", "ä"],
        );
        check(
            "ifname",
            &["tap0c6b8f0e-31", "eth0.100"],
            &["", "-eth0", "abcdefghijklmnop", "a/b", "..", "eth0:1"],
        );
        check(
            "hostname",
            &["a", "a.b-c.D", "x1"],
            &["", "-a", "a-", "a..b", "a.", ".a", "a_b", "a/b"],
        );
        check(
            "ipv4",
            &["0.0.0.0", "10.0.0.255", "192.168.1.1"],
            &[
                "",
                "1.2.3",
                "1.2.3.4.5",
                "01.2.3.4",
                "256.1.1.1",
                "1.2.3.+4",
                "1..2.3",
                "0x1.2.3.4",
            ],
        );
        check(
            "ipv6",
            &[
                "::",
                "::1",
                "fe80::1",
                "2001:db8::8:0:0:1",
                "::ffff:1.2.3.4",
            ],
            &[
                "",
                "FE80::1",
                "fe80:0::1",
                "2001:0db8::1",
                "::1%eth0",
                "1::2::3",
                "0:0:0:0:0:0:0:1",
                "1.2.3.4",
            ],
        );
        check("ip", &["1.2.3.4", "fd00::"], &["", "1.2.3", "fd00:::"]);
        check(
            "cidr",
            &["169.254.0.5/24", "fe80::1/64", "0.0.0.0/0"],
            &[
                "1.2.3.4",
                "1.2.3.4/",
                "1.2.3.4/33",
                "fe80::1/129",
                "1.2.3.4/024",
                "1.2.3.4/+1",
                "fe80::1/64/1",
            ],
        );
        check(
            "path",
            &["/a", "/a/b.c", "/a/..b"],
            &[
                "",
                "/",
                "a",
                "//a",
                "/a/",
                "/a//b",
                "/a/../b",
                "/a/.",
                "/a\n",
                "/a\u{2028}b",
            ],
        );
        check(
            "path(/srv/data)",
            &["/srv/data/x"],
            &[
                "/srv/data",
                "/srv/database/x",
                "/srv/data/../x",
                "/srv",
                "/etc",
            ],
        );
        check("one(0|1)", &["0", "1"], &["", "2", "01"]);
        check("one(a|ab)", &["a", "ab"], &["b"]);
        check(
            "text",
            &["a b", "--x", "ä", "'; rm -rf /"],
            &[
                "",
                "a\nb",
                "a\u{2028}b",
                "\u{202e}x",
                "a\tb",
                "\u{7f}",
                "a\u{200b}",
            ],
        );
    }

    #[test]
    fn a_value_is_the_longest_run_of_its_alphabet() {
        assert_eq!(kind("int").run("12s"), Some(2));
        assert_eq!(kind("ipv4").run("1.2.3.4,x"), Some(7));
        assert_eq!(
            kind("ipv4").run("1.2.3.4.5"),
            None,
            "no shorter value is looked for"
        );
        assert_eq!(kind("uuid").run(&format!("{UUID}{UUID}")), Some(36));
        assert_eq!(kind("one(a|ab)").run("abc"), Some(2));
    }

    #[test]
    fn a_kind_that_is_not_known_is_answered_with_what_was_meant() {
        assert_eq!(Kind::parse("uid").unwrap_err().1, "uuid");
        assert_eq!(Kind::parse("ipv").unwrap_err().1, "ip");
        for bad in [
            "",
            "int(",
            "int()",
            "int(5)",
            "int(9..1)",
            "int(-1..1)",
            "one",
            "one()",
            "one(a||b)",
            "one(a|a)",
            "uuid(4)",
            "path(x)",
            "path(/a/)",
            "regex(.*)",
            "Int",
        ] {
            assert!(Kind::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kind_is_written_as_it_is_read() {
        for text in [
            "uuid",
            "hex",
            "mac",
            "int",
            "int(1..9)",
            "word",
            "ifname",
            "hostname",
            "ip",
            "ipv4",
            "ipv6",
            "cidr",
            "path",
            "path(/a/b)",
            "one(a|b)",
            "text",
        ] {
            assert_eq!(kind(text).to_string(), text);
        }
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(vec![
            "uuid",
            "hex",
            "mac",
            "int",
            "int(64..128)",
            "word",
            "ifname",
            "hostname",
            "ip",
            "ipv4",
            "ipv6",
            "cidr",
            "path",
            "path(/srv)",
            "one(a|ab|c)",
            "text",
        ])
        .prop_map(kind)
    }

    proptest! {
        #[test]
        fn no_text_makes_a_kind_panic_and_a_value_is_a_value_again(kind in kinds(), text in "\\PC{0,40}|[0-9a-f:.,/-]{0,40}") {
            if let Some(length) = kind.run(&text) {
                prop_assert!(length > 0);
                let value = text.get(..length).unwrap();
                prop_assert_eq!(kind.run(value), Some(length));
                prop_assert!(!value.contains(super::is_hidden));
            }
        }

        #[test]
        fn an_address_is_accepted_in_its_canonical_spelling_alone(address: std::net::Ipv6Addr) {
            let text = address.to_string();
            prop_assert_eq!(kind("ipv6").run(&text), Some(text.len()));
            let upper = text.to_uppercase();
            prop_assert_eq!(kind("ipv6").run(&upper) == Some(upper.len()), upper == text);
        }

        #[test]
        fn every_kind_is_read_by_the_overlap_check_at_least_as_wide_as_it_is(kind in kinds(), text in "\\PC{1,40}|[0-9a-f:.,/-]{1,40}") {
            if let Some(length) = kind.run(&text) {
                let first = text.as_bytes()[0];
                prop_assert!(length == 0 || crate::language::begins(&kind, first));
            }
        }
    }
}
