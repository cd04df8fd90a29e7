//! Tap devices of the host.
//!
//! Attaching to one takes `ioctl`, which safe code does not have here: the crate that talks to the host has to offer it first. Until
//! then this says so, before anything else is done.

use std::fs::File;
use std::io;

/// Attaches to a tap device that exists and belongs to the user: a file that gives and takes one Ethernet frame at a time.
pub fn attach(name: &str) -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("tap device '{name}': -tap is not supported yet")))
}
