//! Calls that take paths: open(2), stat(2), mkdir(2) and their kin, each in its old form and with a directory descriptor.

use crate::args::{UserAddr, UserRef};
use crate::data::{file, nofile, read_path};
use abi::raw::general as raw;
use abi::{Errno, SysResult};
use task::Current;
use vfs::{
    DeviceNumber, Fd, FileKind, LookupFlags, Metadata, OnExec, OpenFlags, OpenHow, Path, PathAt, RenameFlags, SetTime, StatFs, Timestamp,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const AT_FDCWD: Fd = -100;

/// Where a path starts: nowhere special (`AT_FDCWD` or an absolute path), or at a descriptor.
fn base(current: &Current, dir: Fd, path: &[u8]) -> Result<Option<Path>, Errno> {
    if dir == AT_FDCWD || path.first() == Some(&b'/') { Ok(None) } else { Ok(Some(file(current, dir)?.path().clone())) }
}

/// A path argument together with its start.
struct At {
    base: Option<Path>,
    path: Vec<u8>,
}

impl At {
    fn read(current: &Current, dir: Fd, path: UserAddr) -> Result<At, Errno> {
        let path = read_path(current, path)?;
        Ok(At { base: base(current, dir, &path)?, path })
    }
    /// As above; a null pointer counts as an empty path (`AT_EMPTY_PATH`, Linux 6.11).
    fn read_or_empty(current: &Current, dir: Fd, path: UserAddr, flags: u32) -> Result<At, Errno> {
        if path.0 == 0 && flags & raw::AT_EMPTY_PATH != 0 {
            return Ok(At { base: base(current, dir, b"")?, path: Vec::new() });
        }
        At::read(current, dir, path)
    }
    fn get(&self) -> PathAt<'_> {
        PathAt { base: self.base.as_ref(), path: &self.path }
    }
}

fn lookup_flags(flags: u32, allowed: u32) -> Result<LookupFlags, Errno> {
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & raw::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & raw::AT_EMPTY_PATH != 0);
    Ok(lookup)
}

fn open_at(current: &mut Current, dir: Fd, path: UserAddr, how: OpenHow) -> SysResult<Fd> {
    let at = At::read(current, dir, path)?;
    let on_exec = if how.flags.contains(OpenFlags::CLOEXEC) { OnExec::Close } else { OnExec::Keep };
    let limit = nofile(current);
    let fd = current.files().reserve(0, limit, on_exec)?;
    match current.caller().open(at.get(), how) {
        Ok(file) => {
            current.files().install(fd, file);
            Ok(fd)
        }
        Err(error) => {
            current.files().cancel(fd);
            Err(error)
        }
    }
}

/// open(2). Unknown flags are ignored, as they always were.
pub fn open(current: &mut Current, path: UserAddr, flags: u32, mode: u32) -> SysResult<Fd> {
    openat(current, AT_FDCWD, path, flags, mode)
}

/// openat(2).
pub fn openat(current: &mut Current, dir: Fd, path: UserAddr, flags: u32, mode: u32) -> SysResult<Fd> {
    open_at(current, dir, path, OpenHow::new(OpenFlags::from_bits_truncate(flags), mode & 0o7777))
}

/// creat(2).
pub fn creat(current: &mut Current, path: UserAddr, mode: u32) -> SysResult<Fd> {
    open(current, path, raw::O_CREAT | raw::O_WRONLY | raw::O_TRUNC, mode)
}

