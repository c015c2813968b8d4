//! What podman says of itself, of its stores and of cgroups: asked once, as that takes as long as a launch.

use crate::cgroup_parent;
use crate::engine::{Engine, EngineError};
use crate::host_config::CgroupParent;
use std::path::{Path, PathBuf};

/// The fields of `podman info` that count.
const FORMAT: &str = "--format={{.Host.CgroupManager}}\n{{.Store.GraphRoot}}\n{{.Store.GraphDriverName}}\n\
                      {{.Store.GraphOptions}}";

/// podman's answer.
#[derive(Debug)]
pub(crate) struct Info {
    /// The file in which the store keeps its list of images; `None` where that is not known, or where images may come from
    /// elsewhere, too.
    pub(crate) images: Option<PathBuf>,
    /// How podman manages cgroups: `systemd` or `cgroupfs`.
    pub(crate) cgroup_manager: String,
}

impl Info {
    fn parse(answer: &str) -> Self {
        let mut lines = answer.splitn(4, '\n');
        let cgroup_manager = lines.next().unwrap_or_default().to_owned();
        let images = match (lines.next(), lines.next(), lines.next()) {
            (Some(root), Some(driver), Some(options))
                // The driver's option for additional stores, and for one apart from the containers'.
                if root.starts_with('/') && !options.contains("imagestore") =>
            {
                Some(Path::new(root).join(format!("{driver}-images/images.json")))
            }
            _ => None,
        };
        Self {
            images,
            cgroup_manager,
        }
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

    /// The cgroup of all of an agent's side containers, if they get one. To be asked once podman has said something.
    pub(crate) fn cgroup_parent(&self, agent: &str) -> Option<String> {
        match self.config().cgroup_parent {
            CgroupParent::Auto => cgroup_parent::name(&self.info.get()?.cgroup_manager, agent),
            CgroupParent::None => None,
        }
    }
}
