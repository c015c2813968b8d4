//! The binary `portcullis-broker`: three lines over the library.

fn main() -> std::process::ExitCode {
    portcullis_broker::run()
}
