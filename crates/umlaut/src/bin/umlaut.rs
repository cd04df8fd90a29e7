//! The front end; see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    umlaut::main()
}
