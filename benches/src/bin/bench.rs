//! `make bench`: everything, side by side, as a table and as `bench.json` under `target/bench/`.
use portcullis_benches::{client, instructions, launches, memory, messages, report::Report};
use std::path::Path;

type Part = (&'static str, fn(&mut Report));

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == "echo") {
        let path = args.next().unwrap_or_default();
        messages::echo(Path::new(&path));
    }
    let mut report = Report::default();
    let parts: [Part; 5] = [
        ("launches", launches::measure),
        ("messages", messages::measure),
        ("memory", memory::measure),
        ("client", client::measure),
        ("instructions", instructions::measure),
    ];
    for (name, measure) in parts {
        eprintln!("bench: {name} …");
        measure(&mut report);
    }
    print!("{}", report.table());
    report.write(Path::new("target/bench"));
}
