//! The block map of ext2 and ext3: twelve direct pointers, then one tree each of one, two and three levels.
//!
//! Not here: extents (`extent`). Indirect blocks have no checksum and no mark; every pointer is checked when it is followed.
//!
//! Always true: no walk is deeper than three indirect blocks, whatever they point at.

use crate::core::{Core, Seal};
use crate::error::{Error, Result, corrupt};
use crate::field::{le32, put_le32};
use crate::inode::Inode;

const DIRECT: u64 = 12;

/// Where a logical block's pointer is: a slot of `i_block`, then a slot in each indirect block.
struct Path {
    slots: [u64; 4],
    /// Indirect blocks on the way.
    depth: usize,
}

fn path_of(logical: u64, per_block: u64) -> Result<Path> {
    if logical < DIRECT {
        return Ok(Path { slots: [logical, 0, 0, 0], depth: 0 });
    }
    let mut rest = logical - DIRECT;
    if rest < per_block {
        return Ok(Path { slots: [12, rest, 0, 0], depth: 1 });
    }
    rest -= per_block;
    if rest < per_block * per_block {
        return Ok(Path { slots: [13, rest / per_block, rest % per_block, 0], depth: 2 });
    }
    rest -= per_block * per_block;
    if rest < per_block * per_block * per_block {
        return Ok(Path { slots: [14, rest / per_block / per_block, rest / per_block % per_block, rest % per_block], depth: 3 });
    }
    Err(Error::FileTooBig)
}

/// Logical blocks that the map can address.
pub(crate) fn logical_end(per_block: u64) -> u64 {
    (DIRECT + per_block + per_block * per_block + per_block * per_block * per_block).min(u64::from(u32::MAX))
}

/// What one removal looks for and has found.
struct Removal {
    lo: u64,
    hi: u64,
    limit: usize,
    blocks_left: u64,
    runs: Vec<(u64, u64)>,
    /// Something was left because a bound was reached.
    full: bool,
}

/// Blocks unmapped at once, so that the number of indirect blocks changed is bounded too.
const BLOCKS_PER_STEP: u64 = 8192;

impl Removal {
    /// False when no further run may be taken.
    fn take(&mut self, block: u64) -> bool {
        let count = self.runs.len();
        self.full |= self.blocks_left == 0;
        match self.runs.last_mut() {
            _ if self.full => return false,
            Some((start, len)) if *start + *len == block => *len += 1,
            _ if count >= self.limit => self.full = true,
            _ => self.runs.push((block, 1)),
        }
        self.blocks_left -= u64::from(!self.full);
        !self.full
    }
}

impl Core {
    fn check_pointer(&self, pointer: u32, holder: u64) -> Result<u64> {
        let block = u64::from(pointer);
        if block != 0 && !self.is_data_run(block, 1) {
            return corrupt(holder, "block pointer outside the data area");
        }
        Ok(block)
    }

    /// The block that `logical` is on, or 0 and how many blocks from there are surely unmapped; or how many follow in sequence.
    pub(crate) fn find_pointer(&self, inode: &Inode, logical: u64, want: u64) -> Result<(u64, u64)> {
        let per_block = self.geometry.pointers_per_block();
        let path = path_of(logical, per_block)?;
        let mut pointer = self.check_pointer(le32(inode.i_block(), path.slots[0] as usize * 4), inode.table_block)?;
        if path.depth == 0 {
            let mut len = 1;
            while len < want && logical + len < DIRECT {
                let next = u64::from(le32(inode.i_block(), (logical + len) as usize * 4));
                if next != if pointer == 0 { 0 } else { pointer + len } {
                    break;
                }
                len += 1;
            }
            return Ok((pointer, len));
        }
        for level in 1..=path.depth {
            if pointer == 0 {
                // The whole subtree is a hole.
                let span = per_block.pow((path.depth - level + 1) as u32);
                let within = path.slots[level..=path.depth].iter().fold(0, |sum, slot| sum * per_block + slot);
                return Ok((0, (span - within).min(want.max(1))));
            }
            let block = self.block(pointer)?;
            let slot = path.slots[level];
            let holder = pointer;
            pointer = self.check_pointer(le32(&block, slot as usize * 4), holder)?;
            if level == path.depth {
                let mut len = 1;
                while len < want && slot + len < per_block {
                    let next = u64::from(le32(&block, (slot + len) as usize * 4));
                    if next != if pointer == 0 { 0 } else { pointer + len } {
                        break;
                    }
                    len += 1;
                }
                return Ok((pointer, len));
            }
        }
        Ok((0, 1))
    }

