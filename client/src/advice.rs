//! What a person can do about a reason code. Who reads this sits in an agent's container, or in front of its log.

use crate::asked::Question;
use crate::operator::subcommand;
use crate::whom::Whom;
use portcullis_wire::Reason;
use rustix::io::Errno;
use std::io;

/// Who is not there, and why.
pub(crate) fn nobody(question: &Question, errno: Errno) -> String {
    let who = match &question.whom {
        Whom::Launcher(agent) if !matches!(errno, Errno::PROTOTYPE | Errno::NAMETOOLONG) => {
            format!("launcher of the agent {agent}")
        }
        _ => "broker".to_owned(),
    };
    let (path, error) = (question.whom.path(), io::Error::from(errno));
    format!("no {who} at {}: {error}", path.display())
}

/// What would help where [`nobody`] is there.
pub(crate) fn unreachable(question: &Question, errno: Errno) -> String {
    let advice = match (&question.whom, errno) {
        (_, Errno::PROTOTYPE) => "this is some other program's socket",
        (_, Errno::NAMETOOLONG) => "a socket's path has at most 107 bytes",
        (Whom::Launcher(_), Errno::ACCESS | Errno::PERM) => "only root may ask there: try sudo",
        (Whom::Launcher(agent), _) => {
            return format!(
                "is the agent's socket unit enabled on this host? systemctl enable --now portcullis@{agent}.socket"
            );
        }
        // On the host there is no broker's socket where an agent has it.
        (Whom::Broker, _) if subcommand(&question.body).is_some() => return on_the_host(question),
        (_, Errno::ACCESS | Errno::PERM) => "this user may not use it",
        (_, Errno::CONNREFUSED) => {
            "nobody listens on it: the operator has to start portcullis@AGENT.socket on the host"
        }
        _ => {
            "the operator has to mount the agent's directory of /run/portcullis there, and to start portcullis@AGENT.socket"
        }
    };
    advice.to_owned()
}

/// [`of`], for what an operator asks.
pub(crate) fn about(question: &Question, reason: Reason) -> String {
    match reason {
        Reason::Unsupported
            if question.whom.agent().is_none() && subcommand(&question.body).is_some() =>
        {
            on_the_host(question)
        }
        _ => of(reason).to_owned(),
    }
}

/// How the operator asks what an agent cannot.
fn on_the_host(question: &Question) -> String {
    let word = subcommand(&question.body).unwrap_or("ps");
    format!("on the host: portcullis --agent NAME {word}")
}

/// One clause that follows the broker's own message.
fn of(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed | Reason::UnsupportedVersion => {
            "are this client and the broker of the same version?"
        }
        Reason::TooLarge => "a request may have 64 KiB, 1024 arguments and 128 environment entries",
        Reason::Unsupported => "a newer Portcullis on the host may serve it",
        Reason::Peer => "the operator decides in the policy's [peer] who may ask",
        Reason::NoRule => "the operator has to write a [[launch]] rule for this command",
        Reason::Image => {
            "the operator names the images of a rule, and has to have them on the host"
        }
        Reason::Netns => {
            "`run --netns NS` names one under /run/netns; the rule's `netns` says which are allowed"
        }
        Reason::Argument | Reason::Environment | Reason::Signal => {
            "`portcullis explain` tries it again without starting anything; the operator's rule says what is allowed"
        }
        Reason::Name => "the operator has to free the name, or to change the rule's",
        Reason::Mount => {
            "it has to be there before the launch: a directory, file or socket, no symbolic link"
        }
        Reason::LimitRate | Reason::LimitRunning | Reason::LimitInFlight => {
            "try again later; the operator decides in the policy's [limits]"
        }
        Reason::NotFound => "it may have ended",
        Reason::PolicyUnavailable => {
            "the operator has to mend it (`portcullis-policy check`) and to reload portcullis@AGENT.service"
        }
        Reason::Exited => "the program's own words follow, if it said any",
        Reason::Timeout => "it may still come up, and may be asked for again",
        Reason::Engine | Reason::Internal => {
            "the audit record on the host says how (journalctl --unit='portcullis@*')"
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_advice_is_one_clause() {
        for reason in portcullis_wire::Reason::ALL {
            let advice = super::of(*reason);
            assert!(!advice.is_empty() && !advice.contains('\n') && !advice.ends_with('.'));
        }
    }
}
