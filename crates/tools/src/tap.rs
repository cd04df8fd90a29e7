//! Tap devices of the host.

use host::tun::{CLONE_DEVICE, FrameHeader, Tap};
use std::fs::File;
use std::io;
use std::path::Path;

/// Attaches to a tap device that exists and belongs to the user: a file that gives and takes one Ethernet frame at a time, and never waits.
pub fn attach(name: &str) -> io::Result<File> {
    let tap = Tap::attach(Path::new(CLONE_DEVICE), name, FrameHeader::None);
    let tap = tap.map_err(|errno| io::Error::other(format!("tap device '{name}': {}", io::Error::from_raw_os_error(errno.raw()))))?;
    Ok(File::from(tap.into_descriptor()))
}
