//! From tables to rules: every check that needs more than one key, and all that would be a doubt at a request.

mod container;
mod overlaps;

use self::container::{check_name, container};
use crate::arguments::{Arguments, ENTRIES, Entry, Order};
use crate::bindings::{IMAGE, NETNS, SlotKind};
use crate::container_table::ContainerTable;
use crate::image::reference;
use crate::language::Names;
use crate::pattern::{Pattern, Piece, pieces};
use crate::problem::{Finding, Findings, Place};
use crate::purpose::Purpose;
use crate::rule::Rule;
use crate::rule_table::{EntryTable, ExecTable, LaunchTable};
use crate::scope::Scope;
use crate::spelling::is_path;
use crate::text::Text;
use std::sync::Arc;

/// What is the same for all rules of a policy.
pub(crate) struct Compiler<'a> {
    pub(crate) agent: Arc<str>,
    pub(crate) vars: &'a [(Text, Text)],
}

/// Names that a rule captures somewhere, for messages.
fn declared<'a>(texts: impl Iterator<Item = &'a Text>) -> Vec<String> {
    let mut names = Vec::new();
    for (_, piece) in texts.flat_map(|text| pieces(&text.text).unwrap_or_default()) {
        if let Piece::Capture(Some(name), _) = piece {
            names.push(name);
        }
    }
    names
}

fn entry_texts(entries: &[EntryTable]) -> impl Iterator<Item = &Text> {
    entries
        .iter()
        .flat_map(|entry| entry.alternatives.iter().flatten())
}

impl Compiler<'_> {
    fn scope<'t>(&self, rule: &str, command: &str, texts: impl Iterator<Item = &'t Text>) -> Scope {
        let mut fixed = vec![
            ("agent".to_owned(), self.agent.to_string()),
            ("rule".to_owned(), rule.to_owned()),
            ("command".to_owned(), command.to_owned()),
        ];
        let vars = self.vars.iter();
        fixed.extend(vars.map(|(name, value)| (name.text.clone(), value.text.clone())));
        Scope::new(fixed, declared(texts))
    }

    /// Compiles one rule. `None` when something is wrong with it, which has been noted then.
    pub(crate) fn launch(&self, table: &LaunchTable, findings: &mut Findings) -> Option<Rule> {
        let rule = rule_name(table.rule.as_ref(), findings);
        let command = command_name(table.command.as_ref(), findings);
        let texts = table
            .image
            .iter()
            .chain(&table.netns)
            .chain(entry_texts(&table.args))
            .chain(entry_texts(&table.env));
        let (rule_text, command_text) = (rule.unwrap_or_default(), command.unwrap_or_default());
        let mut scope = self.scope(rule_text, command_text, texts);
        let images = choices(&table.image, Purpose::Image, &mut scope, findings);
        for (pattern, text) in images.iter().flatten().zip(&table.image) {
            check_image(pattern, text, findings);
        }
        scope.built_in(IMAGE);
        let netns = choices(&table.netns, Purpose::Netns, &mut scope, findings);
        if !table.netns.is_empty() {
            scope.built_in(NETNS);
        }
        let args = entries(
            &table.args,
            table.order,
            Purpose::Argument,
            &mut scope,
            findings,
        );
        let env = entries(
            &table.env,
            Order::Any,
            Purpose::Environment,
            &mut scope,
            findings,
        );
        let slots: Box<[SlotKind]> = scope.slots().into();
        let names = Names {
            slots: &slots,
            netns: netns.as_deref().unwrap_or_default(),
        };
        if let Some(args) = &args {
            overlaps::check(args, &table.args, table.order, &names, findings);
        }
        if let Some(env) = &env {
            overlaps::check(env, &table.env, Order::Any, &names, findings);
        }
        let program = program(&table.program, &scope, findings);
        check_environment(&table.env, table.container.as_ref(), findings);
        let container = table
            .container
            .as_ref()
            .and_then(|settings| container(settings, table, program, &scope, &slots, findings));
        Some(Rule {
            agent: Arc::clone(&self.agent),
            name: rule?.into(),
            command: command?.into(),
            images: images.filter(|images| !images.is_empty())?.into(),
            netns: netns?.into(),
            arguments: Arguments::new(args?, table.order),
            environment: Arguments::new(env?, Order::Any),
            names: scope.names().into(),
            slots,
            container: container?,
            spool: table.spool.is_some(),
        })
    }

    /// Checks an `[[exec]]` rule, which is not served yet. Returns its command and name.
    pub(crate) fn exec(
        &self,
        table: &ExecTable,
        findings: &mut Findings,
    ) -> Option<(Box<str>, Box<str>)> {
        let rule = rule_name(table.rule.as_ref(), findings);
        let command = command_name(table.command.as_ref(), findings);
        let texts = table.netns.iter().chain(entry_texts(&table.args));
        let (rule_text, command_text) = (rule.unwrap_or_default(), command.unwrap_or_default());
        let mut scope = self.scope(rule_text, command_text, texts);
        let netns = choices(&table.netns, Purpose::Netns, &mut scope, findings);
        if !table.netns.is_empty() {
            scope.built_in(NETNS);
        }
        let args = entries(
            &table.args,
            table.order,
            Purpose::Argument,
            &mut scope,
            findings,
        );
        let slots = scope.slots();
        let names = Names {
            slots: &slots,
            netns: netns.as_deref().unwrap_or_default(),
        };
        if let Some(args) = &args {
            overlaps::check(args, &table.args, table.order, &names, findings);
        }
        program(&table.program, &scope, findings);
        if let Some(text) = &table.container
            && let Some(template) = scope.template(text, Purpose::Name, findings)
        {
            check_name(&template, text, &slots, findings);
        }
        Some((command?.into(), rule?.into()))
    }
}

