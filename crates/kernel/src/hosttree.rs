//! The host's own tree as a machine's root.

use crate::config::{End, HostTree};
use crate::machine::Machine;
use std::path::Path;
use vfs::Caller;

/// Mounts what `umlaut run` shows.
pub fn mount(_machine: &Machine, _caller: &Caller<'_>, tree: &HostTree) -> Result<(), End> {
    Err(End::NotStarted(format!("{}: host trees are not there yet", tree.root.display())))
}

/// Mounts one directory of the host, written through.
pub fn mount_directory(_machine: &Machine, _caller: &Caller<'_>, dir: &Path, _read_only: bool) -> Result<(), End> {
    Err(End::NotStarted(format!("{}: hostfs is not there yet", dir.display())))
}