/// openat2(2): unknown flags, modes and restrictions are refused.
pub fn openat2(current: &mut Current, dir: Fd, path: UserAddr, how: UserRef<[u64; 3]>, size: usize) -> SysResult<Fd> {
    if size < 24 {
        return Err(Errno::EINVAL.into());
    }
    if size > abi::PAGE_SIZE {
        return Err(Errno::E2BIG.into());
    }
    let [flags, mode, resolve] = how.read(current)?;
    let mut rest = vec![0u8; size - 24];
    vfs::UserMemory::read_exact(&**current.memory(), how.0 + 24, &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let flags = u32::try_from(flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let makes = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
    if mode & !0o7777 != 0 || (mode != 0 && !makes) {
        return Err(Errno::EINVAL.into());
    }
    let resolve = LookupFlags::from_resolve(resolve).ok_or(Errno::EINVAL)?;
    open_at(current, dir, path, OpenHow { flags, mode: mode as u32, resolve })
}

/// close(2). The descriptor is free whatever the answer.
pub fn close(current: &mut Current, fd: Fd) -> SysResult<()> {
    let file = current.files().remove(fd)?;
    crate::descriptor::closed(current, &file)
}

/// `struct stat` of x86-64.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy)]
pub struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    times: [i64; 6],
    unused: [i64; 3],
}

impl From<&Metadata> for Stat {
    fn from(m: &Metadata) -> Stat {
        let time = |t: Timestamp| [t.sec, i64::from(t.nsec)];
        let [[a, an], [m_, mn], [c, cn]] = [time(m.accessed), time(m.modified), time(m.changed)];
        Stat {
            dev: m.dev.encode(),
            ino: m.ino,
            nlink: u64::from(m.links),
            mode: m.st_mode(),
            uid: m.uid,
            gid: m.gid,
            pad: 0,
            rdev: m.rdev.encode(),
            size: m.size_bytes as i64,
            blksize: i64::from(m.block_size_bytes),
            blocks: m.blocks as i64,
            times: [a, an, m_, mn, c, cn],
            unused: [0; 3],
        }
    }
}

fn stat_path(current: &mut Current, dir: Fd, path: UserAddr, out: UserRef<Stat>, flags: u32) -> SysResult<()> {
    let lookup = lookup_flags(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH | raw::AT_NO_AUTOMOUNT)?;
    let at = At::read_or_empty(current, dir, path, flags)?;
    let metadata = current.caller().stat(at.get(), lookup)?;
    Ok(out.write(current, &Stat::from(&metadata))?)
}

/// stat(2).
pub fn stat(current: &mut Current, path: UserAddr, out: UserRef<Stat>) -> SysResult<()> {
    stat_path(current, AT_FDCWD, path, out, 0)
}

/// lstat(2).
pub fn lstat(current: &mut Current, path: UserAddr, out: UserRef<Stat>) -> SysResult<()> {
    stat_path(current, AT_FDCWD, path, out, raw::AT_SYMLINK_NOFOLLOW)
}

/// fstat(2).
pub fn fstat(current: &mut Current, fd: Fd, out: UserRef<Stat>) -> SysResult<()> {
    let metadata = file(current, fd)?.path().metadata()?;
    Ok(out.write(current, &Stat::from(&metadata))?)
}

/// newfstatat(2).
pub fn newfstatat(current: &mut Current, dir: Fd, path: UserAddr, out: UserRef<Stat>, flags: u32) -> SysResult<()> {
    stat_path(current, dir, path, out, flags)
}

/// statx(2): everything that is known is answered, whatever the mask asks.
pub fn statx(current: &mut Current, dir: Fd, path: UserAddr, flags: u32, mask: u32, out: UserAddr) -> SysResult<()> {
    const SYNC_TYPE: u32 = 0x6000;
    if mask & 0x8000_0000 != 0 || flags & SYNC_TYPE == SYNC_TYPE {
        return Err(Errno::EINVAL.into());
    }
    let lookup = lookup_flags(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH | raw::AT_NO_AUTOMOUNT | SYNC_TYPE)?;
    let at = At::read_or_empty(current, dir, path, flags)?;
    let caller = current.caller();
    let found = caller.lookup(at.get(), lookup)?;
    let m = found.metadata()?;
    let mut bytes = Vec::with_capacity(256);
    let mut filled = raw::STATX_BASIC_STATS | raw::STATX_MNT_ID;
    if m.created.is_some() {
        filled |= raw::STATX_BTIME;
    }
    let is_mount_root = if found.is_mount_root() { u64::from(raw::STATX_ATTR_MOUNT_ROOT) } else { 0 };
    let known = u64::from(raw::STATX_ATTR_MOUNT_ROOT | raw::STATX_ATTR_IMMUTABLE | raw::STATX_ATTR_APPEND);
    bytes.extend(filled.to_ne_bytes());
    bytes.extend(m.block_size_bytes.to_ne_bytes());
    bytes.extend((m.attributes | is_mount_root).to_ne_bytes());
    for word in [m.links, m.uid, m.gid, m.st_mode() & 0xffff] {
        bytes.extend(word.to_ne_bytes());
    }
    for word in [m.ino, m.size_bytes, m.blocks, known] {
        bytes.extend(word.to_ne_bytes());
    }
    for time in [m.accessed, m.created.unwrap_or_default(), m.changed, m.modified] {
        bytes.extend(time.sec.to_ne_bytes());
        bytes.extend(u64::from(time.nsec).to_ne_bytes());
    }
    for word in [m.rdev.major(), m.rdev.minor(), m.dev.major(), m.dev.minor()] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(found.mount.id().to_ne_bytes());
    bytes.resize(256, 0);
    Ok(vfs::UserMemory::write_all(&**current.memory(), out.0, &bytes)?)
}

/// access(2).
pub fn access(current: &mut Current, path: UserAddr, mode: u32) -> SysResult<()> {
    faccessat2(current, AT_FDCWD, path, mode, 0)
}

/// faccessat(2).
pub fn faccessat(current: &mut Current, dir: Fd, path: UserAddr, mode: u32) -> SysResult<()> {
    faccessat2(current, dir, path, mode, 0)
}

/// faccessat2(2).
pub fn faccessat2(current: &mut Current, dir: Fd, path: UserAddr, mode: u32, flags: u32) -> SysResult<()> {
    let lookup = lookup_flags(flags, raw::AT_EACCESS | raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    let want = vfs::Access::from_bits(mode).ok_or(Errno::EINVAL)?;
    let at = At::read_or_empty(current, dir, path, flags)?;
    current.caller().access(at.get(), want, flags & raw::AT_EACCESS != 0, lookup)
}

/// readlink(2).
pub fn readlink(current: &mut Current, path: UserAddr, buf: UserAddr, len: i32) -> SysResult<usize> {
    readlinkat(current, AT_FDCWD, path, buf, len)
}

/// readlinkat(2).
pub fn readlinkat(current: &mut Current, dir: Fd, path: UserAddr, buf: UserAddr, len: i32) -> SysResult<usize> {
    if len <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = At::read(current, dir, path)?;
    let target = current.caller().readlink(at.get())?;
    let part = target.get(..target.len().min(len as usize)).unwrap_or_default();
    vfs::UserMemory::write_all(&**current.memory(), buf.0, part)?;
    Ok(part.len())
}

/// mkdir(2).
pub fn mkdir(current: &mut Current, path: UserAddr, mode: u32) -> SysResult<()> {
    mkdirat(current, AT_FDCWD, path, mode)
}

/// mkdirat(2).
pub fn mkdirat(current: &mut Current, dir: Fd, path: UserAddr, mode: u32) -> SysResult<()> {
    let at = At::read(current, dir, path)?;
    current.caller().mkdir(at.get(), mode).map(drop)
}

/// rmdir(2).
pub fn rmdir(current: &mut Current, path: UserAddr) -> SysResult<()> {
    unlinkat(current, AT_FDCWD, path, raw::AT_REMOVEDIR)
}

/// unlink(2).
pub fn unlink(current: &mut Current, path: UserAddr) -> SysResult<()> {
    unlinkat(current, AT_FDCWD, path, 0)
}

/// unlinkat(2).
pub fn unlinkat(current: &mut Current, dir: Fd, path: UserAddr, flags: u32) -> SysResult<()> {
    if flags & !raw::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = At::read(current, dir, path)?;
    if flags == 0 { current.caller().unlink(at.get()) } else { current.caller().rmdir(at.get()) }
}

/// mknod(2).
pub fn mknod(current: &mut Current, path: UserAddr, mode: u32, device: u64) -> SysResult<()> {
    mknodat(current, AT_FDCWD, path, mode, device)
}

/// mknodat(2).
pub fn mknodat(current: &mut Current, dir: Fd, path: UserAddr, mode: u32, device: u64) -> SysResult<()> {
    let kind = match mode & 0o170_000 {
        0 => FileKind::Regular,
        _ => FileKind::from_mode(mode).ok_or(Errno::EINVAL)?,
    };
    match kind {
        FileKind::Directory => return Err(Errno::EPERM.into()),
        FileKind::Symlink => return Err(Errno::EINVAL.into()),
        _ => {}
    }
    let at = At::read(current, dir, path)?;
    current.caller().mknod(at.get(), kind, mode & 0o7777, DeviceNumber::decode(device)).map(drop)
}

/// symlink(2).
pub fn symlink(current: &mut Current, target: UserAddr, path: UserAddr) -> SysResult<()> {
    symlinkat(current, target, AT_FDCWD, path)
}

/// symlinkat(2).
pub fn symlinkat(current: &mut Current, target: UserAddr, dir: Fd, path: UserAddr) -> SysResult<()> {
    let target = read_path(current, target)?;
    let at = At::read(current, dir, path)?;
    current.caller().symlink(&target, at.get()).map(drop)
}

/// link(2).
pub fn link(current: &mut Current, from: UserAddr, to: UserAddr) -> SysResult<()> {
    linkat(current, AT_FDCWD, from, AT_FDCWD, to, 0)
}

/// linkat(2).
pub fn linkat(current: &mut Current, from_dir: Fd, from: UserAddr, to_dir: Fd, to: UserAddr, flags: u32) -> SysResult<()> {
    if flags & !(raw::AT_SYMLINK_FOLLOW | raw::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & raw::AT_SYMLINK_FOLLOW != 0);
    lookup.set(LookupFlags::EMPTY, flags & raw::AT_EMPTY_PATH != 0);
    let from = At::read(current, from_dir, from)?;
    let to = At::read(current, to_dir, to)?;
    let caller = current.caller();
    let found = caller.lookup(from.get(), lookup)?;
    caller.link(&found, to.get())
}

/// rename(2).
pub fn rename(current: &mut Current, from: UserAddr, to: UserAddr) -> SysResult<()> {
    renameat2(current, AT_FDCWD, from, AT_FDCWD, to, 0)
}

/// renameat(2).
pub fn renameat(current: &mut Current, from_dir: Fd, from: UserAddr, to_dir: Fd, to: UserAddr) -> SysResult<()> {
    renameat2(current, from_dir, from, to_dir, to, 0)
}

/// renameat2(2).
pub fn renameat2(current: &mut Current, from_dir: Fd, from: UserAddr, to_dir: Fd, to: UserAddr, flags: u32) -> SysResult<()> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let from = At::read(current, from_dir, from)?;
    let to = At::read(current, to_dir, to)?;
    current.caller().rename(from.get(), to.get(), flags)
}

fn change_mode(current: &mut Current, at: &At, mode: u32, lookup: LookupFlags) -> SysResult<()> {
    let caller = current.caller();
    let found = caller.lookup(at.get(), lookup)?;
    Ok(caller.chmod(&found, mode & 0o7777)?)
}

/// chmod(2).
pub fn chmod(current: &mut Current, path: UserAddr, mode: u32) -> SysResult<()> {
    fchmodat(current, AT_FDCWD, path, mode)
}

/// fchmodat(2).
pub fn fchmodat(current: &mut Current, dir: Fd, path: UserAddr, mode: u32) -> SysResult<()> {
    let at = At::read(current, dir, path)?;
    change_mode(current, &at, mode, LookupFlags::FOLLOW)
}

/// fchmodat2(2).
pub fn fchmodat2(current: &mut Current, dir: Fd, path: UserAddr, mode: u32, flags: u32) -> SysResult<()> {
    let lookup = lookup_flags(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    let at = At::read(current, dir, path)?;
    change_mode(current, &at, mode, lookup)
}

/// fchmod(2).
pub fn fchmod(current: &mut Current, fd: Fd, mode: u32) -> SysResult<()> {
    let file = current.files().get_usable(fd)?;
    Ok(current.caller().chmod(file.path(), mode & 0o7777)?)
}

fn id(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

/// chown(2).
pub fn chown(current: &mut Current, path: UserAddr, uid: u32, gid: u32) -> SysResult<()> {
    fchownat(current, AT_FDCWD, path, uid, gid, 0)
}

/// lchown(2).
pub fn lchown(current: &mut Current, path: UserAddr, uid: u32, gid: u32) -> SysResult<()> {
    fchownat(current, AT_FDCWD, path, uid, gid, raw::AT_SYMLINK_NOFOLLOW)
}

/// fchownat(2).
pub fn fchownat(current: &mut Current, dir: Fd, path: UserAddr, uid: u32, gid: u32, flags: u32) -> SysResult<()> {
    let lookup = lookup_flags(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    let at = At::read(current, dir, path)?;
    let caller = current.caller();
    let found = caller.lookup(at.get(), lookup)?;
    Ok(caller.chown(&found, id(uid), id(gid))?)
}

/// fchown(2).
pub fn fchown(current: &mut Current, fd: Fd, uid: u32, gid: u32) -> SysResult<()> {
    let file = current.files().get_usable(fd)?;
    Ok(current.caller().chown(file.path(), id(uid), id(gid))?)
}

fn set_time(time: abi::Timespec) -> Result<SetTime, Errno> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    Ok(match time.nsec {
        UTIME_NOW => SetTime::Now,
        UTIME_OMIT => SetTime::Omit,
        nsec @ 0..=999_999_999 => SetTime::At(Timestamp { sec: time.sec, nsec: nsec as u32 }),
        _ => return Err(Errno::EINVAL),
    })
}

fn change_times(current: &mut Current, dir: Fd, path: UserAddr, times: [SetTime; 2], flags: u32) -> SysResult<()> {
    let lookup = lookup_flags(flags, raw::AT_SYMLINK_NOFOLLOW | raw::AT_EMPTY_PATH)?;
    if path.0 == 0 {
        if dir == AT_FDCWD {
            return Err(Errno::EFAULT.into());
        }
        let file = current.files().get_usable(dir)?;
        return Ok(current.caller().utimens(file.path(), times[0], times[1])?);
    }
    let at = At::read(current, dir, path)?;
    let caller = current.caller();
    let found = caller.lookup(at.get(), lookup)?;
    Ok(caller.utimens(&found, times[0], times[1])?)
}

/// utimensat(2). A null path means the descriptor itself.
pub fn utimensat(current: &mut Current, dir: Fd, path: UserAddr, times: UserRef<[i64; 4]>, flags: u32) -> SysResult<()> {
    let times = match times.read_optional(current)? {
        None => [SetTime::Now; 2],
        Some([a, an, m, mn]) => [set_time(abi::Timespec { sec: a, nsec: an })?, set_time(abi::Timespec { sec: m, nsec: mn })?],
    };
    if times == [SetTime::Omit; 2] {
        return Ok(());
    }
    change_times(current, dir, path, times, flags)
}

fn from_micros(times: Option<[i64; 4]>) -> Result<[SetTime; 2], Errno> {
    let Some([a, au, m, mu]) = times else { return Ok([SetTime::Now; 2]) };
    let time = |sec, usec: i64| match usec {
        0..=999_999 => Ok(SetTime::At(Timestamp { sec, nsec: usec as u32 * 1000 })),
        _ => Err(Errno::EINVAL),
    };
    Ok([time(a, au)?, time(m, mu)?])
}

/// utimes(2).
pub fn utimes(current: &mut Current, path: UserAddr, times: UserRef<[i64; 4]>) -> SysResult<()> {
    futimesat(current, AT_FDCWD, path, times)
}

/// futimesat(2).
pub fn futimesat(current: &mut Current, dir: Fd, path: UserAddr, times: UserRef<[i64; 4]>) -> SysResult<()> {
    let times = from_micros(times.read_optional(current)?)?;
    change_times(current, dir, path, times, 0)
}

/// utime(2).
pub fn utime(current: &mut Current, path: UserAddr, times: UserRef<[i64; 2]>) -> SysResult<()> {
    let times = from_micros(times.read_optional(current)?.map(|[a, m]| [a, 0, m, 0]))?;
    change_times(current, AT_FDCWD, path, times, 0)
}

/// `struct statfs` of x86-64.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy)]
pub struct StatFsBuffer {
    kind: u64,
    block_size: u64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    fsid: u64,
    name_max: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}

fn write_statfs(current: &Current, path: &Path, s: &StatFs, out: UserRef<StatFsBuffer>) -> SysResult<()> {
    // ST_VALID, and the low mount flags as ST_*.
    let flags = 0x20 | u64::from(path.mount.all_flags().bits() & 0xf);
    let buffer = StatFsBuffer {
        kind: s.magic,
        block_size: s.block_size_bytes,
        blocks: s.blocks,
        free: s.blocks_free,
        available: s.blocks_available,
        files: s.files,
        files_free: s.files_free,
        fsid: s.fsid,
        name_max: s.name_max,
        fragment_size: s.block_size_bytes,
        flags,
        spare: [0; 4],
    };
    Ok(out.write(current, &buffer)?)
}

/// statfs(2).
pub fn statfs(current: &mut Current, path: UserAddr, out: UserRef<StatFsBuffer>) -> SysResult<()> {
    let path = read_path(current, path)?;
    let found = current.caller().lookup(PathAt::cwd(&path), LookupFlags::FOLLOW)?;
    write_statfs(current, &found, &found.statfs()?, out)
}

/// fstatfs(2).
pub fn fstatfs(current: &mut Current, fd: Fd, out: UserRef<StatFsBuffer>) -> SysResult<()> {
    let file = file(current, fd)?;
    write_statfs(current, file.path(), &file.path().statfs()?, out)
}

/// chdir(2).
pub fn chdir(current: &mut Current, path: UserAddr) -> SysResult<()> {
    let path = read_path(current, path)?;
    current.caller().chdir(PathAt::cwd(&path))
}

/// fchdir(2).
pub fn fchdir(current: &mut Current, fd: Fd) -> SysResult<()> {
    let file = file(current, fd)?;
    if file.path().metadata()?.kind != FileKind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    let mut at = PathAt::itself(file.path());
    at.path = b".";
    current.caller().chdir(at)
}

/// chroot(2).
pub fn chroot(current: &mut Current, path: UserAddr) -> SysResult<()> {
    let path = read_path(current, path)?;
    current.caller().chroot(PathAt::cwd(&path))
}

/// getcwd(2): the length with the closing NUL.
pub fn getcwd(current: &mut Current, buf: UserAddr, len: usize) -> SysResult<usize> {
    let caller = current.caller();
    let mut name = match caller.path_name(&caller.fs.cwd()) {
        Some(name) => name,
        None => [b"(unreachable)", caller.fs.cwd().dentry.name().as_ref()].concat(),
    };
    if caller.fs.cwd().dentry.is_deleted() {
        return Err(Errno::ENOENT.into());
    }
    name.push(0);
    if name.len() > len {
        return Err(Errno::ERANGE.into());
    }
    vfs::UserMemory::write_all(&**current.memory(), buf.0, &name)?;
    Ok(name.len())
}

/// umask(2).
pub fn umask(current: &mut Current, mask: u32) -> SysResult<u32> {
    Ok(current.fs().set_umask(mask & 0o777))
}

/// getdents64(2). EINVAL when not even one entry fits.
pub fn getdents64(current: &mut Current, fd: Fd, buf: UserAddr, len: u32) -> SysResult<usize> {
    list(current, fd, buf, len, |out, entry, room| {
        let size = (19 + entry.name.len() + 1).next_multiple_of(8);
        if size > room {
            return None;
        }
        out.extend(entry.ino.to_ne_bytes());
        out.extend(entry.next.to_ne_bytes());
        out.extend((size as u16).to_ne_bytes());
        out.push(entry.kind.map_or(0, FileKind::dirent_type));
        out.extend(entry.name);
        Some(size)
    })
}

/// getdents(2): the old layout, with the type in the last byte.
pub fn getdents(current: &mut Current, fd: Fd, buf: UserAddr, len: u32) -> SysResult<usize> {
    list(current, fd, buf, len, |out, entry, room| {
        let size = (18 + entry.name.len() + 2).next_multiple_of(8);
        if size > room {
            return None;
        }
        let begin = out.len();
        out.extend(entry.ino.to_ne_bytes());
        out.extend(entry.next.to_ne_bytes());
        out.extend((size as u16).to_ne_bytes());
        out.extend(entry.name);
        out.resize(begin + size - 1, 0);
        out.push(entry.kind.map_or(0, FileKind::dirent_type));
        Some(size)
    })
}

fn list(
    current: &mut Current,
    fd: Fd,
    buf: UserAddr,
    len: u32,
    encode: impl Fn(&mut Vec<u8>, &vfs::DirEntry<'_>, usize) -> Option<usize>,
) -> SysResult<usize> {
    let file = file(current, fd)?;
    // A kernel buffer of bounded size: a caller with a larger one calls again.
    let len = (len as usize).min(64 << 10);
    let mut out: Vec<u8> = Vec::with_capacity(len);
    let mut full = false;
    file.readdir(&mut |entry| {
        let begin = out.len();
        match encode(&mut out, &entry, len - begin) {
            Some(size) => {
                out.resize(begin + size, 0);
                true
            }
            None => {
                full = true;
                false
            }
        }
    })?;
    if out.is_empty() && full {
        return Err(Errno::EINVAL.into());
    }
    vfs::UserMemory::write_all(&**current.memory(), buf.0, &out)?;
    Ok(out.len())
}
