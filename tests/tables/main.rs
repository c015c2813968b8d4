//! The tables that say which test stands for which attack or invariant: every test that they name is there, and no test of
//! an attack is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// What stands between two backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Files beside tests/security/ that have attacks alone.
const ELSEWHERE: &[&str] = &[
    "broker/tests/confinement.rs",
    "broker/tests/descriptors.rs",
    "policy/tests/attacks.rs",
    "tests/spool/hostile.rs",
];

/// One row: what is attacked, and the places with the tests that they have.
struct Row {
    attack: String,
    tests: Vec<(String, String)>,
}

/// What stands between a table's heading and its rows.
fn is_ruler(line: &str) -> bool {
    line.starts_with("|--")
}

/// The rows between two marks of a document; a test stands in the last column.
fn rows(document: &str, table: &str) -> Vec<Row> {
    let text = read(document);
    let (_, rest) = text.split_once(&format!("<!-- {table} -->")).unwrap();
    let (table, _) = rest
        .split_once(&format!("<!-- end of {table} -->"))
        .unwrap();
    let mut rows = Vec::new();
    let lines: Vec<&str> = table.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let is_heading = lines.get(at + 1).is_some_and(|next| is_ruler(next));
        if !line.starts_with('|') || is_ruler(line) || is_heading {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (Some(attack), Some(tests)) = (cells.first(), cells.last()) else {
            continue;
        };
        let mut named = Vec::new();
        for part in tests.split("<br>") {
            let (place, names) = part.split_once(": `").expect("a place, then its tests");
            let place = place.split([',', ' ']).next().unwrap();
            let names = quoted(&format!("`{names}"));
            named.extend(names.into_iter().map(|name| (place.to_owned(), name)));
        }
        rows.push(Row {
            attack: (*attack).to_owned(),
            tests: named,
        });
    }
    assert!(!rows.is_empty(), "{document} has no {table}");
    rows
}

/// The files that a place may mean.
fn files(place: &str) -> Vec<PathBuf> {
    let (folder, file) = place.split_once('/').expect("a folder and a file");
    [
        format!("tests/{folder}/{file}.rs"),
        format!("{folder}/tests/{file}.rs"),
        format!("{folder}/src/{file}.rs"),
        format!("{folder}/src/{file}_tests.rs"),
    ]
    .iter()
    .map(|path| root().join(path))
    .filter(|path| path.exists())
    .collect()
}

fn all() -> Vec<Row> {
    let mut all = rows("tests/attacks.md", "attack table");
    all.extend(rows("tests/attacks.md", "cve table"));
    all.extend(rows("docs/architecture.md", "invariants table"));
    all
}

#[test]
fn every_test_of_the_tables_is_there() {
    let mut missing = Vec::new();
    for row in all() {
        assert!(!row.tests.is_empty(), "no test: {}", row.attack);
        for (place, name) in row.tests {
            // Invariant 2's is a function in code that must not compile.
            let has = |path: &PathBuf| {
                fs::read_to_string(path)
                    .unwrap()
                    .contains(&format!("fn {name}("))
            };
            let found = files(&place).iter().any(has);
            if !found {
                missing.push(format!("{place}: {name} ({})", row.attack));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "named and not there:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_test_of_an_attack_is_in_a_table() {
    let named: BTreeSet<String> = all()
        .into_iter()
        .flat_map(|row| row.tests)
        .map(|(_, name)| name)
        .collect();
    let folder = fs::read_dir(root().join("tests/security")).unwrap();
    let mut attacks: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    attacks.extend(ELSEWHERE.iter().map(|path| root().join(path)));
    let mut left_out = Vec::new();
    for path in attacks {
        let text = fs::read_to_string(&path).unwrap();
        for test in text.split("#[test]").skip(1) {
            let (_, rest) = test.split_once("fn ").unwrap();
            let (name, _) = rest.split_once('(').unwrap();
            if !named.contains(name) {
                left_out.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(left_out.is_empty(), "in no table:\n{}", left_out.join("\n"));
}

#[test]
fn every_place_beside_our_peers_is_there() {
    let text = read("docs/threat-model.md");
    let (_, rest) = text.split_once("<!-- peers table -->").unwrap();
    let (table, _) = rest.split_once("<!-- end of peers table -->").unwrap();
    let rows: Vec<&str> = table.lines().skip(3).collect();
    assert!(!rows.is_empty());
    for row in rows {
        let places = row.trim_matches('|').rsplit(" | ").next().unwrap().trim();
        for place in places.split(", ").filter(|place| *place != "–") {
            assert!(!files(place).is_empty(), "no file: {place}");
        }
    }
}
