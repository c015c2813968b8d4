//! Files that others than root can write, or put others in the place of, are no policy. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use portcullis_launcher::policy_file::{PolicyFileError, read_owned, read_policy};
use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Agents {
    directory: TempDir,
}

impl Agents {
    fn new() -> Self {
        let agents = Self {
            directory: TempDir::new().unwrap(),
        };
        agents.write("dhcp.toml", "version = 1\n");
        agents
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        set_mode(path.parent().unwrap(), 0o755);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
    }

    fn refusal(&self) -> String {
        let error = read_policy(&self.path("dhcp.toml")).unwrap_err();
        assert!(!error.is_not_found(), "{error}");
        error.to_string()
    }
}

fn set_mode(path: &Path, mode: u32) {
    chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

#[test]
fn the_main_file_comes_first_and_drop_ins_follow_in_the_order_of_their_names() {
    let agents = Agents::new();
    for name in ["20-b", "10-a", "ß"] {
        agents.write(&format!("dhcp.d/{name}.toml"), name);
    }
    for left_out in [".hidden.toml", "notes.txt", "30-c.toml~", "toml"] {
        agents.write(&format!("dhcp.d/{left_out}"), "not TOML");
    }
    agents.write("other.d/10-x.toml", "another agent's");

    let files = read_policy(&agents.path("dhcp.toml")).unwrap();
    let texts: Vec<_> = files.iter().map(|file| file.text.as_str()).collect();
    assert_eq!(texts, ["version = 1\n", "10-a", "20-b", "ß"]);
    assert_eq!(Path::new(&files[0].path), agents.path("dhcp.toml"));
    assert_eq!(Path::new(&files[1].path), agents.path("dhcp.d/10-a.toml"));
}

#[test]
fn a_missing_file_is_told_apart_from_an_unsafe_one() {
    let agents = Agents::new();
    for missing in ["none.toml", "none/dhcp.toml"] {
        let path = agents.path(missing);
        let error = read_policy(&path).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(error.to_string().contains(missing), "{error}");
        assert!(read_owned(&path).unwrap_err().is_not_found());
    }
    assert_eq!(read_policy(&agents.path("dhcp.toml")).unwrap().len(), 1);
    assert_eq!(
        read_owned(&agents.path("dhcp.toml")).unwrap(),
        "version = 1\n"
    );
}

#[test]
fn a_policy_that_others_may_write_is_refused() {
    let agents = Agents::new();
    agents.write("dhcp.d/10-a.toml", "");
    for name in ["dhcp.toml", "dhcp.d/10-a.toml"] {
        for mode in [0o664, 0o646, 0o620] {
            set_mode(&agents.path(name), mode);
            let path = agents.path(name);
            let mend = format!("mend with: chmod go-w {}", path.display());
            let refusal = agents.refusal();
            assert!(refusal.ends_with(&mend), "{refusal}");
        }
        set_mode(&agents.path(name), 0o600);
    }
    assert!(read_policy(&agents.path("dhcp.toml")).is_ok());
}

#[test]
fn a_directory_that_others_may_write_holds_no_policy() {
    let agents = Agents::new();
    agents.write("dhcp.d/10-a.toml", "");
    for name in ["", "dhcp.d"] {
        for mode in [0o775, 0o757, 0o1777] {
            set_mode(&agents.path(name), mode);
            let refusal = agents.refusal();
            assert!(refusal.contains("mend with: chmod go-w"), "{refusal}");
        }
        set_mode(&agents.path(name), 0o755);
        chown(agents.path(name), Some(12345), None).unwrap();
        let refusal = agents.refusal();
        assert!(refusal.contains("mend with: chown root"), "{refusal}");
        chown(agents.path(name), Some(0), None).unwrap();
    }
    assert!(read_policy(&agents.path("dhcp.toml")).is_ok());
}

#[test]
fn a_policy_of_another_owner_is_refused() {
    let agents = Agents::new();
    agents.write("dhcp.d/10-a.toml", "");
    for name in ["dhcp.toml", "dhcp.d/10-a.toml"] {
        let path = agents.path(name);
        chown(&path, Some(12345), None).unwrap();
        let mend = format!(
            "belongs to user 12345, not to root; mend with: chown root {}",
            path.display()
        );
        let refusal = agents.refusal();
        assert!(refusal.ends_with(&mend), "{refusal}");
        chown(&path, Some(0), None).unwrap();
    }
}

#[test]
fn a_symlinked_policy_is_refused_even_if_it_leads_to_a_good_one() {
    let agents = Agents::new();
    agents.write("real.toml", "");
    fs::remove_file(agents.path("dhcp.toml")).unwrap();
    symlink("real.toml", agents.path("dhcp.toml")).unwrap();
    let refusal = agents.refusal();
    assert!(refusal.contains("symbolic link"), "{refusal}");

    fs::remove_file(agents.path("dhcp.toml")).unwrap();
    agents.write("dhcp.toml", "");
    agents.write("real.d/10-a.toml", "");
    symlink("real.d", agents.path("dhcp.d")).unwrap();
    let refusal = agents.refusal();
    assert!(refusal.contains("symbolic link"), "{refusal}");

    fs::remove_file(agents.path("dhcp.d")).unwrap();
    fs::create_dir(agents.path("dhcp.d")).unwrap();
    symlink("/etc/hostname", agents.path("dhcp.d/20-b.toml")).unwrap();
    let refusal = agents.refusal();
    assert!(
        refusal.contains("20-b.toml is a symbolic link"),
        "{refusal}"
    );
}

#[test]
fn what_is_no_regular_file_is_refused_and_does_not_block() {
    let agents = Agents::new();
    let path = agents.path("dhcp.toml");
    let refused = || {
        let refusal = agents.refusal();
        assert!(refusal.ends_with("is not a regular file"), "{refusal}");
    };
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    let _listener = UnixListener::bind(&path).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    let zero = rustix::fs::makedev(1, 5);
    mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, zero).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused();
    assert!(matches!(
        read_owned(Path::new("/")),
        Err(PolicyFileError::Kind { .. })
    ));

    fs::remove_dir(&path).unwrap();
    agents.write("dhcp.toml", "");
    agents.write("dhcp.d", "a file where the directory should be");
    let refusal = agents.refusal();
    assert!(refusal.ends_with("dhcp.d is not a directory"), "{refusal}");
}

