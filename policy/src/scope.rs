//! Names while a rule is compiled: which there are, and where each certainly has a value.
//!
//! This is what makes a rule's parts belong together: a name is bound in one place, and whoever repeats it elsewhere
//! can rely on it. Every doubt is an error when the policy is loaded, none is left for a request.

use crate::bindings::{IMAGE, NETNS, SLOTS, Slot, SlotKind, Slots, bit};
use crate::kinds::Kind;
use crate::pattern::{Part, Pattern, Piece, Template, Token, pieces};
use crate::problem::{Finding, Findings, Place, nearest};
use crate::purpose::{Purpose, text_refused};
use crate::text::Text;

/// The names that are bound for every rule.
pub(crate) const BUILT_IN: &[&str] = &["agent", "rule", "command", "image", "netns"];

struct Capture {
    name: String,
    kind: SlotKind,
    slot: Slot,
    place: Option<Place>,
    /// In which entry it is bound.
    entry: usize,
    /// Has a value wherever it may be repeated from now on.
    certain: bool,
}

/// The names of one rule.
pub(crate) struct Scope {
    fixed: Vec<(String, String)>,
    captures: Vec<Capture>,
    /// Every name that the rule captures anywhere, for messages.
    declared: Vec<String>,
    /// The entry that is being compiled.
    entry: usize,
    /// What the alternative that is being compiled has bound so far.
    alternative: Slots,
    /// What every alternative of the entry has bound.
    everywhere: Slots,
    /// What any alternative of the entry has bound.
    anywhere: Slots,
}

impl Scope {
    /// The names there are before anything is matched.
    pub(crate) fn new(fixed: Vec<(String, String)>, declared: Vec<String>) -> Self {
        Self {
            fixed,
            captures: Vec::new(),
            declared,
            entry: 0,
            alternative: 0,
            everywhere: 0,
            anywhere: 0,
        }
    }

    /// What each slot is called and may hold. The two first are always the image and the namespace.
    pub(crate) fn slots(&self) -> Vec<SlotKind> {
        let mut slots = vec![SlotKind::Image, SlotKind::Netns];
        let named = self.captures.iter().filter(|c| c.place.is_some());
        slots.extend(named.map(|c| c.kind.clone()));
        slots
    }

    /// The names of the slots, in their order.
    pub(crate) fn names(&self) -> Vec<Box<str>> {
        let mut names: Vec<Box<str>> = vec!["image".into(), "netns".into()];
        let named = self.captures.iter().filter(|c| c.place.is_some());
        names.extend(named.map(|c| c.name.as_str().into()));
        names
    }

    /// `{image}` or `{netns}` has its value from here on.
    pub(crate) fn built_in(&mut self, slot: Slot) {
        let (name, kind) = match slot {
            IMAGE => ("image", SlotKind::Image),
            _ => ("netns", SlotKind::Netns),
        };
        self.captures.push(Capture {
            name: name.to_owned(),
            kind,
            slot,
            place: None,
            entry: 0,
            certain: true,
        });
    }

    /// Begins a place that may bind names: an image, a namespace, an entry of arguments.
    pub(crate) fn begin_entry(&mut self) {
        self.entry += 1;
        self.everywhere = Slots::MAX;
        self.anywhere = 0;
    }

    pub(crate) fn begin_alternative(&mut self) {
        self.alternative = 0;
    }

    pub(crate) fn end_alternative(&mut self) {
        self.everywhere &= self.alternative;
        self.anywhere |= self.alternative;
    }

    /// Ends it, and tells which names it binds. They are visible from here on where the entry certainly matches once.
    pub(crate) fn end_entry(&mut self, certain: bool) -> Slots {
        for capture in &mut self.captures {
            if capture.entry == self.entry && self.everywhere & bit(capture.slot) != 0 {
                capture.certain |= certain;
            }
        }
        self.alternative = 0;
        self.anywhere
    }

