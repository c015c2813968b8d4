//! Whom an agent's broker runs as: a user and group of its own, so that the brokers of two agents are strangers to each
//! other and to everybody else on the host.
//!
//! The numbers are from a range that nothing else is known to use (systemd's UIDS-GIDS has it free), by the agent's name;
//! where two names come to the same number, the later one takes the next. Nobody has to make the user: it owns no file.

use crate::host_config::BrokerConfig;
use portcullis_wire::AgentName;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The first number, and how many there are.
const RANGE: (u32, u32) = (2_053_046_272, 65_536);
/// So many numbers are tried.
const TRIES: u32 = 64;
/// The user where no number of the range can be had: in a user namespace that does not map them.
const SHARED: &str = "portcullis";

/// A user and a group, never root's.
#[derive(Debug)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Held for as long as the number is this agent's.
    _lock: Option<OwnedFd>,
}

/// There is nobody to run the broker as.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such user.
    #[error(
        "[broker] user = {0:?}: no such user in /etc/passwd; create it (systemd-sysusers) or name another one"
    )]
    NoUser(String),
    /// Root confines nothing.
    #[error("[broker] user = {0:?} is root, which the broker must not be")]
    Root(String),
    /// A file could not be read or made.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Account {
    /// The account of the configuration; else one of the agent's own, whose number is locked in `directory`, which all
    /// launchers of the host share.
    ///
    /// # Errors
    /// [`AccountError`].
    pub fn of(
        agent: &AgentName,
        config: &BrokerConfig,
        directory: &Path,
    ) -> Result<Self, AccountError> {
        if let Some(user) = &config.user {
            return named(user);
        }
        if mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") {
            own(agent, directory)
        } else {
            named(SHARED)
        }
    }
}

fn own(agent: &AgentName, directory: &Path) -> Result<Account, AccountError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| AccountError::File { path, error }
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(file(directory))?;
    let (first, count) = RANGE;
    for offset in 0..TRIES {
        let number = first + (hash(agent.as_str()).wrapping_add(offset)) % count;
        let path = directory.join(number.to_string());
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let lock = rustix::fs::open(&path, flags, mode).map_err(|e| file(&path)(e.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(Account {
                    uid: number,
                    gid: number,
                    _lock: Some(lock),
                });
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(file(&path)(errno.into())),
        }
    }
    named(SHARED)
}

/// /etc/passwd is read here: asking the name service would bring in a library that loads plugins.
fn named(name: &str) -> Result<Account, AccountError> {
    let ids = match name.parse::<u32>() {
        Ok(uid) => Some((uid, uid)),
        Err(_) => {
            let path = PathBuf::from("/etc/passwd");
            let passwd = fs::read_to_string(&path);
            let passwd = passwd.map_err(|error| AccountError::File { path, error })?;
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(name)).then_some(())?;
                Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
            })
        }
    };
    match ids {
        None => Err(AccountError::NoUser(name.to_owned())),
        Some((0, _) | (_, 0)) => Err(AccountError::Root(name.to_owned())),
        Some((uid, gid)) => Ok(Account {
            uid,
            gid,
            _lock: None,
        }),
    }
}

/// Whether the whole range means something in this user namespace.
fn mapped(map: &str) -> bool {
    let text = fs::read_to_string(map).unwrap_or_default();
    covers(&text)
}

fn covers(map: &str) -> bool {
    let (first, count) = (u64::from(RANGE.0), u64::from(RANGE.1));
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inside)), Some(Ok(_)), Some(Ok(length))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        inside <= first && first + count <= inside + length
    })
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).unwrap()
    }

    #[test]
    fn each_agent_has_a_number_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let config = BrokerConfig::default();
        let of = |name| Account::of(&agent(name), &config, directory.path()).unwrap();
        let (blue, green) = (of("blue"), of("green"));
        assert_ne!(blue.uid, green.uid);
        for account in [&blue, &green] {
            assert!((RANGE.0..RANGE.0 + RANGE.1).contains(&account.uid));
            assert_eq!(account.uid, account.gid);
        }
        // The second agent with the same number takes the next one.
        let second = of("blue");
        assert_eq!(second.uid, RANGE.0 + (blue.uid - RANGE.0 + 1) % RANGE.1);
        // The same one after a restart.
        let number = green.uid;
        drop(green);
        assert_eq!(of("green").uid, number);
    }

    #[test]
    fn configured_user_is_never_root() {
        let directory = tempfile::tempdir().unwrap();
        let of = |user: &str| {
            let user = Some(user.to_owned());
            let config = BrokerConfig {
                user,
                ..BrokerConfig::default()
            };
            Account::of(&agent("blue"), &config, directory.path()).map(|a| a.uid)
        };
        assert_eq!(of("4711").unwrap(), 4711);
        assert!(matches!(of("0"), Err(AccountError::Root(_))));
        assert!(matches!(of("root"), Err(AccountError::Root(_))));
        assert!(matches!(of("no-such-user"), Err(AccountError::NoUser(_))));
    }

    #[test]
    fn range_outside_the_namespaces_map_is_not_used() {
        assert!(covers("         0          0 4294967295\n"));
        assert!(!covers("         0     100000      65536\n"));
        assert!(!covers(""));
    }
}
