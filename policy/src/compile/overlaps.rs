//! Entries that can match the same arguments: which of them counts would be a matter of luck.

use crate::arguments::{Entry, Order};
use crate::language::{Names, patterns_meet};
use crate::pattern::Pattern;
use crate::problem::{Finding, Findings};
use crate::rule_table::EntryTable;
use crate::text::Text;

type Pair<'a> = (&'a Entry, &'a EntryTable);

pub(super) fn check(
    entries: &[Entry],
    tables: &[EntryTable],
    order: Order,
    names: &Names<'_>,
    findings: &mut Findings,
) {
    let all: Vec<Pair<'_>> = entries.iter().zip(tables).collect();
    match order {
        Order::Any => in_any_order(&all, names, findings),
        Order::Fixed => in_fixed_order(&all, names, findings),
    }
}

/// Each argument is claimed by one entry, wherever it stands, so no two may match the same.
fn in_any_order(all: &[Pair<'_>], names: &Names<'_>, findings: &mut Findings) {
    for (at, pair) in all.iter().enumerate() {
        for other in all.iter().take(at) {
            if let Some((text, other)) = overlap(*pair, *other, names) {
                findings.add(
                    Finding::new(
                        &text.place,
                        "two entries can match the same argument",
                        "this one",
                    )
                    .also(&other.place, "and this one")
                    .help("make them differ, or put them together: { max = …, any = […] }"),
                );
            }
        }
    }
}

/// An entry that may stop before its `max` must not match what may come in its place: the entries after it up to the first
/// that has to be there. And what an entry takes once must not depend on which of its alternatives is asked first.
fn in_fixed_order(all: &[Pair<'_>], names: &Names<'_>, findings: &mut Findings) {
    for (at, (entry, table)) in all.iter().enumerate() {
        alternatives(entry, table, names, findings);
        if entry.min == entry.max {
            continue;
        }
        for next in all.iter().skip(at + 1) {
            if let Some((text, other)) = overlap(*next, (*entry, *table), names) {
                findings.add(
                    Finding::new(
                        &text.place,
                        "an argument cannot be told from one of the entry before it",
                        "this one",
                    )
                    .also(&other.place, "which may be there fewer times than its `max`")
                    .help("make them differ, or have the first one a fixed number of times: `min` equal to `max`"),
                );
            }
            if next.0.min > 0 {
                break;
            }
        }
    }
}

fn alternatives(entry: &Entry, table: &EntryTable, names: &Names<'_>, findings: &mut Findings) {
    let all: Vec<_> = entry.alternatives.iter().zip(&table.alternatives).collect();
    for (at, (one, texts)) in all.iter().enumerate() {
        for (other, others) in all.iter().take(at) {
            let differ = one.len() != other.len() || entry.binds != 0;
            if let (true, Some(text), Some(first)) = (
                differ && meets(one, other, names),
                texts.first(),
                others.first(),
            ) {
                findings.add(
                    Finding::new(
                        &text.place,
                        "two alternatives can match the same argument and mean different things",
                        "this one",
                    )
                    .also(&first.place, "and this one")
                    .help("make them differ in a word that both have, or bind no name in them"),
                );
            }
        }
    }
}

/// The beginnings of two alternatives that can match the same arguments.
fn overlap<'a>(
    (entry, table): Pair<'a>,
    (other, other_table): Pair<'a>,
    names: &Names<'_>,
) -> Option<(&'a Text, &'a Text)> {
    let mut alternatives = entry.alternatives.iter().zip(&table.alternatives);
    alternatives.find_map(|(a, texts)| {
        let mut others = other.alternatives.iter().zip(&other_table.alternatives);
        let (_, other) = others.find(|(b, _)| meets(a, b, names))?;
        Some((texts.first()?, other.first()?))
    })
}

/// Whether the same arguments can begin with both.
fn meets(a: &[Pattern], b: &[Pattern], names: &Names<'_>) -> bool {
    a.iter().zip(b).all(|(a, b)| patterns_meet(a, b, names))
}
