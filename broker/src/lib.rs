//! The unprivileged half of Portcullis: it reads what agents send.
//!
//! One process per agent, one thread, one direction: datagram → request → decision → a denial, or an order to the
//! launcher. It trusts its launcher, which accepts the connections, and the policy that it was handed, and nothing that
//! comes from a client. It must never open a file, make a socket, start a process or hold a privilege: [`confinement`]
//! sees to that before the first byte of an agent is read.

pub mod alarm;
pub mod bucket;
pub mod confinement;
pub mod connection;
pub mod denials;
pub mod inheritance;
pub mod judgement;
pub mod link;
pub mod options;
pub mod server;
pub mod service;
pub mod socket;

use confinement::Confinement;
use inheritance::Inheritance;
use judgement::Judge;
use link::Link;
use options::Options;
use portcullis_wire::Pong;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::process::ExitCode;

/// Why a broker does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The command line.
    #[error(transparent)]
    Options(#[from] options::OptionsError),
    /// The descriptors.
    #[error(transparent)]
    Inheritance(#[from] inheritance::InheritanceError),
    /// The sandbox.
    #[error(transparent)]
    Confinement(#[from] confinement::ConfinementError),
    /// The runtime.
    #[error("the event loop cannot be set up: {0}")]
    Runtime(#[source] std::io::Error),
}

/// The whole program. Ends when the launcher is gone, or when it has been told to drain and has.
#[must_use]
pub fn run() -> ExitCode {
    let options = match Options::from_command_line() {
        Ok(options) => options,
        Err(error) => {
            say(None, &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(Some(&options), &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<(), BrokerError> {
    let parent = rustix::process::getppid();
    let inherited = Inheritance::take(options.agent.as_str())?;
    let peer_identification = socket::peer_identification(&inherited.link);
    alarm::install().map_err(BrokerError::Runtime)?;
    let confinement = Confinement::enter(&options.confinement, parent)?;
    // The runtime makes its descriptors now, and what is set up at first use is used once: nothing of that is possible later.
    // Nor is closing them: they end with the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map(ManuallyDrop::new)
        .map_err(BrokerError::Runtime)?;
    let _ = socket::monotonic_micros();
    let in_force = confinement.close()?;
    for missing in &in_force.missing {
        say(
            Some(options),
            &format!("serving without {missing}, which the host configuration calls optional"),
        );
    }
    let policy = inherited.policy.unwrap_or_else(|problem| {
        say(Some(options), &problem);
        None
    });
    let judge = Judge::new(
        Pong {
            agent: options.agent.to_string(),
            generation: policy
                .as_ref()
                .map(|p| p.generation().to_owned())
                .unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: in_force.layers,
            landlock_abi: in_force.landlock_abi,
            peer_identification: peer_identification.to_owned(),
        },
        policy,
    );
    let ended: std::io::Result<()> = tokio::task::LocalSet::new().block_on(&runtime, async {
        server::serve(Link::new(inherited.link)?, judge).await;
        Ok(())
    });
    ended.map_err(BrokerError::Runtime)
}

/// One line on descriptor 2, in one write. There is nowhere to tell that it failed.
fn say(options: Option<&Options>, text: &str) {
    let line = match options {
        Some(options) => format!("portcullis-broker[{}]: {text}\n", options.agent),
        None => format!("portcullis-broker: {text}\n"),
    };
    let _ = std::io::stderr().write_all(line.as_bytes());
}