#[test]
fn a_file_that_is_too_large_or_no_text_is_refused() {
    let agents = Agents::new();
    let most = 1024 * 1024;
    agents.write("dhcp.toml", vec![b'#'; most]);
    assert!(read_policy(&agents.path("dhcp.toml")).is_ok());
    agents.write("dhcp.toml", vec![b'#'; most + 1]);
    let refusal = agents.refusal();
    assert!(refusal.contains("larger than 1048576 bytes"), "{refusal}");
    agents.write("dhcp.toml", b"# caf\xe9");
    let refusal = agents.refusal();
    assert!(refusal.contains("not UTF-8"), "{refusal}");
}

#[test]
fn one_bad_drop_in_makes_the_whole_policy_unusable() {
    let agents = Agents::new();
    for name in ["10-a", "20-b", "30-c"] {
        agents.write(&format!("dhcp.d/{name}.toml"), "");
    }
    set_mode(&agents.path("dhcp.d/20-b.toml"), 0o666);
    let refusal = agents.refusal();
    assert!(refusal.contains("20-b.toml"), "{refusal}");
}

#[test]
fn how_the_directory_is_reached_is_the_operators_business() {
    let agents = Agents::new();
    let elsewhere = TempDir::new().unwrap();
    let alias = elsewhere.path().join("agents");
    symlink(agents.directory.path(), &alias).unwrap();
    assert!(read_policy(&alias.join("dhcp.toml")).is_ok());
}
