//! The document as it is written: TOML in, tables with places out. What the tables mean is compiled elsewhere.
//!
//! The main file may have everything; a drop-in adds rules and spools, and overrides nothing.

use crate::limits::{Limits, Rate};
use crate::lint::Allowance;
use crate::problem::{Finding, Findings, Place};
use crate::reader::Reader;
use crate::rule_table::{ExecTable, LaunchTable};
use crate::spool::SpoolTable;
use crate::text::Text;
use portcullis_wire::PolicyText;
use std::time::Duration;
use toml::de::DeTable;

/// All files of one agent's policy.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The main file's begin.
    pub(crate) place: Option<Place>,
    pub(crate) peer: Option<PeerTable>,
    pub(crate) limits: Limits,
    pub(crate) vars: Vec<(Text, Text)>,
    pub(crate) allow: Vec<Allowance>,
    pub(crate) code_alone: bool,
    pub(crate) launches: Vec<LaunchTable>,
    pub(crate) execs: Vec<ExecTable>,
    pub(crate) spools: Vec<SpoolTable>,
}

/// `[peer]`: all that is given must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTable {
    pub(crate) uid: Option<Vec<u32>>,
    pub(crate) gid: Option<Vec<u32>>,
}

impl Document {
    /// Reads the files: the main one first.
    pub(crate) fn read(files: &[PolicyText], findings: &mut Findings) -> Self {
        let mut document = Self::default();
        for (number, file) in files.iter().enumerate() {
            let (table, errors) = DeTable::parse_recoverable(&file.text);
            for error in &errors {
                let place = Place::new(number, error.span().unwrap_or(0..0));
                findings.add(Finding::new(
                    &place,
                    format!("not TOML: {}", error.message()),
                    "here",
                ));
            }
            if errors.is_empty() {
                let main = number == 0;
                let what = if main {
                    "the policy"
                } else {
                    "a drop-in, which only adds rules and spools,"
                };
                let reader = Reader::new(number, &file.text, what, &table);
                document.read_file(reader, main, findings);
            }
        }
        document
    }

    fn read_file(&mut self, mut file: Reader<'_>, main: bool, findings: &mut Findings) {
        if main {
            self.place = Some(file.place.clone());
            file.require("version", "version = 1", findings);
        }
        if let Some((value, place)) = file.value("version") {
            let one = value
                .as_integer()
                .is_some_and(|v| v.as_str() == "1" && v.radix() == 10);
            if !one {
                findings.add(
                    Finding::new(
                        &place,
                        "this version of the policy language is not known",
                        "not 1",
                    )
                    .help("write: version = 1"),
                );
            }
        }
        if main {
            if let Some(table) = file.table("peer", "[peer]", findings) {
                self.peer = Some(PeerTable::read(table, findings));
            }
            if let Some(table) = file.table("limits", "[limits]", findings) {
                self.limits = read_limits(table, findings);
            }
            if let Some(table) = file.table("vars", "[vars]", findings) {
                self.vars = table.texts_by_key(findings);
            }
            if let Some(table) = file.table("allow", "[allow]", findings) {
                self.allow = Allowance::read(table, findings);
            }
            if let Some(detail) = file.text("detail", findings) {
                self.code_alone = match &*detail.text {
                    "code" => true,
                    "full" => false,
                    _ => {
                        findings.add(not_one_of(&detail, "detail", &["full", "code"]));
                        false
                    }
                };
            }
        }
        for (value, place) in file.list("launch", "[[launch]]", findings) {
            if let Some(table) = file.as_table(value, place, "a [[launch]] rule", findings) {
                self.launches.push(LaunchTable::read(table, findings));
            }
        }
        for (value, place) in file.list("exec", "[[exec]]", findings) {
            if let Some(table) = file.as_table(value, place, "an [[exec]] rule", findings) {
                self.execs.push(ExecTable::read(table, findings));
            }
        }
        for (value, place) in file.list("spool", "[[spool]]", findings) {
            if let Some(table) = file.as_table(value, place, "a [[spool]]", findings) {
                self.spools.push(SpoolTable::read(table, findings));
            }
        }
        file.finish(findings);
    }
}

impl PeerTable {
    fn read(mut table: Reader<'_>, findings: &mut Findings) -> Self {
        let peer = Self {
            uid: table.ids("uid", findings),
            gid: table.ids("gid", findings),
        };
        table.finish(findings);
        peer
    }
}

fn read_limits(mut table: Reader<'_>, findings: &mut Findings) -> Limits {
    let default = Limits::default();
    let running = table.small_number("running", 1, findings);
    let in_flight = table.small_number("in_flight", 1, findings);
    let launches = table.text("launches", findings).and_then(|text| {
        let rate = Rate::parse(&text.text);
        if rate.is_none() {
            findings.add(
                Finding::new(
                    &text.place,
                    "`launches` is no rate",
                    "not a number per time",
                )
                .help("write it like \"600/min\"; also \"10/s\" and \"1000/hour\""),
            );
        }
        rate
    });
    table.finish(findings);
    Limits {
        running: running.unwrap_or(default.running),
        launches: launches.unwrap_or(default.launches),
        in_flight: in_flight.unwrap_or(default.in_flight),
    }
}

/// A text that is none of the words that a key may have.
pub(crate) fn not_one_of(text: &Text, key: &str, words: &[&str]) -> Finding {
    let list: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let right = match crate::problem::nearest(&text.text, words) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("it may be: {}", list.join(", ")),
    };
    Finding::new(
        &text.place,
        format!("{:?} is no value of `{key}`", text.text),
        "not known",
    )
    .help(right)
}

/// Reads a length of time, `"300s"`: milliseconds, seconds, minutes or hours; not nothing, and at most a day.
pub(crate) fn duration(text: &Text, key: &str, findings: &mut Findings) -> Option<Duration> {
    let digits = text.text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.text.split_at_checked(digits).unwrap_or_default();
    let scale = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = number
        .parse::<u64>()
        .ok()
        .zip(scale)
        .and_then(|(n, scale)| n.checked_mul(scale));
    match millis {
        Some(millis @ 1..=86_400_000) => Some(Duration::from_millis(millis)),
        _ => {
            let title = format!("`{key}` is no length of time between 1 ms and a day");
            findings.add(
                Finding::new(&text.place, title, "not understood")
                    .help("write it like \"300s\"; also \"500ms\", \"5min\", \"1h\""),
            );
            None
        }
    }
}
