//! Which image a reference names at this moment.

use crate::engine::{Engine, EngineError, is_id};
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

impl Engine {
    /// The full ID of the image that a reference names now.
    ///
    /// Asking podman takes as long as half a launch, so answers are kept until the store's list of images is touched.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn image_id(&self, reference: &str) -> Result<String, EngineError> {
        if let Some(id) = self.known_image(reference) {
            return Ok(id);
        }
        // Looked at before podman looks.
        let list = self.info()?.images.as_deref();
        let stamp = list.and_then(Stamp::of);
        let answer = self.run(&["image", "inspect", "--format={{.Id}}", "--", reference])?;
        let id = answer.trim();
        if !is_id(id) {
            let what = "image inspect".to_owned();
            return Err(EngineError::Answer { what, answer });
        }
        // Where the list is not to be seen, or has no say, nothing would ever be forgotten.
        if let (Some(list), Some(stamp)) = (list, stamp)
            && (is_pinned(reference) || is_listed(list, reference))
            && let Ok(mut cache) = self.images.lock()
        {
            if cache.stamp != Some(stamp) {
                cache.known.clear();
                cache.stamp = Some(stamp);
            }
            cache.known.push((reference.to_owned(), id.to_owned()));
        }
        Ok(id.to_owned())
    }

    fn known_image(&self, reference: &str) -> Option<String> {
        let stamp = Stamp::of(self.info.get()?.images.as_deref()?)?;
        let cache = self.images.lock().ok()?;
        let mut known = cache.known.iter().filter(|_| cache.stamp == Some(stamp));
        let (_, id) = known.find(|(known, _)| known == reference)?;
        Some(id.clone())
    }
}

/// Answers of `podman image inspect`, as long as the store is as it was.
#[derive(Debug, Default)]
pub(crate) struct ImageCache {
    stamp: Option<Stamp>,
    known: Vec<(String, String)>,
}

/// Whether a reference can mean one image alone.
fn is_pinned(reference: &str) -> bool {
    is_id(reference) || reference.contains("sha256:") || reference.contains("sha512:")
}

/// Whether the list has this name. podman asks its own store first: what is not in its list comes from another one, which
/// the operator may have added a moment ago.
fn is_listed(list: &Path, reference: &str) -> bool {
    #[derive(Deserialize)]
    struct Image {
        names: Option<Vec<String>>,
    }
    let images = fs::read(list).ok();
    let images: Option<Vec<Image>> = images.and_then(|text| serde_json::from_slice(&text).ok());
    let mut names = images
        .into_iter()
        .flatten()
        .filter_map(|i| i.names)
        .flatten();
    let has_tag = reference
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    let tag = if has_tag { "" } else { ":latest" };
    names.any(|name| name.strip_prefix(reference) == Some(tag))
}

/// Changes whenever the store writes its list of images: it replaces the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let m = fs::metadata(path).ok()?;
        Some(Self {
            inode: m.ino(),
            size: m.size(),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }
}
