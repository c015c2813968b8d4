//! References to images: what podman may be given as one.
//!
//! podman also takes *transports* (`docker-archive:/path`), which load an image from anywhere, even with
//! `--pull=never`. So a reference is parsed here, and what could be taken for a transport is none.

/// How well a reference says which image is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// By digest or ID: always the same one.
    Pinned,
    /// By a registry's name and a tag.
    Tagged,
    /// Without a registry: whatever of that name is on the host.
    Short,
}

/// podman's transports, which also look like a short name with a tag.
const TRANSPORTS: &[&str] = &[
    "atomic",
    "containers-storage",
    "dir",
    "docker",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "remote",
    "sif",
    "tarball",
];

/// Reads a reference; `None` when it is none.
pub(crate) fn reference(text: &str) -> Option<Reference> {
    if text.len() > 512 {
        return None;
    }
    if is_hex(text, 64) || is_digest(text) {
        return Some(Reference::Pinned);
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return None;
    }
    let (first, rest) = match name.split_once('/') {
        Some((first, rest)) => (Some(first), rest),
        None => (None, name),
    };
    // A colon is a tag's only in the last component, and a port's only in a registry.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return None;
    }
    match first {
        Some(registry) if is_registry(registry) => Some(if digest.is_some() {
            Reference::Pinned
        } else {
            Reference::Tagged
        }),
        Some(first) => is_component(first).then_some(Reference::Short),
        None => (!TRANSPORTS.contains(&path)).then_some(Reference::Short),
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some(("sha256", hex)) => is_hex(hex, 64),
        Some(("sha512", hex)) => is_hex(hex, 128),
        _ => false,
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let number = |port: &str| {
        (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (host == "localhost" || host.contains('.'))
        && !host.starts_with('-')
        && host.split('.').all(label)
        && port.is_none_or(number)
}

fn is_component(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.as_bytes().first().is_some_and(plain)
        && text.as_bytes().last().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(&byte) || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::{Reference, reference};

    #[test]
    fn a_registry_a_digest_or_an_id_makes_a_full_reference() {
        let hex = "0123456789abcdef".repeat(4);
        for (text, form) in [
            (
                "quay.io/openstack.kolla/neutron-dhcp-agent:2026.1",
                Reference::Tagged,
            ),
            ("localhost/busybox", Reference::Tagged),
            ("localhost:5000/a/b_c/d-e:v1", Reference::Tagged),
            (&format!("quay.io/a@sha256:{hex}"), Reference::Pinned),
            (&format!("quay.io/a:tag@sha256:{hex}"), Reference::Pinned),
            (&format!("sha256:{hex}"), Reference::Pinned),
            (&hex, Reference::Pinned),
            ("busybox", Reference::Short),
            ("busybox:latest", Reference::Short),
            ("library/busybox:latest", Reference::Short),
        ] {
            assert_eq!(reference(text), Some(form), "{text}");
        }
    }

    #[test]
    fn a_transport_is_no_image() {
        for text in [
            "docker-archive:/tmp/x.tar",
            "docker-archive:x.tar",
            "docker://quay.io/a/b",
            "docker:20",
            "oci:foo",
            "oci:/foo:bar",
            "dir:/etc",
            "dir:5000/x",
            "containers-storage:quay.io/a/b",
            "containers-storage:[overlay@/var]a",
            "ostree:a@/b",
            "tarball:/x",
        ] {
            assert_eq!(reference(text), None, "{text}");
        }
    }

    #[test]
    fn what_podman_could_read_otherwise_is_no_image() {
        for text in [
            "",
            "-v",
            "--privileged",
            "a b",
            "A",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "quay.io/a:",
            "quay.io/a@",
            "quay.io/",
            "quay.io/a@sha256:12",
            "quay.io/a:t:u",
            "quay.io:x/a",
            "ä",
            "quay.io/a\n",
            "-x.io/a",
        ] {
            assert_eq!(reference(text), None, "{text}");
        }
    }
}
