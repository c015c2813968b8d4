//! Reading a TOML table key by key, with places.
//!
//! Whoever reads a table asks for every key that it may have; what is left over at the end is a problem. So there is
//! no key that is silently ignored, and all mistakes of a file are found in one go.

use crate::problem::{Finding, Findings, Place, nearest};
use crate::text::Text;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One table on its way of being read.
pub(crate) struct Reader<'a> {
    file: usize,
    source: &'a str,
    /// What the table is, for messages: "[peer]", "a [[launch]] rule".
    what: String,
    pub(crate) place: Place,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        file: usize,
        source: &'a str,
        what: &str,
        table: &'a Spanned<DeTable<'a>>,
    ) -> Self {
        let mut place = Place::new(file, table.span());
        if table.span().is_empty() || table.span().len() == source.len() {
            place.end = place.start;
        }
        Self {
            file,
            source,
            what: what.to_owned(),
            place,
            table: table.get_ref(),
            known: Vec::new(),
        }
    }

    /// The value of a key, and its place.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<(&'a DeValue<'a>, Place)> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some((value.get_ref(), Place::new(self.file, value.span())))
    }

    /// Every key with a text as its value, in the order of the file: for tables whose keys are the operator's.
    pub(crate) fn texts_by_key(self, findings: &mut Findings) -> Vec<(Text, Text)> {
        let mut found = Vec::new();
        for (key, value) in self.table {
            let name = Text {
                text: key.get_ref().to_string(),
                place: Place::new(self.file, key.span()),
                quote: None,
            };
            let place = Place::new(self.file, value.span());
            let what = format!("`{}` of {}", name.text, self.what);
            if let Some(text) = self.as_text(value.get_ref(), &place, &what, findings) {
                found.push((name, text));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.place.cmp(&b.place));
        found
    }

    fn as_text(
        &self,
        value: &DeValue<'_>,
        place: &Place,
        what: &str,
        findings: &mut Findings,
    ) -> Option<Text> {
        let Some(text) = value.as_str() else {
            findings.add(wrong_type(place, what, value, "a string", "\"…\""));
            return None;
        };
        let written = self.source.get(place.start..place.end).unwrap_or_default();
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find_map(|quote| {
            let inner = written.strip_prefix(quote)?.strip_suffix(quote)?;
            (inner == text).then_some(quote.len())
        });
        Some(Text {
            text: text.to_owned(),
            place: place.clone(),
            quote,
        })
    }

    /// A text, if the key is there.
    pub(crate) fn text(&mut self, key: &'static str, findings: &mut Findings) -> Option<Text> {
        let (value, place) = self.value(key)?;
        self.as_text(value, &place, &format!("`{key}`"), findings)
    }

    /// A text that has to be there.
    pub(crate) fn required(
        &mut self,
        key: &'static str,
        example: &str,
        findings: &mut Findings,
    ) -> Option<Text> {
        self.require(key, example, findings);
        self.text(key, findings)
    }

    /// Says that a key is missing, when it is.
    pub(crate) fn require(&mut self, key: &'static str, example: &str, findings: &mut Findings) {
        if !self.table.contains_key(key) {
            findings.add(
                Finding::new(
                    &self.place,
                    format!("{} has no `{key}`", self.what),
                    "it is missing here",
                )
                .help(format!("add: {example}")),
            );
        }
    }

    /// A list of texts, which may be empty; a single one counts as a list of one.
    pub(crate) fn texts(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Text> {
        match self.value(key) {
            Some((DeValue::Array(items), _)) if items.is_empty() => Vec::new(),
            Some((value, place)) => self.as_texts(value, &place, key, findings),
            None => Vec::new(),
        }
    }

    /// A list of texts with at least one in it, if the key is there; a single one counts as a list of one.
    pub(crate) fn some_texts(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Text> {
        match self.value(key) {
            Some((value, place)) => self.as_texts(value, &place, key, findings),
            None => Vec::new(),
        }
    }

    pub(crate) fn as_texts(
        &self,
        value: &DeValue<'_>,
        place: &Place,
        key: &str,
        findings: &mut Findings,
    ) -> Vec<Text> {
        let what = format!("`{key}`");
        match value {
            DeValue::Array(items) => {
                if items.is_empty() {
                    findings.add(
                        Finding::new(place, format!("{what} is an empty list"), "nothing in it")
                            .help("leave the key out, or say what is meant"),
                    );
                }
                let item = |item: &Spanned<DeValue<'_>>| {
                    let place = Place::new(self.file, item.span());
                    self.as_text(
                        item.get_ref(),
                        &place,
                        &format!("an item of {what}"),
                        findings,
                    )
                };
                items.iter().filter_map(item).collect()
            }
            DeValue::String(_) => self
                .as_text(value, place, &what, findings)
                .into_iter()
                .collect(),
            _ => {
                findings.add(wrong_type(
                    place,
                    &what,
                    value,
                    "a string or a list of strings",
                    "[\"…\", \"…\"]",
                ));
                Vec::new()
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
        findings: &mut Findings,
    ) -> Option<u64> {
        let (value, place) = self.value(key)?;
        as_number(value, &place, &format!("`{key}`"), bounds, findings)
    }

    /// A whole number that fits 32 bits.
    pub(crate) fn small_number(
        &mut self,
        key: &'static str,
        least: u32,
        findings: &mut Findings,
    ) -> Option<u32> {
        let number = self.number(key, u64::from(least)..=u64::from(u32::MAX), findings)?;
        u32::try_from(number).ok()
    }

    /// A list of ids, or one.
    pub(crate) fn ids(&mut self, key: &'static str, findings: &mut Findings) -> Option<Vec<u32>> {
        let (value, place) = self.value(key)?;
        let what = format!("`{key}`");
        let bounds = 0..=u64::from(u32::MAX);
        let mut ids = Vec::new();
        match value {
            DeValue::Array(items) if items.is_empty() => findings.add(
                Finding::new(
                    &place,
                    format!("{what} is an empty list"),
                    "admits nobody at all",
                )
                .help("leave the key out to admit any, or list the ids"),
            ),
            DeValue::Array(items) => {
                for item in items {
                    let place = Place::new(self.file, item.span());
                    ids.extend(as_number(
                        item.get_ref(),
                        &place,
                        &what,
                        bounds.clone(),
                        findings,
                    ));
                }
            }
            one => ids.extend(as_number(one, &place, &what, bounds, findings)),
        }
        Some(
            ids.into_iter()
                .filter_map(|id| u32::try_from(id).ok())
                .collect(),
        )
    }

    /// A truth value.
    pub(crate) fn truth(&mut self, key: &'static str, findings: &mut Findings) -> Option<bool> {
        let (value, place) = self.value(key)?;
        let truth = value.as_bool();
        if truth.is_none() {
            let what = format!("`{key}`");
            findings.add(wrong_type(
                &place,
                &what,
                value,
                "`true` or `false`",
                "true",
            ));
        }
        truth
    }

    /// Where a truth value stands that is this one.
    pub(crate) fn truth_at(
        &mut self,
        key: &'static str,
        wanted: bool,
        findings: &mut Findings,
    ) -> Option<Place> {
        let truth = self.truth(key, findings)?;
        let value = self.table.get(key)?;
        (truth == wanted).then(|| Place::new(self.file, value.span()))
    }

    /// A table within this one.
    pub(crate) fn table(
        &mut self,
        key: &'static str,
        what: &str,
        findings: &mut Findings,
    ) -> Option<Reader<'a>> {
        let (value, place) = self.value(key)?;
        self.as_table(value, place, what, findings)
    }

    pub(crate) fn as_table(
        &self,
        value: &'a DeValue<'a>,
        place: Place,
        what: &str,
        findings: &mut Findings,
    ) -> Option<Reader<'a>> {
        let Some(table) = value.as_table() else {
            findings.add(wrong_type(&place, what, value, "a table", "{ … }"));
            return None;
        };
        Some(Self {
            file: self.file,
            source: self.source,
            what: what.to_owned(),
            place,
            table,
            known: Vec::new(),
        })
    }

    /// The values of a list, with their places.
    pub(crate) fn list(
        &mut self,
        key: &'static str,
        right: &str,
        findings: &mut Findings,
    ) -> Vec<(&'a DeValue<'a>, Place)> {
        let Some((value, place)) = self.value(key) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            findings.add(wrong_type(
                &place,
                &format!("`{key}`"),
                value,
                "a list",
                right,
            ));
            return Vec::new();
        };
        items
            .iter()
            .map(|item| (item.get_ref(), Place::new(self.file, item.span())))
            .collect()
    }

    /// Ends the reading: every key that was not asked for is a problem.
    pub(crate) fn finish(self, findings: &mut Findings) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let right = match nearest(name, &self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it may have: {}", self.known.join(", ")),
            };
            findings.add(
                Finding::new(
                    &Place::new(self.file, key.span()),
                    format!("{} has no key {name:?}", self.what),
                    "unknown key",
                )
                .help(right),
            );
        }
    }
}

fn as_number(
    value: &DeValue<'_>,
    place: &Place,
    what: &str,
    bounds: std::ops::RangeInclusive<u64>,
    findings: &mut Findings,
) -> Option<u64> {
    let (least, most) = (bounds.start(), bounds.end());
    let Some(integer) = value.as_integer() else {
        findings.add(wrong_type(
            place,
            what,
            value,
            "a whole number",
            &least.to_string(),
        ));
        return None;
    };
    let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
    let found = number.filter(|number| bounds.contains(number));
    if found.is_none() {
        findings.add(Finding::new(
            place,
            format!("{what} is out of range"),
            format!("must be {least} to {most}"),
        ));
    }
    found
}

fn wrong_type(
    place: &Place,
    what: &str,
    value: &DeValue<'_>,
    expected: &str,
    right: &str,
) -> Finding {
    Finding::new(
        place,
        format!("{what} is of the wrong type"),
        format!("expected {expected}, found {}", value.type_str()),
    )
    .help(format!("write it like: {right}"))
}
