//! The command line of jobgate. Everything it does is in the library, where tests reach it.

use mimalloc::MiMalloc;

/// A router reads documents, answers and forgets, on all its threads; with glibc's allocator a quarter of its time went there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    jobgate::command::main()
}
