//! Arguments that have to come in the order of the entries.
//!
//! Each entry takes as many as it can before the next one is asked, and nothing is ever taken back. That finds every match
//! that there is: compiling refuses rules in which what an entry can take could also belong to one that may follow it.

use super::{ArgumentCause, Arguments, Entry, Observer};
use crate::bindings::Bindings;

/// The alternative that came furthest where none matched.
#[derive(Clone, Copy, Debug)]
struct Near {
    entry: usize,
    alternative: usize,
    /// How many of its words matched.
    word: usize,
    /// Where the argument would stand that did not.
    at: usize,
}

impl Arguments {
    pub(super) fn matches_in_fixed_order<'a>(
        &self,
        args: &'a [String],
        bindings: &mut Bindings<'a>,
        observer: &mut impl Observer,
    ) -> Result<(), (ArgumentCause, usize)> {
        let mut position = 0;
        let mut near: Option<Near> = None;
        for (number, entry) in self.entries.iter().enumerate() {
            let mut count = 0;
            while count < entry.max {
                let rest = args.get(position..).unwrap_or_default();
                match entry.begins(rest, bindings) {
                    Ok((alternative, length)) => {
                        observer.claimed(position, number, alternative);
                        position += length;
                        count += 1;
                    }
                    Err((alternative, word)) => {
                        let at = position + word;
                        let missed = count < entry.min;
                        // Of two that came as far, the one that has to be there says more.
                        if near.is_none_or(|near| at > near.at || (at == near.at && missed)) {
                            near = Some(Near {
                                entry: number,
                                alternative,
                                word,
                                at,
                            });
                        }
                        break;
                    }
                }
            }
            if count < entry.min {
                return Err(missed(near, position, args));
            }
        }
        if position == args.len() {
            return Ok(());
        }
        Err(missed(near, position, args))
    }
}

/// What does not fit at that position, or beyond it where something began to.
fn missed(near: Option<Near>, position: usize, args: &[String]) -> (ArgumentCause, usize) {
    match near.filter(|near| near.at >= position) {
        Some(Near {
            entry,
            alternative,
            word,
            at,
        }) if at < args.len() => {
            let cause = ArgumentCause::Expected {
                at,
                entry,
                alternative,
                word,
            };
            (cause, at)
        }
        Some(Near { entry, at, .. }) => (ArgumentCause::Missing(entry), at),
        None => (ArgumentCause::Surplus(position), position),
    }
}

impl Entry {
    /// Which alternative matches what `args` begins with, and how many arguments that takes; else which one came furthest,
    /// and how many of its words match.
    fn begins<'a>(
        &self,
        args: &'a [String],
        bindings: &mut Bindings<'a>,
    ) -> Result<(usize, usize), (usize, usize)> {
        let mut furthest = (0, 0);
        for (number, sequence) in self.alternatives.iter().enumerate() {
            bindings.forget(self.binds);
            let pairs = sequence.iter().zip(args);
            let matched = pairs
                .take_while(|(pattern, argument)| pattern.matches(argument, bindings))
                .count();
            if matched == sequence.len() {
                return Ok((number, matched));
            }
            if matched > furthest.1 {
                furthest = (number, matched);
            }
        }
        bindings.forget(self.binds);
        Err(furthest)
    }
}
