//! Which image a reference names at this moment.

use crate::engine::{Engine, EngineError, is_id};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

impl Engine {
    /// The full ID of the image that a reference names now.
    ///
    /// Asking podman takes as long as half a launch, so answers are kept until the store's list of images is touched.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn image_id(&self, reference: &str) -> Result<String, EngineError> {
        let store = self.image_store()?;
        let stamp = store.as_deref().and_then(Stamp::of);
        if let (Some(stamp), Ok(cache)) = (stamp, self.images.lock())
            && cache.stamp == Some(stamp)
            && let Some((_, id)) = cache.known.iter().find(|(known, _)| known == reference)
        {
            return Ok(id.clone());
        }
        let answer = self.run(&["image", "inspect", "--format={{.Id}}", "--", reference])?;
        let id = answer.trim();
        if !is_id(id) {
            let what = "image inspect".to_owned();
            return Err(EngineError::Answer { what, answer });
        }
        // Where the list is not to be seen, nothing would ever be forgotten.
        if stamp.is_some()
            && let Ok(mut cache) = self.images.lock()
        {
            if cache.stamp != stamp {
                cache.known.clear();
                cache.stamp = stamp;
            }
            cache.known.push((reference.to_owned(), id.to_owned()));
        }
        Ok(id.to_owned())
    }

    /// Where the store keeps its list of images, if that is known. Asked of podman once.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn image_store(&self) -> Result<Option<PathBuf>, EngineError> {
        if let Ok(cache) = self.images.lock()
            && let Some(path) = &cache.path
        {
            return Ok(path.clone());
        }
        let answer = self.run(&[
            "info",
            "--format={{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}",
        ])?;
        let mut lines = answer.lines();
        let path = match (lines.next(), lines.next()) {
            (Some(root), Some(driver)) if root.starts_with('/') => {
                Some(Path::new(root).join(format!("{driver}-images/images.json")))
            }
            _ => None,
        };
        if let Ok(mut cache) = self.images.lock() {
            cache.path = Some(path.clone());
        }
        Ok(path)
    }
}

/// Answers of `podman image inspect`, as long as the store is as it was.
#[derive(Debug, Default)]
pub(crate) struct ImageCache {
    path: Option<Option<PathBuf>>,
    stamp: Option<Stamp>,
    known: Vec<(String, String)>,
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