fn rule_name<'a>(text: Option<&'a Text>, findings: &mut Findings) -> Option<&'a str> {
    let text = text?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=64).contains(&text.text.len()) && text.text.bytes().all(plain) {
        return Some(&text.text);
    }
    let title = format!("{:?} is no name for a rule", text.text);
    findings.add(
        Finding::new(&text.place, title, "not a plain word")
            .help("1 to 64 letters, digits, `-`, `_` or `.`"),
    );
    None
}

pub(crate) fn command_name<'a>(text: Option<&'a Text>, findings: &mut Findings) -> Option<&'a str> {
    let text = text?;
    let plain = |c: char| !portcullis_wire::hidden::is_hidden(c) && c != '/' && c != ' ';
    let good = (1..=128).contains(&text.text.len())
        && !text.text.starts_with(['-', '.'])
        && text.text.chars().all(plain);
    if good {
        return Some(&text.text);
    }
    let title = format!("{:?} is no command", text.text);
    findings.add(
        Finding::new(&text.place, title, "not a base name")
            .help("write what the agent calls, without a path: \"dnsmasq\""),
    );
    None
}

/// Compiles what is chosen among: images, namespaces. `None` when one of them is wrong.
fn choices(
    texts: &[Text],
    purpose: Purpose,
    scope: &mut Scope,
    findings: &mut Findings,
) -> Option<Vec<Pattern>> {
    scope.begin_entry();
    let mut compiled = Vec::new();
    for text in texts {
        scope.begin_alternative();
        compiled.extend(scope.pattern(text, purpose, findings));
        scope.end_alternative();
    }
    scope.end_entry(true);
    (compiled.len() == texts.len()).then_some(compiled)
}

fn check_image(pattern: &Pattern, text: &Text, findings: &mut Findings) {
    if let Some(literal) = pattern.literal()
        && reference(literal).is_none()
    {
        let title = format!("{literal:?} is no image");
        findings.add(
            Finding::new(&text.place, title, "not a reference with a registry, a digest or an ID")
                .help("write it like \"registry.example/name:tag\" or \"registry.example/name@sha256:…\"; transports such as `docker-archive:` are refused"),
        );
    }
}

