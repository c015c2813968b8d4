//! Lints of `args`, `env` and `program`.

use super::Collector;
use super::environment::check_asked;
use crate::arguments::{Entry, Order};
use crate::kinds::Kind;
use crate::pattern::{Pattern, Token};
use crate::rule::Rule;
use crate::rule_table::{EntryTable, LaunchTable};
use crate::text::Text;

pub(super) fn check(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let arguments = rule.arguments.entries.iter().zip(&table.args);
    let environment = rule.environment.entries.iter().zip(&table.env);
    for (pattern, text) in arguments.chain(environment).flat_map(patterns) {
        if pattern.has_text() {
            collector.add("text-argument", Some(table), &text.place, "almost anything");
        }
    }
    if rule.arguments.order == Order::Any
        && let Some(text) = unordered(rule, table)
    {
        let label = "may stand anywhere, or be left out";
        collector.add("unordered-arguments", Some(table), &text.place, label);
    }
    check_asked(rule, table, collector);
    of_configuration(rule, table, collector);
}

fn patterns<'a>(
    (entry, written): (&'a Entry, &'a EntryTable),
) -> impl Iterator<Item = (&'a Pattern, &'a Text)> {
    let texts = written.alternatives.iter().flatten();
    entry.alternatives.iter().flatten().zip(texts)
}

/// What an argument is when nothing but its place says what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It carries its meaning: `--name=value`, `["-n", "{:int}"]`, an empty text.
    Whole,
    /// A bare option, `-i`.
    Option,
    /// Another literal word, `add`.
    Command,
    /// A value alone, `{:path}`.
    Value,
}

impl Word {
    fn of(sequence: &[Pattern]) -> Self {
        let Some(first) = sequence.first() else {
            return Self::Whole;
        };
        let text = first.head();
        match (first.begins_as_written(), text.starts_with('-')) {
            (false, _) => Self::Value,
            (true, false) if first.literal().is_none() && !text.is_empty() => Self::Value,
            _ if sequence.len() > 1 || first.literal() == Some("") || text.contains('=') => {
                Self::Whole
            }
            (true, true) if first.literal().is_some() => Self::Option,
            (true, true) => Self::Whole,
            (true, false) => Self::Command,
        }
    }
}

/// A value whose meaning is its place: it follows a bare word, or there are others like it, or words that are commands.
fn unordered<'a>(rule: &Rule, table: &'a LaunchTable) -> Option<&'a Text> {
    let entries = rule.arguments.entries.iter().zip(&table.args);
    let words: Vec<(Word, &Text)> = entries
        .filter_map(|(entry, written)| {
            let words = entry.alternatives.iter().map(|sequence| Word::of(sequence));
            let texts = written
                .alternatives
                .iter()
                .filter_map(|texts| texts.first());
            // The one that depends most on its place.
            words.zip(texts).max_by_key(|(word, _)| *word as u8)
        })
        .collect();
    let is = |wanted| move |(word, _): &&(Word, &Text)| *word == wanted;
    let values = words.iter().filter(is(Word::Value)).count();
    let commands = words.iter().filter(is(Word::Command)).count();
    let follows = words.windows(2).find_map(|pair| match pair {
        [(Word::Option, _), (Word::Value, text)] => Some(*text),
        _ => None,
    });
    let ambiguous = values > 1 || (values > 0 && commands > 0);
    let first = || words.iter().find(is(Word::Value)).map(|(_, text)| *text);
    follows.or_else(|| first().filter(|_| ambiguous))
}

/// A file of the agent's that the program is told to read.
fn of_configuration(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let mounts: Vec<(&str, bool)> = (rule.container.mounts.iter())
        .map(|mount| (&*mount.target.text, !mount.operators))
        .collect();
    let ready = rule.container.ready.as_ref().map(|(path, _)| &*path.text);
    // A file is the agent's where the container shares a directory that may be written, or where the request names it.
    let reads = |text: &str, is_named: bool| {
        let path = text.split_once('=').map_or(text, |(_, value)| value);
        let mut mounts = mounts.iter();
        Some(path) != ready
            && mounts.any(|(target, shared)| (*shared || is_named) && path.starts_with(target))
    };
    let arguments = rule.arguments.entries.iter().zip(&table.args);
    let environment = rule.environment.entries.iter().zip(&table.env);
    let mut asked = arguments.chain(environment).flat_map(patterns);
    let asked = asked.find_map(|(pattern, text)| {
        reads(&pattern.text, pattern.literal().is_none()).then_some(text)
    });
    let set = table.container.iter().flat_map(|c| &c.environment);
    // The program itself is a lint of its own.
    let mut fixed = table.program.iter().skip(1).chain(set);
    if let Some(text) = asked.or_else(|| fixed.find(|text| reads(&text.text, false))) {
        let label = "beneath what the agent may write";
        collector.add("agent-written-config", Some(table), &text.place, label);
    }
}

impl Pattern {
    /// Whether the operator has written how everything begins that matches: as text, or as one of a list.
    pub(super) fn begins_as_written(&self) -> bool {
        match self.tokens.first() {
            None | Some(Token::Literal(_)) => true,
            Some(Token::Any(kind) | Token::Bind(_, kind)) => matches!(kind, Kind::One(_)),
            Some(Token::Same(_)) => false,
        }
    }
}
