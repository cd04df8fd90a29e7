//! All metadata of a mounted file system, and the one way to change it.
//!
//! What is changed lives in the running transaction as copies; what was committed but not yet written home lives in `logged`; the rest is
//! read through the cache. Every change inside an operation is remembered in an [`Undo`], so an operation that fails, for whatever reason
//! and at whatever depth, is taken back whole and no code here has a clean-up path of its own.
//!
//! Not here: the disk order of a commit (`journal`), waiting (`filesystem`), and any structure's meaning.
//!
//! Always true: a freed block is not allocated again before the transaction that freed it has committed; a block is in `running` only
//! if this transaction changed it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use block::{BlockDevice, Durability, SECTOR_SIZE};

use crate::cache::{Block, BlockData, Cache, Kind};
use crate::checksum::crc32c;
use crate::error::{Error, Result, corrupt};
use crate::field::{le16, le32, part, put_le32, put_part};
use crate::group::{self, Group};
use crate::superblock::{self, Geometry, Superblock};

/// How a block's checksum is made when its transaction is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seal {
    /// It has none.
    Plain,
    /// A linear directory block or htree leaf, with the inode's seed.
    DirectoryLeaf(u32),
    /// An htree root or node, with the inode's seed.
    DirectoryIndex(u32),
    /// An extent tree block, with the inode's seed.
    Extents(u32),
    /// An attribute block.
    Attributes,
    /// A block of the orphan file, with that inode's seed.
    OrphanFile(u32),
    /// The block bitmap of a group.
    BlockBitmap(u32),
    /// The inode bitmap of a group.
    InodeBitmap(u32),
}

#[derive(Clone)]
pub(crate) struct Dirty {
    pub(crate) block: Block,
    pub(crate) seal: Seal,
}

/// Blocks of one group that are free on disk but must not be used yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// First cluster, counted in the group.
    pub(crate) start: u32,
    pub(crate) len: u32,
    /// The transaction that freed them.
    pub(crate) tid: u32,
}

/// The transaction that operations add to.
#[derive(Default)]
pub(crate) struct Running {
    pub(crate) tid: u32,
    pub(crate) blocks: HashMap<u64, Dirty>,
    pub(crate) revoked: HashSet<u64>,
    groups: BTreeSet<u32>,
    superblock: bool,
}

/// What takes an operation back.
#[derive(Default)]
struct Undo {
    blocks: HashMap<u64, Option<Dirty>>,
    groups: HashMap<u32, Group>,
    superblock: Option<Superblock>,
    newly_revoked: Vec<u64>,
    held: Vec<u32>,
    inodes: Vec<(u32, Option<u32>)>,
    orphans: Vec<(u32, bool)>,
    free_clusters: u64,
    free_inodes: u64,
    forgotten: Vec<u64>,
}

/// A transaction taken out for commit: nothing changes it any more.
pub(crate) struct Sealed {
    pub(crate) tid: u32,
    /// Home block and content, in order of block number.
    pub(crate) blocks: Vec<(u64, Block)>,
    pub(crate) revoked: Vec<u64>,
}

/// The metadata of one file system.
pub(crate) struct Core {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) geometry: Arc<Geometry>,
    pub(crate) superblock: Superblock,
    pub(crate) groups: Vec<Group>,
    pub(crate) free_clusters: u64,
    pub(crate) free_inodes: u64,
    /// Clusters promised to delayed allocation.
    pub(crate) reserved_clusters: u64,
    pub(crate) running: Running,
    /// Committed, not yet written home.
    pub(crate) logged: HashMap<u64, Block>,
    pub(crate) held: HashMap<u32, Vec<Held>>,
    /// The sum of `held`.
    pub(crate) held_clusters: u64,
    /// Inodes changed by transactions that have not committed, with the last one's number.
    pub(crate) changed_inodes: HashMap<u32, u32>,
    /// Inodes on the orphan list or in the orphan file.
    pub(crate) orphans: HashSet<u32>,
    /// Longest free run of each group as last seen; `None` where unknown.
    pub(crate) longest_free: HashMap<u32, u32>,
    /// Groups whose bitmaps contradict themselves: nothing is allocated there any more.
    pub(crate) corrupt_groups: HashSet<u32>,
    /// Sorted, disjoint runs of blocks that hold the file system's own metadata.
    pub(crate) system_blocks: Vec<(u64, u64)>,
    pub(crate) next_generation: u32,
    cache: Cache,
    undo: Option<Undo>,
    descriptor_table: Vec<Vec<u8>>,
}

