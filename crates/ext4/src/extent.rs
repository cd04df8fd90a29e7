//! Extent trees: lookup, insertion, removal, and turning unwritten extents into written ones.
//!
//! Every change decodes the path from the root to one leaf, edits the leaf's entries as a plain list, and settles the path: an entry list
//! that grew too long is split, one that became empty is given back, and keys above follow.
//!
//! Not here: which blocks to take (`block_alloc`) and indirect blocks (`indirect`).
//!
//! Always true of a stored node: entries are sorted and do not overlap, and a child's key is the first logical block below it.
//!
//! Source: Linux `Documentation/filesystems/ext4/ifork.rst`.

use crate::cache::{Block, Kind};
use crate::core::{Core, Seal, has_right_checksum};
use crate::error::{Error, Result, corrupt};
use crate::field::{le16, le32, put_le16, put_le32};
use crate::inode::Inode;

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const MAX_DEPTH: u16 = 5;
/// Longest written extent; an unwritten one is a block shorter.
pub(crate) const MAX_WRITTEN: u32 = 32768;
pub(crate) const MAX_UNWRITTEN: u32 = 32767;
/// Logical block numbers end here.
pub(crate) const LOGICAL_END: u64 = 1 << 32;

/// A run of logical blocks on a run of physical blocks. In an index node: a key and its child, with length 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) logical: u32,
    pub(crate) len: u32,
    pub(crate) physical: u64,
    /// Allocated, but reads as zeroes.
    pub(crate) unwritten: bool,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.len)
    }

    fn max_len(&self) -> u32 {
        if self.unwritten { MAX_UNWRITTEN } else { MAX_WRITTEN }
    }

    /// The part of it inside `lo..hi`, which must touch it.
    fn clip(&self, lo: u64, hi: u64) -> Extent {
        let start = lo.max(u64::from(self.logical));
        let end = hi.min(self.end());
        Extent {
            logical: start as u32,
            len: (end - start) as u32,
            physical: self.physical + (start - u64::from(self.logical)),
            unwritten: self.unwritten,
        }
    }
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The extent that covers the block.
    pub(crate) extent: Option<Extent>,
    /// The last extent before the block, in the same leaf.
    pub(crate) before: Option<Extent>,
    /// Up to here nothing else is mapped, when `extent` is none.
    pub(crate) hole_end: u64,
}

fn decode(bytes: &[u8], index: usize, depth: u16) -> Extent {
    let at = HEADER + index * ENTRY;
    if depth > 0 {
        let physical = u64::from(le32(bytes, at + 4)) | u64::from(le16(bytes, at + 8)) << 32;
        return Extent { logical: le32(bytes, at), len: 0, physical, unwritten: false };
    }
    let raw = u32::from(le16(bytes, at + 4));
    let unwritten = raw > MAX_WRITTEN;
    Extent {
        logical: le32(bytes, at),
        len: if unwritten { raw - MAX_WRITTEN } else { raw },
        physical: u64::from(le32(bytes, at + 8)) | u64::from(le16(bytes, at + 6)) << 32,
        unwritten,
    }
}

fn encode(bytes: &mut [u8], index: usize, depth: u16, entry: &Extent) {
    let at = HEADER + index * ENTRY;
    put_le32(bytes, at, entry.logical);
    if depth > 0 {
        put_le32(bytes, at + 4, entry.physical as u32);
        put_le16(bytes, at + 8, (entry.physical >> 32) as u16);
        put_le16(bytes, at + 10, 0);
    } else {
        put_le16(bytes, at + 4, (entry.len + if entry.unwritten { MAX_WRITTEN } else { 0 }) as u16);
        put_le16(bytes, at + 6, (entry.physical >> 32) as u16);
        put_le32(bytes, at + 8, entry.physical as u32);
    }
}

fn capacity(len_bytes: usize) -> usize {
    (len_bytes - HEADER) / ENTRY
}

/// Makes an empty root in `i_block`.
pub(crate) fn make_root(i_block: &mut [u8]) {
    i_block.fill(0);
    put_le16(i_block, 0, MAGIC);
    put_le16(i_block, 4, capacity(i_block.len()) as u16);
}

struct Node {
    /// None for the root, in the inode.
    home: Option<u64>,
    depth: u16,
    entries: Vec<Extent>,
    capacity: usize,
    /// The entry that leads to the next node of a path.
    at: usize,
    changed: bool,
}

