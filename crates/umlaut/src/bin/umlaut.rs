//! The front end; see the library.
fn main() -> std::process::ExitCode {
    umlaut::main()
}
