//! Extended attributes: in the inode behind its fixed fields, then in one block that inodes may share.
//!
//! Values in inodes of their own (`ea_inode`) are read, never written: that feature mounts read-only.
//!
//! Always true of what is stored: entries of a block are sorted, and hashes fit their names and values.
//!
//! Source: Linux `Documentation/filesystems/ext4/attributes.rst`, xattr(7); ACLs: acl(5) and `include/uapi/linux/posix_acl_xattr.h`.

use crate::cache::Kind;
use crate::core::{Core, Seal, has_right_checksum};
use crate::error::{Error, Result, corrupt};
use crate::field::{byte, le16, le32, part, put_byte, put_le16, put_le32, put_part};
use crate::inode::Inode;
use crate::superblock::Compat;

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY_HEADER: usize = 16;
/// Most inodes that share one attribute block.
const MAX_SHARED: u32 = 1024;
/// Longest value, XATTR_SIZE_MAX.
const VALUE_MAX: usize = 65536;
/// Name index of `system.`.
pub(crate) const SYSTEM: u8 = 7;

/// (number on disk, prefix), longest prefix first.
const PREFIXES: [(u8, &[u8]); 6] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (SYSTEM, b"system."),
];

/// Whether setting an attribute may create or replace it, setxattr(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetMode {
    /// Either.
    #[default]
    Any,
    /// `XATTR_CREATE`: it must not exist.
    Create,
    /// `XATTR_REPLACE`: it must exist.
    Replace,
}

/// One attribute as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attribute {
    pub(crate) index: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// The inode that holds the value, 0 when `value` does.
    value_inode: u32,
    value_len: usize,
}

impl Attribute {
    fn stored_len(&self) -> usize {
        (ENTRY_HEADER + self.name.len()).next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }

    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0u32, |hash, &c| hash.rotate_left(5) ^ u32::from(c));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// Splits a full name; None for a namespace that ext4 does not store.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        // The ACL names are complete; the others need something behind the dot.
        (rest.is_empty() == (*index == 2 || *index == 3)).then_some((*index, rest))
    })
}

fn full_name(index: u8, name: &[u8]) -> Option<Vec<u8>> {
    let prefix = PREFIXES.iter().find(|(number, _)| *number == index)?.1;
    Some([prefix, name].concat())
}

/// Decodes entries at `first`; value offsets count from `base`.
fn decode(area: &[u8], first: usize, base: usize, home: u64) -> Result<Vec<Attribute>> {
    let (mut at, mut list) = (first, Vec::new());
    while at + 4 <= area.len() && le32(area, at) != 0 {
        let name_len = usize::from(byte(area, at));
        let (offset, inode, len) = (base + usize::from(le16(area, at + 2)), le32(area, at + 4), le32(area, at + 8) as usize);
        let next = at + (ENTRY_HEADER + name_len).next_multiple_of(4);
        if next > area.len() || len > VALUE_MAX || (inode == 0 && len > 0 && (offset < next || offset + len > area.len())) {
            return corrupt(home, "extended attribute entry");
        }
        let value = if inode == 0 { part(area, offset, len).to_vec() } else { Vec::new() };
        let name = part(area, at + ENTRY_HEADER, name_len).to_vec();
        list.push(Attribute { index: byte(area, at + 1), name, value, value_inode: inode, value_len: len });
        at = next;
    }
    Ok(list)
}

/// Writes entries from `first` and values from the end; they fit. Value offsets count from `base`.
fn encode(area: &mut [u8], first: usize, base: usize, list: &mut [Attribute]) {
    list.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    let (mut at, mut end) = (first, area.len());
    for attribute in list.iter() {
        end -= attribute.value.len().next_multiple_of(4).min(end);
        put_byte(area, at, attribute.name.len() as u8);
        put_byte(area, at + 1, attribute.index);
        put_le16(area, at + 2, if attribute.value.is_empty() { 0 } else { (end - base) as u16 });
        put_le32(area, at + 8, attribute.value.len() as u32);
        put_le32(area, at + 12, attribute.hash());
        put_part(area, at + ENTRY_HEADER, &attribute.name);
        put_part(area, end, &attribute.value);
        at += (ENTRY_HEADER + attribute.name.len()).next_multiple_of(4);
    }
}

/// Whether the entries, their values and the four zero bytes that end them fit.
fn fits(list: &[Attribute], room: usize) -> bool {
    list.iter().map(Attribute::stored_len).sum::<usize>() + 4 <= room
}

