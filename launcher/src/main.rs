//! The privileged half of Portcullis; see the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis_launcher::main()
}
