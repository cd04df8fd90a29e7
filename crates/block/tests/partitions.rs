//! Partition tables: made by hand, made by the usual tools, damaged on purpose, and random.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use abi::Errno;
use block::partitions::{self, Entry, Kind, Partition, PartitionType, Table, crc32};
use block::{BlockDevice, Durability, RamDisk};

fn scaled(count: u64, full: u64) -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => full,
        Ok(factor) => count * factor.parse::<u64>().unwrap_or(1),
        Err(_) => count,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// Puts DOS tables into an image: sector of the table, then slot, flag, type, start, count.
fn dos(image: &mut [u8], table: usize, entries: &[(usize, u8, u8, u32, u32)]) {
    let sector = &mut image[table * 512..][..512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (slot, active, kind, start, count) in entries {
        let entry = &mut sector[446 + 16 * slot..][..16];
        entry[0] = *active;
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
}

fn read(image: Vec<u8>) -> Table {
    partitions::read(&RamDisk::from_image(image)).unwrap()
}

fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.entries.iter().map(|entry| (entry.number, entry.start, entry.sectors)).collect()
}

#[test]
fn primary_and_logical_partitions_have_linuxs_numbers_places_and_log_line() {
    let mut image = vec![0; 1000 * 512];
    image[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    dos(&mut image, 0, &[(0, 0x80, 0x83, 10, 90), (1, 0, 0x0f, 100, 800), (3, 0, 0x82, 900, 100)]);
    dos(&mut image, 100, &[(0, 0, 0x83, 1, 99), (1, 0, 0x05, 100, 200)]);
    dos(&mut image, 200, &[(0, 0, 0x82, 2, 50), (1, 0, 0x05, 400, 200)]);
    dos(&mut image, 500, &[(0, 0, 0x83, 1, 199)]);
    let table = read(image);
    assert_eq!(table.kind, Kind::Mbr { signature: 0x1234_abcd });
    assert_eq!(places(&table), [(1, 10, 90), (2, 100, 2), (4, 900, 100), (5, 101, 99), (6, 202, 50), (7, 501, 199)]);
    assert_eq!(table.describe("ubda"), " ubda: ubda1 ubda2 < ubda5 ubda6 ubda7 > ubda4");
    assert_eq!((table.entries[0].uuid.as_str(), table.entries[0].kind), ("1234abcd-01", PartitionType::Mbr(0x83)));
    assert_eq!(table.complaints, Vec::<String>::new());
}

#[test]
fn what_is_no_table_has_no_partitions() {
    assert_eq!(read(vec![]).kind, Kind::None);
    assert_eq!(read(vec![0; 4096]).kind, Kind::None);
    let mut boot_code = vec![0x90; 4096];
    boot_code[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(read(boot_code).kind, Kind::None);
    assert_eq!(read(vec![0; 4096]).describe("ubda"), "");
}

#[test]
fn chains_that_loop_or_lead_outside_end() {
    let mut image = vec![0; 1000 * 512];
    dos(&mut image, 0, &[(0, 0, 0x05, 100, 100)]);
    dos(&mut image, 100, &[(0, 0, 0x83, 1, 9), (1, 0, 0x05, 50, 50)]);
    dos(&mut image, 150, &[(0, 0, 0x83, 1, 9), (1, 0, 0x05, 0, 50)]);
    let table = read(image.clone());
    assert_eq!(places(&table), [(1, 100, 2), (5, 101, 9), (6, 151, 9)]);
    assert_eq!(table.complaints.len(), 1);
    dos(&mut image, 150, &[(1, 0, 0x05, u32::MAX, 50)]);
    assert_eq!(places(&read(image)), [(1, 100, 2), (5, 101, 9), (6, 151, 9)]);
    // A chain of a thousand tables: the first hundred count.
    let mut image = vec![0; 4000 * 512];
    dos(&mut image, 0, &[(0, 0, 0x05, 1, 3999)]);
    (0..1000).for_each(|link| dos(&mut image, 1 + link * 2, &[(0, 0, 0x83, 1, 1), (1, 0, 0x05, 2 * link as u32 + 2, 2)]));
    assert_eq!(read(image).entries.len(), 101);
}

#[test]
fn partitions_are_cut_at_the_end_of_the_disk() {
    let mut image = vec![0; 100 * 512];
    dos(&mut image, 0, &[(0, 0, 0x83, 10, u32::MAX), (1, 0, 0x83, 100, 5), (2, 0, 0x83, u32::MAX, u32::MAX)]);
    let table = read(image);
    assert_eq!(places(&table), [(1, 10, 90)]);
    assert_eq!(table.complaints.len(), 3);
}

/// A GUID table of `count` entries for a disk of `blocks` blocks of `block_len` bytes; `entries` are number, first and last block, label.
fn gpt(blocks: u64, block_len: usize, entries: &[(usize, u64, u64, &str)]) -> Vec<u8> {
    let mut image = vec![0; blocks as usize * block_len];
    dos(&mut image, 0, &[(0, 0, 0xee, 1, (blocks - 1) as u32)]);
    let mut table = vec![0; 128 * 128];
    for (number, first, last, label) in entries {
        let entry = &mut table[(number - 1) * 128..][..128];
        entry[..16].copy_from_slice(&[0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);
        entry[16..32].copy_from_slice(&[*number as u8; 16]);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (slot, unit) in entry[56..].chunks_mut(2).zip(label.encode_utf16()) {
            slot.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let table_blocks = (table.len() / block_len) as u64;
    for (here, other, entries_at) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 1 - table_blocks)] {
        image[entries_at as usize * block_len..][..table.len()].copy_from_slice(&table);
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        let last_usable = blocks - 2 - table_blocks;
        for (at, value) in [(24, here), (32, other), (40, 2 + table_blocks), (48, last_usable), (72, entries_at)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].fill(0xd1);
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..].copy_from_slice(&crc32(&table).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        image[here as usize * block_len..][..92].copy_from_slice(&header);
    }
    image
}

#[test]
fn guid_tables_give_places_labels_and_uuids() {
    let table = read(gpt(1000, 512, &[(1, 100, 199, "EFI"), (3, 200, 900, "r\u{f6}\u{f6}t")]));
    assert!(matches!(table.kind, Kind::Gpt { from_backup: false, .. }));
    assert_eq!(places(&table), [(1, 100, 100), (3, 200, 701)]);
    assert_eq!(
        (table.entries[1].label.as_str(), table.entries[1].uuid.as_str()),
        ("r\u{f6}\u{f6}t", "03030303-0303-0303-0303-030303030303")
    );
    let PartitionType::Gpt(kind) = table.entries[0].kind else { panic!("{table:?}") };
    assert_eq!(kind.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
    assert_eq!(table.describe("ubdb"), " ubdb: ubdb1 ubdb3");
}

#[test]
fn guid_tables_count_in_logical_blocks() {
    let image = gpt(200, 4096, &[(2, 20, 29, "four")]);
    let disk = RamDisk::from_image(image).with_logical_block_size(4096);
    assert_eq!(places(&partitions::read(&disk).unwrap()), [(2, 160, 80)]);
}

#[test]
fn a_damaged_first_table_is_replaced_by_the_last_and_two_damaged_ones_are_none() {
    let good = gpt(1000, 512, &[(1, 100, 199, "a")]);
    for byte in [512, 512 + 16, 512 + 40, 2 * 512 + 33, 2 * 512 + 127 * 128] {
        let mut image = good.clone();
        image[byte] ^= 1;
        let table = read(image.clone());
        assert!(matches!(table.kind, Kind::Gpt { from_backup: true, .. }), "byte {byte}");
        assert_eq!(places(&table), [(1, 100, 100)]);
        assert_eq!(table.complaints, ["Primary GPT is invalid, using alternate GPT."]);
        image[999 * 512 + 41] ^= 1;
        // What is left is the protective entry.
        assert_eq!(read(image).kind, Kind::Mbr { signature: 0 });
    }
}

#[test]
fn guid_entries_outside_the_disk_are_left_out() {
    let table =
        read(gpt(1000, 512, &[(1, 500, 400, ""), (2, 1, 40, ""), (3, 900, 5000, ""), (4, u64::MAX, u64::MAX, ""), (5, 34, 40, "")]));
    assert_eq!(places(&table), [(5, 34, 7)]);
    assert_eq!(table.complaints.len(), 4);
}

#[test]
fn a_partition_is_a_device_that_cannot_reach_its_neighbours() {
    let disk = Arc::new(RamDisk::new(100));
    let entry = Entry { number: 1, start: 10, sectors: 5, kind: PartitionType::Mbr(0x83), uuid: String::new(), label: String::new() };
    let part = Partition::new(disk.clone(), &entry);
    assert_eq!((part.sectors(), part.start()), (5, 10));
    part.write(4, &[7; 512], Durability::Cached).unwrap();
    let mut sector = [0; 512];
    disk.read(14, &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
    part.write_zeroes(0, 5).unwrap();
    part.read(4, &mut sector).unwrap();
    assert_eq!(sector, [0; 512]);
    for sector_number in [5, 4, u64::MAX, u64::MAX - 9] {
        let mut two = [0; 1024];
        assert_eq!(part.read(sector_number, &mut two), Err(Errno::EIO));
        assert_eq!(part.write(sector_number, &two, Durability::Cached), Err(Errno::EIO));
        assert_eq!(part.discard(sector_number, 2), Err(Errno::EIO));
        assert_eq!(part.write_zeroes(sector_number, u64::MAX), Err(Errno::EIO));
    }
}

#[test]
fn random_tables_are_harmless() {
    let mut random = Random(99);
    for _ in 0..scaled(600, 60_000) {
        let entry = |random: &mut Random| {
            let number = 1 + random.below(128) as usize;
            let place = |random: &mut Random| match random.below(3) {
                0 => random.next(),
                1 => random.below(2048),
                _ => 34 + random.below(400),
            };
            (number, place(random), place(random), "x")
        };
        let entries = [entry(&mut random), entry(&mut random), entry(&mut random)];
        let mut image = if random.below(2) == 0 { gpt(512, 512, &entries) } else { vec![0; 512 * 512] };
        let kinds = [0x83, 0x05, 0x0f, 0xee, 0x00, 0x85];
        for _ in 0..random.below(12) {
            let place = |random: &mut Random| if random.below(4) == 0 { random.next() as u32 } else { random.below(512) as u32 };
            let kind = kinds[random.below(6) as usize];
            let raw = (random.below(4) as usize, 0, kind, place(&mut random), place(&mut random));
            let at = if random.below(3) == 0 { 0 } else { random.below(512) as usize };
            dos(&mut image, at, &[raw]);
        }
        // Some damage with, and some without a right checksum over it.
        for _ in 0..random.below(4) {
            let at = 512 + random.below(92) as usize;
            image[at] = random.next() as u8;
        }
        if random.below(2) == 0 {
            let len = (u32::from_le_bytes(image[524..528].try_into().unwrap()) as usize).clamp(92, 512);
            let count = u32::from_le_bytes(image[592..596].try_into().unwrap()).min(128) as usize;
            let crc = crc32(&image[1024..1024 + count * 128]);
            image[600..604].copy_from_slice(&crc.to_le_bytes());
            image[528..532].fill(0);
            let crc = crc32(&image[512..512 + len]);
            image[528..532].copy_from_slice(&crc.to_le_bytes());
        }
        let table = read(image);
        let mut numbers: Vec<u32> = table.entries.iter().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), table.entries.len());
        assert!(table.entries.len() <= partitions::MAX_PARTITIONS);
        for entry in &table.entries {
            assert!(entry.sectors > 0 && entry.start + entry.sectors <= 512, "{table:?}");
        }
        assert!(table.describe("ubda").len() < 8192);
    }
}

/// Has sfdisk make a table in a file and gives its content.
fn made_by_sfdisk(script: &str) -> Option<Vec<u8>> {
    let path = std::env::temp_dir().join(format!("partition-test-{}-{}", std::process::id(), script.len()));
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let child = ["sfdisk", "/sbin/sfdisk"].iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok()
    });
    let Some(mut child) = child else {
        let _ = std::fs::remove_file(&path);
        let _ = writeln!(std::io::stderr(), "SKIPPED: sfdisk of util-linux is not installed; nothing was compared with it");
        return None;
    };
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let image = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(image)
}

#[test]
fn tables_made_by_sfdisk_are_read_as_it_says() {
    let dos_script = "label: dos\nlabel-id: 0xdeadbeef\n2048,8192,L\n10240,20480,S\n30720,,E\n32768,4096,L\n40960,8192,L\n51200,,L\n";
    if let Some(image) = made_by_sfdisk(dos_script) {
        let table = read(image);
        assert_eq!(table.kind, Kind::Mbr { signature: 0xdead_beef });
        assert_eq!(
            places(&table),
            [(1, 2048, 8192), (2, 10_240, 20_480), (3, 30_720, 2), (5, 32_768, 4096), (6, 40_960, 8192), (7, 51_200, 79_872)]
        );
        assert_eq!(table.entries[4].uuid, "deadbeef-06");
    }
    let gpt_script = "label: gpt\nlabel-id: 01234567-89AB-CDEF-0123-456789ABCDEF\nstart=2048,size=8192,name=\"one\",uuid=AABBCCDD-EEFF-0011-2233-445566778899\nstart=10240\n";
    if let Some(image) = made_by_sfdisk(gpt_script) {
        let table = read(image);
        let Kind::Gpt { disk, from_backup: false } = table.kind else { panic!("{table:?}") };
        assert_eq!(disk.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(places(&table)[0], (1, 2048, 8192));
        assert_eq!((table.entries[0].label.as_str(), table.entries[0].uuid.as_str()), ("one", "aabbccdd-eeff-0011-2233-445566778899"));
    }
}