/// Reads `block` whole from a device.
pub(crate) fn read_device(device: &dyn BlockDevice, block: u64, g: &Geometry) -> Result<Vec<u8>> {
    let mut bytes = vec![0; g.block_size];
    device.read(block * (g.block_size / SECTOR_SIZE) as u64, &mut bytes)?;
    Ok(bytes)
}

impl Core {
    /// Reads and checks the superblock and all group descriptors.
    pub(crate) fn load(device: Arc<dyn BlockDevice>, cache_blocks: usize) -> Result<Core> {
        let mut raw = vec![0; superblock::LEN_BYTES];
        let device_bytes = device.sectors().saturating_mul(SECTOR_SIZE as u64);
        if device_bytes < superblock::OFFSET_BYTES + superblock::LEN_BYTES as u64 {
            return Err(Error::NotExt("the device is too small"));
        }
        device.read(superblock::OFFSET_BYTES / SECTOR_SIZE as u64, &mut raw)?;
        let (superblock, geometry) = Superblock::parse(raw, device_bytes)?;
        let mut core = Core {
            device,
            superblock,
            groups: Vec::new(),
            free_clusters: 0,
            free_inodes: 0,
            reserved_clusters: 0,
            running: Running { tid: 1, ..Running::default() },
            logged: HashMap::new(),
            held: HashMap::new(),
            held_clusters: 0,
            changed_inodes: HashMap::new(),
            orphans: HashSet::new(),
            longest_free: HashMap::new(),
            corrupt_groups: HashSet::new(),
            system_blocks: Vec::new(),
            next_generation: crc32c(geometry.checksum_seed, &geometry.blocks_count.to_le_bytes()),
            cache: Cache::new(cache_blocks),
            undo: None,
            descriptor_table: Vec::new(),
            geometry: Arc::new(geometry),
        };
        core.load_groups()?;
        core.find_system_blocks();
        Ok(core)
    }

    fn load_groups(&mut self) -> Result<()> {
        let g = self.geometry.clone();
        let per_block = g.descriptors_per_block();
        for index in 0..g.descriptor_blocks() {
            let block = group::descriptor_block(index, &self.superblock, &g);
            if block >= g.blocks_count {
                return corrupt(block, "group descriptors outside the file system");
            }
            let raw = read_device(self.device.as_ref(), block, &g)?;
            for (i, descriptor) in raw.chunks_exact(g.descriptor_size).enumerate() {
                let number = index * per_block + i as u32;
                if number >= g.groups {
                    break;
                }
                let group = Group::parse(descriptor, number, block, &self.superblock, &g)?;
                self.free_clusters += u64::from(group.free_clusters);
                self.free_inodes += u64::from(group.free_inodes);
                self.groups.push(group);
            }
            self.descriptor_table.push(raw);
        }
        Ok(())
    }

