//! Who a task is: user and group identities and capabilities, credentials(7), capabilities(7).
//!
//! A `Credentials` never changes once it is shared: a task changes its identity by making a new one.

use crate::flags::Access;
use crate::types::{FileKind, Owner};
use abi::Errno;
use std::sync::Arc;

/// A capability, numbered as in `linux/capability.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability(pub u32);

impl Capability {
    pub const CHOWN: Capability = Capability(0);
    pub const DAC_OVERRIDE: Capability = Capability(1);
    pub const DAC_READ_SEARCH: Capability = Capability(2);
    pub const FOWNER: Capability = Capability(3);
    pub const FSETID: Capability = Capability(4);
    pub const KILL: Capability = Capability(5);
    pub const SETGID: Capability = Capability(6);
    pub const SETUID: Capability = Capability(7);
    pub const SETPCAP: Capability = Capability(8);
    pub const LINUX_IMMUTABLE: Capability = Capability(9);
    pub const NET_BIND_SERVICE: Capability = Capability(10);
    pub const NET_ADMIN: Capability = Capability(12);
    pub const NET_RAW: Capability = Capability(13);
    pub const IPC_LOCK: Capability = Capability(14);
    pub const IPC_OWNER: Capability = Capability(15);
    pub const SYS_RAWIO: Capability = Capability(17);
    pub const SYS_CHROOT: Capability = Capability(18);
    pub const SYS_PTRACE: Capability = Capability(19);
    pub const SYS_ADMIN: Capability = Capability(21);
    pub const SYS_BOOT: Capability = Capability(22);
    pub const SYS_NICE: Capability = Capability(23);
    pub const SYS_RESOURCE: Capability = Capability(24);
    pub const SYS_TIME: Capability = Capability(25);
    pub const SYS_TTY_CONFIG: Capability = Capability(26);
    pub const MKNOD: Capability = Capability(27);
    pub const LEASE: Capability = Capability(28);
    pub const AUDIT_CONTROL: Capability = Capability(30);
    pub const SETFCAP: Capability = Capability(31);
    pub const SYSLOG: Capability = Capability(34);
}

/// A set of capabilities: bit n is capability n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: CapabilitySet = CapabilitySet(0);
    /// Every capability that Linux names, `CAP_LAST_CAP` included.
    pub const FULL: CapabilitySet = CapabilitySet((1 << 41) - 1);

    /// Whether `capability` is in the set.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }
    /// Whether every member of this set is in `other`.
    #[must_use]
    pub fn is_subset_of(self, other: CapabilitySet) -> bool {
        self.0 & !other.0 == 0
    }
}

/// The identity that a task acts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    pub inheritable: CapabilitySet,
    pub permitted: CapabilitySet,
    pub effective: CapabilitySet,
    pub bounding: CapabilitySet,
    pub ambient: CapabilitySet,
    /// `SECBIT_*` of prctl(PR_SET_SECUREBITS).
    pub securebits: u32,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
}

impl Credentials {
    /// The first process: root with every capability.
    #[must_use]
    pub fn root() -> Credentials {
        Credentials::user(0, 0, CapabilitySet::FULL)
    }
    /// A user with these effective and permitted capabilities.
    #[must_use]
    pub fn user(uid: u32, gid: u32, capabilities: CapabilitySet) -> Credentials {
        Credentials {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: Arc::new([]),
            inheritable: CapabilitySet::EMPTY,
            permitted: capabilities,
            effective: capabilities,
            bounding: CapabilitySet::FULL,
            ambient: CapabilitySet::EMPTY,
            securebits: 0,
            no_new_privs: false,
        }
    }
    /// Whether the effective set has `capability`.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.effective.has(capability)
    }
    /// `Ok` if the effective set has `capability`, else EPERM.
    pub fn require(&self, capability: Capability) -> Result<(), Errno> {
        if self.has(capability) { Ok(()) } else { Err(Errno::EPERM) }
    }
    /// Whether `gid` is the file-system group or a supplementary one.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }
    /// Whether the task may do what only a file's owner may: it is the owner, or has CAP_FOWNER.
    #[must_use]
    pub fn owns(&self, owner: &Owner) -> bool {
        self.fsuid == owner.uid || self.has(Capability::FOWNER)
    }

    /// These credentials with the real identity in place of the effective one, for access(2): capabilities are those that the real user would have.
    #[must_use]
    pub fn for_access(&self) -> Credentials {
        let mut real = self.clone();
        real.fsuid = self.uid;
        real.fsgid = self.gid;
        const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
        if self.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            real.effective = if self.uid == 0 { self.permitted } else { CapabilitySet::EMPTY };
        }
        real
    }

    /// The discretionary check of a file's mode, path_resolution(7): EACCES unless owner, group or other bits, or a capability, allow `want`.
    pub fn check(&self, owner: &Owner, kind: FileKind, want: Access) -> Result<(), Errno> {
        let shift = if self.fsuid == owner.uid {
            6
        } else if self.in_group(owner.gid) {
            3
        } else {
            0
        };
        if want.bits() & !(owner.mode >> shift) & 7 == 0 {
            return Ok(());
        }
        self.check_override(owner, kind, want)
    }

    /// Whether a capability allows what the mode or the access-control list does not. EACCES if not.
    pub fn check_override(&self, owner: &Owner, kind: FileKind, want: Access) -> Result<(), Errno> {
        let directory = kind == FileKind::Directory;
        if self.has(Capability::DAC_OVERRIDE) && (directory || !want.contains(Access::EXEC) || owner.mode & 0o111 != 0) {
            return Ok(());
        }
        let harmless = if directory { !want.contains(Access::WRITE) } else { want == Access::READ };
        if harmless && self.has(Capability::DAC_READ_SEARCH) { Ok(()) } else { Err(Errno::EACCES) }
    }
}
