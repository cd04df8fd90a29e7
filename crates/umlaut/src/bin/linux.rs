//! The kernel under its own name; see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    umlaut::main()
}
