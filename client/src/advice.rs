//! What a person can do about a reason code. Who reads this sits in an agent's container, or in front of its log.

use portcullis_wire::Reason;

/// One clause that follows the broker's own message.
pub(crate) fn of(reason: Reason) -> &'static str {
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
