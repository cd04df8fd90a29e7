//! Guest devices over the platform's traits: consoles and serial lines, pseudoterminals, disks and network interfaces so far; the watchdog joins
//! them.
//!
//! What it is not: line discipline, disk formats or protocols (each a library below), or tasks: who calls, and how a process group is signalled,
//! comes through [`terminal::Jobs`].
#![forbid(unsafe_code)]

pub mod devpts;
pub mod lines;
pub mod net;
pub mod ports;
pub mod pty;
pub mod stream;
pub mod telnet;
pub mod terminal;
pub mod ubd;
