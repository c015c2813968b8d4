//! A list of side containers: a table for a person, one JSON object a line for a script.

use crate::asked::Manner;
use crate::json::Object;
use crate::terminal::line;
use portcullis_wire::{Container, State};

const HEADER: [&str; 7] = ["NAME", "RULE", "NETNS", "STATE", "PID", "AGE", "EXIT"];

/// The whole list, in the order in which it came.
pub(crate) fn text(manner: Manner, items: &[Container]) -> String {
    if manner == Manner::Json {
        return items.iter().map(object).collect();
    }
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(items.iter().map(row));
    let mut widths = [0; HEADER.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut padded = String::new();
        for (cell, width) in row.iter().zip(widths) {
            padded.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

fn row(item: &Container) -> [String; HEADER.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        line(&item.name),
        line(&item.rule),
        or_dash(item.netns.as_deref().map(line)),
        state(item.state).to_owned(),
        or_dash(pid(item).map(|pid| pid.to_string())),
        or_dash(item.age.map(age)),
        or_dash(item.last_exit.map(|exit| exit.to_string())),
    ]
}

fn object(item: &Container) -> String {
    let container = Some(item.container.as_str()).filter(|id| !id.is_empty());
    Object::answer("container")
        .text("name", &item.name)
        .optional_text("container", container)
        .text("rule", &item.rule)
        .optional_text("netns", item.netns.as_deref())
        .text("state", state(item.state))
        .optional_number("pid", pid(item).map(u64::from))
        .optional_number("age", item.age)
        .optional_number("last_exit", item.last_exit.map(u64::from))
        .line()
}

/// On the wire, 0 is none.
fn pid(item: &Container) -> Option<u32> {
    Some(item.pid).filter(|pid| *pid > 0)
}

/// The words of the metrics.
fn state(state: State) -> &'static str {
    match state {
        State::Launching => "launching",
        State::Readying => "readying",
        State::Running => "running",
        State::Ended => "ended",
        State::Unknown => "unknown",
    }
}

/// Whole units of the largest that there is one of.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}min", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str) -> Container {
        Container {
            name: name.into(),
            container: "0123456789abcdef".repeat(4),
            rule: "dnsmasq".into(),
            netns: Some("qdhcp-1".into()),
            state: State::Running,
            pid: 42,
            age: Some(61),
            last_exit: Some(137),
        }
    }

    fn gone(name: &str) -> Container {
        Container {
            container: String::new(),
            netns: None,
            state: State::Ended,
            pid: 0,
            age: None,
            last_exit: None,
            ..container(name)
        }
    }

    #[test]
    fn a_table_has_a_header_and_columns_as_wide_as_their_widest_cell() {
        let table = text(Manner::Plain, &[container("a-longer-name"), gone("b")]);
        let rows = [
            "NAME           RULE     NETNS    STATE    PID  AGE   EXIT",
            "a-longer-name  dnsmasq  qdhcp-1  running  42   1min  137",
            "b              dnsmasq  -        ended    -    -     -",
            "",
        ];
        assert_eq!(table, rows.join("\n"));
    }

    #[test]
    fn an_empty_list_is_the_header_alone_and_nothing_for_a_script() {
        assert_eq!(
            text(Manner::Plain, &[]),
            "NAME  RULE  NETNS  STATE  PID  AGE  EXIT\n"
        );
        assert_eq!(text(Manner::Json, &[]), "");
    }

    #[test]
    fn a_name_that_a_terminal_would_obey_is_shown() {
        let table = text(Manner::Plain, &[container("a\u{1b}[2J\nb")]);
        assert!(table.contains("a\\u{1b}[2J\\nb"), "{table}");
        assert_eq!(table.lines().count(), 2);
    }

    #[test]
    fn every_row_is_a_json_object_on_a_line_of_its_own_that_reads_back_as_it_was() {
        let items = [container("a\"\n\u{1b}ä"), gone("b")];
        let text = text(Manner::Json, &items);
        assert_eq!(text.lines().count(), 2);
        for (line, item) in text.lines().zip(items) {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            let expected = serde_json::json!({
                "answer": "container",
                "name": item.name,
                "container": (!item.container.is_empty()).then_some(item.container),
                "rule": item.rule,
                "netns": item.netns,
                "state": if item.pid > 0 { "running" } else { "ended" },
                "pid": (item.pid > 0).then_some(item.pid),
                "age": item.age,
                "last_exit": item.last_exit,
            });
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1min"),
            (3_599, "59min"),
            (3_600, "1h"),
            (86_399, "23h"),
            (86_400, "1d"),
            (u64::MAX, "213503982334601d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
