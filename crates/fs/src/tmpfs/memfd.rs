//! Files without a name in a tmpfs that only the kernel has mounted: memfd_create(2), and memory shared by mmap(2) and shmat(2).

use super::inode::TmpfsInode;
use super::{Options, Tmpfs};
use abi::raw::general::{F_SEAL_EXEC, F_SEAL_SEAL};
use abi::{Errno, SysResult};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use sync::SpinLock;
use vfs::{Caller, Inode, Mount, MountFlags, OpenFile, OpenFlags, Owner, Pages, Vfs};

/// memfd_create's `MFD_ALLOW_SEALING`.
const ALLOW_SEALING: u32 = 2;
/// `MFD_NOEXEC_SEAL`.
const NOEXEC_SEAL: u32 = 8;

/// The kernel's own tmpfs, one per machine.
struct KernelTmpfs {
    vfs: &'static Vfs,
    tmpfs: Arc<Tmpfs>,
    mount: Arc<Mount>,
}

static KERNEL_TMPFS: OnceLock<SpinLock<Vec<Arc<KernelTmpfs>>>> = OnceLock::new();

fn kernel_tmpfs(vfs: &'static Vfs) -> Result<Arc<KernelTmpfs>, Errno> {
    let all = KERNEL_TMPFS.get_or_init(SpinLock::default);
    let find = || all.lock().iter().find(|known| std::ptr::eq(known.vfs, vfs)).cloned();
    if let Some(known) = find() {
        return Ok(known);
    }
    // No limit but RAM, as Linux's internal mount has none.
    let tmpfs = Tmpfs::new(vfs.ram(), "tmpfs", Options { pages: Some(0), inodes: Some(0), ..Options::default() })?;
    let mount = vfs.new_mount(tmpfs.clone(), b"tmpfs", MountFlags::NOATIME)?;
    let mine = Arc::new(KernelTmpfs { vfs, tmpfs, mount });
    if let Some(known) = find() {
        return Ok(known);
    }
    all.lock().push(mine.clone());
    Ok(mine)
}

/// memfd_create(2); `flags` as given and checked but for the seals.
pub fn memfd(caller: &Caller<'_>, name: &[u8], flags: u32) -> SysResult<Arc<OpenFile>> {
    let kernel = kernel_tmpfs(caller.vfs)?;
    let noexec = flags & NOEXEC_SEAL != 0;
    let mode = if noexec { 0o666 } else { 0o777 };
    let inode = kernel.tmpfs.nameless(Owner { mode, uid: caller.credentials.fsuid, gid: caller.credentials.fsgid })?;
    if flags & (ALLOW_SEALING | NOEXEC_SEAL) != 0 {
        inode.regular()?.seals.store(if noexec { F_SEAL_EXEC } else { 0 }, Ordering::Release);
    } else {
        inode.regular()?.seals.store(F_SEAL_SEAL, Ordering::Release);
    }
    let mut shown = b"memfd:".to_vec();
    shown.extend_from_slice(name);
    let path = caller.vfs.detached_path(&kernel.mount, &shown, inode.clone())?;
    caller.open_with(path, inode, OpenFlags::RDWR | OpenFlags::LARGEFILE)
}

/// Pages of shared anonymous memory of `len_bytes`, all zeroes: `mmap(MAP_SHARED | MAP_ANONYMOUS)`, System V segments.
pub fn shared_memory(vfs: &'static Vfs, len_bytes: u64) -> Result<Arc<dyn Pages>, Errno> {
    let kernel = kernel_tmpfs(vfs)?;
    let inode: Arc<TmpfsInode> = kernel.tmpfs.nameless(Owner { mode: 0o777, uid: 0, gid: 0 })?;
    Inode::truncate(&*inode, len_bytes)?;
    // The inode goes; the pages stay as long as they are mapped.
    inode.pages().ok_or(Errno::EIO)
}
