//! The launcher's command line, and the durations that it and the host configuration are written with.

use portcullis_wire::AgentName;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
portcullis-launcher: starts side containers for one agent, as that agent's policy allows

Usage: portcullis-launcher --agent NAME [OPTION]...

  --agent NAME          the agent: [a-z0-9][a-z0-9_-]{0,31}
  --policy FILE         its policy [/etc/portcullis/agents/NAME.toml], with drop-ins in FILE's name with .d
  --config FILE         the host's configuration [/etc/portcullis/portcullis.toml]; may be missing unless given
  --listen PATH         bind this socket; without it the socket comes from systemd (LISTEN_FDS)
  --broker PATH         the broker's binary [portcullis-broker beside this one]
  --idle-exit DURATION  exit when there has been nothing to do for so long, e.g. 90s, 5min; 0 is never
  --state-dir DIR       launch records [/var/lib/portcullis/NAME]
  --runtime-dir DIR     staging and the operator's socket [/run/portcullis-launcher/NAME]
  --help, --version
";

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    /// The agent that is served.
    pub agent: AgentName,
    /// The main policy file.
    pub policy: PathBuf,
    /// The host's configuration, and whether it was named on the command line (and so has to exist).
    pub config: (PathBuf, bool),
    /// The socket to bind; systemd's when absent.
    pub listen: Option<PathBuf>,
    /// The broker's binary.
    pub broker: PathBuf,
    /// Overrides the configuration's `idle_exit`.
    pub idle_exit: Option<Duration>,
    /// Where the launch records are.
    pub state_dir: PathBuf,
    /// Where the staging area and the operator's socket are.
    pub runtime_dir: PathBuf,
}

/// What was wrong with the command line.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Not to be parsed.
    #[error("{0}; see --help")]
    Syntax(#[from] lexopt::Error),
    /// Not an agent's name.
    #[error(transparent)]
    Agent(#[from] portcullis_wire::BadAgentName),
    /// Not a duration.
    #[error("--idle-exit: {0}")]
    Duration(#[from] BadDuration),
    /// `--agent` was not given.
    #[error("--agent NAME is missing; see --help")]
    NoAgent,
    /// Where this binary is cannot be found out.
    #[error("/proc/self/exe cannot be read ({0}); say where the broker is with --broker PATH")]
    Myself(std::io::Error),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// Serve.
    Serve(Box<Options>),
    /// Print this and end.
    Print(String),
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// [`OptionsError`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, OptionsError> {
    use lexopt::prelude::*;
    let (mut agent, mut policy, mut config, mut listen, mut broker) =
        (None, None, None, None, None);
    let (mut idle_exit, mut state_dir, mut runtime_dir) = (None, None, None);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("agent") => agent = Some(AgentName::new(&parser.value()?.string()?)?),
            Long("policy") => policy = Some(PathBuf::from(parser.value()?)),
            Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("listen") => listen = Some(PathBuf::from(parser.value()?)),
            Long("broker") => broker = Some(PathBuf::from(parser.value()?)),
            Long("idle-exit") => idle_exit = Some(duration(&parser.value()?.string()?)?),
            Long("state-dir") => state_dir = Some(PathBuf::from(parser.value()?)),
            Long("runtime-dir") => runtime_dir = Some(PathBuf::from(parser.value()?)),
            Long("help") => return Ok(Asked::Print(HELP.to_owned())),
            Long("version") => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Asked::Print(format!("portcullis-launcher {version}\n")));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let agent = agent.ok_or(OptionsError::NoAgent)?;
    let broker = match broker {
        Some(path) => path,
        None => std::env::current_exe()
            .map_err(OptionsError::Myself)?
            .with_file_name("portcullis-broker"),
    };
    Ok(Asked::Serve(Box::new(Options {
        policy: policy.unwrap_or_else(|| format!("/etc/portcullis/agents/{agent}.toml").into()),
        config: match config {
            Some(path) => (path, true),
            None => ("/etc/portcullis/portcullis.toml".into(), false),
        },
        listen,
        broker,
        idle_exit,
        state_dir: state_dir.unwrap_or_else(|| format!("/var/lib/portcullis/{agent}").into()),
        runtime_dir: runtime_dir
            .unwrap_or_else(|| format!("/run/portcullis-launcher/{agent}").into()),
        agent,
    })))
}

/// A text that is no duration.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a duration: a whole number and one of ms, s, min, h, as in \"90s\"; or \"0\""
)]
pub struct BadDuration(String);

/// Reads `500ms`, `90s`, `5min`, `2h`, or `0`.
///
/// # Errors
/// [`BadDuration`].
pub fn duration(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn paths_follow_from_the_agents_name() {
        let Asked::Serve(options) = parse(words(&["--agent", "dhcp"])).unwrap() else {
            panic!("not served")
        };
        assert_eq!(
            options.policy.to_str(),
            Some("/etc/portcullis/agents/dhcp.toml")
        );
        assert_eq!(options.state_dir.to_str(), Some("/var/lib/portcullis/dhcp"));
        assert_eq!(
            options.runtime_dir.to_str(),
            Some("/run/portcullis-launcher/dhcp")
        );
    }

    #[test]
    fn a_command_line_that_is_not_understood_is_refused() {
        for bad in [
            &["--agent", "../x"][..],
            &[],
            &["--agent", "a", "--nope"],
            &["--agent", "a", "--idle-exit", "5 parsecs"],
            &["--agent", "a", "more"],
        ] {
            assert!(parse(words(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("5min").unwrap(), Duration::from_secs(300));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
