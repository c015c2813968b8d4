//! The closed set of reason codes: the same on the wire, in the audit log, in metrics and in the documentation.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($variant:ident $code:literal $text:literal)*) => {
        /// Why a request was not fulfilled. The order of the variants is the numbering on the wire: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $text] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the wire.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code, as it stands in logs and documentation.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// One line that says what the code means.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    Malformed "malformed" "the datagram is not a message of this protocol"
    TooLarge "too-large" "the datagram, or a list in it, is over its limit"
    Unsupported "unsupported" "this version of Portcullis does not serve that request"
    UnsupportedVersion "unsupported-version" "the datagram is of a protocol version that is not spoken here"
    Peer "peer" "the policy does not let this process use the socket, or the process cannot be known"
    NoRule "no-rule" "no rule of the policy is for this command"
    Image "image" "the rule does not allow this image, or the image is not on the host"
    Netns "netns" "the rule does not allow this network namespace, or the namespace is not a safe one"
    Argument "argument" "an argument is not allowed by the rule, or one that the rule requires is missing"
    Environment "environment" "an environment entry is not allowed by the rule"
    Name "name" "the container's name is not valid, or is held by a container that is not this agent's"
    Mount "mount" "a mount source is missing, or is not safe to mount"
    LimitRate "limit-rate" "the agent launches more often than its policy allows"
    LimitRunning "limit-running" "the agent has as many side containers as its policy allows"
    LimitInFlight "limit-in-flight" "the agent has as many requests under way as its policy allows"
    NotFound "not-found" "the agent has no such side container"
    Signal "signal" "the rule does not allow this signal"
    PolicyUnavailable "policy-unavailable" "there is no usable policy for this agent; the operator has to mend it"
    Engine "engine" "podman failed; the audit record says how"
    Exited "exited" "the program ended before it was ready"
    Timeout "timeout" "the program was not ready, or podman not done, in time"
    Internal "internal" "Portcullis itself failed; its log says how"
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_words_and_texts_are_one_line() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(
                reason
                    .code()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(!reason.text().contains('\n') && !reason.text().is_empty());
        }
    }
}
