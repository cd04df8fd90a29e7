//! The kernel with a hole in its wall, for the house's test `holes`; see `host`'s module of that name.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    umlaut::main()
}
