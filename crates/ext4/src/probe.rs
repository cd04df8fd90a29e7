//! What an image says of itself before anybody mounts it: which of the three file systems it is, and by which names it may be asked for.
//!
//! What it is not: a check. An image that is recognised may still be refused by [`crate::Filesystem::mount`].

use crate::superblock::{Compat, Incompat, OFFSET_BYTES, RoCompat};
use abi::Errno;
use block::{BlockDevice, SECTOR_SIZE};

/// The oldest of the three that can use an image, by its features: ext4(5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    Ext2,
    Ext3,
    Ext4,
}

impl Generation {
    /// The name of its type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Generation::Ext2 => "ext2",
            Generation::Ext3 => "ext3",
            Generation::Ext4 => "ext4",
        }
    }
}

/// The names of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub generation: Generation,
    pub uuid: [u8; 16],
    /// Without the zeroes behind it.
    pub label: Vec<u8>,
}

/// Looks at the superblock. `None` for what is no ext2, ext3 or ext4.
pub fn probe(device: &dyn BlockDevice) -> Result<Option<Identity>, Errno> {
    let mut raw = [0; 2 * SECTOR_SIZE];
    let sector = OFFSET_BYTES / SECTOR_SIZE as u64;
    if device.sectors() < sector + 2 {
        return Ok(None);
    }
    device.read(sector, &mut raw)?;
    let word = |at: usize| raw.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if word(0x38) & 0xffff != 0xef53 {
        return Ok(None);
    }
    let compat = Compat::from_bits_retain(word(0x5c));
    let old = Incompat::FILETYPE | Incompat::META_BG | Incompat::RECOVER;
    let old_read_only = RoCompat::SPARSE_SUPER | RoCompat::LARGE_FILE | RoCompat::BTREE_DIR;
    let is_old = old.contains(Incompat::from_bits_retain(word(0x60))) && old_read_only.contains(RoCompat::from_bits_retain(word(0x64)));
    let generation = match (is_old, compat.contains(Compat::HAS_JOURNAL)) {
        (true, false) => Generation::Ext2,
        (true, true) => Generation::Ext3,
        (false, _) => Generation::Ext4,
    };
    let uuid = raw.get(0x68..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let label = raw.get(0x78..0x88).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    Ok(Some(Identity { generation, uuid, label }))
}
