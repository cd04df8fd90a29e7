//! Replaying what a crash left in the log.
//!
//! Three passes, as jbd2 makes them: find the last complete transaction; collect revoke records; write each block's last copy home unless
//! it was revoked later. Nothing is written before the first two have ended.
//!
//! Always true: no pass reads more blocks than the log has, whatever the log says.

use std::collections::{BTreeMap, HashMap};

use block::{BlockDevice, Durability, SECTOR_SIZE};

use super::commit::tag_len;
use super::{Journal, MAGIC, block_type, compat, incompat, tag_flags};
use crate::checksum::{crc32_be, crc32c};
use crate::core::is_after;
use crate::error::{Error, Result, corrupt};
use crate::field::{be16, be32, be64, byte, put_be32};

/// One block that a descriptor names.
struct Tag {
    home: u64,
    flags: u32,
    checksum: u32,
}

/// What the passes have found.
#[derive(Default)]
struct Found {
    /// Home block to (log block, escaped, transaction).
    copies: BTreeMap<u64, (u32, bool, u32)>,
    revoked: HashMap<u64, u32>,
}

/// How a scan met the end of the log.
enum Step {
    Next,
    End,
}

struct Scan {
    at: u32,
    tid: u32,
    left: u32,
    /// Checksum of journal v1 over the transaction so far.
    sum: u32,
    copies: Vec<(u64, u32, bool)>,
    revoked: Vec<u64>,
}

impl Journal {
    /// Writes home what complete transactions hold, durably, and gives the number that the next transaction must have.
    /// The log itself is left as it is until [`Journal::mark_clean`].
    pub(crate) fn replay(&mut self, target: &dyn BlockDevice) -> Result<u32> {
        let mut found = Found::default();
        let mut scan =
            Scan { at: be32(&self.raw, 0x1c), tid: self.next_tid(), left: self.len(), sum: !0, copies: Vec::new(), revoked: Vec::new() };
        while let Step::Next = self.scan_block(&mut scan, &mut found)? {}
        let per_block = (self.block_size / SECTOR_SIZE) as u64;
        for (&home, &(log_block, escaped, tid)) in &found.copies {
            if found.revoked.get(&home).is_some_and(|&revoked| !is_after(tid, revoked)) {
                continue;
            }
            if home >= self.target_blocks {
                return corrupt(home, "journal: block past the end of the file system");
            }
            let mut bytes = self.read_log(log_block)?;
            if escaped {
                put_be32(&mut bytes, 0, MAGIC);
            }
            target.write(home * per_block, &bytes, Durability::Cached)?;
        }
        target.flush()?;
        Ok(scan.tid)
    }

    fn scan_block(&self, scan: &mut Scan, found: &mut Found) -> Result<Step> {
        if scan.left == 0 {
            return Ok(Step::End);
        }
        let block = self.read_log(scan.at)?;
        if be32(&block, 0) != MAGIC || be32(&block, 8) != scan.tid {
            return Ok(Step::End);
        }
        scan.at = self.after(scan.at);
        scan.left -= 1;
        match be32(&block, 4) {
            block_type::DESCRIPTOR => self.scan_descriptor(scan, &block),
            block_type::REVOKE => {
                if !self.has_right_tail(&block) {
                    return Ok(Step::End);
                }
                let wide = self.incompat() & incompat::BIT64 != 0;
                let used = (be32(&block, 12) as usize).min(block.len());
                let len = if wide { 8 } else { 4 };
                for entry in block.get(16..used).unwrap_or(&[]).chunks_exact(len) {
                    scan.revoked.push(if wide { be64(entry, 0) } else { u64::from(be32(entry, 0)) });
                }
                Ok(Step::Next)
            }
            block_type::COMMIT => {
                if !self.is_complete(scan, &block) {
                    return Ok(Step::End);
                }
                for (home, log_block, escaped) in scan.copies.drain(..) {
                    found.copies.insert(home, (log_block, escaped, scan.tid));
                }
                for home in scan.revoked.drain(..) {
                    found.revoked.insert(home, scan.tid);
                }
                scan.tid = scan.tid.wrapping_add(1);
                scan.sum = !0;
                Ok(Step::Next)
            }
            _ => Ok(Step::End),
        }
    }