impl Core {
    fn check_node(&self, bytes: &[u8], home: u64) -> Result<()> {
        let (entries, max, depth) = (usize::from(le16(bytes, 2)), usize::from(le16(bytes, 4)), le16(bytes, 6));
        if le16(bytes, 0) != MAGIC {
            return corrupt(home, "extent header magic");
        }
        if max == 0 || max > capacity(bytes.len()) || entries > max || depth > MAX_DEPTH || (depth > 0 && entries == 0) {
            return corrupt(home, "extent header counts");
        }
        let mut end = 0;
        for index in 0..entries {
            let entry = decode(bytes, index, depth);
            let len = if depth > 0 { 1 } else { entry.len };
            if len == 0 || (index > 0 && u64::from(entry.logical) < end) || u64::from(entry.logical) + u64::from(len) > LOGICAL_END {
                return corrupt(home, "extent order");
            }
            if !self.is_data_run(entry.physical, u64::from(len)) {
                return corrupt(home, "extent outside the data area");
            }
            end = u64::from(entry.logical) + u64::from(len);
        }
        Ok(())
    }

    /// Reads the node below `parent` and checks it against its parent's depth.
    fn child_node(&self, inode: &Inode, home: u64, depth: u16) -> Result<Block> {
        let seed = inode.seed(&self.geometry);
        let block = self.checked(home, Kind::Extents, |bytes| {
            self.check_node(bytes, home)?;
            if !has_right_checksum(Seal::Extents(seed), home, bytes, &self.geometry) {
                return corrupt(home, "extent block checksum");
            }
            Ok(())
        })?;
        if le16(&block, 6) != depth {
            return corrupt(home, "extent depth");
        }
        Ok(block)
    }

    /// Finds the extent that covers `logical`, or the hole around it.
    pub(crate) fn find_extent(&self, inode: &Inode, logical: u32) -> Result<Found> {
        self.check_node(inode.i_block(), inode.table_block)?;
        let (mut hole_end, mut depth) = (LOGICAL_END, le16(inode.i_block(), 6));
        let mut block: Option<Block> = None;
        loop {
            let bytes = block.as_ref().map_or(inode.i_block(), |b| &b[..]);
            let after = partition(bytes, depth, logical);
            if after < usize::from(le16(bytes, 2)) {
                hole_end = hole_end.min(u64::from(decode(bytes, after, depth).logical));
            }
            if depth == 0 {
                let before = after.checked_sub(1).map(|i| decode(bytes, i, 0));
                let extent = before.filter(|e| e.end() > u64::from(logical));
                return Ok(Found { extent, before, hole_end });
            }
            let Some(index) = after.checked_sub(1) else {
                return Ok(Found { extent: None, before: None, hole_end });
            };
            let child = decode(bytes, index, depth).physical;
            depth -= 1;
            block = Some(self.child_node(inode, child, depth)?);
        }
    }

    fn load_path(&self, inode: &Inode, logical: u32) -> Result<Vec<Node>> {
        self.check_node(inode.i_block(), inode.table_block)?;
        let mut path = vec![node_of(inode.i_block(), None)];
        while let Some(last) = path.last_mut() {
            if last.depth == 0 {
                break;
            }
            last.at = last.entries.partition_point(|e| e.logical <= logical).saturating_sub(1);
            let (child, depth) = (last.entries[last.at].physical, last.depth - 1);
            let block = self.child_node(inode, child, depth)?;
            path.push(node_of(&block, Some(child)));
        }
        Ok(path)
    }

    /// Edits the leaf that `logical` belongs to, and repairs the tree above it.
    fn edit_leaf<T>(&mut self, inode: &mut Inode, logical: u32, edit: impl FnOnce(&mut Vec<Extent>) -> T) -> Result<T> {
        let mut path = self.load_path(inode, logical)?;
        let Some(leaf) = path.last_mut() else { return corrupt(inode.table_block, "extent path") };
        let result = edit(&mut leaf.entries);
        coalesce(&mut leaf.entries);
        leaf.changed = true;
        let mut level = path.len() - 1;
        loop {
            let len = path[level].entries.len();
            if len == 0 && level > 0 {
                let node = path.remove(level);
                if let Some(home) = node.home {
                    self.free_metadata_block(inode, home)?;
                }
                let parent = &mut path[level - 1];
                parent.entries.remove(parent.at);
                parent.changed = true;
            } else if len > path[level].capacity {
                if level == 0 {
                    self.grow_root(inode, &mut path)?;
                    level = 1;
                    continue;
                }
                self.split(inode, &mut path, level, logical)?;
            }
            if let Some(node) = path.get(level).filter(|node| node.changed) {
                let first = node.entries.first().map(|e| e.logical);
                self.store_node(inode, node)?;
                if let (Some(first), true) = (first, level > 0) {
                    let parent = &mut path[level - 1];
                    let key = &mut parent.entries[parent.at].logical;
                    parent.changed |= *key != first;
                    *key = first;
                }
            }
            if level == 0 {
                return Ok(result);
            }
            level -= 1;
        }
    }

