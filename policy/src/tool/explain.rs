//! `portcullis-policy explain`: what would become of a request, or of a line of a spool.

use super::files::{self, DIRECTORY};
use super::{TROUBLE, complain, lines, say};
use crate::{Peer, Policy, explain};
use portcullis_wire::{AgentName, Body, Launch, Request, codec};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The policy's file [default: /etc/portcullis/agents/AGENT.toml]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The network namespace, as under /run/netns
    #[arg(long, value_name = "NS")]
    netns: Option<String>,
    /// The image that is asked for
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// An environment entry that is asked for
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The user who asks; without it only the rules are judged
    #[arg(long)]
    uid: Option<u32>,
    /// The group who asks [default: the same number as --uid]
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// The directory of the spool that the line is of, as the policy has it
    #[arg(
        long,
        value_name = "DIR",
        requires = "line",
        conflicts_with = "command"
    )]
    spool: Option<String>,
    /// A line of that spool, instead of a command
    #[arg(long, value_name = "TEXT", requires = "spool", allow_hyphen_values = true,
          conflicts_with_all = ["command", "netns", "image", "env", "uid"])]
    line: Option<String>,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Whose policy
    agent: String,
    /// The command, as the agent calls it, and its arguments
    #[arg(last = true, required_unless_present = "line")]
    command: Vec<String>,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(transparent)]
    Agent(#[from] portcullis_wire::BadAgentName),
    #[error(transparent)]
    Files(#[from] files::FilesError),
    #[error("{0}")]
    Policy(crate::Problems),
    #[error(transparent)]
    Encode(#[from] codec::EncodeError),
    #[error("the request would be refused as {}: {}", .0.reason(), .0)]
    Request(#[from] codec::DecodeError),
    #[error(transparent)]
    Spool(#[from] lines::NoSpool),
    #[error("the line would be denied as {}: {}", .0.reason(), .0)]
    Line(#[from] portcullis_wire::line::LineError),
}

pub(super) fn run(options: &Options) -> ExitCode {
    match explained(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::from(TROUBLE)
        }
    }
}

fn explained(options: &Options) -> Result<bool, ExplainError> {
    let agent = AgentName::new(&options.agent)?;
    let default = || PathBuf::from(DIRECTORY).join(format!("{agent}.toml"));
    let texts = files::read(&options.policy.clone().unwrap_or_else(default))?;
    let policy = Policy::load(&agent, &texts).map_err(ExplainError::Policy)?;
    let (peer, request) = asked(options, &policy)?;
    let explanation = explain(&policy, &peer, &request);
    if options.json {
        say(&explanation.to_json());
    } else {
        say(&explanation.to_string().trim_end());
    }
    Ok(explanation.allowed)
}

/// Who asks, and for what.
fn asked(options: &Options, policy: &Policy) -> Result<(Peer, Launch), ExplainError> {
    if let (Some(dir), Some(line)) = (&options.spool, &options.line) {
        let spool = lines::spool(policy, dir)?;
        return Ok((lines::peer(spool), lines::launch(spool, line.as_bytes())?));
    }
    let request = through_the_wire(Launch {
        command: options.command.first().cloned().unwrap_or_default(),
        args: options.command.iter().skip(1).cloned().collect(),
        netns: options.netns.clone(),
        image: options.image.clone(),
        env: options.env.clone(),
        ..Launch::default()
    })?;
    let peer = match options.uid {
        Some(uid) => Peer::Process {
            uid,
            gid: options.gid.unwrap_or(uid),
            pid: 0,
        },
        None => Peer::Operator,
    };
    Ok((peer, request))
}

/// The request as it would arrive, so that what no client can send is not explained.
fn through_the_wire(launch: Launch) -> Result<Launch, ExplainError> {
    let body = Body::Launch(launch);
    let datagram = codec::encode(&Request { id: 1, body })?;
    match codec::decode_request(&datagram)?.body {
        Body::Launch(launch) => Ok(launch),
        _ => Err(codec::DecodeError::Body.into()),
    }
}
