//! The two links that every host has of its own: other spellings of `/run` and `/run/lock`.
//!
//! No link is followed on the way to what a policy names, but these two are so common in what people write that their text
//! is replaced. Text in, text out; whether the host really has such a link is for those to see who look at hosts.

/// A link that is the host's own, and where it leads.
pub const HOST_LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];

#[cfg(any(test, feature = "tool"))]
/// A path without those links: what it names where the host has them.
pub(crate) fn without_host_links(path: &str) -> String {
    let rest = |link| {
        path.strip_prefix(link)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    HOST_LINKS
        .iter()
        .find_map(|(link, target)| rest(*link).map(|rest| format!("{target}{rest}")))
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::without_host_links;

    #[test]
    fn host_links_are_replaced_whole() {
        for (path, plain) in [
            ("/var/run", "/run"),
            ("/var/run/netns", "/run/netns"),
            ("/var/lock/a", "/run/lock/a"),
            ("/var/running", "/var/running"),
            ("/srv/var/run", "/srv/var/run"),
            ("/run", "/run"),
        ] {
            assert_eq!(without_host_links(path), plain);
        }
    }
}
