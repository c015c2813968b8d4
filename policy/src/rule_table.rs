//! The tables `[[launch]]` and `[[exec]]` as they are written, their arguments among them.

use crate::arguments::Order;
use crate::container_table::ContainerTable;
use crate::document::not_one_of;
use crate::lint::Allowance;
use crate::problem::{Finding, Findings, Place};
use crate::reader::Reader;
use crate::text::Text;
use toml::de::DeValue;

/// One `[[launch]]`. What is `None` was missing or wrong, and that has been said.
#[derive(Debug)]
pub(crate) struct LaunchTable {
    pub(crate) rule: Option<Text>,
    pub(crate) command: Option<Text>,
    pub(crate) image: Vec<Text>,
    pub(crate) netns: Vec<Text>,
    pub(crate) program: Vec<Text>,
    pub(crate) order: Order,
    pub(crate) args: Vec<EntryTable>,
    pub(crate) env: Vec<EntryTable>,
    pub(crate) signals: Vec<Text>,
    pub(crate) allow: Vec<Allowance>,
    /// Where `spool = true` stands.
    pub(crate) spool: Option<Place>,
    pub(crate) container: Option<ContainerTable>,
}

/// One `[[exec]]`.
#[derive(Debug)]
pub(crate) struct ExecTable {
    pub(crate) rule: Option<Text>,
    pub(crate) command: Option<Text>,
    pub(crate) container: Option<Text>,
    pub(crate) netns: Vec<Text>,
    pub(crate) program: Vec<Text>,
    pub(crate) order: Order,
    pub(crate) args: Vec<EntryTable>,
}

/// One entry of `args` or `env`: alternatives that share one count, each a sequence of patterns.
#[derive(Debug)]
pub(crate) struct EntryTable {
    pub(crate) place: Place,
    pub(crate) alternatives: Vec<Vec<Text>>,
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl LaunchTable {
    pub(crate) fn read(mut table: Reader<'_>, findings: &mut Findings) -> Self {
        table.require("image", "image = \"registry.example/name:tag\"", findings);
        let order = order(&mut table, findings);
        let read = Self {
            rule: table.required("rule", "rule = \"dnsmasq\"", findings),
            command: table.required("command", "command = \"dnsmasq\"", findings),
            image: table.some_texts("image", findings),
            netns: table.some_texts("netns", findings),
            program: table.some_texts("program", findings),
            order,
            args: entries(&mut table, "args", order, findings),
            env: entries(&mut table, "env", Order::Any, findings),
            signals: table.texts("signals", findings),
            allow: table
                .table("allow", "`allow` of a rule", findings)
                .map(|table| Allowance::read(table, findings))
                .unwrap_or_default(),
            spool: table.truth_at("spool", true, findings),
            container: {
                let example = "[launch.container] with `name` and `user`";
                table.require("container", example, findings);
                table
                    .table("container", "[launch.container]", findings)
                    .map(|table| ContainerTable::read(table, findings))
            },
        };
        table.finish(findings);
        check_signals(&read.signals, findings);
        read
    }
}

impl ExecTable {
    pub(crate) fn read(mut table: Reader<'_>, findings: &mut Findings) -> Self {
        table.require(
            "program",
            "program = [\"/usr/bin/program\"], what runs in it",
            findings,
        );
        let order = order(&mut table, findings);
        let read = Self {
            rule: table.required("rule", "rule = \"reload\"", findings),
            command: table.required("command", "command = \"reload\"", findings),
            container: table.required(
                "container",
                "container = \"name-{netns}\", the name of the side container to run in",
                findings,
            ),
            netns: table.some_texts("netns", findings),
            program: table.some_texts("program", findings),
            order,
            args: entries(&mut table, "args", order, findings),
        };
        table.finish(findings);
        read
    }
}

fn check_signals(signals: &[Text], findings: &mut Findings) {
    const SIGNALS: &[&str] = &[
        "HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "CONT", "STOP", "WINCH", "ALRM",
        "CHLD", "URG", "PIPE", "TSTP", "TTIN", "TTOU",
    ];
    for signal in signals {
        if !SIGNALS.contains(&&*signal.text) {
            let finding = not_one_of(signal, "signals", SIGNALS);
            let bare = signal
                .text
                .strip_prefix("SIG")
                .filter(|name| SIGNALS.contains(name));
            findings.add(match bare {
                Some(name) => finding.help(format!("write it as \"{name}\"")),
                None => finding,
            });
        }
    }
}

const ENTRY: &str = "[\"--once\", [\"--two\", \"together\"], { min = 1, pattern = \"--required={:int}\" }, \
                     { max = 9, any = [\"--a\", \"--b\"] }]";

fn order(table: &mut Reader<'_>, findings: &mut Findings) -> Order {
    let Some(text) = table.text("order", findings) else {
        return Order::Any;
    };
    match &*text.text {
        "any" => Order::Any,
        "fixed" => Order::Fixed,
        _ => {
            findings.add(not_one_of(&text, "order", &["any", "fixed"]));
            Order::Any
        }
    }
}

/// Reads a list of entries. In a fixed order each has to be there unless it says otherwise, else none has.
fn entries(
    table: &mut Reader<'_>,
    key: &'static str,
    order: Order,
    findings: &mut Findings,
) -> Vec<EntryTable> {
    let items = table.list(key, ENTRY, findings);
    let least = u32::from(order == Order::Fixed);
    let mut read = Vec::new();
    for (value, place) in items {
        match value {
            DeValue::Table(_) => {
                if let Some(reader) = table.as_table(value, place, "an entry", findings) {
                    read.extend(EntryTable::read(reader, key, least, findings));
                }
            }
            _ => read.push(EntryTable {
                alternatives: vec![table.as_texts(value, &place, key, findings)],
                place,
                min: least,
                max: 1,
            }),
        }
    }
    read.retain(|entry| entry.alternatives.iter().all(|list| !list.is_empty()));
    read
}

impl EntryTable {
    fn read(mut table: Reader<'_>, key: &str, least: u32, findings: &mut Findings) -> Option<Self> {
        let place = table.place.clone();
        let min = table.small_number("min", 0, findings).unwrap_or(least);
        let max = table.small_number("max", 1, findings);
        let pattern = table
            .value("pattern")
            .map(|(value, place)| table.as_texts(value, &place, key, findings));
        let any = table.value("any").is_some();
        let list = table.list("any", "[\"--a\", [\"--b\", \"{:int}\"]]", findings);
        let any = any.then(|| {
            list.into_iter()
                .map(|(value, place)| table.as_texts(value, &place, key, findings))
                .collect::<Vec<_>>()
        });
        table.finish(findings);
        if max.is_some_and(|max| max < min) {
            findings.add(Finding::new(
                &place,
                "`max` is less than `min`",
                "can never match",
            ));
        }
        let alternatives = match (pattern, any) {
            (Some(pattern), None) => vec![pattern],
            (None, Some(any)) if !any.is_empty() => any,
            (None, Some(_)) => {
                findings.add(Finding::new(
                    &place,
                    "`any` is an empty list",
                    "no alternatives",
                ));
                return None;
            }
            _ => {
                findings.add(
                    Finding::new(
                        &place,
                        "an entry has either `pattern` or `any`",
                        "both or neither",
                    )
                    .help(
                        "write { min = 1, pattern = \"…\" } or { max = 9, any = [\"…\", \"…\"] }",
                    ),
                );
                return None;
            }
        };
        Some(Self {
            place,
            alternatives,
            min,
            max: max.unwrap_or_else(|| min.max(1)),
        })
    }
}
