//! What the host programs of User Mode Linux share: host files as [`cow::Storage`], and how errors reach a person.
//!
//! Each program in `src/bin` is thin: it reads its command line and the host, and leaves the deciding to a library crate. Their option
//! surfaces and first lines of output are those of Debian's `uml-utilities`, so that scripts made for those go on working; a second line
//! says what to do.
#![forbid(unsafe_code)]

pub mod backing;
pub mod command_line;
pub mod console;
pub mod host_file;
pub mod signals;
pub mod switch_daemon;
pub mod tap;