/// Compiles a list of entries, in the order in which they match: without a fixed order those that bind names for the
/// others come first.
fn entries(
    tables: &[EntryTable],
    order: Order,
    purpose: Purpose,
    scope: &mut Scope,
    findings: &mut Findings,
) -> Option<Vec<Entry>> {
    if let Some(table) = tables.get(ENTRIES) {
        let title = format!("a rule has at most {ENTRIES} entries");
        findings.add(
            Finding::new(&table.place, title, "one too many")
                .help("put alternatives together: { max = …, any = […] }"),
        );
        return None;
    }
    let mut compiled: Vec<(usize, Entry)> = Vec::new();
    let certain = |table: &EntryTable| table.min == 1 && table.max == 1;
    let mut numbered: Vec<(usize, &EntryTable)> = tables.iter().enumerate().collect();
    if order == Order::Any {
        numbered.sort_by_key(|(_, table)| !certain(table));
    }
    let mut whole = true;
    for (number, table) in numbered {
        match entry(table, purpose, certain(table), scope, findings) {
            Some(entry) => compiled.push((number, entry)),
            None => whole = false,
        }
    }
    compiled.sort_by_key(|(number, _)| *number);
    whole.then(|| compiled.into_iter().map(|(_, entry)| entry).collect())
}

fn entry(
    table: &EntryTable,
    purpose: Purpose,
    certain: bool,
    scope: &mut Scope,
    findings: &mut Findings,
) -> Option<Entry> {
    if table.alternatives.len() > 255 {
        let title = "an entry has at most 255 alternatives";
        findings.add(Finding::new(&table.place, title, "too many"));
        return None;
    }
    scope.begin_entry();
    let mut alternatives = Vec::new();
    for texts in &table.alternatives {
        scope.begin_alternative();
        let sequence: Vec<Pattern> = texts
            .iter()
            .filter_map(|text| scope.pattern(text, purpose, findings))
            .collect();
        scope.end_alternative();
        if sequence.len() == texts.len() {
            alternatives.push(sequence.into());
        }
        if purpose == Purpose::Environment && texts.len() > 1 {
            let title = "an environment entry stands alone";
            findings.add(Finding::new(&table.place, title, "a sequence"));
        }
    }
    let binds = scope.end_entry(certain);
    if binds != 0 && table.max > 1 {
        findings.add(
            Finding::new(
                &table.place,
                "an entry that may match more than once binds no names",
                "`max` is above 1",
            )
            .help("match without a name: {:kind}"),
        );
    }
    (alternatives.len() == table.alternatives.len()).then(|| Entry {
        alternatives: alternatives.into(),
        min: table.min,
        max: table.max,
        binds,
    })
}

fn program(texts: &[Text], scope: &Scope, findings: &mut Findings) -> Option<Vec<String>> {
    let program: Vec<String> = texts
        .iter()
        .filter_map(|text| scope.fixed(text, findings))
        .collect();
    if let (Some(first), Some(text)) = (program.first(), texts.first())
        && !is_path(first)
    {
        let title = format!("{first:?} is no program");
        findings.add(
            Finding::new(&text.place, title, "not an absolute path")
                .help("write it as the container has it: \"/usr/sbin/dnsmasq\""),
        );
        return None;
    }
    (program.len() == texts.len()).then_some(program)
}

/// The name of an environment entry is the operator's, and has one source.
fn check_environment(
    tables: &[EntryTable],
    container: Option<&ContainerTable>,
    findings: &mut Findings,
) {
    let name = |text: &Text| {
        let literal = match pieces(&text.text).ok()?.into_iter().next() {
            Some((_, Piece::Literal(literal))) => literal,
            _ => return None,
        };
        let (name, _) = literal.split_once('=')?;
        let mut bytes = name.bytes();
        let first = bytes.next()?;
        let good = (first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        good.then(|| name.to_owned())
    };
    let mut seen: Vec<(String, usize, Place)> = Vec::new();
    let set = container.map_or([].as_slice(), |container| &container.environment);
    let asked = tables.iter().enumerate().flat_map(|(number, table)| {
        let texts = table.alternatives.iter().flatten();
        texts.map(move |text| (number + 1, text))
    });
    // What the container sets is number 0, but each of its entries stands for itself.
    for (number, text) in set.iter().map(|text| (0, text)).chain(asked) {
        let Some(name) = name(text) else {
            let title = "an environment entry begins with its name and `=`";
            findings.add(
                Finding::new(&text.place, title, "no plain name")
                    .help("write it like \"DEBUG={:one(0|1)}\""),
            );
            continue;
        };
        let before = seen
            .iter()
            .find(|(other, at, _)| *other == name && (*at != number || number == 0));
        if let Some((_, _, place)) = before {
            findings.add(
                Finding::new(&text.place, format!("{name:?} is set twice"), "again")
                    .also(place, "set first"),
            );
        }
        seen.push((name, number, text.place.clone()));
    }
}
