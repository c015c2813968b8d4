//! A text of the document, and where it stands.

use crate::problem::Place;
use std::ops::Range;

/// A text, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// How many bytes of the file come before the text itself; `None` when it is written with escapes.
    pub(crate) quote: Option<usize>,
}

impl Text {
    /// The place of some bytes of the text, as exactly as it can be told.
    pub(crate) fn part(&self, bytes: &Range<usize>) -> Place {
        match self.quote {
            Some(quote) => Place::new(
                self.place.file,
                self.place.start + quote + bytes.start..self.place.start + quote + bytes.end,
            ),
            None => self.place.clone(),
        }
    }
}