    /// Points `len` unmapped logical blocks at consecutive blocks, making indirect blocks on the way.
    pub(crate) fn insert_pointers(&mut self, inode: &mut Inode, logical: u64, physical: u64, len: u64) -> Result<()> {
        if physical + len > u64::from(u32::MAX) {
            return Err(Error::NoSpace);
        }
        let per_block = self.geometry.pointers_per_block();
        for i in 0..len {
            let path = path_of(logical + i, per_block)?;
            let target = (physical + i) as u32;
            let at = path.slots[0] as usize * 4;
            if path.depth == 0 {
                put_le32(inode.i_block_mut(), at, target);
                continue;
            }
            let mut holder = self.check_pointer(le32(inode.i_block(), at), inode.table_block)?;
            if holder == 0 {
                holder = self.new_indirect(inode, physical)?;
                put_le32(inode.i_block_mut(), at, holder as u32);
            }
            for level in 1..path.depth {
                let slot = path.slots[level] as usize * 4;
                let mut next = self.check_pointer(le32(&self.block(holder)?, slot), holder)?;
                if next == 0 {
                    next = self.new_indirect(inode, physical)?;
                    put_le32(self.block_mut(holder, Seal::Plain)?, slot, next as u32);
                }
                holder = next;
            }
            put_le32(self.block_mut(holder, Seal::Plain)?, path.slots[path.depth] as usize * 4, target);
        }
        Ok(())
    }

    fn new_indirect(&mut self, inode: &mut Inode, goal: u64) -> Result<u64> {
        let block = self.allocate_metadata_block(inode, goal)?;
        if block > u64::from(u32::MAX) {
            return Err(Error::NoSpace);
        }
        self.new_block(block, Seal::Plain);
        Ok(block)
    }

    /// Unmaps up to `limit` runs in `lo..hi` and gives their blocks, with the indirect blocks that became empty given back. The second
    /// value tells whether nothing is left there.
    pub(crate) fn remove_pointers(&mut self, inode: &mut Inode, lo: u64, hi: u64, limit: usize) -> Result<(Vec<(u64, u64)>, bool)> {
        let per_block = self.geometry.pointers_per_block();
        let mut removal = Removal { lo, hi, limit, blocks_left: BLOCKS_PER_STEP, runs: Vec::new(), full: false };
        let mut base = 0;
        for slot in 0..15u64 {
            let level = slot.saturating_sub(11).min(3) as u32;
            let span = per_block.pow(level);
            let (start, end) = (base, base + span);
            base = end;
            if end <= lo || start >= hi {
                continue;
            }
            let pointer = self.check_pointer(le32(inode.i_block(), slot as usize * 4), inode.table_block)?;
            if pointer == 0 {
                continue;
            }
            if level == 0 {
                if !removal.take(pointer) {
                    break;
                }
                put_le32(inode.i_block_mut(), slot as usize * 4, 0);
            } else if self.clear_pointers(inode, pointer, level, start, &mut removal)? {
                self.free_metadata_block(inode, pointer)?;
                put_le32(inode.i_block_mut(), slot as usize * 4, 0);
            }
        }
        Ok((removal.runs, !removal.full))
    }

    /// True when the indirect block has no pointer left. Goes down one `level` with each call, three at most.
    fn clear_pointers(&mut self, inode: &mut Inode, home: u64, level: u32, base: u64, removal: &mut Removal) -> Result<bool> {
        let per_block = self.geometry.pointers_per_block();
        let span = per_block.pow(level - 1);
        let block = self.block(home)?;
        let mut pointers: Vec<u32> = block.chunks_exact(4).map(|raw| le32(raw, 0)).collect();
        drop(block);
        let mut changed = false;
        for (slot, pointer) in pointers.iter_mut().enumerate() {
            let start = base + slot as u64 * span;
            if *pointer == 0 || start + span <= removal.lo || start >= removal.hi || removal.full {
                continue;
            }
            let target = self.check_pointer(*pointer, home)?;
            if level == 1 {
                if !removal.take(target) {
                    continue;
                }
            } else if self.clear_pointers(inode, target, level - 1, start, removal)? {
                self.free_metadata_block(inode, target)?;
            } else {
                continue;
            }
            *pointer = 0;
            changed = true;
        }
        let empty = pointers.iter().all(|&p| p == 0);
        if changed && !empty {
            let bytes = self.block_mut(home, Seal::Plain)?;
            for (raw, pointer) in bytes.chunks_exact_mut(4).zip(&pointers) {
                put_le32(raw, 0, *pointer);
            }
        }
        Ok(empty)
    }
}
