//! Small files and directories kept inside their inode (`inline_data`), for reading only.
//!
//! The first 60 bytes are in `i_block`, the rest is the value of the attribute `system.data`. A directory has its parent's number in the
//! first four bytes, then entries in both parts; "." and ".." are not stored.
//!
//! Source: Linux `Documentation/filesystems/ext4/inlinedata.rst`.

use crate::core::Core;
use crate::dir::{DirEntry, entries};
use crate::error::Result;
use crate::field::{le32, part};
use crate::inode::{FileType, I_BLOCK_LEN, Inode};
use crate::xattr;

impl Core {
    /// All bytes of an inline file, cut at its size.
    pub(crate) fn inline_bytes(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut bytes = inode.i_block().to_vec();
        if let Some(rest) = self.inline_rest(inode)? {
            bytes.extend_from_slice(&rest);
        }
        bytes.truncate(usize::try_from(inode.size()).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn inline_rest(&self, inode: &Inode) -> Result<Option<Vec<u8>>> {
        let list = self.inode_attributes(inode)?;
        Ok(list.into_iter().find(|a| a.index == xattr::SYSTEM && a.name == b"data").map(|a| a.value))
    }

    /// The entries of an inline directory, "." and ".." included. Cursors are counts.
    pub(crate) fn inline_entries(&self, inode: &Inode) -> Result<Vec<DirEntry>> {
        let parent = le32(inode.i_block(), 0);
        let mut list: Vec<DirEntry> = [(inode.ino, &b"."[..]), (parent, b"..")]
            .into_iter()
            .map(|(ino, name)| DirEntry { ino, file_type: FileType::Directory, name: name.to_vec(), next: 0 })
            .collect();
        let rest = self.inline_rest(inode)?.unwrap_or_default();
        for area in [part(inode.i_block(), 4, I_BLOCK_LEN), &rest] {
            list.extend(entries(area, area.len()).filter(|e| e.ino != 0).map(|e| self.entry_of(&e, 0)));
        }
        for (count, entry) in list.iter_mut().enumerate() {
            entry.next = count as u64 + 1;
        }
        Ok(list)
    }
}
