//! How values are spelt: the one canonical form of each, told from everything else.
//!
//! Plain predicates on text that may come from anybody; none of them allocates or panics.

use portcullis_wire::hidden::is_hidden;
use std::fmt::{self, Write};
use std::net::Ipv6Addr;

/// How many bytes from the start are of an alphabet.
#[inline]
pub(crate) fn while_all(input: &str, alphabet: impl Fn(u8) -> bool) -> usize {
    let outside = input.bytes().position(|byte| !alphabet(byte));
    outside.unwrap_or(input.len())
}

pub(crate) fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

pub(crate) fn is_hostname_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')
}

pub(crate) fn is_ipv4_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.')
}

pub(crate) fn is_ip_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.')
}

pub(crate) fn is_word(value: &str) -> bool {
    let first = value.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && value.bytes().all(is_word_byte)
        && !value.contains("..")
}

/// Digits alone, no leading zero, within 64 bits.
pub(crate) fn decimal(value: &str) -> Option<u64> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (value == "0" || !value.starts_with('0')))
        .then(|| value.parse().ok())
        .flatten()
}

pub(crate) fn is_hostname(value: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && (label.bytes()).all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    value.len() <= 253 && value.split('.').all(label)
}

pub(crate) fn is_ipv4(value: &str) -> bool {
    let mut count = 0;
    value.as_bytes().split(|byte| *byte == b'.').all(|part| {
        count += 1;
        match part {
            [a] => a.is_ascii_digit(),
            [a, b] => matches!(a, b'1'..=b'9') && b.is_ascii_digit(),
            [b'1', b, c] => b.is_ascii_digit() && c.is_ascii_digit(),
            [b'2', b'0'..=b'4', c] => c.is_ascii_digit(),
            [b'2', b'5', c] => matches!(c, b'0'..=b'5'),
            _ => false,
        }
    }) && count == 4
}

pub(crate) fn is_ipv6(value: &str) -> bool {
    /// Takes what is written to it off the front of a text, and fails where they differ.
    struct Compare<'a>(&'a str);
    impl Write for Compare<'_> {
        fn write_str(&mut self, written: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(written).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    if !value.as_bytes().contains(&b':') {
        return false;
    }
    let Ok(address) = value.parse::<Ipv6Addr>() else {
        return false;
    };
    let mut compare = Compare(value);
    write!(compare, "{address}").is_ok() && compare.0.is_empty()
}

/// Absolute and normal, and more than `/`.
pub(crate) fn is_path(value: &str) -> bool {
    value.strip_prefix('/').is_some_and(is_relative_path)
}

/// Components with one `/` between, none of them empty, `.` or `..`; nothing hidden.
pub(crate) fn is_relative_path(value: &str) -> bool {
    let mut parts = value.as_bytes().split(|byte| *byte == b'/');
    parts.all(|part| !matches!(part, [] | [b'.'] | [b'.', b'.'])) && !has_hidden(value)
}

/// Whether a character is in it that a person does not see.
pub(crate) fn has_hidden(text: &str) -> bool {
    // No early end: so the compiler makes vector instructions of it.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~');
    let all = text
        .as_bytes()
        .iter()
        .fold(true, |all, byte| all & plain(byte));
    !all && text.contains(is_hidden)
}
