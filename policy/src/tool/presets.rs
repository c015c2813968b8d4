//! `portcullis-policy presets`: the policies that come with Portcullis, to be made an agent's by `init`.

use super::files::{self, FilesError};
use super::{TROUBLE, complain, say};
use portcullis_wire::PolicyText;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    from: Directory,
}

/// Where presets are.
#[derive(clap::Args)]
pub(super) struct Directory {
    /// Where the presets are
    #[arg(
        long = "presets",
        value_name = "DIR",
        default_value = "/usr/share/portcullis/presets"
    )]
    pub(super) path: PathBuf,
}

/// One preset.
pub(super) struct Preset {
    pub(super) name: String,
    path: PathBuf,
}

impl Preset {
    pub(super) fn read(&self) -> Result<PolicyText, FilesError> {
        files::read_one(&self.path)
    }
}

/// The presets of a directory, by name.
pub(super) fn list(directory: &Path) -> Result<Vec<Preset>, FilesError> {
    let preset = |path: PathBuf| Preset {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        path,
    };
    Ok(files::list(directory)?.into_iter().map(preset).collect())
}

pub(super) fn run(options: &Options) -> ExitCode {
    match show(&options.from.path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(TROUBLE)
        }
    }
}

/// One line for each: its name, and the comment that is its first line.
fn show(directory: &Path) -> Result<(), FilesError> {
    let presets = list(directory)?;
    let width = presets.iter().map(|preset| preset.name.len()).max();
    for preset in &presets {
        let text = preset.read()?.text;
        let first = text.lines().next().unwrap_or_default();
        let purpose = first.trim_start_matches(['#', ' ']);
        let width = width.unwrap_or_default();
        say(&format_args!("{:width$}  {purpose}", preset.name));
    }
    Ok(())
}