    fn find_system_blocks(&mut self) {
        let g = &self.geometry;
        let mut runs = Vec::with_capacity(self.groups.len() * 3);
        for (number, group) in self.groups.iter().enumerate() {
            let leading = group::leading_blocks(number as u32, &self.superblock, g);
            if leading > 0 {
                runs.push((g.group_first_block(number as u32), leading));
            }
            runs.push((group.block_bitmap, 1));
            runs.push((group.inode_bitmap, 1));
            runs.push((group.inode_table, u64::from(g.inode_table_blocks())));
        }
        runs.push((0, group::superblock_block(g) + 1));
        runs.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, len) in runs {
            match merged.last_mut() {
                Some((s, l)) if *s + *l >= start => *l = (*l).max(start + len - *s),
                _ => merged.push((start, len)),
            }
        }
        self.system_blocks = merged;
    }

    /// Whether a run of blocks may belong to a file: inside the file system and apart from its own metadata.
    pub(crate) fn is_data_run(&self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        if start <= self.geometry.first_data_block || end > self.geometry.blocks_count {
            return false;
        }
        let after = self.system_blocks.partition_point(|&(s, _)| s < end);
        after == 0 || self.system_blocks.get(after - 1).is_none_or(|&(s, l)| s + l <= start)
    }

    /// The current content of a metadata block.
    pub(crate) fn block(&self, number: u64) -> Result<Block> {
        if let Some(dirty) = self.running.blocks.get(&number) {
            return Ok(dirty.block.clone());
        }
        if let Some(block) = self.logged.get(&number) {
            return Ok(block.clone());
        }
        if let Some(block) = self.cache.get(number) {
            return Ok(block);
        }
        if number >= self.geometry.blocks_count {
            return corrupt(number, "block number past the end");
        }
        let bytes = read_device(self.device.as_ref(), number, &self.geometry)?;
        let block = Arc::new(BlockData::new(bytes, Kind::Unknown));
        self.cache.insert(number, block.clone());
        Ok(block)
    }

    /// The content of a block after `check` accepted it as `kind`; it is asked once for each time the block is loaded.
    pub(crate) fn checked(&self, number: u64, kind: Kind, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Block> {
        let block = self.block(number)?;
        if !block.is_checked(kind) {
            check(&block)?;
            block.set_checked(kind);
        }
        Ok(block)
    }

    /// A block to change in the running transaction. Its content must have been read (and checked) before.
    pub(crate) fn block_mut(&mut self, number: u64, seal: Seal) -> Result<&mut [u8]> {
        let block = self.block(number)?;
        Ok(self.dirty(number, block, seal))
    }

    /// A block whose old content does not matter: all zeroes, to be filled.
    pub(crate) fn new_block(&mut self, number: u64, seal: Seal) -> &mut [u8] {
        let block = Arc::new(BlockData::new(vec![0; self.geometry.block_size], seal.kind()));
        self.dirty(number, block, seal)
    }

    fn dirty(&mut self, number: u64, block: Block, seal: Seal) -> &mut [u8] {
        let old = self.running.blocks.remove(&number);
        if let Some(undo) = &mut self.undo {
            undo.blocks.entry(number).or_insert_with(|| old.clone());
        }
        drop(old);
        let entry = self.running.blocks.entry(number).or_insert(Dirty { block, seal });
        Arc::make_mut(&mut entry.block).bytes_mut()
    }

    /// A metadata block was freed: whatever is known of it must never be written or replayed.
    pub(crate) fn forget(&mut self, number: u64) {
        let old = self.running.blocks.remove(&number);
        let newly = self.running.revoked.insert(number);
        self.cache.remove(number);
        if let Some(undo) = &mut self.undo {
            undo.blocks.entry(number).or_insert(old);
            undo.forgotten.push(number);
            if newly {
                undo.newly_revoked.push(number);
            }
        }
    }

    pub(crate) fn group(&self, number: u32) -> Result<&Group> {
        self.groups.get(number as usize).ok_or(Error::Corrupt { block: 0, what: "group number" })
    }

    /// A group's descriptor to change; it is stored when the transaction is sealed.
    pub(crate) fn group_mut(&mut self, number: u32) -> Result<&mut Group> {
        let group = self.groups.get_mut(number as usize).ok_or(Error::Corrupt { block: 0, what: "group number" })?;
        if let Some(undo) = &mut self.undo {
            undo.groups.entry(number).or_insert_with(|| group.clone());
        }
        self.running.groups.insert(number);
        self.running.superblock = true;
        Ok(group)
    }

    pub(crate) fn superblock_mut(&mut self) -> &mut Superblock {
        if let Some(undo) = &mut self.undo {
            undo.superblock.get_or_insert_with(|| self.superblock.clone());
        }
        self.running.superblock = true;
        &mut self.superblock
    }

    /// Keeps freed clusters from being used before this transaction commits.
    pub(crate) fn hold(&mut self, group: u32, start: u32, len: u32) {
        let tid = self.running.tid;
        self.held.entry(group).or_default().push(Held { start, len, tid });
        self.held_clusters += u64::from(len);
        if let Some(undo) = &mut self.undo {
            undo.held.push(group);
        }
    }

    /// Notes that an inode is part of the running transaction, for fsync.
    pub(crate) fn note_inode(&mut self, ino: u32) {
        let old = self.changed_inodes.insert(ino, self.running.tid);
        if let Some(undo) = self.undo.as_mut().filter(|_| old != Some(self.running.tid)) {
            undo.inodes.push((ino, old));
        }
    }

    /// Adds to or removes from the set of known orphans.
    pub(crate) fn note_orphan(&mut self, ino: u32, is_orphan: bool) {
        let changed = if is_orphan { self.orphans.insert(ino) } else { self.orphans.remove(&ino) };
        if let Some(undo) = self.undo.as_mut().filter(|_| changed) {
            undo.orphans.push((ino, !is_orphan));
        }
    }

    /// Starts an operation: what follows can be taken back until [`Core::end_operation`].
    pub(crate) fn begin_operation(&mut self) {
        // Left behind only by a task that died in the middle of one.
        self.take_back();
        self.undo = Some(Undo { free_clusters: self.free_clusters, free_inodes: self.free_inodes, ..Undo::default() });
    }

    pub(crate) fn end_operation(&mut self) {
        self.undo = None;
    }

    /// Makes everything as it was at [`Core::begin_operation`].
    pub(crate) fn take_back(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        for (number, old) in undo.blocks {
            match old {
                Some(dirty) => self.running.blocks.insert(number, dirty),
                None => self.running.blocks.remove(&number),
            };
        }
        for (number, old) in undo.groups {
            if let Some(group) = self.groups.get_mut(number as usize) {
                *group = old;
            }
            self.longest_free.remove(&number);
        }
        if let Some(old) = undo.superblock {
            self.superblock = old;
        }
        for number in undo.newly_revoked {
            self.running.revoked.remove(&number);
        }
        for group in undo.held.into_iter().rev() {
            if let Some(run) = self.held.get_mut(&group).and_then(Vec::pop) {
                self.held_clusters -= u64::from(run.len);
            }
        }
        for (ino, old) in undo.inodes.into_iter().rev() {
            match old {
                Some(tid) => self.changed_inodes.insert(ino, tid),
                None => self.changed_inodes.remove(&ino),
            };
        }
        for (ino, was) in undo.orphans.into_iter().rev() {
            if was {
                self.orphans.insert(ino)
            } else {
                self.orphans.remove(&ino)
            };
        }
        for number in undo.forgotten {
            self.cache.remove(number);
        }
        self.free_clusters = undo.free_clusters;
        self.free_inodes = undo.free_inodes;
    }

    pub(crate) fn is_running_empty(&self) -> bool {
        let running = &self.running;
        running.blocks.is_empty() && running.revoked.is_empty() && running.groups.is_empty() && !running.superblock
    }

    /// Most blocks that the running transaction will have when it is sealed, and its revoke records.
    pub(crate) fn running_len(&self) -> (usize, usize) {
        (self.running.blocks.len() + self.running.groups.len() + 1, self.running.revoked.len())
    }

    /// Takes the running transaction out, complete and with all checksums, and starts the next. Its blocks join `logged`.
    pub(crate) fn seal_running(&mut self) -> Sealed {
        self.take_back();
        let tid = self.running.tid;
        let mut running = std::mem::replace(&mut self.running, Running { tid: tid.wrapping_add(1), ..Running::default() });
        for (number, dirty) in &mut running.blocks {
            self.seal(*number, dirty, &mut running.groups);
        }
        self.store_descriptors(&mut running);
        if running.superblock {
            self.store_superblock(&mut running);
        }
        // No group is both uninitialised in memory and changed: the cache must not serve what was read before the change.
        let mut blocks: Vec<(u64, Block)> = running.blocks.into_iter().map(|(number, dirty)| (number, dirty.block)).collect();
        blocks.sort_unstable_by_key(|(number, _)| *number);
        for (number, block) in &blocks {
            self.cache.remove(*number);
            self.logged.insert(*number, block.clone());
        }
        Sealed { tid, blocks, revoked: running.revoked.into_iter().collect() }
    }

    fn seal(&mut self, number: u64, dirty: &mut Dirty, changed: &mut BTreeSet<u32>) {
        let g = self.geometry.clone();
        dirty.block.set_checked(dirty.seal.kind());
        if !g.has_metadata_csum() {
            return;
        }
        match dirty.seal {
            Seal::BlockBitmap(group) => {
                let sum = group::bitmap_checksum(&dirty.block, g.clusters_per_group, &g);
                if let Some(group) = self.groups.get_mut(group as usize) {
                    group.block_bitmap_checksum = sum;
                }
                changed.insert(group);
            }
            Seal::InodeBitmap(group) => {
                let sum = group::bitmap_checksum(&dirty.block, g.inodes_per_group, &g);
                if let Some(group) = self.groups.get_mut(group as usize) {
                    group.inode_bitmap_checksum = sum;
                }
                changed.insert(group);
            }
            seal => {
                if let Some((at, sum)) = checksum_of(seal, number, &dirty.block, &g) {
                    put_le32(Arc::make_mut(&mut dirty.block).bytes_mut(), at, sum);
                }
            }
        }
    }

    fn store_descriptors(&mut self, running: &mut Running) {
        let g = self.geometry.clone();
        for number in std::mem::take(&mut running.groups) {
            let index = number / g.descriptors_per_block();
            let at = (number % g.descriptors_per_block()) as usize * g.descriptor_size;
            let (Some(raw), Some(group)) = (self.descriptor_table.get_mut(index as usize), self.groups.get(number as usize)) else {
                continue;
            };
            if let Some(descriptor) = raw.get_mut(at..at + g.descriptor_size) {
                group.store(descriptor, number, &self.superblock, &g);
            }
            let home = group::descriptor_block(index, &self.superblock, &g);
            let block = Arc::new(BlockData::new(raw.clone(), Kind::Unknown));
            running.blocks.insert(home, Dirty { block, seal: Seal::Plain });
        }
    }

    fn store_superblock(&mut self, running: &mut Running) {
        let g = self.geometry.clone();
        self.superblock.set_free_counts(&g, self.free_clusters << g.cluster_bits, self.free_inodes as u32);
        let home = group::superblock_block(&g);
        let at = (superblock::OFFSET_BYTES - home * g.block_size as u64) as usize;
        let mut bytes = match self.block(home) {
            Ok(block) => block.to_vec(),
            // The rest of block 0 is the boot loader's; where it can't be read there is nothing to keep.
            Err(_) => vec![0; g.block_size],
        };
        put_part(&mut bytes, at, self.superblock.sealed(&g));
        running.blocks.insert(home, Dirty { block: Arc::new(BlockData::new(bytes, Kind::Unknown)), seal: Seal::Plain });
    }

    /// Writes the superblock now, outside every transaction: mount, unmount and error reports do.
    pub(crate) fn write_superblock_directly(&mut self) -> Result<()> {
        let g = self.geometry.clone();
        self.superblock.set_free_counts(&g, self.free_clusters << g.cluster_bits, self.free_inodes as u32);
        let raw = self.superblock.sealed(&g).to_vec();
        let home = group::superblock_block(&g);
        self.cache.remove(home);
        if let Some(block) = self.logged.get_mut(&home) {
            put_part(Arc::make_mut(block).bytes_mut(), (superblock::OFFSET_BYTES - home * g.block_size as u64) as usize, &raw);
        }
        Ok(self.device.write(superblock::OFFSET_BYTES / SECTOR_SIZE as u64, &raw, Durability::ForceUnitAccess)?)
    }

    /// After transaction `tid` is safe: what it freed may be used again. Gives the runs of blocks that became free.
    pub(crate) fn release_held(&mut self, tid: u32) -> Vec<(u64, u64)> {
        let g = self.geometry.clone();
        let mut freed = Vec::new();
        self.held.retain(|&group, runs| {
            runs.retain(|run| {
                let done = !is_after(run.tid, tid);
                if done {
                    let start = g.group_first_block(group) + (u64::from(run.start) << g.cluster_bits);
                    freed.push((start, u64::from(run.len) << g.cluster_bits));
                }
                !done
            });
            !runs.is_empty()
        });
        self.held_clusters -= freed.iter().map(|(_, len)| len >> g.cluster_bits).sum::<u64>();
        freed.sort_unstable();
        self.changed_inodes.retain(|_, changed| is_after(*changed, tid));
        freed
    }

    /// Moves a block whose checkpoint is done to the clean cache.
    pub(crate) fn checkpointed(&mut self, number: u64, written: &Block) {
        if self.logged.get(&number).is_some_and(|block| Arc::ptr_eq(block, written)) {
            self.logged.remove(&number);
            self.cache.insert(number, written.clone());
        }
    }

    /// Drops clean metadata from memory.
    pub(crate) fn drop_clean(&self) {
        self.cache.clear();
    }
}

