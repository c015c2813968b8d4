//! How many instructions the decision about Neutron's dnsmasq request takes: a number that does not depend on how busy the
//! machine is.

use crate::report::Report;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No more than this, whatever the count of before was.
pub const MOST: u64 = 50_000;

/// Counts the instructions of decoding and deciding, under valgrind.
///
/// # Panics
/// When valgrind is missing, or counts nothing.
#[must_use]
pub fn count() -> u64 {
    let dir = std::env::temp_dir().join(format!("portcullis-instructions-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*decode_and_decide*")
        .arg(format!(
            "--callgrind-out-file={}",
            dir.join("out").display()
        ))
        .arg(program())
        .output()
        .expect("valgrind runs: apt-get install valgrind");
    let out = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "valgrind: {out}");
    let _ = std::fs::remove_dir_all(&dir);
    let line = out
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .expect(&out);
    line.1.trim().parse().expect("a count")
}

/// The optimised program: the one beside the benches, or one that is built for the purpose.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/instructions");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package=portcullis-benches",
            "--bin=decide-once",
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&root)
        .status()
        .expect("cargo");
    assert!(built.success(), "decide-once does not build");
    target.join("release/decide-once")
}

/// Measures.
pub fn measure(report: &mut Report) {
    let counted = count();
    #[allow(clippy::cast_precision_loss)]
    let row = report.add(
        "instructions: decode and decide a dnsmasq request",
        "",
        &[counted as f64],
    );
    row.goal("under 50,000", counted < MOST);
}
