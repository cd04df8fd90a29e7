//! What the house's own tests and the benchmark share.
//!
//! * [`source`] reads Rust source as text with strings and comments told apart, for the tests that count.
//! * [`manifest`] reads the few lines of a `Cargo.toml` that the layer test needs.
//! * [`disk`] makes disk images and boots them.
//! * [`managed`] is a machine with a shell and a management console, for tests that talk to both.
//! * [`guests`] runs the programs of `tests/guest`.
//! * [`machine`] builds the program, packs an initramfs and boots it, with a limit on how long it may take.
//!
//! Not here: anything that the machine itself uses. No crate depends on this one.
#![forbid(unsafe_code)]

pub mod disk;
pub mod guests;
pub mod machine;
pub mod managed;
pub mod manifest;
pub mod source;

use std::path::{Path, PathBuf};

/// The top of the repository, known from where this crate lies in it.
#[must_use]
pub fn repository() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The names of the crates under `crates/`, sorted.
///
/// # Errors
/// What reading the directory answers.
pub fn crate_names() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(repository().join("crates"))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// All files below `directory` whose name ends with `suffix`, sorted. A directory that doesn't exist has none.
#[must_use]
pub fn files_below(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// By how much the tests' counts are multiplied: `UMLAUT_SCALE`, 1 by default, `full` for the counts that the issues name.
#[must_use]
pub fn scale() -> String {
    std::env::var("UMLAUT_SCALE").unwrap_or_else(|_| "1".into())
}
