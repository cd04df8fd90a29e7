//! The bitmap of a COW file: which sectors of the device live in the COW file rather than in its backing file.
//!
//! Not here: when bits may reach the disk. [`crate::device`] decides that, after the data is durable; this keeps them apart until then.
//!
//! Always true: a bit that was set stays set; what [`Bitmap::begin_write_out`] hands over are only bits that were set before the call; a
//! chunk with bits that are not yet on disk stays in memory. Sector *s* is bit `s % 8`, least significant first, of byte `s / 8`.

use std::collections::BTreeMap;
use std::ops::Range;

use abi::Errno;

/// Bytes of bitmap that are read, kept and dropped together: 16 MiB of device.
const CHUNK_LEN: usize = 4096;
const SECTORS_PER_CHUNK: u64 = CHUNK_LEN as u64 * 8;
/// Chunks kept in memory, 4 MiB, as long as they are clean.
const KEPT_CHUNKS: usize = 1024;

struct Chunk {
    /// `None` is all zeroes, the usual case.
    bits: Option<Box<[u8; CHUNK_LEN]>>,
    /// Bytes that hold bits which are not yet on disk.
    dirty: Range<usize>,
    /// Handed to a write-out that has not ended.
    writing: bool,
    last_used: u64,
}

impl Chunk {
    fn is_clean(&self) -> bool {
        self.dirty.is_empty() && !self.writing
    }
}

/// A piece of bitmap to be written.
pub(crate) struct WriteOut {
    chunk: u64,
    dirty: Range<usize>,
    /// Where it goes, in bytes from the start of the bitmap.
    pub offset: u64,
    /// What to write there.
    pub bytes: Vec<u8>,
}

/// The bits, read on demand by a function that fills a buffer from a byte offset into the bitmap.
pub(crate) struct Bitmap {
    chunks: BTreeMap<u64, Chunk>,
    /// Bytes of bitmap in the file. Sectors behind it have no bit.
    len_bytes: u64,
    clock: u64,
    dirty_chunks: usize,
}

impl Bitmap {
    pub fn new(len_bytes: u64) -> Bitmap {
        Bitmap { chunks: BTreeMap::new(), len_bytes, clock: 0, dirty_chunks: 0 }
    }

    /// How many chunks can't be dropped because they hold bits that are not on disk.
    pub fn dirty_chunks(&self) -> usize {
        self.dirty_chunks
    }

    /// How many sectors from `sector` on, at least one and at most `max`, have the same owner as it, and whether that is the COW file.
    pub fn run(&mut self, sector: u64, max: u64, load: impl Fn(u64, &mut [u8]) -> Result<(), Errno>) -> Result<(bool, u64), Errno> {
        let mut owned = None;
        let mut at = sector;
        while at < sector + max {
            let chunk_end = (at / SECTORS_PER_CHUNK + 1) * SECTORS_PER_CHUNK;
            let end = chunk_end.min(sector + max);
            let chunk = self.chunk(at / SECTORS_PER_CHUNK, &load)?;
            let Some(bits) = &chunk.bits else {
                match owned {
                    Some(true) => break,
                    _ => owned = Some(false),
                }
                at = end;
                continue;
            };
            while at < end {
                let bit = (at % SECTORS_PER_CHUNK) as usize;
                // A whole byte of equal bits is one step.
                let (is_set, step) = match bits[bit / 8] {
                    0 => (false, 8 - bit % 8),
                    0xff => (true, 8 - bit % 8),
                    byte => (byte & (1 << (bit % 8)) != 0, 1),
                };
                if *owned.get_or_insert(is_set) != is_set {
                    return Ok((!is_set, at - sector));
                }
                at = (at + step as u64).min(end);
            }
        }
        Ok((owned.unwrap_or(false), at - sector))
    }

    /// Sets the bits of these sectors, and reports whether any is not on disk. ENOSPC for a sector that has no bit.
    pub fn set(&mut self, sectors: Range<u64>, load: impl Fn(u64, &mut [u8]) -> Result<(), Errno>) -> Result<(), Errno> {
        if sectors.end > self.len_bytes.saturating_mul(8) {
            return Err(Errno::ENOSPC);
        }
        let mut at = sectors.start;
        while at < sectors.end {
            let end = ((at / SECTORS_PER_CHUNK + 1) * SECTORS_PER_CHUNK).min(sectors.end);
            let chunk = self.chunk(at / SECTORS_PER_CHUNK, &load)?;
            let was_dirty = !chunk.dirty.is_empty();
            let bits = chunk.bits.get_or_insert_with(|| Box::new([0; CHUNK_LEN]));
            for sector in at..end {
                let bit = (sector % SECTORS_PER_CHUNK) as usize;
                let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
                if bits[byte] & mask == 0 {
                    bits[byte] |= mask;
                    chunk.dirty = match chunk.dirty.is_empty() {
                        true => byte..byte + 1,
                        false => chunk.dirty.start.min(byte)..chunk.dirty.end.max(byte + 1),
                    };
                }
            }
            if !was_dirty && !chunk.dirty.is_empty() {
                self.dirty_chunks += 1;
            }
            at = end;
        }
        Ok(())
    }