    fn store_node(&mut self, inode: &mut Inode, node: &Node) -> Result<()> {
        let depth = if node.entries.is_empty() { 0 } else { node.depth };
        let seed = inode.seed(&self.geometry);
        let bytes = match node.home {
            None => inode.i_block_mut(),
            Some(home) => self.new_block(home, Seal::Extents(seed)),
        };
        make_root(bytes);
        put_le16(bytes, 2, node.entries.len() as u16);
        put_le16(bytes, 4, node.capacity as u16);
        put_le16(bytes, 6, depth);
        for (index, entry) in node.entries.iter().enumerate() {
            encode(bytes, index, depth, entry);
        }
        Ok(())
    }

    /// Moves the root's entries to a new block below it.
    fn grow_root(&mut self, inode: &mut Inode, path: &mut Vec<Node>) -> Result<()> {
        let root = &mut path[0];
        if root.depth >= MAX_DEPTH {
            return Err(Error::FileTooBig);
        }
        let goal = root.entries.first().map_or(0, |e| e.physical);
        let home = self.allocate_metadata_block(inode, goal)?;
        let entries = std::mem::take(&mut root.entries);
        let first = entries.first().map_or(0, |e| e.logical);
        let (depth, at) = (root.depth, root.at);
        root.depth += 1;
        root.at = 0;
        root.entries = vec![Extent { logical: first, len: 0, physical: home, unwritten: false }];
        root.changed = true;
        let capacity = capacity(self.geometry.block_size);
        path.insert(1, Node { home: Some(home), depth, entries, capacity, at, changed: true });
        Ok(())
    }

    /// Moves the end of a node's entries to a new node behind it: only what is too much when the file grows at its end, else half.
    fn split(&mut self, inode: &mut Inode, path: &mut [Node], level: usize, logical: u32) -> Result<()> {
        let node = &path[level];
        let (len, goal) = (node.entries.len(), node.home.unwrap_or(0));
        let appending = node.entries.get(len - 1).is_some_and(|e| u64::from(logical) + 1 >= u64::from(e.logical));
        let keep = if appending { node.capacity } else { len / 2 };
        let home = self.allocate_metadata_block(inode, goal)?;
        let node = &mut path[level];
        let entries = node.entries.split_off(keep);
        node.changed = true;
        let key = Extent { logical: entries.first().map_or(0, |e| e.logical), len: 0, physical: home, unwritten: false };
        let right = Node { home: Some(home), depth: node.depth, entries, capacity: node.capacity, at: 0, changed: true };
        self.store_node(inode, &right)?;
        let parent = &mut path[level - 1];
        parent.entries.insert(parent.at + 1, key);
        parent.changed = true;
        Ok(())
    }

    /// Maps a run that is not mapped.
    pub(crate) fn insert_extent(&mut self, inode: &mut Inode, extent: Extent) -> Result<()> {
        self.edit_leaf(inode, extent.logical, |entries| {
            let at = entries.partition_point(|e| e.logical < extent.logical);
            entries.insert(at, extent);
        })
    }

    /// Unmaps up to `limit` runs in `lo..hi` and gives their blocks. The second value tells whether nothing is left there.
    pub(crate) fn remove_extents(&mut self, inode: &mut Inode, lo: u64, hi: u64, limit: usize) -> Result<(Vec<(u64, u64)>, bool)> {
        let mut removed = Vec::new();
        while removed.len() < limit {
            let Some(next) = self.next_extent(inode, lo, hi)? else { return Ok((removed, true)) };
            let room = limit - removed.len();
            let gone = self.edit_leaf(inode, next.logical, |entries| {
                let (mut gone, mut kept) = (Vec::new(), Vec::with_capacity(entries.len() + 1));
                for e in entries.drain(..) {
                    if e.end() <= lo || u64::from(e.logical) >= hi || gone.len() >= room {
                        kept.push(e);
                        continue;
                    }
                    if u64::from(e.logical) < lo {
                        kept.push(e.clip(0, lo));
                    }
                    let middle = e.clip(lo, hi);
                    gone.push((middle.physical, u64::from(middle.len)));
                    if e.end() > hi {
                        kept.push(e.clip(hi, LOGICAL_END));
                    }
                }
                *entries = kept;
                gone
            })?;
            if gone.is_empty() {
                return corrupt(inode.table_block, "extent keys");
            }
            removed.extend(gone);
        }
        Ok((removed, false))
    }

