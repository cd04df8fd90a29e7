//! GUID partition tables (UEFI specification 2.10, section 5.3).
//!
//! A table counts only when its header's and its entries' checksums are right and it describes this disk. When the one behind the
//! protective table is not so, the one at the end of the disk is used. Units are the device's logical blocks.

use super::{Entry, Guid, Kind, MAX_PARTITIONS, PartitionType, Table, crc32, le32, le64, unit};
use crate::{BlockDevice, SECTOR_SIZE};

const MAGIC: &[u8; 8] = b"EFI PART";
const MIN_HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;
/// Entries of a table that is read at all; tools make 128.
const MAX_ENTRIES: u32 = 16_384;

struct Header {
    disk: Guid,
    first_usable: u64,
    last_usable: u64,
    entries_lba: u64,
    count: u32,
    entries_crc: u32,
}

/// The disk's table; `None` when neither copy is sound.
pub fn read(device: &dyn BlockDevice) -> Option<Table> {
    let unit = unit(device);
    let last_lba = (device.sectors() / unit).checked_sub(1)?;
    let primary = read_at(device, 1, last_lba);
    let from_backup = primary.is_none();
    let (header, entries) = primary.or_else(|| read_at(device, last_lba, last_lba))?;
    let mut table = Table { kind: Kind::Gpt { disk: header.disk, from_backup }, entries: Vec::new(), complaints: Vec::new() };
    if from_backup {
        table.complaints.push("Primary GPT is invalid, using alternate GPT.".into());
    }
    for (number, raw) in (1..).zip(entries.chunks_exact(ENTRY_LEN)) {
        let (kind, start, end) = (guid(raw, 0), le64(raw, 32), le64(raw, 40));
        if kind == Guid::default() {
            continue;
        }
        if table.entries.len() >= MAX_PARTITIONS {
            table.complaints.push(format!("only the first {MAX_PARTITIONS} partitions are used"));
            break;
        }
        if start > end || end > last_lba || start < header.first_usable || end > header.last_usable {
            table.complaints.push(format!("p{number} from block {start} to {end} is outside the disk, ignored"));
            continue;
        }
        let entry = Entry {
            number,
            start: start * unit,
            sectors: (end - start + 1) * unit,
            kind: PartitionType::Gpt(kind),
            uuid: guid(raw, 16).to_string(),
            label: label(&raw[56..]),
        };
        table.add(entry, device.sectors());
    }
    Some(table)
}

fn guid(bytes: &[u8], at: usize) -> Guid {
    Guid(bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default())
}

/// 36 units of UTF-16, ended by a NUL if shorter.
fn label(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn read_at(device: &dyn BlockDevice, lba: u64, last_lba: u64) -> Option<(Header, Vec<u8>)> {
    let unit = unit(device);
    let mut block = vec![0; unit as usize * SECTOR_SIZE];
    device.read(lba.checked_mul(unit)?, &mut block).ok()?;
    let header = parse_header(&block, lba, last_lba)?;
    let len = header.count as usize * ENTRY_LEN;
    let mut entries = vec![0; len.next_multiple_of(block.len())];
    device.read(header.entries_lba.checked_mul(unit)?, &mut entries).ok()?;
    entries.truncate(len);
    (crc32(&entries) == header.entries_crc).then_some((header, entries))
}

fn parse_header(block: &[u8], lba: u64, last_lba: u64) -> Option<Header> {
    let header_len = le32(block, 12) as usize;
    if block.get(..8)? != MAGIC || header_len < MIN_HEADER_LEN {
        return None;
    }
    let mut header = block.get(..header_len)?.to_vec();
    let stored_crc = le32(&header, 16);
    header[16..20].fill(0);
    if crc32(&header) != stored_crc {
        return None;
    }
    let parsed = Header {
        disk: guid(&header, 56),
        first_usable: le64(&header, 40),
        last_usable: le64(&header, 48),
        entries_lba: le64(&header, 72),
        count: le32(&header, 80),
        entries_crc: le32(&header, 88),
    };
    let sound = le64(&header, 24) == lba
        && parsed.first_usable <= parsed.last_usable
        && parsed.last_usable <= last_lba
        && le32(&header, 84) as usize == ENTRY_LEN
        && (1..=MAX_ENTRIES).contains(&parsed.count)
        && parsed.entries_lba <= last_lba;
    sound.then_some(parsed)
}
