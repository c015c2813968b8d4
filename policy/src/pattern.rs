//! Patterns: literal text with placeholders, and templates, which are patterns that only repeat what is bound.
//!
//! Matching is anchored at both ends, linear, without backtracking, and allocates nothing.

use crate::bindings::{Bindings, Slot};
use crate::kinds::Kind;
use std::ops::Range;

/// One piece of a compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// These bytes.
    Literal(Box<str>),
    /// A value of the kind.
    Any(Kind),
    /// A value of the kind, which the name then has.
    Bind(Slot, Kind),
    /// The value that the name has.
    Same(Slot),
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) tokens: Box<[Token]>,
    /// As the operator wrote it, for messages.
    pub(crate) text: Box<str>,
}

impl Pattern {
    /// Whether the whole input matches. What has been bound stays bound also when it does not.
    pub(crate) fn matches<'a>(&self, input: &'a str, bindings: &mut Bindings<'a>) -> bool {
        if input.starts_with('-') && !matches!(self.tokens.first(), Some(Token::Literal(_))) {
            return false;
        }
        let mut rest = input;
        for token in &self.tokens {
            let length = match token {
                Token::Literal(literal) if rest.starts_with(&**literal) => Some(literal.len()),
                Token::Literal(_) => None,
                Token::Any(kind) => kind.run(rest),
                Token::Bind(slot, kind) => kind.run(rest).filter(|length| {
                    rest.get(..*length)
                        .is_some_and(|value| bindings.bind(*slot, value))
                }),
                Token::Same(slot) => bindings
                    .get(*slot)
                    .filter(|value| rest.starts_with(value))
                    .map(str::len),
            };
            match length.and_then(|length| rest.get(length..)) {
                Some(left) => rest = left,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// The literal text that everything begins with that matches.
    pub(crate) fn head(&self) -> &str {
        match self.tokens.first() {
            Some(Token::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// The text, when nothing in it is a placeholder.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &*self.tokens {
            [] => Some(""),
            [Token::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// Whether a placeholder of the kind `text` is in it.
    pub(crate) fn has_text(&self) -> bool {
        self.tokens
            .iter()
            .any(|token| matches!(token, Token::Any(Kind::Text) | Token::Bind(_, Kind::Text)))
    }
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// These bytes.
    Literal(Box<str>),
    /// The value of a name.
    Value(Slot),
}

/// A text made of literals and of values that a request has bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) parts: Box<[Part]>,
    /// As the operator wrote it, for messages.
    pub(crate) text: Box<str>,
}

impl Template {
    /// A text without values.
    pub(crate) fn of(text: &str) -> Self {
        Self {
            parts: [Part::Literal(text.into())].into(),
            text: text.into(),
        }
    }

    /// The text for one request. A name that is not bound, which compiling rules out, gives `None`.
    pub(crate) fn expand(&self, bindings: &Bindings<'_>) -> Option<String> {
        let mut text = String::with_capacity(64);
        for part in &self.parts {
            text.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Value(slot) => bindings.get(*slot)?,
            });
        }
        Some(text)
    }

    /// The literal text that it begins with.
    pub(crate) fn head(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// The text, when no value is in it.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }
}

/// One piece of a pattern as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Literal text.
    Literal(String),
    /// `{name}`.
    Reference(String),
    /// `{name:kind}`, or `{:kind}` with no name.
    Capture(Option<String>, Kind),
}

/// What is wrong with a pattern as it is written: where in it, what, and what would have been right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternError {
    pub(crate) at: Range<usize>,
    pub(crate) what: String,
    pub(crate) right: String,
}

/// Takes a pattern apart. Each piece comes with where it stands.
pub(crate) fn pieces(text: &str) -> Result<Vec<(Range<usize>, Piece)>, PatternError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("{{") {
            found.push((at..at + 2, Piece::Literal("{".to_owned())));
            at += 2;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let Some(length) = inner.find('}') else {
                return Err(PatternError {
                    at: at..text.len(),
                    what: "the brace is not closed".to_owned(),
                    right: "write {name}, {name:kind} or {:kind}; {{ is a brace".to_owned(),
                });
            };
            let place = at..at + length + 2;
            let inside = inner.get(..length).unwrap_or_default();
            found.push((place.clone(), placeholder(inside, &place)?));
            at = place.end;
        } else {
            let length = rest.find('{').unwrap_or(rest.len());
            let literal = rest.get(..length).unwrap_or_default();
            found.push((at..at + length, Piece::Literal(literal.to_owned())));
            at += length;
        }
    }
    Ok(found)
}

fn placeholder(inside: &str, place: &Range<usize>) -> Result<Piece, PatternError> {
    let error = |what: String, right: String| PatternError {
        at: place.clone(),
        what,
        right,
    };
    let named = |name: &str| {
        if is_name(name) {
            Ok(name.to_owned())
        } else {
            Err(error(
                format!("{name:?} is no name"),
                "a name is a lower-case letter, then at most 31 lower-case letters, digits or `_`"
                    .to_owned(),
            ))
        }
    };
    match inside.split_once(':') {
        None => Ok(Piece::Reference(named(inside)?)),
        Some((name, kind)) => {
            let kind = Kind::parse(kind)
                .map_err(|(what, right)| error(what, format!("write {{{name}:{right}}}")))?;
            let name = match name {
                "" => None,
                name => Some(named(name)?),
            };
            Ok(Piece::Capture(name, kind))
        }
    }
}

/// Whether this may be the name of a capture or a variable.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
