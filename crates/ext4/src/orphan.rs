//! Orphans: inodes without a name that are still open, and files whose truncation has begun. After a crash the next mount finishes them.
//!
//! Two forms: a list through `i_dtime` from the superblock, and the slots of the orphan file, which is preferred where it exists.
//!
//! Always true: `Core::orphans` is what the list and the file hold together, in the running transaction's view.
//!
//! Source: Linux `Documentation/filesystems/ext4/orphan.rst`.

use std::collections::HashSet;

use crate::cache::{Block, Kind};
use crate::core::{Core, Seal, has_right_checksum};
use crate::error::{Result, corrupt};
use crate::field::{le32, put_le32};
use crate::inode::Inode;
use crate::superblock::{Compat, RoCompat};

const TAIL_MAGIC: u32 = 0x0b10_ca04;
/// Longest orphan file believed, in bytes; mke2fs makes 512 blocks at most.
const MAX_LEN: u64 = 64 << 20;

impl Core {
    fn orphan_file(&self) -> Result<Option<Inode>> {
        if !self.geometry.compat.contains(Compat::ORPHAN_FILE) {
            return Ok(None);
        }
        let inode = self.read_inode(self.superblock.orphan_file_inode())?;
        if inode.links() == 0 || inode.size() > MAX_LEN {
            return corrupt(inode.table_block, "orphan file inode");
        }
        Ok(Some(inode))
    }

    fn orphan_block(&self, file: &Inode, logical: u64) -> Result<(u64, Block)> {
        let Some(home) = self.mapped_block(file, logical)? else { return corrupt(file.table_block, "orphan file: hole") };
        let seed = file.seed(&self.geometry);
        let block = self.checked(home, Kind::OrphanFile, |bytes| {
            if le32(bytes, bytes.len() - 8) != TAIL_MAGIC || !has_right_checksum(Seal::OrphanFile(seed), home, bytes, &self.geometry) {
                return corrupt(home, "orphan file block");
            }
            Ok(())
        })?;
        Ok((home, block))
    }

    /// A slot of the orphan file that holds `ino` (0: that is free).
    fn orphan_slot(&self, file: &Inode, ino: u32) -> Result<Option<(u64, usize)>> {
        for logical in 0..file.size() >> self.geometry.block_bits {
            let (home, block) = self.orphan_block(file, logical)?;
            let slots = (block.len() - 8) / 4;
            if let Some(slot) = (0..slots).find(|slot| le32(&block, slot * 4) == ino) {
                return Ok(Some((home, slot * 4)));
            }
        }
        Ok(None)
    }

    fn put_orphan_slot(&mut self, file: &Inode, home: u64, at: usize, ino: u32) -> Result<()> {
        let seed = file.seed(&self.geometry);
        put_le32(self.block_mut(home, Seal::OrphanFile(seed))?, at, ino);
        Ok(())
    }

    /// Records an orphan. The caller stores the inode.
    pub(crate) fn add_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        if self.orphans.contains(&inode.ino) {
            return Ok(());
        }
        let file = self.orphan_file()?;
        let slot = match &file {
            Some(file) => self.orphan_slot(file, 0)?,
            None => None,
        };
        match (file, slot) {
            (Some(file), Some((home, at))) => self.put_orphan_slot(&file, home, at, inode.ino)?,
            _ => {
                inode.set_deletion(self.superblock.first_orphan());
                self.superblock_mut().set_first_orphan(inode.ino);
            }
        }
        self.note_orphan(inode.ino, true);
        Ok(())
    }

    /// Takes an orphan off the record. The caller stores the inode.
    pub(crate) fn remove_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        if !self.orphans.contains(&inode.ino) {
            return Ok(());
        }
        self.note_orphan(inode.ino, false);
        if let Some(file) = self.orphan_file()?
            && let Some((home, at)) = self.orphan_slot(&file, inode.ino)?
        {
            return self.put_orphan_slot(&file, home, at, 0);
        }
        let next = inode.deletion();
        inode.set_deletion(0);
        if self.superblock.first_orphan() == inode.ino {
            self.superblock_mut().set_first_orphan(next);
            return Ok(());
        }
        let mut at = self.superblock.first_orphan();
        for _ in 0..=self.orphans.len() {
            if at == 0 {
                break;
            }
            let mut before = self.read_inode(at)?;
            if before.deletion() == inode.ino {
                before.set_deletion(next);
                return self.write_inode(&mut before);
            }
            at = before.deletion();
        }
        corrupt(inode.table_block, "orphan list")
    }

    /// All orphans that the image records, for the mount to finish.
    pub(crate) fn find_orphans(&mut self) -> Result<Vec<u32>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut at = self.superblock.first_orphan();
        while at != 0 {
            if at < self.geometry.first_inode || !seen.insert(at) {
                return corrupt(0, "orphan list");
            }
            found.push(at);
            at = self.read_inode(at)?.deletion();
        }
        if self.superblock.ro_compat().contains(RoCompat::ORPHAN_PRESENT)
            && let Some(file) = self.orphan_file()?
        {
            for logical in 0..file.size() >> self.geometry.block_bits {
                let (home, block) = self.orphan_block(&file, logical)?;
                for slot in 0..(block.len() - 8) / 4 {
                    let ino = le32(&block, slot * 4);
                    if ino != 0 && (ino < self.geometry.first_inode || !seen.insert(ino)) {
                        return corrupt(home, "orphan file entry");
                    }
                    found.extend((ino != 0).then_some(ino));
                }
            }
        }
        self.orphans = seen;
        Ok(found)
    }
}
