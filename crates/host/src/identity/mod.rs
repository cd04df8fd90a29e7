//! A machine's identity on the host: its name (umid), its directory with the pid file, and the management console's socket in it.
//!
//! * `BASE/UMID/pid`: the number of the machine's process and a newline;
//! * `BASE/UMID/mconsole`: the socket.
//!
//! Directories have mode 0700, the files 0600: they are the owner's alone. Everything is taken away when the machine ends, however it ends, unless it
//! is killed; what such a machine left is taken over by the next of its name, and directories with names made at random are swept up by the
//! next machine that makes one.
//!
//! Always true: between looking at a directory and owning it nobody else does the same (flock(2) on the directory).
//!
//! Source: the documentation of User Mode Linux on `umid=` and `uml_dir=`, and what a running one shows.

mod socket;
#[cfg(test)]
mod tests;

pub use socket::{Mailbox, notify};

use crate::checks::entropy;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno as HostErrno;
use rustix::process::{Pid, test_kill_process};
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Longest name.
pub const UMID_MAX: usize = 63;
/// Characters of a name made at random.
const RANDOM_LEN: usize = 6;
/// How often a directory that vanishes under our hands is made again.
const TRIES: usize = 5;

/// Where machines' directories are looked for, from the environment.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub home: Option<OsString>,
    pub tmpdir: Option<OsString>,
}

impl Places {
    /// This process's.
    #[must_use]
    pub fn of_environment() -> Places {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Places { home: named("HOME"), tmpdir: named("TMPDIR") }
    }

    /// The directory of all machines: `uml_dir` (a `~` in front is the home directory), or `~/.uml`. Without a home directory it is `uml` below
    /// TMPDIR or `/tmp`, where `uml_mconsole` looks too; the text says so.
    #[must_use]
    pub fn base(&self, uml_dir: Option<&Path>) -> (PathBuf, Option<String>) {
        let wanted = uml_dir.unwrap_or(Path::new("~/.uml"));
        let Ok(below_home) = wanted.strip_prefix("~") else { return (wanted.to_owned(), None) };
        if let Some(home) = &self.home {
            return (Path::new(home).join(below_home), None);
        }
        let base = self.tmpdir.as_ref().map_or(Path::new("/tmp"), Path::new).join("uml");
        let remark = format!("make_uml_dir - no value in environment for $HOME, using {}", base.display());
        (base, Some(remark))
    }
}

/// A machine's name and directory, which belong to this process.
#[derive(Debug)]
pub struct Identity {
    umid: String,
    directory: PathBuf,
    /// The base directory, if this machine made it.
    made_base: Option<PathBuf>,
}

/// Why a name can't be had.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Refused {
    /// Another machine has it.
    InUse(i32),
    /// The host did not let us.
    Host(String),
}

impl Identity {
    /// Takes the name `umid`, or one made at random; when the first can't be had, the second is tried. What is to be said goes to `say`. `None`:
    /// the machine goes on without.
    pub fn claim(umid: Option<&str>, uml_dir: Option<&Path>, places: &Places, say: &mut dyn FnMut(String)) -> Option<Identity> {
        let (base, remark) = places.base(uml_dir);
        remark.into_iter().for_each(&mut *say);
        let made_base = match make_private_directory(&base) {
            Ok(made) => made.then(|| base.clone()),
            Err(error) => {
                say(format!("Failed to mkdir '{}' - {error}", base.display()));
                return None;
            }
        };
        let mut umids = umid.into_iter().map(str::to_owned).collect::<Vec<_>>();
        if umid.is_none() {
            sweep(&base);
        }
        umids.extend((0..4).map(|_| random_umid()));
        for (round, name) in umids.into_iter().enumerate() {
            match take(&base, &name) {
                Ok(directory) => return Some(Identity { umid: name, directory, made_base }),
                Err(Refused::InUse(pid)) => say(format!("umid \"{name}\" is already in use by pid {pid}")),
                Err(Refused::Host(reason)) => say(format!("Failed to create '{name}' - {reason}")),
            }
            if round == 0 && umid.is_some() {
                say(format!("Failed to initialize umid \"{name}\", trying with a random umid"));
            }
        }
        if let Some(base) = made_base {
            let _ = std::fs::remove_dir(base);
        }
        None
    }

