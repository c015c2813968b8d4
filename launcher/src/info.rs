//! What podman says of itself and of its stores: asked once, as that takes as long as a launch.

use crate::engine::{Engine, EngineError};
use std::path::{Path, PathBuf};

/// The fields of `podman info` that count.
const FORMAT: &str =
    "--format={{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}\n{{.Store.GraphOptions}}";

/// podman's answer.
#[derive(Debug)]
pub(crate) struct Info {
    /// The file in which the store keeps its list of images; `None` where that is not known, or where images may come from
    /// elsewhere, too.
    pub(crate) images: Option<PathBuf>,
}

impl Info {
    fn parse(answer: &str) -> Self {
        let mut lines = answer.splitn(3, '\n');
        let images = match (lines.next(), lines.next(), lines.next()) {
            (Some(root), Some(driver), Some(options))
                // The driver's option for additional stores, and for one apart from the containers'.
                if root.starts_with('/') && !options.contains("imagestore") =>
            {
                Some(Path::new(root).join(format!("{driver}-images/images.json")))
            }
            _ => None,
        };
        Self { images }
    }
}

impl Engine {
    /// What podman says; asked again only where it has failed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(crate) fn info(&self) -> Result<&Info, EngineError> {
        if let Some(info) = self.info.get() {
            return Ok(info);
        }
        let info = Info::parse(&self.run(&["info", FORMAT])?);
        Ok(self.info.get_or_init(|| info))
    }
}
