//! What the placeholders of a rule have matched in one request. Lives on the stack: a rule has few names.

use crate::kinds::Kind;

/// The place of a name in [`Bindings`].
pub(crate) type Slot = u8;

/// The slot of the image's reference.
pub(crate) const IMAGE: Slot = 0;

/// The slot of the network namespace's name.
pub(crate) const NETNS: Slot = 1;

/// How many names a rule may have, `image` and `netns` included.
pub(crate) const SLOTS: usize = 16;

/// What a slot's value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SlotKind {
    Image,
    Netns,
    Kind(Kind),
}

/// A set of slots, one bit each.
pub(crate) type Slots = u16;

/// The values of a rule's names, so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bindings<'a> {
    values: [&'a str; SLOTS],
    bound: Slots,
}

/// The set that holds this slot alone.
pub(crate) fn bit(slot: Slot) -> Slots {
    1u16.checked_shl(u32::from(slot)).unwrap_or_default()
}

impl<'a> Bindings<'a> {
    /// The value of a name, when it has one.
    pub(crate) fn get(&self, slot: Slot) -> Option<&'a str> {
        if self.bound & bit(slot) == 0 {
            return None;
        }
        self.values.get(usize::from(slot)).copied()
    }

    /// Gives a name its value. A name that has one keeps it: then the two must be equal.
    #[must_use]
    pub(crate) fn bind(&mut self, slot: Slot, value: &'a str) -> bool {
        if let Some(before) = self.get(slot) {
            return before == value;
        }
        match self.values.get_mut(usize::from(slot)) {
            Some(place) => {
                *place = value;
                self.bound |= bit(slot);
                true
            }
            None => false,
        }
    }

    /// Takes the values of these names back.
    pub(crate) fn forget(&mut self, slots: Slots) {
        self.bound &= !slots;
    }
}
