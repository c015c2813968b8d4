//! What is wrong with a policy: where, what, and what would have been right.
//!
//! Problems are collected, not thrown: an operator mends a file once, not once per mistake.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use portcullis_wire::PolicyText;
use std::fmt;
use std::ops::Range;

/// Something wrong in a policy. Its `Display` shows the place, with the text underlined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
pub struct Problem {
    title: String,
    path: String,
    line: usize,
    column: usize,
    rendered: String,
}

impl Problem {
    /// What is wrong, in one line.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The file it is in.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where in the file: line and column, both from 1, the column in characters.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

/// All that is wrong with a policy; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Each of them, in the order of the files.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// What is said when a policy did not compile and nobody said why: a defect of this crate, but no launch.
    pub(crate) fn unexplained() -> Self {
        let title = "the policy does not compile, and the reason was not noted";
        Self(vec![Problem {
            title: title.to_owned(),
            path: String::new(),
            line: 1,
            column: 1,
            rendered: format!("error: {title}"),
        }])
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A stretch of one of the files, by its number and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Place {
    pub(crate) fn new(file: usize, span: Range<usize>) -> Self {
        Self {
            file,
            start: span.start,
            end: span.end,
        }
    }
}

/// A finding before it is rendered.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) title: String,
    pub(crate) label: String,
    pub(crate) place: Place,
    pub(crate) also: Option<(Place, String)>,
    pub(crate) help: Option<String>,
}

impl Finding {
    /// `label` stands under the place.
    pub(crate) fn new(place: &Place, title: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            label: label.into(),
            place: place.clone(),
            also: None,
            help: None,
        }
    }

    /// Points to a second place.
    pub(crate) fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.also = Some((place.clone(), label.into()));
        self
    }

    /// What would have been right.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As a person reads it.
    pub(crate) fn render(&self, level: Level<'_>, files: &[PolicyText]) -> String {
        let mut group = level.primary_title(self.title.as_str()).elements(
            files
                .get(self.place.file)
                .map(|file| self.snippet(file, self.place.file)),
        );
        if let Some((place, label)) = &self.also
            && place.file != self.place.file
            && let Some(file) = files.get(place.file)
        {
            let annotation = AnnotationKind::Context
                .span(within(place, &file.text))
                .label(label.as_str());
            group = group.element(
                Snippet::source(file.text.as_str())
                    .path(file.path.as_str())
                    .annotation(annotation),
            );
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[group])
    }

    fn snippet<'a>(
        &'a self,
        file: &'a PolicyText,
        number: usize,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let primary = AnnotationKind::Primary
            .span(within(&self.place, &file.text))
            .label(self.label.as_str());
        let also = self
            .also
            .as_ref()
            .filter(|(place, _)| place.file == number)
            .map(|(place, label)| {
                AnnotationKind::Context
                    .span(within(place, &file.text))
                    .label(label.as_str())
            });
        Snippet::source(file.text.as_str())
            .path(file.path.as_str())
            .annotation(primary)
            .annotations(also)
    }
}

/// The place's bytes, moved to where characters begin: the renderer trusts them.
fn within(place: &Place, text: &str) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(place.start);
    start..floor(place.end).max(start)
}

/// Where problems are collected.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// Notes a problem.
    pub(crate) fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    /// The problems as they are shown, or none.
    pub(crate) fn into_result(mut self, files: &[PolicyText]) -> Result<(), Problems> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by(|a, b| a.place.cmp(&b.place));
        let problem = |finding: &Finding| {
            let file = files.get(finding.place.file);
            let text = file.map_or("", |file| file.text.as_str());
            let before = text
                .get(..within(&finding.place, text).start)
                .unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            Problem {
                title: finding.title.clone(),
                path: file.map_or_else(String::new, |file| file.path.clone()),
                line: before.matches('\n').count() + 1,
                column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
                rendered: finding.render(Level::ERROR, files),
            }
        };
        Err(Problems(self.0.iter().map(problem).collect()))
    }
}

/// The candidate that was probably meant.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters have to change, come or go.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let up = *cell;
            left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            diagonal = up;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