impl Core {
    /// The attributes inside the inode.
    pub(crate) fn inode_attributes(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let space = inode.attribute_space();
        if le32(space, 0) != MAGIC {
            return Ok(Vec::new());
        }
        decode(space, 4, 4, inode.table_block)
    }

    fn block_attributes(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let home = inode.attribute_block();
        if home == 0 {
            return Ok(Vec::new());
        }
        if !self.is_data_run(home, 1) {
            return corrupt(inode.table_block, "attribute block outside the data area");
        }
        let block = self.checked(home, Kind::Attributes, |bytes| {
            if le32(bytes, 0) != MAGIC || le32(bytes, 8) != 1 {
                return corrupt(home, "attribute block magic");
            }
            if !has_right_checksum(Seal::Attributes, home, bytes, &self.geometry) {
                return corrupt(home, "attribute block checksum");
            }
            decode(bytes, BLOCK_HEADER, 0, home).map(|_| ())
        })?;
        decode(&block, BLOCK_HEADER, 0, home)
    }

    /// The value of an attribute, in the form that getxattr(2) gives.
    pub(crate) fn attribute(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let (index, rest) = split_name(name).ok_or(Error::NotSupported)?;
        let mut list = self.inode_attributes(inode)?;
        list.extend(self.block_attributes(inode)?);
        let found = list.into_iter().find(|a| a.index == index && a.name == rest).ok_or(Error::NoAttribute)?;
        let value = if found.value_inode == 0 { found.value } else { self.value_in_inode(found.value_inode, found.value_len)? };
        if index == 2 || index == 3 { acl_from_disk(&value).ok_or(Error::Invalid) } else { Ok(value) }
    }

    fn value_in_inode(&self, ino: u32, len: usize) -> Result<Vec<u8>> {
        let inode = self.read_inode(ino)?;
        if !inode.has(crate::inode_flags::EA_INODE) || inode.size() < len as u64 {
            return corrupt(inode.table_block, "attribute value inode");
        }
        let mut value = vec![0; len];
        self.read_data(&inode, 0, &mut value)?;
        Ok(value)
    }

    /// Full names of all attributes.
    pub(crate) fn attribute_names(&self, inode: &Inode) -> Result<Vec<Vec<u8>>> {
        let mut list = self.inode_attributes(inode)?;
        list.extend(self.block_attributes(inode)?);
        Ok(list.iter().filter(|a| !(a.index == SYSTEM && a.name == b"data")).filter_map(|a| full_name(a.index, &a.name)).collect())
    }

    /// Sets, or with None removes, an attribute. The caller stores the inode.
    pub(crate) fn set_attribute(&mut self, inode: &mut Inode, name: &[u8], value: Option<&[u8]>, mode: SetMode) -> Result<()> {
        let (index, rest) = split_name(name).ok_or(Error::NotSupported)?;
        if rest.len() > 255 {
            return Err(Error::Invalid);
        }
        let (mut inner, mut outer) = (self.inode_attributes(inode)?, self.block_attributes(inode)?);
        let before = inner.len() + outer.len();
        let is_it = |a: &Attribute| a.index == index && a.name == rest;
        let was_outer = outer.iter().any(is_it);
        inner.retain(|a| !is_it(a));
        outer.retain(|a| !is_it(a));
        let existed = inner.len() + outer.len() < before;
        match (existed, value.is_some(), mode) {
            (true, true, SetMode::Create) => return Err(Error::Exists),
            (false, true, SetMode::Replace) | (false, false, _) => return Err(Error::NoAttribute),
            _ => {}
        }
        let mut outer_changed = was_outer;
        if let Some(value) = value {
            let value = if index == 2 || index == 3 { acl_to_disk(value).ok_or(Error::Invalid)? } else { value.to_vec() };
            let new = Attribute { index, name: rest.to_vec(), value_len: value.len(), value, value_inode: 0 };
            inner.push(new);
            if !fits(&inner, inode.attribute_space().len().saturating_sub(4)) {
                outer.extend(inner.pop());
                outer_changed = true;
            }
        }
        if !fits(&outer, self.geometry.block_size - BLOCK_HEADER) {
            return Err(Error::AttributeTooBig);
        }
        let room = inode.attribute_space().len();
        if room > 4 {
            let mut area = vec![0; room];
            if !inner.is_empty() {
                put_le32(&mut area, 0, MAGIC);
                encode(&mut area, 4, 4, &mut inner);
            }
            inode.set_attribute_space(&area);
        }
        if outer_changed {
            self.store_attribute_block(inode, &mut outer)?;
        }
        Ok(())
    }