    /// Marks all of `lo..hi` that is mapped as written or unwritten, at most `limit` leaves at once. Gives where to go on, `hi` at the end.
    pub(crate) fn mark_extents(&mut self, inode: &mut Inode, lo: u64, hi: u64, unwritten: bool, limit: usize) -> Result<u64> {
        let mut at = lo;
        for _ in 0..limit {
            let Some(next) = self.next_extent(inode, at, hi)? else { return Ok(hi) };
            if next.unwritten == unwritten {
                at = next.end();
                continue;
            }
            // One extent at a time: splitting adds two entries at most, which one split of the leaf can always take.
            at = self.edit_leaf(inode, next.logical, |entries| {
                let Some(i) = entries.iter().position(|e| e.logical == next.logical) else { return next.end() };
                let middle = Extent { unwritten, ..next.clip(at, hi) };
                let mut parts = Vec::with_capacity(3);
                if u64::from(next.logical) < u64::from(middle.logical) {
                    parts.push(next.clip(0, u64::from(middle.logical)));
                }
                parts.extend(pieces(middle));
                if next.end() > middle.end() {
                    parts.push(next.clip(middle.end(), LOGICAL_END));
                }
                entries.splice(i..=i, parts);
                middle.end()
            })?;
            if at >= hi {
                return Ok(hi);
            }
        }
        Ok(at)
    }

    /// How many blocks the tree itself takes below the root.
    pub(crate) fn tree_blocks(&self, inode: &Inode) -> Result<u64> {
        self.check_node(inode.i_block(), inode.table_block)?;
        let root = node_of(inode.i_block(), None);
        let mut todo: Vec<(u64, u16)> =
            if root.depth > 0 { root.entries.iter().map(|e| (e.physical, root.depth - 1)).collect() } else { Vec::new() };
        let mut count = 0;
        while let Some((home, depth)) = todo.pop() {
            count += 1;
            if count > self.geometry.blocks_count {
                return corrupt(home, "extent tree: more blocks than there are");
            }
            if depth > 0 {
                let node = node_of(&self.child_node(inode, home, depth)?, Some(home));
                todo.extend(node.entries.iter().map(|e| (e.physical, depth - 1)));
            }
        }
        Ok(count)
    }

    /// The first extent that touches `lo..hi`.
    pub(crate) fn next_extent(&self, inode: &Inode, lo: u64, hi: u64) -> Result<Option<Extent>> {
        let mut at = lo;
        while at < hi.min(LOGICAL_END) {
            let found = self.find_extent(inode, at as u32)?;
            if found.extent.is_some() {
                return Ok(found.extent);
            }
            if found.hole_end <= at {
                return corrupt(inode.table_block, "extent keys");
            }
            at = found.hole_end;
        }
        Ok(None)
    }
}

fn node_of(bytes: &[u8], home: Option<u64>) -> Node {
    let depth = le16(bytes, 6);
    let entries = (0..usize::from(le16(bytes, 2))).map(|i| decode(bytes, i, depth)).collect();
    Node { home, depth, entries, capacity: usize::from(le16(bytes, 4)), at: 0, changed: false }
}

/// How many entries start at or before `logical`.
fn partition(bytes: &[u8], depth: u16, logical: u32) -> usize {
    let (mut low, mut high) = (0, usize::from(le16(bytes, 2)));
    while low < high {
        let middle = (low + high) / 2;
        if decode(bytes, middle, depth).logical <= logical {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// An extent in parts that an entry can hold.
fn pieces(extent: Extent) -> Vec<Extent> {
    let (mut rest, mut parts) = (extent, Vec::new());
    while rest.len > rest.max_len() {
        let max = rest.max_len();
        parts.push(Extent { len: max, ..rest });
        rest = Extent { logical: rest.logical + max, len: rest.len - max, physical: rest.physical + u64::from(max), ..rest };
    }
    parts.push(rest);
    parts
}

/// Joins neighbours that continue each other.
fn coalesce(entries: &mut Vec<Extent>) {
    entries.dedup_by(|next, last| {
        let joins = last.len > 0
            && last.unwritten == next.unwritten
            && last.end() == u64::from(next.logical)
            && last.physical + u64::from(last.len) == next.physical
            && last.len + next.len <= last.max_len();
        if joins {
            last.len += next.len;
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_only_up_to_the_longest_extent() {
        let extent = |logical, len, physical, unwritten| Extent { logical, len, physical, unwritten };
        let mut entries = vec![
            extent(0, 5, 100, false),
            extent(5, 5, 105, false),
            extent(10, 5, 110, true),
            extent(15, 32760, 115, true),
            extent(40000, 1, 1, true),
        ];
        coalesce(&mut entries);
        assert_eq!(entries, vec![extent(0, 10, 100, false), extent(10, 32765, 110, true), extent(40000, 1, 1, true)]);
        let parts = pieces(extent(0, 32768, 7, true));
        assert_eq!(parts, vec![extent(0, 32767, 7, true), extent(32767, 1, 32774, true)]);
    }
}