/// Whether transaction `a` comes after `b`; numbers wrap.
pub(crate) fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Seal {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Seal::Plain => Kind::Unknown,
            Seal::DirectoryLeaf(_) => Kind::DirectoryLeaf,
            Seal::DirectoryIndex(_) => Kind::DirectoryIndex,
            Seal::Extents(_) => Kind::Extents,
            Seal::Attributes => Kind::Attributes,
            Seal::OrphanFile(_) => Kind::OrphanFile,
            Seal::BlockBitmap(_) => Kind::BlockBitmap,
            Seal::InodeBitmap(_) => Kind::InodeBitmap,
        }
    }
}

/// Where the checksum of such a block lies, and what it must be; `None` for kinds whose checksum is elsewhere.
pub(crate) fn checksum_of(seal: Seal, number: u64, bytes: &[u8], g: &Geometry) -> Option<(usize, u32)> {
    let len = bytes.len();
    match seal {
        Seal::DirectoryLeaf(seed) => Some((len - 4, crc32c(seed, part(bytes, 0, len - 12)))),
        Seal::DirectoryIndex(seed) => {
            // The root has its counts after "." and "..", a node after one empty entry that spans the block.
            let at = if usize::from(le16(bytes, 4)) == 12 { 32 } else { 8 };
            let (limit, count) = (usize::from(le16(bytes, at)), usize::from(le16(bytes, at + 2)));
            let tail = at + limit * 8;
            let sum = crc32c(crc32c(crc32c(seed, part(bytes, 0, at + count * 8)), part(bytes, tail, 4)), &[0; 4]);
            (tail + 8 <= len).then_some((tail + 4, sum))
        }
        Seal::Extents(seed) => {
            let tail = 12 + 12 * usize::from(le16(bytes, 4));
            (tail + 4 <= len).then(|| (tail, crc32c(seed, part(bytes, 0, tail))))
        }
        Seal::Attributes => {
            let sum = crc32c(g.checksum_seed, &number.to_le_bytes());
            Some((16, crc32c(crc32c(crc32c(sum, part(bytes, 0, 16)), &[0; 4]), part(bytes, 20, len))))
        }
        Seal::OrphanFile(seed) => {
            let sum = crc32c(seed, &number.to_le_bytes());
            Some((len - 4, crc32c(sum, part(bytes, 0, len - 8))))
        }
        Seal::Plain | Seal::BlockBitmap(_) | Seal::InodeBitmap(_) => None,
    }
}

/// Checks a block's own checksum; true where the image has none.
pub(crate) fn has_right_checksum(seal: Seal, number: u64, bytes: &[u8], g: &Geometry) -> bool {
    !g.has_metadata_csum() || checksum_of(seal, number, bytes, g).is_some_and(|(at, sum)| le32(bytes, at) == sum)
}
