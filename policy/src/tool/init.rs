//! `portcullis-policy init`: a preset becomes an agent's policy.
//!
//! The file is checked before it is there, appears whole or not at all, and never takes the place of another. From then on
//! it is the operator's: no later version of the preset changes it.

use super::files::{self, DIRECTORY, FilesError};
use super::{check, complain, presets, say};
use crate::Policy;
use portcullis_wire::AgentName;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The agent: a letter or digit, then up to 31 of a-z, 0-9, - and _
    agent: String,
    /// The preset, as `portcullis-policy presets` lists it
    #[arg(long, value_name = "NAME")]
    preset: String,
    #[command(flatten)]
    from: presets::Directory,
    /// Where agents' policies are
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
}

/// Why no policy was written.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Agent(#[from] portcullis_wire::BadAgentName),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("there is no preset {name:?} in {directory}; there is: {present}")]
    NoPreset {
        name: String,
        directory: PathBuf,
        present: String,
    },
    #[error("{path} is there already and is left as it is; edit it, or move it away first")]
    Exists { path: PathBuf },
    #[error(
        "{path} cannot be written by way of {draft}, which is there already and is left as it is; remove it if nobody needs it"
    )]
    Draft { path: PathBuf, draft: PathBuf },
    #[error(
        "{count} to mend in the preset {name:?}, or in what is beside {path}; nothing is written"
    )]
    Unfit {
        count: usize,
        name: String,
        path: PathBuf,
    },
    #[error("{path} cannot be written: {cause}; run this as root")]
    Denied { path: PathBuf, cause: io::Error },
    #[error("{path} cannot be written: {cause}")]
    Write { path: PathBuf, cause: io::Error },
}

pub(super) fn run(options: &Options) -> ExitCode {
    match init(options) {
        Ok(remaining) => {
            say(&remaining.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Writes the policy, and says what remains to be done.
fn init(options: &Options) -> Result<String, InitError> {
    let agent = AgentName::new(&options.agent)?;
    let path = options.directory.join(format!("{agent}.toml"));
    if path.symlink_metadata().is_ok() {
        return Err(InitError::Exists { path });
    }
    let text = preset(&options.preset, &options.from.path)?;
    let mut texts = vec![text.clone()];
    texts.extend(files::read_drop_ins(&path)?);

    let mut count = 0;
    let checked = check::review(&path, &agent, &texts, false, &mut count);
    count += check::shared(checked.as_slice());
    let Some(checked) = checked.filter(|_| count == 0) else {
        return Err(InitError::Unfit {
            count,
            name: options.preset.clone(),
            path,
        });
    };
    // Shown, and no reason to write nothing: a preset's paths are the operator's to adapt.
    check::look(&checked.policy, &texts);
    write(&path, &text.text)?;
    Ok(remaining(&agent, &path, &checked.policy))
}

/// The text of a preset. It is looked for among those that are there, so that no name leads out of the directory.
fn preset(name: &str, directory: &Path) -> Result<portcullis_wire::PolicyText, InitError> {
    let presets = presets::list(directory)?;
    match presets.iter().find(|preset| preset.name == name) {
        Some(preset) => Ok(preset.read()?),
        None => {
            let names: Vec<&str> = presets.iter().map(|preset| &*preset.name).collect();
            Err(InitError::NoPreset {
                name: name.to_owned(),
                directory: directory.to_owned(),
                present: names.join(", "),
            })
        }
    }
}

/// Makes the file in one step, whole. Fails when there is something of its name.
fn write(path: &Path, text: &str) -> Result<(), InitError> {
    let at = |cause| failure(path, cause);
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(at)?;
    // Not `.toml` at its end: nobody takes it for a policy.
    let draft = path.with_extension(format!("toml.{}", std::process::id()));
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft);
    let file = made.map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => InitError::Draft {
            path: path.to_owned(),
            draft: draft.clone(),
        },
        _ => failure(path, cause),
    })?;
    // From here on the draft is ours, and goes in any case.
    let linked = fill(file, text)
        .map_err(at)
        .and_then(|()| link(&draft, path));
    let removed = fs::remove_file(&draft).map_err(at);
    linked.and(removed)?;
    // The name, too, is to outlive a host that loses its power.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(at)
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    // Whatever the umask is. There is no secret in a policy.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

fn link(draft: &Path, path: &Path) -> Result<(), InitError> {
    fs::hard_link(draft, path).map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists {
            path: path.to_owned(),
        },
        _ => failure(path, cause),
    })
}

fn failure(path: &Path, cause: io::Error) -> InitError {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::PermissionDenied => InitError::Denied { path, cause },
        _ => InitError::Write { path, cause },
    }
}

/// The two commands that remain.
fn remaining(agent: &AgentName, path: &Path, policy: &Policy) -> String {
    // The client is installed beside this program.
    let client = std::env::current_exe().map_or_else(
        |_| "/usr/bin/portcullis".into(),
        |tool| tool.with_file_name("portcullis"),
    );
    let mut mounts = vec![format!("/run/portcullis/{agent}:/run/portcullis:ro")];
    if policy.rules.iter().any(|rule| !rule.netns.is_empty()) {
        mounts.push("/run/netns:/run/netns:ro,rslave".to_owned());
    }
    let mut places = vec!["/usr/bin/portcullis".to_owned()];
    for rule in &policy.rules {
        let place = place_in_agent(&rule.command, rule.container.settings.program.first());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    mounts.extend(
        places
            .iter()
            .map(|place| format!("{}:{place}:ro", client.display())),
    );

    let mut text = format!(
        "{} is written; adapt it where your agent differs.\n\
         Then let systemd listen, and run the agent with these mounts and without an engine's socket:\n\n    systemctl enable --now portcullis@{agent}.socket\n    podman run … \\\n",
        path.display()
    );
    for mount in &mounts {
        let _ = writeln!(text, "      --volume={mount} \\");
    }
    text.push_str("      AGENT_IMAGE\n");
    text
}

/// Where the agent finds a command: where the rule's program has the same name, most likely there.
fn place_in_agent(command: &str, program: Option<&String>) -> String {
    match program {
        Some(program) if program.ends_with(&format!("/{command}")) => program.clone(),
        _ => format!("/usr/bin/{command}"),
    }
}
