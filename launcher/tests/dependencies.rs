//! What may be in the privileged half.

use std::process::Command;

#[test]
fn no_async_runtime_is_among_the_launchers_dependencies() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges=normal,build",
            "--prefix=none",
            "--format={lib}",
        ])
        .args(["--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: Vec<&str> = tree.lines().collect();
    assert!(crates.contains(&"rustix"), "the tree is read: {tree}");
    for runtime in [
        "tokio",
        "mio",
        "async_std",
        "smol",
        "async_executor",
        "futures_executor",
    ] {
        assert!(!crates.contains(&runtime), "{runtime} is in the launcher");
    }
}