    fn scan_descriptor(&self, scan: &mut Scan, block: &[u8]) -> Result<Step> {
        if !self.has_right_tail(block) {
            return Ok(Step::End);
        }
        let v1 = be32(&self.raw, 0x24) & compat::CHECKSUM != 0;
        if v1 {
            scan.sum = crc32_be(scan.sum, block);
        }
        for tag in self.tags(block) {
            if scan.left == 0 {
                return Ok(Step::End);
            }
            if v1 || self.has_csum() {
                let body = self.read_log(scan.at)?;
                if v1 {
                    scan.sum = crc32_be(scan.sum, &body);
                }
                if self.has_csum() && !self.has_right_body(&tag, &body, scan.tid) {
                    return self.bad_body(scan);
                }
            }
            scan.copies.push((tag.home, scan.at, tag.flags & tag_flags::ESCAPED != 0));
            scan.at = self.after(scan.at);
            scan.left -= 1;
        }
        Ok(Step::Next)
    }

    /// A block does not fit its tag: the end of an unfinished transaction, unless that transaction has its commit block.
    fn bad_body(&self, scan: &Scan) -> Result<Step> {
        if self.incompat() & incompat::ASYNC_COMMIT != 0 {
            return Ok(Step::End);
        }
        let mut at = scan.at;
        for _ in 0..scan.left {
            let block = self.read_log(at)?;
            let is_commit = be32(&block, 0) == MAGIC && be32(&block, 4) == block_type::COMMIT;
            if is_commit && be32(&block, 8) == scan.tid && self.has_right_commit(&block) {
                return Err(Error::Corrupt { block: self.place(scan.at)?, what: "journal: block checksum in a committed transaction" });
            }
            at = self.after(at);
        }
        Ok(Step::End)
    }

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let (features, len) = (self.incompat(), tag_len(self.incompat()));
        let end = block.len() - if self.has_csum() { 4 } else { 0 };
        let (mut at, mut tags) = (12, Vec::new());
        while at + len <= end {
            let v3 = features & incompat::CSUM_V3 != 0;
            let flags = if v3 { be32(block, at + 4) } else { u32::from(be16(block, at + 6)) };
            let high = if features & incompat::BIT64 != 0 { be32(block, at + 8) } else { 0 };
            let checksum = if v3 { be32(block, at + 12) } else { u32::from(be16(block, at + 4)) };
            tags.push(Tag { home: u64::from(be32(block, at)) | u64::from(high) << 32, flags, checksum });
            at += len + if flags & tag_flags::SAME_UUID == 0 { 16 } else { 0 };
            if flags & tag_flags::LAST != 0 {
                break;
            }
        }
        tags
    }

    fn has_right_body(&self, tag: &Tag, body: &[u8], tid: u32) -> bool {
        let sum = crc32c(crc32c(self.seed(), &tid.to_be_bytes()), body);
        tag.checksum == if self.incompat() & incompat::CSUM_V3 != 0 { sum } else { sum & 0xffff }
    }

    fn has_right_tail(&self, block: &[u8]) -> bool {
        if !self.has_csum() {
            return true;
        }
        let at = block.len() - 4;
        crc32c(crc32c(self.seed(), &block[..at]), &[0; 4]) == be32(block, at)
    }

    fn has_right_commit(&self, block: &[u8]) -> bool {
        !self.has_csum() || crc32c(crc32c(crc32c(self.seed(), &block[..0x10]), &[0; 4]), &block[0x14..]) == be32(block, 0x10)
    }

    fn is_complete(&self, scan: &Scan, block: &[u8]) -> bool {
        if self.has_csum() {
            return self.has_right_commit(block);
        }
        if be32(&self.raw, 0x24) & compat::CHECKSUM == 0 {
            return true;
        }
        // Type 1 is CRC-32 of 4 bytes. A writer that made no checksum left zeroes.
        let (kind, len, sum) = (byte(block, 0xc), byte(block, 0xd), be32(block, 0x10));
        (kind == 1 && len == 4 && sum == scan.sum) || (kind == 0 && len == 0 && sum == 0)
    }
}
