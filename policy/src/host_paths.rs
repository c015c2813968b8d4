//! Which paths of the host a policy names, and where each stands in it.
//!
//! Nothing here looks at a disk: the operator's tool does, and shows what it found at the place.

use crate::document::Document;
use crate::policy::Policy;
use crate::problem::{Finding, Findings, Place};
use annotate_snippets::Level;
use portcullis_wire::PolicyText;

/// A path that the launcher walks without following a link, as far as the operator wrote it out.
#[derive(Debug)]
pub(crate) struct HostPath {
    pub(crate) path: String,
    /// What it is for.
    pub(crate) what: &'static str,
    place: Place,
}

impl HostPath {
    /// The place, shown as an error with a remedy.
    pub(crate) fn error(
        &self,
        title: &str,
        label: &str,
        help: &str,
        files: &[PolicyText],
    ) -> String {
        let finding = Finding::new(&self.place, title, label).help(help);
        finding.render(Level::ERROR, files)
    }
}

/// The paths of a policy that loads, each once.
pub(crate) fn host_paths(policy: &Policy, files: &[PolicyText]) -> Vec<HostPath> {
    // The policy was compiled from these files, so reading them again finds nothing wrong.
    let document = Document::read(files, &mut Findings::default());
    let mut found: Vec<HostPath> = Vec::new();
    let mut add = |path: &str, what, place: &Place| {
        if !found.iter().any(|known| known.path == path) {
            let (path, place) = (path.to_owned(), place.clone());
            found.push(HostPath { path, what, place });
        }
    };
    for (rule, table) in policy.rules.iter().zip(&document.launches) {
        let written = table.container.iter().flat_map(|c| &c.mounts);
        for (mount, written) in rule.container.mounts.iter().zip(written) {
            add(&mount.prefix, "a mount source", &written.source.place);
        }
    }
    for (spool, table) in policy.spools().iter().zip(&document.spools) {
        if let Some(dir) = &table.dir {
            add(&spool.dir, "a spool", &dir.place);
        }
        if let Some(lock) = &table.lock {
            add(&spool.lock, "a spool's lock", &lock.place);
        }
    }
    found
}
