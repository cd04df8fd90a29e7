//! Extended attributes, xattr(7).

use crate::args::UserAddr;
use crate::data::{read_path, read_string};
use abi::{Errno, SysResult};
use task::Current;
use vfs::{Fd, LookupFlags, Path, PathAt, UserMemory, XattrMode};

/// `XATTR_NAME_MAX` with its NUL.
const NAME_MAX: usize = 256;
/// `XATTR_SIZE_MAX`.
const SIZE_MAX: usize = 65536;

fn at_path(current: &Current, path: UserAddr, lookup: LookupFlags) -> SysResult<Path> {
    let path = read_path(current, path)?;
    current.caller().lookup(PathAt::cwd(&path), lookup)
}

fn at_fd(current: &Current, fd: Fd) -> SysResult<Path> {
    Ok(current.files().get_usable(fd)?.path().clone())
}

fn read_name(current: &Current, name: UserAddr) -> Result<Vec<u8>, Errno> {
    let name = read_string(current, name.0, NAME_MAX, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// Gives `bytes` to a caller whose buffer has `size` bytes; 0 asks for the length only.
fn give(current: &Current, addr: UserAddr, size: usize, bytes: &[u8]) -> SysResult<usize> {
    if size > 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE.into());
        }
        current.memory().write_all(addr.0, bytes)?;
    }
    Ok(bytes.len())
}

fn get(current: &Current, path: &Path, name: UserAddr, value: UserAddr, size: usize) -> SysResult<usize> {
    let name = read_name(current, name)?;
    let bytes = current.caller().get_xattr(path, &name)?;
    give(current, value, size, &bytes)
}

fn set(current: &Current, path: &Path, name: UserAddr, value: UserAddr, size: usize, flags: u32) -> SysResult<()> {
    let mode = match flags {
        0 => XattrMode::Set,
        1 => XattrMode::Create,
        2 => XattrMode::Replace,
        _ => return Err(Errno::EINVAL.into()),
    };
    let name = read_name(current, name)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size];
    current.memory().read_exact(value.0, &mut bytes)?;
    Ok(current.caller().set_xattr(path, &name, &bytes, mode)?)
}

fn list(current: &Current, path: &Path, out: UserAddr, size: usize) -> SysResult<usize> {
    let mut bytes = Vec::new();
    for name in current.caller().list_xattr(path)? {
        bytes.extend(name);
        bytes.push(0);
    }
    give(current, out, size, &bytes)
}

fn remove(current: &Current, path: &Path, name: UserAddr) -> SysResult<()> {
    let name = read_name(current, name)?;
    Ok(current.caller().remove_xattr(path, &name)?)
}

/// getxattr(2).
pub fn getxattr(current: &mut Current, path: UserAddr, name: UserAddr, value: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_path(current, path, LookupFlags::FOLLOW)?;
    get(current, &path, name, value, size)
}
/// lgetxattr(2).
pub fn lgetxattr(current: &mut Current, path: UserAddr, name: UserAddr, value: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_path(current, path, LookupFlags::empty())?;
    get(current, &path, name, value, size)
}
/// fgetxattr(2).
pub fn fgetxattr(current: &mut Current, fd: Fd, name: UserAddr, value: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_fd(current, fd)?;
    get(current, &path, name, value, size)
}
/// setxattr(2).
pub fn setxattr(current: &mut Current, path: UserAddr, name: UserAddr, value: UserAddr, size: usize, flags: u32) -> SysResult<()> {
    let path = at_path(current, path, LookupFlags::FOLLOW)?;
    set(current, &path, name, value, size, flags)
}
/// lsetxattr(2).
pub fn lsetxattr(current: &mut Current, path: UserAddr, name: UserAddr, value: UserAddr, size: usize, flags: u32) -> SysResult<()> {
    let path = at_path(current, path, LookupFlags::empty())?;
    set(current, &path, name, value, size, flags)
}
/// fsetxattr(2).
pub fn fsetxattr(current: &mut Current, fd: Fd, name: UserAddr, value: UserAddr, size: usize, flags: u32) -> SysResult<()> {
    let path = at_fd(current, fd)?;
    set(current, &path, name, value, size, flags)
}
/// listxattr(2).
pub fn listxattr(current: &mut Current, path: UserAddr, out: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_path(current, path, LookupFlags::FOLLOW)?;
    list(current, &path, out, size)
}
/// llistxattr(2).
pub fn llistxattr(current: &mut Current, path: UserAddr, out: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_path(current, path, LookupFlags::empty())?;
    list(current, &path, out, size)
}
/// flistxattr(2).
pub fn flistxattr(current: &mut Current, fd: Fd, out: UserAddr, size: usize) -> SysResult<usize> {
    let path = at_fd(current, fd)?;
    list(current, &path, out, size)
}
/// removexattr(2).
pub fn removexattr(current: &mut Current, path: UserAddr, name: UserAddr) -> SysResult<()> {
    let path = at_path(current, path, LookupFlags::FOLLOW)?;
    remove(current, &path, name)
}
/// lremovexattr(2).
pub fn lremovexattr(current: &mut Current, path: UserAddr, name: UserAddr) -> SysResult<()> {
    let path = at_path(current, path, LookupFlags::empty())?;
    remove(current, &path, name)
}
/// fremovexattr(2).
pub fn fremovexattr(current: &mut Current, fd: Fd, name: UserAddr) -> SysResult<()> {
    let path = at_fd(current, fd)?;
    remove(current, &path, name)
}