    /// A copy of every piece that holds bits which are not on disk. Each must be given back to [`Bitmap::end_write_out`].
    pub fn begin_write_out(&mut self) -> Vec<WriteOut> {
        let mut pieces = Vec::new();
        for (&number, chunk) in &mut self.chunks {
            let (false, Some(bits)) = (chunk.dirty.is_empty(), &chunk.bits) else { continue };
            let dirty = std::mem::replace(&mut chunk.dirty, 0..0);
            chunk.writing = true;
            let offset = number * CHUNK_LEN as u64 + dirty.start as u64;
            pieces.push(WriteOut { chunk: number, offset, bytes: bits[dirty.clone()].to_vec(), dirty });
        }
        self.dirty_chunks = 0;
        pieces
    }

    /// The pieces are on disk, or, after a failure, still are not.
    pub fn end_write_out(&mut self, pieces: Vec<WriteOut>, written: bool) {
        for piece in pieces {
            let Some(chunk) = self.chunks.get_mut(&piece.chunk) else { continue };
            chunk.writing = false;
            if !written {
                if chunk.dirty.is_empty() {
                    self.dirty_chunks += 1;
                    chunk.dirty = piece.dirty;
                } else {
                    chunk.dirty = chunk.dirty.start.min(piece.dirty.start)..chunk.dirty.end.max(piece.dirty.end);
                }
            }
        }
        self.shrink();
    }

    fn chunk(&mut self, number: u64, load: &impl Fn(u64, &mut [u8]) -> Result<(), Errno>) -> Result<&mut Chunk, Errno> {
        self.clock += 1;
        if !self.chunks.contains_key(&number) {
            self.shrink();
            let offset = number * CHUNK_LEN as u64;
            let len = self.len_bytes.saturating_sub(offset).min(CHUNK_LEN as u64) as usize;
            let mut bits = Box::new([0; CHUNK_LEN]);
            load(offset, &mut bits[..len])?;
            let bits = bits.iter().any(|&byte| byte != 0).then_some(bits);
            self.chunks.insert(number, Chunk { bits, dirty: 0..0, writing: false, last_used: 0 });
        }
        let clock = self.clock;
        let chunk = self.chunks.get_mut(&number).ok_or(Errno::EIO)?;
        chunk.last_used = clock;
        Ok(chunk)
    }

    /// Drops the least recently used half of the clean chunks when there are too many.
    fn shrink(&mut self) {
        if self.chunks.len() < KEPT_CHUNKS {
            return;
        }
        let mut ages: Vec<u64> = self.chunks.values().filter(|chunk| chunk.is_clean()).map(|chunk| chunk.last_used).collect();
        if ages.is_empty() {
            return;
        }
        ages.sort_unstable();
        let oldest_kept = ages[ages.len() / 2];
        self.chunks.retain(|_, chunk| !chunk.is_clean() || chunk.last_used > oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: fn(u64, &mut [u8]) -> Result<(), Errno> = |_, bytes| {
        bytes.fill(0);
        Ok(())
    };

    #[test]
    fn runs_end_where_the_owner_changes_and_cross_chunks() {
        let mut map = Bitmap::new(3 * CHUNK_LEN as u64);
        let edge = SECTORS_PER_CHUNK;
        map.set(5..7, NOTHING).unwrap();
        map.set(edge - 3..edge + 20, NOTHING).unwrap();
        let mut run = |sector, max| map.run(sector, max, NOTHING).unwrap();
        assert_eq!(run(0, 100), (false, 5));
        assert_eq!(run(5, 100), (true, 2));
        assert_eq!(run(6, 1), (true, 1));
        assert_eq!(run(7, edge), (false, edge - 10));
        assert_eq!(run(edge - 3, 1000), (true, 23));
        assert_eq!(run(edge + 20, 3), (false, 3));
        assert_eq!(run(edge + 20, 2 * edge - 20), (false, 2 * edge - 20));
    }

    #[test]
    fn only_changed_bytes_are_written_and_a_failed_write_is_repeated() {
        let mut map = Bitmap::new(5);
        map.set(9..18, NOTHING).unwrap();
        let pieces = map.begin_write_out();
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].offset, &pieces[0].bytes[..]), (1, &[0xfe, 0x03][..]));
        map.set(32..33, NOTHING).unwrap();
        map.end_write_out(pieces, false);
        let pieces = map.begin_write_out();
        assert_eq!((pieces[0].offset, &pieces[0].bytes[..]), (1, &[0xfe, 0x03, 0, 1][..]));
        map.end_write_out(pieces, true);
        assert!(map.begin_write_out().is_empty());
        map.set(9..18, NOTHING).unwrap();
        assert_eq!(map.dirty_chunks(), 0);
    }

    #[test]
    fn a_sector_without_a_bit_is_refused() {
        let mut map = Bitmap::new(5);
        assert_eq!(map.set(39..41, NOTHING), Err(Errno::ENOSPC));
        assert_eq!(map.set(39..40, NOTHING), Ok(()));
    }

    #[test]
    fn chunks_beyond_the_bound_are_dropped_but_never_dirty_ones() {
        let chunks = 4 * KEPT_CHUNKS as u64;
        let mut map = Bitmap::new(chunks * CHUNK_LEN as u64);
        map.set(3..4, NOTHING).unwrap();
        for chunk in 0..chunks {
            map.run(chunk * SECTORS_PER_CHUNK, 1, NOTHING).unwrap();
            assert!(map.chunks.len() <= KEPT_CHUNKS);
        }
        assert_eq!(map.run(3, 1, NOTHING).unwrap(), (true, 1));
    }
}
