//! `make bench`: everything, side by side, as a table and as `bench.json` under `target/bench/`. Parts alone, by their
//! names: `bench signals bursts`.
use portcullis_benches::{
    activation, before, bursts, client, instructions, launches, memory, messages, report::Report,
    signals,
};
use std::path::Path;

type Part = (&'static str, fn(&mut Report));

const PARTS: [Part; 9] = [
    ("launches", launches::measure),
    ("signals", signals::measure),
    ("activation", activation::measure),
    ("bursts", bursts::measure),
    ("messages", messages::measure),
    ("memory", memory::measure),
    ("client", client::measure),
    ("instructions", instructions::measure),
    ("before", before::measure),
];

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let [echo, path] = names.as_slice()
        && echo == "echo"
    {
        messages::echo(Path::new(path));
    }
    let mut report = Report::default();
    for (name, measure) in PARTS {
        if names.is_empty() || names.iter().any(|n| n == name) {
            eprintln!("bench: {name} …");
            measure(&mut report);
        }
    }
    print!("{}", report.table());
    report.write(Path::new("target/bench"));
}
