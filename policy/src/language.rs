//! Whether two patterns can match the same text: asked when a policy is loaded, never for a request.
//!
//! Each pattern becomes a small automaton over bytes, and the two are walked together. Kinds are drawn a little wider
//! than they are, and repeated names as any value, so the answer "no" is certain and "yes" may be overcautious.

use crate::bindings::{IMAGE, NETNS, Slot, SlotKind};
use crate::kinds::Kind;
use crate::pattern::{Part, Pattern, Template, Token};

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bytes([u128; 2]);

impl Bytes {
    const NONE: Self = Self([0, 0]);

    fn of(test: impl Fn(u8) -> bool) -> Self {
        let half = |base: u8| {
            (0..128u8)
                .filter(|low| test(base | low))
                .fold(0, |set, low| set | 1 << low)
        };
        Self([half(0), half(128)])
    }

    fn meets(self, other: Self) -> bool {
        let [a, b] = self.0;
        let [c, d] = other.0;
        a & c != 0 || b & d != 0
    }

    fn without(self, byte: u8) -> Self {
        let gone = Self::of(|b| b == byte);
        let [a, b] = self.0;
        let [c, d] = gone.0;
        Self([a & !c, b & !d])
    }
}

/// A nondeterministic automaton. The last state accepts.
#[derive(Default)]
struct Automaton {
    /// From, over which bytes, to.
    steps: Vec<(usize, Bytes, usize)>,
    /// From, over nothing, to.
    jumps: Vec<(usize, usize)>,
    last: usize,
    /// It begins with a placeholder, which never matches a leading `-`.
    no_dash: bool,
}

impl Automaton {
    fn state(&mut self) -> usize {
        self.last += 1;
        self.last
    }

    /// One of these bytes.
    fn one(&mut self, bytes: Bytes) {
        let from = self.last;
        let to = self.state();
        self.steps.push((from, bytes, to));
    }

    /// `least` to `most` of these bytes; no `most` is any number more.
    fn many(&mut self, bytes: Bytes, least: usize, most: Option<usize>) {
        for _ in 0..least {
            self.one(bytes);
        }
        match most {
            None => {
                let from = self.last;
                let looped = self.state();
                self.jumps.push((from, looped));
                self.steps.push((looped, bytes, looped));
            }
            Some(most) => {
                let mut ends = vec![self.last];
                for _ in least..most {
                    self.one(bytes);
                    ends.push(self.last);
                }
                let end = self.state();
                self.jumps.extend(ends.into_iter().map(|from| (from, end)));
            }
        }
    }

    fn literal(&mut self, text: &str) {
        for byte in text.bytes() {
            self.one(Bytes::of(|b| b == byte));
        }
    }

    /// One of several ways on.
    fn any<T>(&mut self, ways: impl IntoIterator<Item = T>, mut draw: impl FnMut(&mut Self, T)) {
        let from = self.last;
        let mut ends = Vec::new();
        for way in ways {
            let start = self.state();
            self.jumps.push((from, start));
            draw(self, way);
            ends.push(self.last);
        }
        let end = self.state();
        self.jumps.extend(ends.into_iter().map(|from| (from, end)));
    }

    fn kind(&mut self, kind: &Kind) {
        let digit = Bytes::of(|b| b.is_ascii_digit());
        let hex = Bytes::of(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let inner = Bytes::of(|b| kind.continues(b));
        let word = Bytes::of(|b| b.is_ascii_alphanumeric() || b == b'_');
        match kind {
            Kind::Uuid => {
                for (at, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
                    if at > 0 {
                        self.literal("-");
                    }
                    self.many(hex, length, Some(length));
                }
            }
            Kind::Mac => {
                for at in 0..6 {
                    if at > 0 {
                        self.literal(":");
                    }
                    self.many(hex, 2, Some(2));
                }
            }
            Kind::Int(least, most) => {
                let length = |number: &u64| number.to_string().len();
                self.many(digit, length(least), Some(length(most)));
            }
            Kind::Word => {
                self.one(word);
                self.many(inner, 0, None);
            }
            Kind::Ifname => {
                self.one(word);
                self.many(inner, 0, Some(14));
            }
            Kind::Hostname => {
                self.one(Bytes::of(|b| b.is_ascii_alphanumeric()));
                self.many(inner, 0, None);
            }
            Kind::Ipv4 => {
                for at in 0..4 {
                    if at > 0 {
                        self.literal(".");
                    }
                    self.many(digit, 1, Some(3));
                }
            }
            Kind::Ipv6 => {
                self.many(hex, 0, Some(4));
                self.literal(":");
                self.many(inner, 1, None);
            }
            Kind::Ip => self.any([Kind::Ipv4, Kind::Ipv6], |this, kind| this.kind(&kind)),
            Kind::Cidr => {
                self.kind(&Kind::Ip);
                self.literal("/");
                self.many(digit, 1, Some(3));
            }
            Kind::Path(above) => {
                self.literal(above.as_deref().unwrap_or_default());
                self.literal("/");
                self.many(inner, 1, None);
            }
            Kind::One(options) => self.any(options.iter(), |this, option| this.literal(option)),
            Kind::Hex | Kind::Text => self.many(inner, 1, None),
        }
    }

    fn value(&mut self, slot: Slot, names: &Names<'_>) {
        match names.slots.get(usize::from(slot)) {
            Some(SlotKind::Kind(kind)) => self.kind(kind),
            Some(SlotKind::Netns) if slot == NETNS => {
                self.any(names.netns.iter(), |this, pattern| {
                    this.pattern(pattern, names)
                });
            }
            Some(SlotKind::Image) if slot == IMAGE => {
                let reference = |b: u8| {
                    b.is_ascii_alphanumeric()
                        || matches!(b, b'.' | b'_' | b'-' | b':' | b'/' | b'@')
                };
                self.many(Bytes::of(reference), 1, None);
            }
            _ => self.many(Bytes::of(|_| true), 0, None),
        }
    }

    fn pattern(&mut self, pattern: &Pattern, names: &Names<'_>) {
        for token in &pattern.tokens {
            match token {
                Token::Literal(literal) => self.literal(literal),
                Token::Any(kind) | Token::Bind(_, kind) => self.kind(kind),
                Token::Same(slot) => self.value(*slot, names),
            }
        }
    }

    /// The states that are reached from one without reading anything.
    fn rest(&self, from: usize) -> Vec<usize> {
        let mut reached = vec![from];
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            let next = self.jumps.iter().filter(|(from, _)| *from == state);
            for (_, to) in next {
                if !reached.contains(to) {
                    reached.push(*to);
                }
            }
            at += 1;
        }
        reached
    }