    /// Compiles one pattern of the current alternative.
    pub(crate) fn pattern(
        &mut self,
        text: &Text,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Option<Pattern> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut whole = true;
        for (at, piece) in written(text, findings)? {
            let place = text.part(&at);
            let token = match piece {
                Piece::Literal(literal) => Some(Token::Literal(literal.into())),
                Piece::Reference(name) => {
                    self.resolve(&name, &place, purpose, findings)
                        .map(|part| match part {
                            Part::Literal(literal) => Token::Literal(literal),
                            Part::Value(slot) => Token::Same(slot),
                        })
                }
                Piece::Capture(_, Kind::Text) if purpose.refuses_text() => {
                    findings.add(text_refused(&place, purpose));
                    None
                }
                Piece::Capture(None, kind) => Some(Token::Any(kind)),
                Piece::Capture(Some(name), kind) => self
                    .bind(&name, &kind, &place, findings)
                    .map(|slot| Token::Bind(slot, kind)),
            };
            match (token, tokens.last_mut()) {
                (Some(Token::Literal(more)), Some(Token::Literal(literal))) => {
                    *literal = format!("{literal}{more}").into();
                }
                (Some(token), before) => {
                    if let Some(before) = before {
                        self.check_end(before, &token, &place, findings);
                    }
                    tokens.push(token);
                }
                (None, _) => whole = false,
            }
        }
        whole.then(|| Pattern {
            tokens: tokens.into(),
            text: text.text.as_str().into(),
        })
    }

