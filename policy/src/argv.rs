//! The hash of a command line, by which an audit record says what was asked for where there is no room for all of it.

use crate::plan::hex;
use sha2::{Digest, Sha256};

/// SHA-256 over the command and its arguments, each with a NUL after it, as `/proc/PID/cmdline` has them and
/// `printf '%s\\0' COMMAND ARG… | sha256sum` computes it: 64 hex digits. No word has a NUL in it, so no two command lines
/// have the same text.
#[must_use]
pub fn argv_hash(command: &str, args: &[String]) -> String {
    let mut hash = Sha256::new();
    for word in [command].into_iter().chain(args.iter().map(String::as_str)) {
        hash.update(word);
        hash.update([0]);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::argv_hash;

    #[test]
    fn argv_hash_matches_sha256sum() {
        let args = ["--a b", "", "ä"].map(str::to_owned);
        // printf '%s\0' dnsmasq '--a b' '' ä | sha256sum
        assert_eq!(
            argv_hash("dnsmasq", &args),
            "a32f4ac6271a6a8db7f7835076d5aa6f1d605d13b2814e6c99d6a68c703adebd"
        );
    }
}
