//! What a pattern or template is for, which decides what may stand in it.

use crate::problem::{Finding, Place};

/// What a pattern or template is for; decides what may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Image,
    Netns,
    Argument,
    Environment,
    Name,
    Mount,
    /// A text of the operator's alone: only variables in it.
    Fixed,
}

impl Purpose {
    pub(crate) fn refuses_text(self) -> bool {
        matches!(self, Self::Image | Self::Netns | Self::Name | Self::Mount)
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Image => "an image",
            Self::Netns => "a network namespace's name",
            Self::Argument => "an argument",
            Self::Environment => "the environment",
            Self::Name => "a container's name",
            Self::Mount => "a mount or path",
            Self::Fixed => "this",
        }
    }
}

/// The kind `text` where it is refused.
pub(crate) fn text_refused(place: &Place, purpose: Purpose) -> Finding {
    let title = format!("the kind `text` is refused in {}", purpose.noun());
    Finding::new(place, title, "may be almost anything")
        .help("use a narrower kind: `word`, `uuid`, `int`, `one(…)` or another")
}
