//! The kernel under its own name; see the library.
fn main() -> std::process::ExitCode {
    umlaut::main()
}
