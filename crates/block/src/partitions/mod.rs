//! Partition tables: what a disk says about its parts, and each part as a device of its own.
//!
//! Read are GUID tables (UEFI specification 2.10, chapter 5) and DOS tables with extended partitions, numbered and judged as Linux does
//! it, so that `/dev/ubda5` is the same part here and there. Nothing is written.
//!
//! Not here: what a part holds, and the names of its device nodes.
//!
//! Always true of a [`Table`]: every partition lies inside the disk, has at least one sector and a number of its own; at most
//! [`MAX_PARTITIONS`] are listed however long the table is; reading it takes a bounded number of reads whatever the disk holds.

mod crc32;
mod gpt;
mod mbr;

use std::fmt;
use std::sync::Arc;

use abi::Errno;

use crate::{BlockDevice, Durability, SECTOR_SIZE};

pub use crc32::crc32;

/// Partitions that one disk may have, as in Linux (`DISK_MAX_PARTS`).
pub const MAX_PARTITIONS: usize = 256;

/// Which kind of table a disk has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// None that is known: a file system, swap, a tar file, zeroes.
    None,
    /// DOS, with its disk signature.
    Mbr {
        /// The 32 bits that tools call the disk identifier.
        signature: u32,
    },
    /// GUID.
    Gpt {
        /// The disk's GUID.
        disk: Guid,
        /// The first table was damaged and the one at the end of the disk was used.
        from_backup: bool,
    },
}

/// A GUID as it lies on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    /// Its first three fields are little-endian.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.0;
        write!(f, "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-", b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6])?;
        write!(f, "{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A UUID whose bytes lie in the order in which it is written, as file systems have theirs.
#[must_use]
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        text += if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        text += &format!("{byte:02x}");
    }
    text
}

/// What a part is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartitionType {
    /// The type byte of a DOS table: 0x83 Linux, 0x82 swap...
    Mbr(u8),
    /// The type GUID.
    Gpt(Guid),
}

/// One part of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number, from 1; the 5 of `ubda5`.
    pub number: u32,
    /// First sector.
    pub start: u64,
    /// Size in sectors.
    pub sectors: u64,
    /// What it is for.
    pub kind: PartitionType,
    /// `PARTUUID`.
    pub uuid: String,
    /// `PARTLABEL`; DOS tables have none.
    pub label: String,
}

/// A disk's partition table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Which kind it is.
    pub kind: Kind,
    /// The parts, by number.
    pub entries: Vec<Entry>,
    /// What was wrong with it, each as a line for the log.
    pub complaints: Vec<String>,
}

impl Table {
    fn none() -> Table {
        Table { kind: Kind::None, entries: Vec::new(), complaints: Vec::new() }
    }

    /// Adds a part, cut at the end of the disk as Linux does; one that begins behind it is left out.
    fn add(&mut self, mut entry: Entry, disk_sectors: u64) {
        if self.entries.len() >= MAX_PARTITIONS || entry.sectors == 0 {
            return;
        }
        if entry.start >= disk_sectors {
            self.complaints.push(format!("p{} start {} is beyond EOD, truncated", entry.number, entry.start));
            return;
        }
        let room = disk_sectors - entry.start;
        if entry.sectors > room {
            self.complaints.push(format!("p{} size {} extends beyond EOD, truncated", entry.number, entry.sectors));
            entry.sectors = room;
        }
        self.entries.push(entry);
    }

    /// The line of the boot log, ` ubda: ubda1 ubda2 < ubda5 >`; empty without partitions.
    #[must_use]
    pub fn describe(&self, disk: &str) -> String {
        if self.entries.is_empty() {
            return String::new();
        }
        let mut line = format!(" {disk}:");
        let mut logical = self.entries.iter().filter(|entry| entry.number >= 5).peekable();
        for entry in self.entries.iter().filter(|entry| entry.number < 5 || matches!(entry.kind, PartitionType::Gpt(_))) {
            line += &format!(" {disk}{}", entry.number);
            if matches!(entry.kind, PartitionType::Mbr(kind) if mbr::is_extended(kind)) && logical.peek().is_some() {
                line += " <";
                logical.by_ref().for_each(|entry| line += &format!(" {disk}{}", entry.number));
                line += " >";
            }
        }
        line
    }
}

/// Reads a disk's partition table. Only failing reads of its first sectors are errors; whatever they hold is not.
pub fn read(device: &dyn BlockDevice) -> Result<Table, Errno> {
    if device.sectors() == 0 {
        return Ok(Table::none());
    }
    let mut first = [0; SECTOR_SIZE];
    device.read(0, &mut first)?;
    if mbr::is_protective(&first)
        && let Some(table) = gpt::read(device)
    {
        return Ok(table);
    }
    Ok(mbr::read(device, &first))
}

/// How many 512-byte sectors the units of a device's partition table have.
fn unit(device: &dyn BlockDevice) -> u64 {
    (device.logical_block_size() / SECTOR_SIZE).max(1) as u64
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

/// A part of a disk as a disk.
pub struct Partition {
    disk: Arc<dyn BlockDevice>,
    start: u64,
    sectors: u64,
}

impl Partition {
    /// The part of `disk` that an entry of its table describes.
    #[must_use]
    pub fn new(disk: Arc<dyn BlockDevice>, entry: &Entry) -> Partition {
        Partition { disk, start: entry.start, sectors: entry.sectors }
    }

    /// First sector on the disk.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    fn at(&self, sector: u64, sectors: u64) -> Result<u64, Errno> {
        sector.checked_add(sectors).filter(|&end| end <= self.sectors).ok_or(Errno::EIO)?;
        Ok(self.start + sector)
    }

    fn at_bytes(&self, sector: u64, len_bytes: usize) -> Result<u64, Errno> {
        self.at(sector, len_bytes.div_ceil(SECTOR_SIZE) as u64)
    }
}

impl BlockDevice for Partition {
    fn acquire(&self) -> Result<(), Errno> {
        self.disk.acquire()
    }
    fn release(&self) {
        self.disk.release();
    }
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn logical_block_size(&self) -> usize {
        self.disk.logical_block_size()
    }
    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.disk.read(self.at_bytes(sector, buffer.len())?, buffer)
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.disk.write(self.at_bytes(sector, data.len())?, data, durability)
    }
    fn flush(&self) -> Result<(), Errno> {
        self.disk.flush()
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.disk.discard(self.at(sector, sectors)?, sectors)
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.disk.write_zeroes(self.at(sector, sectors)?, sectors)
    }
}