    /// Compiles a template: literals, variables and names that certainly have a value.
    pub(crate) fn template(
        &self,
        text: &Text,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Option<Template> {
        let mut parts: Vec<Part> = Vec::new();
        let mut whole = true;
        for (at, piece) in written(text, findings)? {
            let place = text.part(&at);
            let part = match piece {
                Piece::Literal(literal) => Some(Part::Literal(literal.into())),
                Piece::Reference(name) => self.resolve(&name, &place, purpose, findings),
                Piece::Capture(name, _) => {
                    let name = name.unwrap_or_else(|| "name".to_owned());
                    let title = "nothing is matched here";
                    findings.add(
                        Finding::new(&place, title, "a placeholder with a kind").help(format!(
                            "bind it in `netns` or a required argument, and write {{{name}}} here"
                        )),
                    );
                    None
                }
            };
            match (part, parts.last_mut()) {
                (Some(Part::Literal(more)), Some(Part::Literal(literal))) => {
                    *literal = format!("{literal}{more}").into();
                }
                (Some(part), _) => parts.push(part),
                (None, _) => whole = false,
            }
        }
        whole.then(|| Template {
            parts: parts.into(),
            text: text.text.as_str().into(),
        })
    }

    /// Compiles a text that has nothing of a request in it.
    pub(crate) fn fixed(&self, text: &Text, findings: &mut Findings) -> Option<String> {
        let template = self.template(text, Purpose::Fixed, findings)?;
        template.literal().map(str::to_owned)
    }

    fn resolve(
        &self,
        name: &str,
        place: &Place,
        purpose: Purpose,
        findings: &mut Findings,
    ) -> Option<Part> {
        let capture = self.captures.iter().find(|capture| capture.name == name);
        if let Some(capture) = capture {
            let here = capture.entry == self.entry && self.alternative & bit(capture.slot) != 0;
            if purpose == Purpose::Fixed {
                findings.add(
                    Finding::new(
                        place,
                        format!("{name:?} comes from a request"),
                        "not the operator's",
                    )
                    .help("only variables of [vars], {agent}, {rule} and {command} may stand here"),
                );
                return None;
            }
            if purpose.refuses_text() && capture.kind == SlotKind::Kind(Kind::Text) {
                findings.add(text_refused(place, purpose));
                return None;
            }
            if capture.certain || here {
                return Some(Part::Value(capture.slot));
            }
            let mut finding = Finding::new(
                place,
                format!("{name:?} does not certainly have a value here"),
                "used",
            )
            .help("bind it where it always matches once: in every alternative of `image` or `netns`, or in { min = 1, pattern = \"…\" }");
            if let Some(bound) = &capture.place {
                finding = finding.also(bound, "bound");
            }
            findings.add(finding);
            return None;
        }
        if let Some((_, value)) = self.fixed.iter().find(|(fixed, _)| fixed == name) {
            return Some(Part::Literal(value.as_str().into()));
        }
        findings.add(self.unknown(name, place));
        None
    }

    fn unknown(&self, name: &str, place: &Place) -> Finding {
        if self.declared.iter().any(|declared| declared == name) {
            let title = format!("{name:?} has no value yet here");
            return Finding::new(place, title, "bound later").help(
                "the order is: `image`, `netns`, the arguments with min = 1 as they stand, the other arguments, `env`, \
                 the container",
            );
        }
        if name == "netns" || name == "image" {
            let title = format!("the rule has no `{name}`, so it has no value");
            return Finding::new(place, title, "used").help(format!("give the rule a `{name}`"));
        }
        let known: Vec<&str> = self
            .fixed
            .iter()
            .map(|(name, _)| &**name)
            .chain(self.declared.iter().map(|name| &**name))
            .collect();
        let right = match nearest(name, &known) {
            Some(meant) => format!("did you mean {{{meant}}}?"),
            None => format!("write {{{name}:kind}} where it is matched, or give it in [vars]"),
        };
        Finding::new(place, format!("nothing binds {name:?}"), "used").help(right)
    }

    fn bind(
        &mut self,
        name: &str,
        kind: &Kind,
        place: &Place,
        findings: &mut Findings,
    ) -> Option<Slot> {
        let taken = if BUILT_IN.contains(&name) {
            Some("is bound for every rule")
        } else if self.fixed.iter().any(|(fixed, _)| fixed == name) {
            Some("is a variable of [vars]")
        } else {
            None
        };
        if let Some(why) = taken {
            findings.add(
                Finding::new(place, format!("{name:?} {why}"), "bound again")
                    .help("use another name"),
            );
            return None;
        }
        if let Some(capture) = self.captures.iter().find(|capture| capture.name == name) {
            let other_alternative =
                capture.entry == self.entry && self.alternative & bit(capture.slot) == 0;
            if other_alternative && capture.kind == SlotKind::Kind(kind.clone()) {
                self.alternative |= bit(capture.slot);
                return Some(capture.slot);
            }
            let (title, help) = if other_alternative {
                (
                    format!("{name:?} is of another kind in another alternative"),
                    "use one kind in all of them".to_owned(),
                )
            } else {
                (
                    format!("{name:?} is bound twice"),
                    format!("write {{{name}}} to match the same value again"),
                )
            };
            let mut finding = Finding::new(place, title, "bound again").help(help);
            if let Some(bound) = &capture.place {
                finding = finding.also(bound, "bound first");
            }
            findings.add(finding);
            return None;
        }
        let named = self.captures.iter().filter(|c| c.place.is_some()).count();
        let slot = Slot::try_from(named + usize::from(NETNS) + 1)
            .ok()
            .filter(|slot| usize::from(*slot) < SLOTS);
        let Some(slot) = slot else {
            let title = format!("a rule binds at most {} names", SLOTS - 2);
            findings.add(
                Finding::new(place, title, "one too many")
                    .help("match what is not repeated with {:kind}"),
            );
            return None;
        };
        self.captures.push(Capture {
            name: name.to_owned(),
            kind: SlotKind::Kind(kind.clone()),
            slot,
            place: Some(place.clone()),
            entry: self.entry,
            certain: false,
        });
        self.alternative |= bit(slot);
        Some(slot)
    }

    /// A value ends where its kind's alphabet does: what follows must not be able to prolong it.
    fn check_end(&self, before: &Token, next: &Token, place: &Place, findings: &mut Findings) {
        let (Token::Any(kind) | Token::Bind(_, kind)) = before else {
            return;
        };
        let begins = |byte: u8| match next {
            Token::Literal(literal) => literal.as_bytes().first() == Some(&byte),
            Token::Any(next) | Token::Bind(_, next) => crate::language::begins(next, byte),
            Token::Same(slot) => match self.captures.iter().find(|c| c.slot == *slot) {
                Some(Capture {
                    kind: SlotKind::Kind(next),
                    ..
                }) => crate::language::begins(next, byte),
                _ => true,
            },
        };
        if (0..=255).any(|byte| kind.continues(byte) && begins(byte)) {
            findings.add(
                Finding::new(
                    place,
                    format!("a value of the kind `{kind}` cannot be told from what follows it"),
                    "this may belong to the value before it",
                )
                .help(
                    "put a character between that the kind does not have, or use a narrower kind",
                ),
            );
        }
    }
}

/// A text in pieces, or what about it is not understood.
pub(crate) fn written(
    text: &Text,
    findings: &mut Findings,
) -> Option<Vec<(std::ops::Range<usize>, Piece)>> {
    match pieces(&text.text) {
        Ok(pieces) => Some(pieces),
        Err(error) => {
            let place = text.part(&error.at);
            findings.add(
                Finding::new(&place, "a placeholder is not understood", error.what)
                    .help(error.right),
            );
            None
        }
    }
}
