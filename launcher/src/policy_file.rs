//! Reading what only the operator may have written: an agent's policy and the host's configuration.
//!
//! Whoever can write these files has root's power, so a file is read only if root alone can change it, or put another in
//! its place: it and the directory that holds it are root's and nobody else may write them, and the file is no symbolic
//! link. The directories further up are not looked at, and links among them are followed. Ownership is a proof only where
//! no container can write: uid 0 in a container is root here, too, and could as well write a policy of its own.

use portcullis_wire::PolicyText;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// There is none.
    #[error("{path} does not exist")]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// It is somebody else's to point elsewhere.
    #[error("{path} is a symbolic link; put the file itself in its place")]
    Symlink {
        /// The file or directory.
        path: PathBuf,
    },
    /// It is neither a file nor, where that is meant, a directory.
    #[error("{path} is not a {expected}")]
    Kind {
        /// The file or directory.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// It is not root's.
    #[error("{path} belongs to user {uid}, not to root; mend with: chown root {path}")]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others may change it.
    #[error(
        "{path} can be written by others than root (mode {mode:04o}); mend with: chmod go-w {path}"
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is larger than any policy.
    #[error("{path} is larger than {LARGEST} bytes, the most that is read; split or shorten it")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{path} is not UTF-8 text; save it as UTF-8")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The system did not let it be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PolicyFileError {
    /// Whether there simply is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Reads an agent's policy: `path` itself, then every `*.toml` in the directory beside it that has `.d` in the place of
/// `.toml`, in the order of their names' bytes. Names that begin with a dot, such as editors' own, are left out.
///
/// # Errors
/// [`PolicyFileError`] for the first file or directory that cannot be used: a policy is read whole or not at all.
pub fn read_policy(path: &Path) -> Result<Vec<PolicyText>, PolicyFileError> {
    let (directory, name) = holder(path)?;
    let mut files = vec![text(path, read_in(&directory, name, path)?)];

    let drop_ins = path.with_extension("d");
    let opened = match drop_ins.file_name() {
        Some(name) => open_directory(&directory, name, &drop_ins, OFlags::NOFOLLOW),
        None => return Ok(files),
    };
    let directory = match opened {
        Ok(directory) => directory,
        Err(error) if error.is_not_found() => return Ok(files),
        Err(error) => return Err(error),
    };
    for name in toml_names(&directory).map_err(|errno| failed(&drop_ins, errno))? {
        let name = OsStr::from_bytes(&name);
        let path = drop_ins.join(name);
        files.push(text(&path, read_in(&directory, name, &path)?));
    }
    Ok(files)
}

/// Reads one file under the same conditions.
///
/// # Errors
/// [`PolicyFileError`]; [`is_not_found`](PolicyFileError::is_not_found) when there is none.
pub fn read_owned(path: &Path) -> Result<String, PolicyFileError> {
    let (directory, name) = holder(path)?;
    read_in(&directory, name, path)
}

fn text(path: &Path, text: String) -> PolicyText {
    PolicyText {
        path: path.to_string_lossy().into_owned(),
        text,
    }
}

/// The directory that holds `path`, judged, and the name in it. How it is reached is the operator's business, symbolic
/// links included: it is the directory found that counts.
fn holder(path: &Path) -> Result<(OwnedFd, &OsStr), PolicyFileError> {
    let name = path.file_name().ok_or_else(|| PolicyFileError::Kind {
        path: path.to_owned(),
        expected: "regular file",
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match open_directory(rustix::fs::CWD, directory, directory, OFlags::empty()) {
        Ok(opened) => Ok((opened, name)),
        // What is asked for, and missing, is the file.
        Err(PolicyFileError::NotFound { .. }) => Err(PolicyFileError::NotFound {
            path: path.to_owned(),
        }),
        Err(error) => Err(error),
    }
}

fn open_directory(
    at: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg,
    shown: &Path,
    how: OFlags,
) -> Result<OwnedFd, PolicyFileError> {
    // Not O_DIRECTORY: a symbolic link would be told as "not a directory".
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | how;
    let directory =
        rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| failed(shown, e))?;
    judge(&directory, shown, FileType::Directory)?;
    Ok(directory)
}

fn read_in(directory: &OwnedFd, name: &OsStr, shown: &Path) -> Result<String, PolicyFileError> {
    // O_NONBLOCK: a FIFO by mistake must not stop the launcher.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|e| failed(shown, e))?;
    judge(&file, shown, FileType::RegularFile)?;

    let mut bytes = Vec::new();
    // What is read is counted, not what the file claims to hold: it may be growing.
    let read = File::from(file).take(LARGEST + 1).read_to_end(&mut bytes);
    let path = shown.to_owned();
    match read {
        Err(source) => Err(PolicyFileError::Read { path, source }),
        Ok(length) if length as u64 > LARGEST => Err(PolicyFileError::TooLarge { path }),
        Ok(_) => String::from_utf8(bytes).map_err(|_| PolicyFileError::NotText { path }),
    }
}

/// Root's alone, and of the kind that was expected. Access-control lists that let others write show in the group bits.
fn judge(file: &OwnedFd, shown: &Path, expected: FileType) -> Result<(), PolicyFileError> {
    let path = || shown.to_owned();
    let stat = rustix::fs::fstat(file).map_err(|errno| failed(shown, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != expected {
        return Err(PolicyFileError::Kind {
            path: path(),
            expected: if expected == FileType::Directory {
                "directory"
            } else {
                "regular file"
            },
        });
    }
    if stat.st_uid != 0 {
        return Err(PolicyFileError::Owner {
            path: path(),
            uid: stat.st_uid,
        });
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(PolicyFileError::Writable {
            path: path(),
            mode: stat.st_mode & 0o7777,
        });
    }
    Ok(())
}

fn toml_names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn failed(path: &Path, errno: Errno) -> PolicyFileError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => PolicyFileError::NotFound { path },
        Errno::LOOP => PolicyFileError::Symlink { path },
        // A socket or a device without a driver cannot even be opened.
        Errno::NXIO | Errno::NODEV => PolicyFileError::Kind {
            path,
            expected: "regular file",
        },
        other => PolicyFileError::Read {
            path,
            source: other.into(),
        },
    }
}
