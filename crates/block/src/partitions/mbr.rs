//! DOS partition tables: four entries in the first sector, and chains of further tables in extended partitions.
//!
//! There is no standard. What counts is what Linux accepts: the signature 55 AA; active flags of 0 or 0x80 only, which tells a table from
//! the boot code of a bare file system; logical partitions numbered from 5 in the order of the chain; of each table in the chain every
//! entry that is not extended, and the first that is.

use std::collections::BTreeSet;

use super::{Entry, Kind, PartitionType, Table, le32, unit};
use crate::{BlockDevice, SECTOR_SIZE};

const ENTRIES_OFFSET: usize = 446;
const SIGNATURE_OFFSET: usize = 440;
const PROTECTIVE: u8 = 0xee;
/// Tables of a chain that are followed.
const MAX_CHAIN: usize = 100;

struct RawEntry {
    active: u8,
    kind: u8,
    start: u64,
    count: u64,
}

/// Whether partitions of this type hold further tables.
pub fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn has_signature(sector: &[u8; SECTOR_SIZE]) -> bool {
    sector[510..] == [0x55, 0xaa]
}

fn raw_entries(sector: &[u8; SECTOR_SIZE]) -> [RawEntry; 4] {
    std::array::from_fn(|slot| {
        let entry = &sector[ENTRIES_OFFSET + 16 * slot..][..16];
        RawEntry { active: entry[0], kind: entry[4], start: le32(entry, 8).into(), count: le32(entry, 12).into() }
    })
}

/// Whether the sector says that a GUID table follows.
pub fn is_protective(sector: &[u8; SECTOR_SIZE]) -> bool {
    has_signature(sector) && raw_entries(sector).iter().any(|entry| entry.kind == PROTECTIVE && entry.start == 1)
}

/// A FAT boot sector ends in the same signature: it begins with a jump and has a media byte.
fn is_fat(sector: &[u8; SECTOR_SIZE]) -> bool {
    let jumps = sector[0] == 0xeb || sector[0] == 0xe9;
    let bytes_per_sector = u16::from_le_bytes([sector[11], sector[12]]);
    jumps
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && sector[13].is_power_of_two()
        && sector[16] != 0
        && (sector[21] >= 0xf8 || sector[21] == 0xf0)
}

/// The table in `first`, the disk's first sector.
pub fn read(device: &dyn BlockDevice, first: &[u8; SECTOR_SIZE]) -> Table {
    let mut table = Table::none();
    let raw = raw_entries(first);
    let unusual_flags = raw.iter().any(|entry| entry.active & 0x7f != 0);
    let is_empty = raw.iter().all(|entry| entry.count == 0);
    if !has_signature(first) || unusual_flags || (is_fat(first) && is_empty) {
        return table;
    }
    let signature = le32(first, SIGNATURE_OFFSET);
    table.kind = Kind::Mbr { signature };
    let (unit, disk_sectors) = (unit(device), device.sectors());
    for (number, raw) in (1..).zip(&raw) {
        // The extended partition itself shows only its first table, so that nobody makes a file system over the others.
        let count = if is_extended(raw.kind) { raw.count.min(unit.max(2).div_ceil(unit)) } else { raw.count };
        table.add(entry(number, raw.start * unit, count * unit, raw.kind, signature), disk_sectors);
    }
    let mut next_number = 5;
    for raw in raw.iter().filter(|raw| is_extended(raw.kind) && raw.count > 0) {
        follow_chain(device, &mut table, (raw.start * unit, raw.count * unit), signature, &mut next_number);
    }
    table
}

fn entry(number: u32, start: u64, sectors: u64, kind: u8, signature: u32) -> Entry {
    let uuid = format!("{signature:08x}-{number:02x}");
    Entry { number, start, sectors, kind: PartitionType::Mbr(kind), uuid, label: String::new() }
}

fn follow_chain(device: &dyn BlockDevice, table: &mut Table, outer: (u64, u64), signature: u32, next_number: &mut u32) {
    let (unit, disk_sectors) = (unit(device), device.sectors());
    let (outer_start, outer_end) = (outer.0, outer.0 + outer.1);
    let (mut here, mut here_sectors) = outer;
    let mut seen = BTreeSet::new();
    let mut sector = [0; SECTOR_SIZE];
    while here < disk_sectors && seen.len() < MAX_CHAIN && seen.insert(here) {
        if device.read(here, &mut sector).is_err() || !has_signature(&sector) {
            return;
        }
        let raw = raw_entries(&sector);
        for (slot, raw) in raw.iter().enumerate().filter(|(_, raw)| raw.count > 0 && !is_extended(raw.kind)) {
            let (start, sectors) = (here + raw.start * unit, raw.count * unit);
            // Some systems put garbage in the last two.
            if slot >= 2 && (raw.start * unit + sectors > here_sectors || start < outer_start || start + sectors > outer_end) {
                continue;
            }
            table.add(entry(*next_number, start, sectors, raw.kind, signature), disk_sectors);
            *next_number += 1;
        }
        let Some(link) = raw.iter().find(|raw| raw.count > 0 && is_extended(raw.kind)) else { return };
        (here, here_sectors) = (outer_start + link.start * unit, link.count * unit);
    }
    if seen.len() >= MAX_CHAIN || seen.contains(&here) {
        table.complaints.push(format!("the chain of extended partitions does not end: it was left at sector {here}"));
    }
}
