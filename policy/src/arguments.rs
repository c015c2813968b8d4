//! A rule's arguments, and the matching of a request's against them.
//!
//! Every argument has to be claimed, by the first entry that matches it; an entry whose count is exhausted still
//! claims. Entries that bind names match first, so that the others can rely on the values. Arguments in a fixed order
//! are matched in [`fixed`].

mod fixed;

use crate::bindings::{Bindings, Slots};
use crate::pattern::Pattern;

/// How many entries a list may have.
pub(crate) const ENTRIES: usize = 128;

/// Alternatives that share one count.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Each a sequence of arguments that belong together.
    pub(crate) alternatives: Box<[Box<[Pattern]>]>,
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// The names that it binds.
    pub(crate) binds: Slots,
}

/// Whether arguments have to come in the order of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Any,
    Fixed,
}

/// A compiled list of entries.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) entries: Box<[Entry]>,
    pub(crate) order: Order,
    /// The first bytes of each alternative, in the order of the file: most of what does not match fails here.
    heads: Box<[Head]>,
}

/// The first eight bytes that an alternative's first argument has to have.
#[derive(Debug)]
struct Head {
    bytes: u64,
    mask: u64,
    entry: u8,
    alternative: u8,
}

/// Why a list of arguments does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentCause {
    /// Nothing claims the argument at this position.
    NotAllowed(usize),
    /// The entry that claims the argument at this position is exhausted.
    TooMany(usize, usize),
    /// This entry has to be there more often.
    Missing(usize),
    /// In a fixed order: where the argument at this position stands, this word of this entry fits.
    Expected {
        at: usize,
        entry: usize,
        alternative: usize,
        word: usize,
    },
    /// In a fixed order: the argument at this position stands after everything that fits.
    Surplus(usize),
}

/// Who wants to know what claims what.
pub(crate) trait Observer {
    /// The arguments from `position` on are claimed by this alternative of this entry.
    fn claimed(&mut self, position: usize, entry: usize, alternative: usize);
}

impl Observer for () {
    fn claimed(&mut self, _: usize, _: usize, _: usize) {}
}

/// The first eight bytes of a text as one number, and which of them there are.
fn first_bytes(text: &[u8]) -> (u64, u64) {
    let mut bytes = [0; 8];
    let mut mask = [0; 8];
    for ((byte, set), from) in bytes.iter_mut().zip(&mut mask).zip(text) {
        *byte = *from;
        *set = 0xff;
    }
    (u64::from_le_bytes(bytes), u64::from_le_bytes(mask))
}

impl Entry {
    /// Whether it binds names that others may repeat, and so has to match before them.
    fn binds_for_others(&self) -> bool {
        self.binds != 0 && self.min == 1 && self.max == 1
    }

    fn names_of_its_own(&self) -> Slots {
        if self.binds_for_others() {
            0
        } else {
            self.binds
        }
    }
}

/// Whether the sequence matches what `args` begins with.
fn sequence_matches<'a>(
    sequence: &[Pattern],
    args: &'a [String],
    bindings: &mut Bindings<'a>,
) -> bool {
    args.len() >= sequence.len()
        && sequence
            .iter()
            .zip(args)
            .all(|(pattern, argument)| pattern.matches(argument, bindings))
}

impl Arguments {
    /// At most [`ENTRIES`] entries, of at most that many alternatives each.
    pub(crate) fn new(entries: Vec<Entry>, order: Order) -> Self {
        let mut heads = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            for (at, sequence) in entry.alternatives.iter().enumerate() {
                let head = sequence.first().map_or("", Pattern::head);
                let (bytes, mask) = first_bytes(head.as_bytes());
                if let (Ok(entry), Ok(alternative)) = (u8::try_from(number), u8::try_from(at)) {
                    heads.push(Head {
                        bytes,
                        mask,
                        entry,
                        alternative,
                    });
                }
            }
        }
        Self {
            entries: entries.into(),
            order,
            heads: heads.into(),
        }
    }

    /// Matches a whole list.
    ///
    /// # Errors
    /// The cause, and how many arguments had been claimed before.
    pub(crate) fn matches<'a>(
        &self,
        args: &'a [String],
        bindings: &mut Bindings<'a>,
        observer: &mut impl Observer,
    ) -> Result<(), (ArgumentCause, usize)> {
        match self.order {
            Order::Any => self.matches_in_any_order(args, bindings, observer),
            Order::Fixed => self.matches_in_fixed_order(args, bindings, observer),
        }
    }

    fn matches_in_any_order<'a>(
        &self,
        args: &'a [String],
        bindings: &mut Bindings<'a>,
        observer: &mut impl Observer,
    ) -> Result<(), (ArgumentCause, usize)> {
        for (number, entry) in self.entries.iter().enumerate() {
            if entry.binds_for_others() && !Self::bind(entry, args, bindings) {
                return Err((ArgumentCause::Missing(number), 0));
            }
        }
        let mut counts = [0u32; ENTRIES];
        let mut position = 0;
        while let Some(rest) = args.get(position..).filter(|rest| !rest.is_empty()) {
            let Some((number, alternative, length)) = self.claim(rest, bindings) else {
                return Err((ArgumentCause::NotAllowed(position), position));
            };
            let (Some(count), Some(entry)) = (counts.get_mut(number), self.entries.get(number))
            else {
                return Err((ArgumentCause::NotAllowed(position), position));
            };
            *count += 1;
            if *count > entry.max {
                return Err((ArgumentCause::TooMany(position, number), position));
            }
            observer.claimed(position, number, alternative);
            position += length;
        }
        let short = self
            .entries
            .iter()
            .zip(counts)
            .position(|(entry, count)| count < entry.min);
        match short {
            Some(number) => Err((ArgumentCause::Missing(number), position)),
            None => Ok(()),
        }
    }

    /// Gives an entry's names their values: those of the first arguments that match it.
    fn bind<'a>(entry: &Entry, args: &'a [String], bindings: &mut Bindings<'a>) -> bool {
        (0..args.len()).any(|position| {
            let rest = args.get(position..).unwrap_or_default();
            entry.alternatives.iter().any(|sequence| {
                bindings.forget(entry.binds);
                sequence_matches(sequence, rest, bindings)
            })
        })
    }

    /// Which alternative of which entry matches what `args` begins with, and how many arguments that takes.
    fn claim<'a>(
        &self,
        args: &'a [String],
        bindings: &mut Bindings<'a>,
    ) -> Option<(usize, usize, usize)> {
        let (bytes, _) = first_bytes(args.first()?.as_bytes());
        for head in &self.heads {
            if (bytes ^ head.bytes) & head.mask != 0 {
                continue;
            }
            let (number, at) = (usize::from(head.entry), usize::from(head.alternative));
            let entry = self.entries.get(number)?;
            let sequence = entry.alternatives.get(at)?;
            bindings.forget(entry.names_of_its_own());
            if sequence_matches(sequence, args, bindings) {
                return Some((number, at, sequence.len()));
            }
        }
        None
    }
}