    fn meets(&self, other: &Self) -> bool {
        let no_dash = self.no_dash || other.no_dash;
        let mut seen = std::collections::BTreeSet::new();
        let mut open = vec![(0, 0)];
        while let Some(pair) = open.pop() {
            if !seen.insert(pair) {
                continue;
            }
            let (ours, theirs) = (self.rest(pair.0), other.rest(pair.1));
            if ours.contains(&self.last) && theirs.contains(&other.last) {
                return true;
            }
            for (_, bytes, to) in self.steps.iter().filter(|(from, ..)| ours.contains(from)) {
                let first = pair == (0, 0) && no_dash;
                let bytes = if first { bytes.without(b'-') } else { *bytes };
                if bytes == Bytes::NONE {
                    continue;
                }
                let next = other
                    .steps
                    .iter()
                    .filter(|(from, ..)| theirs.contains(from));
                for (_, _, their_to) in next.filter(|(_, theirs, _)| bytes.meets(*theirs)) {
                    open.push((*to, *their_to));
                }
            }
        }
        false
    }
}

/// What a rule's names may be.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) slots: &'a [SlotKind],
    pub(crate) netns: &'a [Pattern],
}

/// Whether one text can match both patterns of a rule.
pub(crate) fn patterns_meet(a: &Pattern, b: &Pattern, names: &Names<'_>) -> bool {
    if let (Some(one), Some(other)) = (a.literal(), b.literal()) {
        return one == other;
    }
    let (head, other) = (a.head(), b.head());
    if !head.starts_with(other) && !other.starts_with(head) {
        return false;
    }
    let draw = |pattern: &Pattern| {
        let mut automaton = Automaton {
            no_dash: !matches!(pattern.tokens.first(), Some(Token::Literal(_)) | None),
            ..Automaton::default()
        };
        automaton.pattern(pattern, names);
        automaton
    };
    draw(a).meets(&draw(b))
}

fn draw(template: &Template, names: &Names<'_>) -> Automaton {
    let mut automaton = Automaton::default();
    for part in &template.parts {
        match part {
            Part::Literal(literal) => automaton.literal(literal),
            Part::Value(slot) => automaton.value(*slot, names),
        }
    }
    automaton
}

/// Whether two rules' templates can expand to the same text.
pub(crate) fn templates_meet(
    a: &Template,
    a_names: &Names<'_>,
    b: &Template,
    b_names: &Names<'_>,
) -> bool {
    if let (Some(one), Some(other)) = (a.literal(), b.literal()) {
        return one == other;
    }
    let (head, other) = (a.head(), b.head());
    if !head.starts_with(other) && !other.starts_with(head) {
        return false;
    }
    draw(a, a_names).meets(&draw(b, b_names))
}

/// Whether the path that one template of a rule makes can be strictly above that of the other.
pub(crate) fn template_above(outer: &Template, inner: &Template, names: &Names<'_>) -> bool {
    if let (Some(outer), Some(inner)) = (outer.literal(), inner.literal()) {
        let root = outer.trim_end_matches('/');
        let rest = inner.strip_prefix(root);
        return rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'));
    }
    let (head, other) = (outer.head(), inner.head());
    if !head.starts_with(other) && !other.starts_with(head) {
        return false;
    }
    let mut above = draw(outer, names);
    above.literal("/");
    above.many(Bytes::of(|_| true), 1, None);
    above.meets(&draw(inner, names))
}

/// Whether a value of the kind can begin with this byte.
pub(crate) fn begins(kind: &Kind, byte: u8) -> bool {
    let mut automaton = Automaton::default();
    automaton.kind(kind);
    let start = automaton.rest(0);
    let one = Bytes::of(|b| b == byte);
    automaton
        .steps
        .iter()
        .any(|(from, bytes, _)| start.contains(from) && bytes.meets(one))
}