    fn store_attribute_block(&mut self, inode: &mut Inode, list: &mut [Attribute]) -> Result<()> {
        let old = inode.attribute_block();
        let shared = old != 0 && le32(&self.block(old)?, 4) > 1;
        if old != 0 && (shared || list.is_empty()) {
            self.release_attribute_block(inode)?;
        }
        if list.is_empty() {
            return Ok(());
        }
        if !self.superblock.compat().contains(Compat::EXT_ATTR) {
            self.superblock_mut().add_compat(Compat::EXT_ATTR);
        }
        let mut home = inode.attribute_block();
        if home == 0 {
            let goal = self.inode_goal(inode);
            home = self.allocate_metadata_block(inode, goal)?;
            inode.set_attribute_block(home);
        }
        let bytes = self.new_block(home, Seal::Attributes);
        put_le32(bytes, 0, MAGIC);
        put_le32(bytes, 4, 1);
        put_le32(bytes, 8, 1);
        encode(bytes, BLOCK_HEADER, 0, list);
        let hash = list.iter().fold(0u32, |hash, a| hash.rotate_left(16) ^ a.hash());
        put_le32(bytes, 12, if list.iter().any(|a| a.hash() == 0) { 0 } else { hash });
        Ok(())
    }

    /// Lets go of the attribute block: the last user frees it.
    pub(crate) fn release_attribute_block(&mut self, inode: &mut Inode) -> Result<()> {
        let home = inode.attribute_block();
        if home == 0 {
            return Ok(());
        }
        self.block_attributes(inode)?;
        let users = le32(&self.block(home)?, 4);
        if users > MAX_SHARED || users == 0 {
            return corrupt(home, "attribute block reference count");
        }
        inode.set_attribute_block(0);
        if users == 1 {
            return self.free_metadata_block(inode, home);
        }
        put_le32(self.block_mut(home, Seal::Attributes)?, 4, users - 1);
        let g = self.geometry.clone();
        inode.charge(-1, &g)
    }
}

/// Entries with an owner of their own: ACL_USER and ACL_GROUP.
fn has_id(tag: u16) -> bool {
    tag == 2 || tag == 8
}

/// From ext4's short ACL form (version 1) to the one of getxattr(2) (version 2).
fn acl_from_disk(disk: &[u8]) -> Option<Vec<u8>> {
    if disk.len() < 4 || le32(disk, 0) != 1 {
        return None;
    }
    let mut out = 2u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < disk.len() {
        let tag = le16(disk, at);
        let len = if has_id(tag) { 8 } else { 4 };
        if at + len > disk.len() {
            return None;
        }
        out.extend_from_slice(part(disk, at, 4));
        out.extend_from_slice(&if has_id(tag) { le32(disk, at + 4) } else { u32::MAX }.to_le_bytes());
        at += len;
    }
    Some(out)
}

fn acl_to_disk(acl: &[u8]) -> Option<Vec<u8>> {
    if le32(acl, 0) != 2 || acl.len() % 8 != 4 {
        return None;
    }
    let mut out = 1u32.to_le_bytes().to_vec();
    for entry in acl[4..].chunks_exact(8) {
        out.extend_from_slice(&entry[..if has_id(le16(entry, 0)) { 8 } else { 4 }]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_change_form_and_back() {
        let entry = |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let acl =
            [2u32.to_le_bytes().to_vec(), entry(1, 6, !0), entry(2, 4, 1000), entry(4, 4, !0), entry(0x10, 4, !0), entry(0x20, 0, !0)]
                .concat();
        let disk = acl_to_disk(&acl).unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 8);
        assert_eq!(acl_from_disk(&disk).unwrap(), acl);
        assert_eq!(acl_to_disk(&acl[..acl.len() - 1]), None);
        assert_eq!(acl_from_disk(&disk[..disk.len() - 1]), None);
    }

    #[test]
    fn names_split_by_namespace() {
        assert_eq!(split_name(b"user.x"), Some((1, &b"x"[..])));
        assert_eq!(split_name(b"system.posix_acl_default"), Some((3, &b""[..])));
        assert_eq!(split_name(b"user."), None);
        assert_eq!(split_name(b"other.x"), None);
    }
}
