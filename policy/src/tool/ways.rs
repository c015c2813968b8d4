//! Whether a symbolic link is on the way to a path that a policy names: the launcher follows none.
//!
//! Looks at the host that the tool runs on, which need not be the one that the policy is for: what is not there is no error.

use crate::Policy;
use crate::host_links::HOST_LINKS;
use crate::host_paths::host_paths;
use portcullis_wire::PolicyText;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a way was found to be.
enum Way {
    /// No link, as far as there is something.
    Plain,
    /// A link, where it leads, and what the path would be without any.
    Linked(PathBuf, PathBuf, Option<PathBuf>),
    /// This could not be looked at.
    Unseen(PathBuf),
}

/// What was found: errors to show, and notes.
#[derive(Default)]
pub(super) struct Found {
    pub(super) errors: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Looks at every path that the policy names.
pub(super) fn links(policy: &Policy, texts: &[PolicyText]) -> Found {
    let mut found = Found::default();
    for named in host_paths(policy, texts) {
        match look(Path::new(&named.path)) {
            Way::Plain => {}
            Way::Linked(link, target, canonical) => {
                let title = format!("a symbolic link is on the way to {}, and none is followed", named.what);
                // Where it leads may be an agent's text: quoted, it changes nothing on a terminal.
                let label = format!("{link:?} -> {target:?}");
                let help = match canonical {
                    Some(path) => format!("write {path:?} in the place of {:?}", named.path),
                    None => "it leads nowhere: name a path without links".to_owned(),
                };
                found.errors.push(named.error(&title, &label, &help, texts));
            }
            Way::Unseen(path) => found.notes.push(format!(
                "note: whether a symbolic link is on the way to {} could not be seen at {}: run this as root",
                named.path,
                path.display()
            )),
        }
    }
    found
}

fn look(path: &Path) -> Way {
    let path = without_host_links(path);
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for part in way {
        match fs::symlink_metadata(part) {
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(part).unwrap_or_default();
                return Way::Linked(part.to_owned(), target, canonical(&path, part));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Way::Unseen(part.to_owned());
            }
            Err(_) => return Way::Plain,
        }
    }
    Way::Plain
}

/// The path without links. What is not there yet is left as it is, but not the link itself.
fn canonical(path: &Path, link: &Path) -> Option<PathBuf> {
    let there = path.ancestors().take_while(|part| part.starts_with(link));
    there.into_iter().find_map(|part| {
        let found = part.canonicalize().ok()?;
        let rest = path.strip_prefix(part).ok()?;
        Some(found.components().chain(rest.components()).collect())
    })
}

/// As the launcher does it: the host's own two links, where the host has them as every host does.
fn without_host_links(path: &Path) -> PathBuf {
    let is_roots = |path: &str| fs::symlink_metadata(path).is_ok_and(|found| found.uid() == 0);
    for (link, target) in HOST_LINKS {
        let Ok(rest) = path.strip_prefix(link) else {
            continue;
        };
        let relative = Path::new("..").join(target.trim_start_matches('/'));
        let leads = |found: PathBuf| found == Path::new(target) || found == relative;
        if fs::read_link(link).is_ok_and(leads) && is_roots("/var") && is_roots(link) {
            return Path::new(target).join(rest);
        }
    }
    path.to_owned()
}
