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

/// Starts a thread of ours that is no virtual CPU: it may wait in the host where it stands.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let body = move || {
        crate::files::this_thread_may_block();
        body();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(|_| Errno::EAGAIN)
}

/// Ends the process at once by SIGABRT, as a panic of the kernel does; a core file follows if the limit allows.
pub fn abort() -> ! {
    std::process::abort()
}

/// The host's uname(2), its five fields in one line.
#[must_use]
pub fn uname() -> String {
    // SAFETY: all zeroes is a valid structure, which the call fills with terminated strings.
    let name = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        name
    };
    let text = |field: &[libc::c_char]| {
        let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    [&name.sysname[..], &name.nodename[..], &name.release[..], &name.version[..], &name.machine[..]].map(text).join(" ")
}

fn cpuinfo_row(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let row = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(row.split_once(':')?.1.trim().to_owned())
}

/// Flags of the host's processor, which guest code has too.
#[must_use]
pub fn processor_flags() -> String {
    cpuinfo_row("flags").unwrap_or_default()
}

/// The host's own measure of its processor's speed.
#[must_use]
pub fn bogomips() -> f64 {
    cpuinfo_row("bogomips").and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Has the allocator keep what is freed, up to a bound. It would give large pieces back to the host at once and ask for them anew: with packets of
/// 64 KiB coming and going, more than half of a stream's time went into faults on fresh pages.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        const MMAP_THRESHOLD_BYTES: libc::c_int = 4 << 20;
        const TRIM_THRESHOLD_BYTES: libc::c_int = 16 << 20;
        // SAFETY: mallopt(3) changes two numbers of the allocator; one that it does not take stays.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
        }
    }
}
