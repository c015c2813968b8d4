//! The program `portcullis`; everything is in the library.
fn main() -> std::process::ExitCode {
    portcullis::main(std::env::args_os())
}