    /// The name.
    #[must_use]
    pub fn umid(&self) -> &str {
        &self.umid
    }

    /// Where the socket is, or will be.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        let path = self.directory.join("mconsole");
        // Programs of the host are told of it, and they have other working directories.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Takes files and directory away. The base directory goes too if this machine made it and nothing else is in it.
    pub fn remove(self) {
        clear(&self.directory);
        let _ = std::fs::remove_dir(&self.directory);
        if let Some(base) = self.made_base {
            // Others may be in it by now: then it stays.
            let _ = std::fs::remove_dir(base);
        }
    }
}

/// Makes a directory for the owner alone; whether it was not there. One that is there must not be another user's.
fn make_private_directory(path: &Path) -> Result<bool, String> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.to_string()),
    }
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err("it is not a directory".into());
    }
    // Whoever owns the directory can put a socket of his own in our place; root and we ourselves may.
    if found.uid() != own && found.uid() != 0 {
        return Err(format!("it belongs to user {}", found.uid()));
    }
    Ok(false)
}

fn random_umid() -> String {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut bytes = [0; RANDOM_LEN];
    entropy(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// Makes `BASE/UMID` ours, or says why not.
fn take(base: &Path, umid: &str) -> Result<PathBuf, Refused> {
    if umid.is_empty() || umid.len() > UMID_MAX || umid.contains('/') || umid == "." || umid == ".." {
        return Err(Refused::Host(format!("a umid has 1 to {UMID_MAX} characters and no slash")));
    }
    let directory = base.join(umid);
    let host = |error: HostErrno| Refused::Host(std::io::Error::from(error).to_string());
    for _ in 0..TRIES {
        make_private_directory(&directory).map_err(Refused::Host)?;
        // A machine of this name that ends between our steps takes the directory away: then once more.
        match write_pid(&directory) {
            Ok(None) => return Ok(directory),
            Ok(Some(pid)) => return Err(Refused::InUse(pid)),
            Err(HostErrno::NOENT) => {}
            Err(error) => return Err(host(error)),
        }
    }
    Err(host(HostErrno::NOENT))
}

/// Writes our number into a directory, unless a living process has its own there.
fn write_pid(directory: &Path) -> Result<Option<i32>, HostErrno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::open(directory, flags, Mode::empty())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if let Some(pid) = living_owner(directory) {
        return Ok(Some(pid));
    }
    clear(directory);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&lock, "pid", flags, Mode::RUSR | Mode::WUSR)?;
    rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes())?;
    Ok(None)
}

/// The process that a directory's pid file names, if it lives. A pid file that is missing, empty or makes no sense names none.
fn living_owner(directory: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(directory.join("pid")).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?)?;
    // Our own number: the machine that we were before a reboot, or one long gone whose number we got.
    if pid == rustix::process::getpid() {
        return None;
    }
    match test_kill_process(pid) {
        Ok(()) | Err(HostErrno::PERM) => Some(pid.as_raw_nonzero().get()),
        Err(_) => None,
    }
}

/// Deletes the files of a directory; directories in it are nobody's business and stay.
fn clear(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Takes away what machines with names made at random left behind when they were killed.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.len() == RANDOM_LEN && name.to_string_lossy().chars().all(|c| c.is_ascii_alphanumeric());
        // One that has no pid file yet is being made.
        if !random || !entry.path().join("pid").exists() || living_owner(&entry.path()).is_some() {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(lock) = rustix::fs::open(entry.path(), flags, Mode::empty()) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && living_owner(&entry.path()).is_none() {
            clear(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
