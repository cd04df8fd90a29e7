//! What the kernel's start needs of the host beyond its traits: an archive to read, and beginning again.

use abi::Errno;
use std::ffi::CString;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens a file that the command line names, to be read from its beginning. A sentence on failure.
pub fn open_archive(path: &Path) -> Result<Box<dyn Read>, String> {
    match std::fs::File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::with_capacity(256 << 10, file))),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Puts this program in its own place once more, with the same arguments: a reboot. Returns only when that fails.
pub fn restart() -> Errno {
    let arguments: Vec<CString> = std::env::args_os().filter_map(|a| CString::new(a.as_bytes()).ok()).collect();
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: both are terminated arrays of terminated strings that live across the call.
    unsafe { libc::execv(c"/proc/self/exe".as_ptr(), pointers.as_ptr()) };
    crate::sys::last_errno()
}

/// Ends the process at once by SIGABRT, as a panic of the kernel does; a core file follows if the limit allows.
pub fn abort() -> ! {
    std::process::abort()
}
