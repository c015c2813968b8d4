//! How absolute, normal paths lie to each other, on a host or in an image, where some directories are links to others.

use crate::host_links::HOST_LINKS;
use crate::pattern::{Part, Template};
use std::borrow::Cow;

/// Directories that most hosts and images have as links, beside [`HOST_LINKS`], and where these lead.
const ALIASES: &[(&str, &str)] = &[
    ("/bin", "/usr/bin"),
    ("/sbin", "/usr/sbin"),
    ("/lib", "/usr/lib"),
    ("/lib32", "/usr/lib32"),
    ("/lib64", "/usr/lib64"),
    ("/libx32", "/usr/libx32"),
];

/// Whether a path is another one, or beneath it.
pub(crate) fn is_beneath(path: &str, root: &str) -> bool {
    path.strip_prefix(root.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path with the usual links followed.
pub(crate) fn resolved(path: &str) -> Cow<'_, str> {
    for (alias, real) in HOST_LINKS.iter().chain(ALIASES) {
        if is_beneath(path, alias) {
            let rest = path.get(alias.len()..).unwrap_or_default();
            return format!("{real}{rest}").into();
        }
    }
    path.into()
}

/// The template with the usual links followed, as far as its text goes.
pub(crate) fn resolved_template(template: &Template) -> Template {
    let mut resolved = template.clone();
    if let Some(Part::Literal(head)) = resolved.parts.first_mut() {
        // A value that follows directly still belongs to the last component, which then is another name.
        let whole = template.literal().is_some();
        let end = if whole {
            head.len()
        } else {
            head.rfind('/').unwrap_or_default()
        };
        let (before, after) = head.split_at_checked(end).unwrap_or_default();
        *head = format!("{}{after}", self::resolved(before)).into();
    }
    resolved
}

/// Whether one path is the other, or above it, as they are written or with the usual links followed.
pub(crate) fn is_above(outer: &str, inner: &str) -> bool {
    is_beneath(inner, outer) || is_beneath(&resolved(inner), &resolved(outer))
}

/// Whether two paths are one, or one is above the other.
pub(crate) fn meet(one: &str, other: &str) -> bool {
    is_above(one, other) || is_above(other, one)
}

#[cfg(test)]
mod tests {
    use super::{is_above, is_beneath, meet, resolved};

    #[test]
    fn path_beneath_another_is_found_by_components() {
        assert!(is_beneath("/a/b", "/a") && is_beneath("/a", "/a") && is_beneath("/a", "/"));
        assert!(!is_beneath("/ab", "/a") && !is_beneath("/a", "/a/b"));
    }

    #[test]
    fn usual_links_are_followed() {
        assert_eq!(resolved("/var/run/x"), "/run/x");
        assert_eq!(resolved("/bin"), "/usr/bin");
        assert_eq!(resolved("/binary"), "/binary");
        assert_eq!(resolved("/var/lock"), "/run/lock");
        assert!(is_above("/run", "/var/run/x") && is_above("/var/run", "/run/x"));
        assert!(is_above("/var", "/var/run/x") && is_above("/usr", "/bin/sh"));
        assert!(meet("/bin/sh", "/usr") && meet("/lib64", "/usr/lib64/x"));
        assert!(!meet("/srv/a", "/srv/b"));
    }
}
