//! The client's side of the console that needs no machine: where its socket is, and what a person types before it is sent.

use std::path::{Path, PathBuf};

use crate::packet::MAX_TEXT;

/// Where a machine's socket may be, in the order in which it is looked for: by its name below the home directory, below `/tmp/uml`, and
/// then as a path.
#[must_use]
pub fn socket_candidates(name: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let below = |directory: &Path| {
        // A name that is a path stays below the directory, as text does.
        let mut path = directory.as_os_str().to_owned();
        path.push("/");
        path.push(name);
        path.push("/mconsole");
        PathBuf::from(path)
    };
    let mut candidates: Vec<PathBuf> = home.map(|home| below(&home.join(".uml"))).into_iter().collect();
    candidates.push(below(Path::new("/tmp/uml")));
    candidates.push(name.to_owned());
    candidates
}

/// A machine's name as its prompt shows it.
#[must_use]
pub fn prompt(name: &str) -> String {
    format!("({}) ", name.chars().take(10).collect::<String>())
}

/// Cuts a text into `log` commands that fit.
#[must_use]
pub fn log_commands(text: &[u8]) -> Vec<Vec<u8>> {
    // One byte less than fits, as the client always did.
    let room = MAX_TEXT - 1 - b"log ".len();
    text.chunks(room).map(|chunk| [b"log ", chunk].concat()).collect()
}

/// The file names in a command that configures a disk: those of `config ubdX=FILE,BACKING`, whatever follows is none.
///
/// Gives each name's place in the text. The machine has another working directory than the person who types, so they are made absolute.
#[must_use]
pub fn disk_names(command: &str) -> Vec<std::ops::Range<usize>> {
    let trimmed = command.trim_start();
    let Some(setting) = trimmed.strip_prefix("config").map(str::trim_start).filter(|setting| setting.starts_with("ubd")) else {
        return Vec::new();
    };
    let Some((device, files)) = setting.split_once('=') else { return Vec::new() };
    // `ubd=sync` names no file.
    if device == "ubd" {
        return Vec::new();
    }
    let mut start = command.len() - files.len();
    let mut names = Vec::new();
    for name in files.split([',', ':']).take(2) {
        names.push(start..start + name.len());
        start += name.len() + 1;
    }
    names.retain(|range| !range.is_empty());
    names
}
