//! The host calls of this module: thin, by single names below an open directory, never through a symbolic link.
//!
//! Source: open(2), openat2(2), statx(2), proc(5) "/proc/self/fd".

use abi::Errno;
use platform::{HostDirEntry, HostKind, HostMetadata, HostStatFs};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What makes a host file this file and no other: an inode number alone is used again after the file is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileId {
    pub dev: u64,
    pub ino: u64,
    /// Birth time, 0 where the host's file system keeps none.
    born_ns: i128,
    /// The mount it was reached through: a bind mount without what is mounted below it is not the same tree. 0 on hosts before 5.8.
    mount: u64,
}

pub(super) fn errno(error: io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// The errno behind an error of the standard library.
pub(super) fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

/// Refuses everything that is not one component of a path: empty, `.`, `..`, with `/` or NUL.
pub(super) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| *b == b'/' || *b == 0) {
        return Err(Errno::EINVAL);
    }
    if name.len() > 255 {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

/// Whether openat2(2) works here: false on hosts and under filters that lack it.
static OPENAT2: AtomicBool = AtomicBool::new(true);

/// Opens `name`, one component, below `dir`, never following a symbolic link.
///
/// openat2 and openat are equally confined for a single component with `O_NOFOLLOW`; the first says so in the kernel's own words.
pub(super) fn open_at(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: a rename went on somewhere meanwhile; a single component never needs many attempts.
        for _ in 0..16 {
            match fs::openat2(dir, name, flags, mode, resolve) {
                Ok(fd) => return Ok(fd),
                Err(io::Errno::AGAIN | io::Errno::INTR) => {}
                Err(error) => return Err(errno(error)),
            }
        }
    }
    loop {
        match fs::openat(dir, name, flags, mode) {
            Ok(fd) => return Ok(fd),
            Err(io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

/// Finds out whether openat2 may be used, at the first directory that is opened.
pub(super) fn probe_openat2(dir: BorrowedFd<'_>) {
    static PROBED: OnceLock<()> = OnceLock::new();
    PROBED.get_or_init(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if fs::openat2(dir, ".", flags, Mode::empty(), ResolveFlags::BENEATH).is_err() {
            OPENAT2.store(false, Ordering::Relaxed);
        }
    });
}

/// For tests of the way without openat2.
#[cfg(test)]
pub(super) fn use_openat2(yes: bool) {
    OPENAT2.store(yes, Ordering::Relaxed);
}

/// `/proc/self/fd`, where the host has a proc file system there: the way to open for reading exactly what a path descriptor names.
fn proc_fds() -> Option<BorrowedFd<'static>> {
    static FDS: OnceLock<Option<OwnedFd>> = OnceLock::new();
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    FDS.get_or_init(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open("/proc/self/fd", flags, Mode::empty()).ok()?;
        (fs::fstatfs(&fd).ok()?.f_type as u64 == PROC_SUPER_MAGIC).then_some(fd)
    })
    .as_ref()
    .map(|fd| fd.as_fd())
}

/// Opens for reading or writing what `path_fd` names. The caller has seen that it is a regular file or a directory.
fn reopen(path_fd: BorrowedFd<'_>, flags: OFlags) -> Option<Result<OwnedFd, Errno>> {
    let proc_fds = proc_fds()?;
    let number = path_fd.as_raw_fd().to_string();
    Some(fs::openat(proc_fds, number.as_str(), flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno))
}

/// Opens a regular file. It is looked at through a path descriptor first, because opening a device or FIFO to look at it already does
/// something to it.
pub(super) fn open_regular(dir: BorrowedFd<'_>, name: &[u8], write: bool) -> Result<(OwnedFd, FileId), Errno> {
    let path_fd = open_at(dir, name, OFlags::PATH, Mode::empty())?;
    let (id, metadata) = stat_fd(path_fd.as_fd())?;
    refuse_unless_regular(metadata.kind)?;
    if let Some(fd) = super::locks::reuse((id.dev, id.ino), write) {
        return Ok((fd, id));
    }
    let flags = if write { OFlags::RDWR } else { OFlags::RDONLY } | OFlags::NONBLOCK | OFlags::NOCTTY;
    if let Some(opened) = reopen(path_fd.as_fd(), flags) {
        return Ok((opened?, id));
    }
    let fd = open_at(dir, name, flags, Mode::empty())?;
    let (id, metadata) = stat_fd(fd.as_fd())?;
    refuse_unless_regular(metadata.kind)?;
    Ok((fd, id))
}

fn refuse_unless_regular(kind: HostKind) -> Result<(), Errno> {
    match kind {
        HostKind::File => Ok(()),
        HostKind::Symlink => Err(Errno::ELOOP),
        HostKind::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::ENXIO),
    }
}

/// Creates a regular file with exactly `mode`, whatever the process's umask.
pub(super) fn create_regular(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(OwnedFd, FileId), Errno> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let fd = open_at(dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY, mode)?;
    let (id, metadata) = stat_fd(fd.as_fd())?;
    if metadata.mode != mode.as_raw_mode() {
        fs::fchmod(&fd, mode).map_err(errno)?;
    }
    Ok((fd, id))
}

/// Opens a directory as a path: enough to look up below it, whatever its read permission.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, FileId), Errno> {
    let fd = match open_at(dir, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        // openat2 names the symbolic link where openat says that it is no directory.
        Err(Errno::ELOOP) => return Err(Errno::ENOTDIR),
        other => other?,
    };
    let (id, _) = stat_fd(fd.as_fd())?;
    Ok((fd, id))
}

pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<(FileId, HostMetadata), Errno> {
    stat(fd, b"", AtFlags::EMPTY_PATH)
}

pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(FileId, HostMetadata), Errno> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat(fd: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<(FileId, HostMetadata), Errno> {
    static STATX: AtomicBool = AtomicBool::new(true);
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    if STATX.load(Ordering::Relaxed) {
        match fs::statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID) {
            Ok(found) => return Ok(from_statx(&found)),
            // A filter older than the call.
            Err(io::Errno::NOSYS | io::Errno::PERM) => STATX.store(false, Ordering::Relaxed),
            Err(error) => return Err(errno(error)),
        }
    }
    let found = fs::statat(fd, name, flags).map_err(errno)?;
    let time = |sec: i64, nsec: u64| i128::from(sec) * 1_000_000_000 + i128::from(nsec);
    let id = FileId { dev: found.st_dev, ino: found.st_ino, born_ns: 0, mount: 0 };
    let metadata = HostMetadata {
        dev: found.st_dev,
        ino: found.st_ino,
        kind: kind(FileType::from_raw_mode(found.st_mode)),
        mode: found.st_mode & 0o7777,
        links: found.st_nlink,
        uid: found.st_uid,
        gid: found.st_gid,
        rdev: found.st_rdev,
        size_bytes: found.st_size as u64,
        blocks: found.st_blocks as u64,
        block_size_bytes: found.st_blksize as u64,
        accessed_ns: time(found.st_atime, found.st_atime_nsec),
        modified_ns: time(found.st_mtime, found.st_mtime_nsec),
        changed_ns: time(found.st_ctime, found.st_ctime_nsec),
    };
    Ok((id, metadata))
}

fn from_statx(found: &fs::Statx) -> (FileId, HostMetadata) {
    let time = |t: fs::StatxTimestamp| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
    let mask = StatxFlags::from_bits_retain(found.stx_mask);
    let dev = fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    let id = FileId {
        dev,
        ino: found.stx_ino,
        born_ns: if mask.contains(StatxFlags::BTIME) { time(found.stx_btime) } else { 0 },
        mount: if mask.contains(StatxFlags::MNT_ID) { found.stx_mnt_id } else { 0 },
    };
    let mode = u32::from(found.stx_mode);
    let metadata = HostMetadata {
        dev,
        ino: found.stx_ino,
        kind: kind(FileType::from_raw_mode(mode)),
        mode: mode & 0o7777,
        links: u64::from(found.stx_nlink),
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        size_bytes: found.stx_size,
        blocks: found.stx_blocks,
        block_size_bytes: u64::from(found.stx_blksize),
        accessed_ns: time(found.stx_atime),
        modified_ns: time(found.stx_mtime),
        changed_ns: time(found.stx_ctime),
    };
    (id, metadata)
}

fn kind(file_type: FileType) -> HostKind {
    match file_type {
        FileType::Directory => HostKind::Directory,
        FileType::Symlink => HostKind::Symlink,
        FileType::CharacterDevice => HostKind::CharDevice,
        FileType::BlockDevice => HostKind::BlockDevice,
        FileType::Fifo => HostKind::Fifo,
        FileType::Socket => HostKind::Socket,
        _ => HostKind::File,
    }
}

/// All entries of the directory that `dir` names, but `.` and `..`.
pub(super) fn entries(dir: BorrowedFd<'_>) -> Result<Vec<HostDirEntry>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = fs::openat(dir, ".", flags, Mode::empty()).map_err(errno)?;
    let mut out = Vec::new();
    let mut buffer = Vec::with_capacity(64 * 1024);
    let mut reader = fs::RawDir::new(&fd, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match stat_at(dir, name) {
                Ok((_, metadata)) => metadata.kind,
                // Gone meanwhile.
                Err(_) => continue,
            },
            known => kind(known),
        };
        out.push(HostDirEntry { name: name.to_vec(), ino: entry.ino(), kind });
    }
    Ok(out)
}

/// chmod of an entry that must not be a symbolic link, however the entry is swapped meanwhile.
pub(super) fn chmod_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    let path_fd = open_at(dir, name, OFlags::PATH, Mode::empty())?;
    let (_, metadata) = stat_fd(path_fd.as_fd())?;
    if metadata.kind == HostKind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    let mode = mode & 0o7777;
    if let Some(proc_fds) = proc_fds() {
        let number = path_fd.as_raw_fd().to_string();
        return fs::chmodat(proc_fds, number.as_str(), Mode::from_raw_mode(mode), AtFlags::empty()).map_err(errno);
    }
    // Without /proc: what may be read can be opened; the rest answers its EACCES.
    if !matches!(metadata.kind, HostKind::File | HostKind::Directory) {
        return Err(Errno::EOPNOTSUPP);
    }
    let fd = open_at(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(errno)
}

pub(super) fn statfs(fd: BorrowedFd<'_>) -> Result<HostStatFs, Errno> {
    let found = fs::fstatfs(fd).map_err(errno)?;
    Ok(HostStatFs {
        block_size_bytes: found.f_bsize as u64,
        blocks: found.f_blocks,
        blocks_free: found.f_bfree,
        blocks_available: found.f_bavail,
        files: found.f_files,
        files_free: found.f_ffree,
        name_max: found.f_namelen as u64,
    })
}

/// Times for utimensat(2); `None` leaves a time as it is.
pub(super) fn timestamps(accessed_ns: Option<i128>, modified_ns: Option<i128>) -> fs::Timestamps {
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let one = |ns: Option<i128>| match ns {
        None => fs::Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(ns) => fs::Timespec {
            tv_sec: i64::try_from(ns.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
            tv_nsec: ns.rem_euclid(1_000_000_000) as i64,
        },
    };
    fs::Timestamps { last_access: one(accessed_ns), last_modification: one(modified_ns) }
}
