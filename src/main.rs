//! The command line of jobgate. Everything it does is in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    jobgate::command::main()
}
