//! POSIX access-control lists, acl(5), in the binary form of their extended attributes (`linux/posix_acl_xattr.h`): version 2, then eight bytes an
//! entry, little-endian.
//!
//! What it is not: storage. File systems that keep lists override `Inode::permission`.
//!
//! Always true of a list that was parsed: it has exactly one entry each for owner, owning group and others; a mask if any user or group is named; the
//! entries are in the order of their tags and no name occurs twice.

use crate::credentials::Credentials;
use crate::flags::Access;
use crate::types::{FileKind, Owner};
use abi::Errno;

/// Whom an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AclTag {
    UserObj = 1,
    User = 2,
    GroupObj = 4,
    Group = 8,
    Mask = 16,
    Other = 32,
}

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclEntry {
    pub tag: AclTag,
    pub allowed: Access,
    /// User or group number of named entries.
    pub id: u32,
}

/// A list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

const VERSION: u32 = 2;
/// Id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

impl Acl {
    /// The attribute that decides access.
    pub const ACCESS: &'static [u8] = b"system.posix_acl_access";
    /// The attribute of directories that new files inherit.
    pub const DEFAULT: &'static [u8] = b"system.posix_acl_default";

    /// From an attribute's value. EINVAL, EOPNOTSUPP for another version.
    pub fn parse(value: &[u8]) -> Result<Acl, Errno> {
        let (version, rest) = value.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (raw, left) = rest.as_chunks::<8>();
        if !left.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut entries = Vec::with_capacity(raw.len());
        for &[t0, t1, p0, p1, i0, i1, i2, i3] in raw {
            let tag = match u16::from_le_bytes([t0, t1]) {
                1 => AclTag::UserObj,
                2 => AclTag::User,
                4 => AclTag::GroupObj,
                8 => AclTag::Group,
                16 => AclTag::Mask,
                32 => AclTag::Other,
                _ => return Err(Errno::EINVAL),
            };
            let allowed = Access::from_bits(u32::from(u16::from_le_bytes([p0, p1]))).ok_or(Errno::EINVAL)?;
            let named = matches!(tag, AclTag::User | AclTag::Group);
            let id = if named { u32::from_le_bytes([i0, i1, i2, i3]) } else { NOBODY };
            entries.push(AclEntry { tag, allowed, id });
        }
        Acl { entries }.validated()
    }

    fn validated(self) -> Result<Acl, Errno> {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = count(AclTag::User) + count(AclTag::Group);
        let ones = [AclTag::UserObj, AclTag::GroupObj, AclTag::Other].iter().all(|tag| count(*tag) == 1);
        let mask = count(AclTag::Mask);
        let ordered = self.entries.is_sorted_by_key(|e| e.tag);
        let mut names: Vec<_> = self.entries.iter().filter(|e| e.id != NOBODY).map(|e| (e.tag as u32, e.id)).collect();
        names.sort_unstable();
        let unique = names.windows(2).all(|pair| pair[0] != pair[1]);
        let valid = ones && ordered && unique && mask <= 1 && (named == 0 || mask == 1);
        if valid { Ok(self) } else { Err(Errno::EINVAL) }
    }

    /// As an attribute's value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            bytes.extend_from_slice(&(entry.allowed.bits() as u16).to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[AclEntry] {
        &self.entries
    }

    fn allowed(&self, tag: AclTag) -> Option<Access> {
        self.entries.iter().find(|e| e.tag == tag).map(|e| e.allowed)
    }
    fn set(&mut self, tag: AclTag, allowed: u32) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.tag == tag) {
            entry.allowed = Access::from_bits_truncate(allowed & 7);
        }
    }

    /// The nine permission bits that stand for the list: the mask, if there is one, is shown as the group's.
    #[must_use]
    pub fn mode_bits(&self) -> u32 {
        let bits = |tag| self.allowed(tag).unwrap_or_default().bits();
        let group = self.allowed(AclTag::Mask).map_or_else(|| bits(AclTag::GroupObj), |mask| mask.bits());
        bits(AclTag::UserObj) << 6 | group << 3 | bits(AclTag::Other)
    }
    /// The bits, if they say all that the list says.
    #[must_use]
    pub fn as_mode(&self) -> Option<u32> {
        (self.entries.len() == 3).then(|| self.mode_bits())
    }
    /// Follows a chmod(2).
    pub fn chmod(&mut self, mode: u32) {
        self.set(AclTag::UserObj, mode >> 6);
        self.set(AclTag::Other, mode);
        let group = if self.allowed(AclTag::Mask).is_some() { AclTag::Mask } else { AclTag::GroupObj };
        self.set(group, mode >> 3);
    }
    /// Makes the access list of a file made with `mode` out of a default list: answers the file's mode.
    pub fn create(&mut self, mode: u32) -> u32 {
        let narrowed = self.mode_bits() & mode;
        self.chmod(narrowed);
        mode & !0o777 | narrowed
    }

    /// Whether `credentials` may `want` with a file of `owner`: EACCES. acl(5), "Access check algorithm".
    pub fn check(&self, credentials: &Credentials, owner: &Owner, kind: FileKind, want: Access) -> Result<(), Errno> {
        if self.allows(credentials, owner, want) { Ok(()) } else { credentials.check_override(owner, kind, want) }
    }

    fn allows(&self, credentials: &Credentials, owner: &Owner, want: Access) -> bool {
        let mask = self.allowed(AclTag::Mask).unwrap_or(Access::all());
        let mut group_matched = false;
        for entry in &self.entries {
            match entry.tag {
                AclTag::UserObj if credentials.fsuid == owner.uid => return entry.allowed.contains(want),
                AclTag::User if credentials.fsuid == entry.id => return (entry.allowed & mask).contains(want),
                AclTag::GroupObj | AclTag::Group => {
                    let gid = if entry.tag == AclTag::Group { entry.id } else { owner.gid };
                    if credentials.in_group(gid) {
                        group_matched = true;
                        if (entry.allowed & mask).contains(want) {
                            return true;
                        }
                    }
                }
                AclTag::Other => return !group_matched && entry.allowed.contains(want),
                _ => {}
            }
        }
        false
    }
}
