//! What a file is, in numbers: kinds, times, device numbers, metadata. inode(7), stat(2), statx(2).

use std::sync::atomic::{AtomicI64, Ordering};

/// What kind of file it is: the `S_IFMT` part of a mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl FileKind {
    /// The `S_IFMT` bits.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Fifo => 0o010_000,
            FileKind::CharDevice => 0o020_000,
            FileKind::Directory => 0o040_000,
            FileKind::BlockDevice => 0o060_000,
            FileKind::Regular => 0o100_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Socket => 0o140_000,
        }
    }
    /// The kind that the `S_IFMT` bits of `mode` name; `None` for bits that name none.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & 0o170_000 {
            0o010_000 => FileKind::Fifo,
            0o020_000 => FileKind::CharDevice,
            0o040_000 => FileKind::Directory,
            0o060_000 => FileKind::BlockDevice,
            0o100_000 => FileKind::Regular,
            0o120_000 => FileKind::Symlink,
            0o140_000 => FileKind::Socket,
            _ => return None,
        })
    }
    /// `d_type` of getdents64(2).
    #[must_use]
    pub fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
    /// Whether it is a character or block device.
    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, FileKind::CharDevice | FileKind::BlockDevice)
    }
}

/// A point in time since the epoch, as `struct timespec` says it. `nsec` is below 1,000,000,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

/// What clock_settime(2) has added to the host's real-time clock.
static REALTIME_OFFSET_NS: AtomicI64 = AtomicI64::new(0);

impl Timestamp {
    /// The guest's real-time clock.
    #[must_use]
    pub fn now() -> Timestamp {
        let ns = i128::from(sync::realtime_ns()) + i128::from(REALTIME_OFFSET_NS.load(Ordering::Relaxed));
        Timestamp::from_ns(ns)
    }
    /// Tells files of the offset between the host's real-time clock and the guest's.
    pub fn set_realtime_offset_ns(offset_ns: i64) {
        REALTIME_OFFSET_NS.store(offset_ns, Ordering::Relaxed);
    }
    /// From nanoseconds since the epoch.
    #[must_use]
    pub fn from_ns(ns: i128) -> Timestamp {
        Timestamp { sec: ns.div_euclid(1_000_000_000) as i64, nsec: ns.rem_euclid(1_000_000_000) as u32 }
    }
    /// Nanoseconds since the epoch.
    #[must_use]
    pub fn as_ns(self) -> i128 {
        i128::from(self.sec) * 1_000_000_000 + i128::from(self.nsec)
    }
}

/// A device number (`dev_t`): a major and a minor number. Kept in the kernel's own encoding, 12 bits of major and 20 of minor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceNumber(u32);

impl DeviceNumber {
    /// No device.
    pub const NONE: DeviceNumber = DeviceNumber(0);

    /// From its two halves; bits beyond 12 of the major and 20 of the minor are dropped, as `MKDEV` does.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> DeviceNumber {
        DeviceNumber(((major & 0xfff) << 20) | (minor & 0xf_ffff))
    }
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 >> 20
    }
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
    /// As stat(2) and mknod(2) carry it (`new_encode_dev`).
    #[must_use]
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major() as u64, self.minor() as u64);
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }
    /// From what mknod(2) was given (`new_decode_dev`).
    #[must_use]
    pub const fn decode(encoded: u64) -> DeviceNumber {
        DeviceNumber::new(((encoded >> 8) & 0xfff) as u32, ((encoded & 0xff) | ((encoded >> 12) & 0xf_ff00)) as u32)
    }
}

impl std::fmt::Debug for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

/// What statx(2) tells of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// `st_dev`. [`DeviceNumber::NONE`] from an inode means that of its superblock; the path operations fill it in.
    pub dev: DeviceNumber,
    pub ino: u64,
    pub kind: FileKind,
    /// Permission bits with set-id and sticky: `mode & 0o7777`.
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// Which device the node stands for.
    pub rdev: DeviceNumber,
    pub size_bytes: u64,
    /// Storage in units of 512 bytes.
    pub blocks: u64,
    pub block_size_bytes: u32,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    /// Birth time, where the file system keeps one.
    pub created: Option<Timestamp>,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
}

impl Metadata {
    /// Metadata of a fresh file of no size, all times now.
    #[must_use]
    pub fn new(kind: FileKind, ino: u64, owner: Owner) -> Metadata {
        let now = Timestamp::now();
        Metadata {
            dev: DeviceNumber::NONE,
            ino,
            kind,
            mode: owner.mode,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            uid: owner.uid,
            gid: owner.gid,
            rdev: DeviceNumber::NONE,
            size_bytes: 0,
            blocks: 0,
            block_size_bytes: abi::PAGE_SIZE as u32,
            accessed: now,
            modified: now,
            changed: now,
            created: Some(now),
            attributes: 0,
        }
    }
    /// `st_mode`: kind and permission bits.
    #[must_use]
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }
    /// What permission checks look at.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { mode: self.mode, uid: self.uid, gid: self.gid }
    }
}

/// Who owns a file and what its mode allows: all that a permission check needs. `mode` is `0o7777` at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A change of attributes; what is `None` stays. The path operations have checked permissions and computed set-id clearing already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// `mode & 0o7777`.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<Timestamp>,
    pub modified: Option<Timestamp>,
    /// The change time: always given.
    pub changed: Option<Timestamp>,
}

impl SetAttr {
    /// Makes the change in `metadata`.
    pub fn apply(&self, metadata: &mut Metadata) {
        let set = |field: &mut u32, value: Option<u32>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        let set_time = |field: &mut Timestamp, value: Option<Timestamp>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        set(&mut metadata.mode, self.mode.map(|mode| mode & 0o7777));
        set(&mut metadata.uid, self.uid);
        set(&mut metadata.gid, self.gid);
        set_time(&mut metadata.accessed, self.accessed);
        set_time(&mut metadata.modified, self.modified);
        set_time(&mut metadata.changed, self.changed);
    }
}

/// What statfs(2) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// `f_type`: the file system's magic number.
    pub magic: u64,
    pub block_size_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    /// Free to unprivileged users.
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub fsid: u64,
    pub name_max: u64,
}

/// One entry of a directory, as readdir gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    /// `None`: not known without reading the inode (`DT_UNKNOWN`).
    pub kind: Option<FileKind>,
    /// Cookie of the entry after this one: where to go on (`d_off`).
    pub next: u64,
}
