//! `portcullis-policy`, the operator's tool.
fn main() -> std::process::ExitCode {
    portcullis_policy::tool::main()
}
