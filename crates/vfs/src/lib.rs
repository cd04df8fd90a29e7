//! Files, inodes, dentries, mounts, path walk, page cache, descriptor tables.
//!
//! What it is: everything between a system call that names a file and the file system that has it. File systems implement [`FileSystem`],
//! [`Inode`] and [`FileOps`]; tasks hold [`Credentials`], an [`FsContext`], an [`FdTable`] and a [`MountNamespace`]; system calls use the path
//! operations with a [`Caller`], and the methods of [`OpenFile`].
//!
//! What it is not: any file system (`fs`), tasks and signals (`task`), address spaces (`mm`; it meets them in [`UserMemory`], [`Pages`] and [`Mapper`]).
#![forbid(unsafe_code)]

mod acl;
mod anon;
mod async_io;
mod attachments;
mod attributes;
mod cache;
mod credentials;
mod dentry;
mod device;
mod fdtable;
mod file;
mod filesystem;
mod flags;
mod fscontext;
mod inode;
mod ioctl;
mod klog;
mod locks;
mod mount;
mod mounting;
mod names;
pub mod notify;
mod open;
mod pages;
mod path;
mod pipe;
mod poll;
mod types;
mod user;
mod vfs;
mod walk;

pub use acl::{Acl, AclEntry, AclTag};
pub use anon::{AnonInode, AnonKind};
pub use async_io::{SignalSink, install_signal_sink};
pub use attachments::Attachments;
pub use attributes::SetTime;
pub use cache::{PageCache, PageCaches, PageSource, ReadAhead};
pub use credentials::{Capability, CapabilitySet, Credentials};
pub use dentry::{Dentry, DentryCache, Name};
pub use device::{Device, DeviceAction, DeviceInfo, DeviceKind, DeviceSubscriber, Devices};
pub use fdtable::{Fd, FdTable, OnExec};
pub use file::{
    FileOps, IoctlCaller, MapAccess, MapRequest, OpenFile, OwnerKind, Positioning, SignalOwner, SyncKind, Whence, default_seek, open_files,
};
pub use filesystem::{FileSystem, FileSystemType, MountRequest};
pub use flags::{Access, LookupFlags, MountFlags, OpenFlags, RenameFlags};
pub use fscontext::{Caller, FsContext, Protections};
pub use inode::{AccessPolicy, CachePolicy, Emit, Inode, Link, Open, XattrMode};
pub use ioctl::FileExtent;
pub use klog::{KernelLog, LogRecord};
pub use locks::{LockKind, LockOwner, LockWait, RangeLock, flock, get_lock, lock_table, note_locked, release_locks, set_lock, unlock};
pub use mount::{Mount, MountNamespace, Propagation, SuperBlock};
pub use mounting::{MountMap, Unmount};
pub use notify::{NotifyMask, Watch};
pub use open::OpenHow;
pub use pages::{Mapper, Pages};
pub use path::Path;
pub use pipe::{PIPE_BUF, PIPE_MAX_SIZE, PipeEnd};
pub use poll::{PollItem, PollTable, poll_files};
pub use types::{DeviceNumber, DirEntry, FileKind, Metadata, Owner, SetAttr, StatFs, Timestamp};
pub use user::{FirstBytes, Sink, SliceSink, SliceSource, Source, UserMemory, UserRange, UserSink, UserSource};
pub use vfs::Vfs;
pub use walk::{NAME_MAX, PATH_MAX, PathAt, display_name, is_below, name_below, name_in_mount};
