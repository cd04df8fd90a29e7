//! The five headers, byte for byte, and the arithmetic that follows from them.

mod common;

use abi::Errno;
use block::{BlockDevice, Durability};
use common::{Random, scaled};
use cow::device::Access;
use cow::{Device, Header, HeaderError, MemoryStorage, Version};

const ALL: [Version; 5] = [Version::V1Little, Version::V1Big, Version::V2, Version::V3, Version::V3Broken];

fn header(version: Version, size: u64) -> Header {
    let alignment = if version.number() == 3 { 4096 } else { 512 };
    Header { version, mtime: 0x5e0b_e100, size, alignment, backing_path: b"/tmp/backing".to_vec() }
}

#[test]
fn a_new_file_is_what_the_reference_writes() {
    let file = MemoryStorage::default();
    Header::new(b"/tmp/peers/debian.ext4".to_vec(), 0x8000_0000, 0x6b00_e82e).encode().unwrap();
    Header::new(b"/tmp/b".to_vec(), 1 << 20, 0x5e0b_e100).create(&file).unwrap();
    let image = file.image();
    let expected = [
        0x4f, 0x4f, 0x4f, 0x4d, 0, 0, 0, 3, 0x5e, 0x0b, 0xe1, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 2, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, b'/',
        b't', b'm', b'p', b'/', b'b', 0,
    ];
    assert_eq!(image[..expected.len()], expected);
    assert!(image[expected.len()..].iter().all(|&byte| byte == 0));
    assert_eq!(image.len(), 1_060_864);
}

#[test]
fn bitmap_and_data_lie_where_the_reference_puts_them() {
    // backing size, bytes of bitmap, offset of data, length of the file: measured.
    for (size, bitmap_len, data_offset, len) in [
        (1_000_001, 245, 12_288, 1_012_289),
        (1_048_576, 256, 12_288, 1_060_864),
        (1_074_790_400, 262_400, 274_432, 1_075_064_832u64),
        (2_147_483_648, 524_288, 532_480, 2_148_016_128),
    ] {
        let layout = header(Version::V3, size).layout().unwrap();
        assert_eq!((layout.bitmap_offset, layout.bitmap_len, layout.data_offset), (8192, bitmap_len, data_offset));
        assert_eq!(layout.data_offset + size, len);
    }
    for (version, bitmap_offset, bitmap_len, data_offset) in [
        (Version::V1Little, 280, 244, 1024),
        (Version::V1Big, 280, 244, 1024),
        (Version::V2, 4120, 244, 4608),
        (Version::V3, 8192, 245, 12_288),
        (Version::V3Broken, 8192, 245, 12_288),
    ] {
        let layout = header(version, 1_000_001).layout().unwrap();
        assert_eq!(
            (layout.bitmap_offset, layout.bitmap_len, layout.data_offset, layout.sectors),
            (bitmap_offset, bitmap_len, data_offset, 1954)
        );
    }
}

#[test]
fn each_version_is_read_from_bytes_written_by_its_own_table() {
    let path = |bytes: &mut Vec<u8>, field: usize| {
        let end = bytes.len() + field;
        bytes.extend(b"/tmp/backing");
        bytes.resize(end, 0);
    };
    let be = |bytes: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| bytes.extend(value.to_be_bytes()));
    let magic = 0x4f4f_4f4d;
    let (mtime, size) = (0x5e0b_e100, 0x0010_0000);

    let mut v1_big = Vec::new();
    be(&mut v1_big, &[magic, 1]);
    path(&mut v1_big, 256);
    be(&mut v1_big, &[mtime, 0, size, 512]);

    let mut v1_little = Vec::new();
    [magic, 1].iter().for_each(|value: &u32| v1_little.extend(value.to_le_bytes()));
    path(&mut v1_little, 256);
    [mtime, size, 0, 512].iter().for_each(|value: &u32| v1_little.extend(value.to_le_bytes()));

    let mut v2 = Vec::new();
    be(&mut v2, &[magic, 2]);
    path(&mut v2, 4096);
    be(&mut v2, &[mtime, 0, size, 512]);

    let mut v3 = Vec::new();
    be(&mut v3, &[magic, 3, mtime, 0, size, 512, 4096, 0]);
    path(&mut v3, 4096);

    let mut broken = Vec::new();
    be(&mut broken, &[magic, 3, mtime, 0, 0, size, 512, 4096, 0]);
    path(&mut broken, 4096);

    for (version, bytes) in ALL.into_iter().zip([v1_little, v1_big, v2, v3, broken]) {
        let parsed = Header::parse(&bytes).unwrap_or_else(|error| panic!("{version:?}: {error}"));
        assert_eq!(parsed, header(version, 1 << 20));
        let mut encoded = parsed.encode().unwrap();
        encoded.truncate(bytes.len());
        assert_eq!(encoded, bytes, "{version:?}");
    }
}

#[test]
fn every_version_opens_takes_writes_and_keeps_its_layout() {
    for version in ALL {
        let header = header(version, 1_000_001);
        let (file, backing) = (MemoryStorage::default(), MemoryStorage::new(vec![7; 1_000_001]));
        header.create(&file).unwrap();
        let device = Device::new(&file, &header, &backing, Access::ReadWrite).unwrap();
        assert_eq!(device.sectors(), 1954);
        device.write(1953, &[9; 512], Durability::Cached).unwrap();
        device.write(10, &[8; 1024], Durability::Cached).unwrap();
        device.flush().unwrap();

        let reread = Header::read(&file).unwrap();
        assert_eq!(reread, header);
        let device = Device::new(&file, &reread, &backing, Access::ReadOnly).unwrap();
        let mut sectors = vec![0; 4 * 512];
        device.read(9, &mut sectors).unwrap();
        assert_eq!([sectors[0], sectors[512], sectors[1024], sectors[1536]], [7, 8, 8, 7]);
        device.read(1953, &mut sectors[..512]).unwrap();
        assert_eq!(sectors[..512], [9; 512]);
        assert_eq!(device.write(0, &[0; 512], Durability::Cached), Err(Errno::EROFS));
        assert_eq!(backing.image(), vec![7; 1_000_001]);
    }
}

#[test]
fn the_tail_of_a_short_last_sector_reads_as_zeroes_even_when_the_backing_file_grew() {
    let header = Header::new(b"/b".to_vec(), 1575, 1);
    let file = MemoryStorage::default();
    header.create(&file).unwrap();
    let device = Device::new(&file, &header, MemoryStorage::new(vec![1; 4096]), Access::ReadWrite).unwrap();
    assert_eq!(device.sectors(), 4);
    let mut all = vec![0xff; 2048];
    device.read(0, &mut all).unwrap();
    assert_eq!(all, [vec![1; 1575], vec![0; 473]].concat());
}

#[test]
fn damaged_headers_are_refused_with_what_is_wrong() {
    let good = header(Version::V3, 1 << 20).encode().unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut header = good.clone();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&header)
    };
    assert_eq!(Header::parse(&[]), Err(HeaderError::NotCow));
    assert_eq!(Header::parse(b"OOO"), Err(HeaderError::NotCow));
    assert_eq!(Header::parse(&[0; 8192]), Err(HeaderError::NotCow));
    assert_eq!(Header::parse(&good[..4127]), Err(HeaderError::Truncated { needed: 4128 }));
    assert_eq!(with(4, &[0, 0, 0, 9]), Err(HeaderError::UnknownVersion(9)));
    assert!(matches!(with(20, &[0, 0, 0, 0]), Err(HeaderError::Invalid { value: 0, .. })));
    assert!(matches!(with(20, &[0, 0, 4, 0]), Err(HeaderError::Invalid { value: 1024, .. })));
    assert!(matches!(with(24, &[0, 0, 0, 0]), Err(HeaderError::Invalid { .. })));
    assert!(matches!(with(28, &[0, 0, 0, 1]), Err(HeaderError::Invalid { value: 1, .. })));
    assert!(matches!(with(12, &[0xff; 8]), Err(HeaderError::Invalid { value: u64::MAX, .. })));
    assert!(matches!(with(32, &[b'x'; 4096]), Err(HeaderError::Invalid { .. })));
    assert_eq!(with(4, &[0, 0, 0, 9]).unwrap_err().errno(), Errno::EINVAL);
}

#[test]
fn a_path_of_4095_bytes_fits_and_one_of_4096_does_not() {
    for (len, fits) in [(4095, true), (4096, false)] {
        let header = Header::new(vec![b'p'; len], 512, 0);
        assert_eq!(header.encode().is_ok(), fits);
    }
    assert_eq!(
        Header { version: Version::V1Little, alignment: 512, ..Header::new(vec![b'p'; 256], 512, 0) }.encode().unwrap_err().errno(),
        Errno::ENAMETOOLONG
    );
}

/// Random damage to good headers: parsing and using them may fail, nothing more.
#[test]
fn random_headers_never_panic() {
    let mut random = Random::new(1);
    for round in 0..scaled(4_000, 400_000) {
        let version = ALL[random.below(5) as usize];
        let mut bytes = header(version, random.next() >> random.below(64)).encode().unwrap();
        for _ in 0..random.below(6) {
            let at = match random.below(3) {
                0 => random.below(bytes.len() as u64),
                1 => random.below(40),
                _ => 260 + random.below(24),
            } as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        let file = MemoryStorage::new(bytes);
        let Ok(header) = Header::read(&file) else { continue };
        let layout = header.layout().unwrap();
        let device = Device::new(&file, &header, MemoryStorage::default(), Access::ReadWrite).unwrap();
        let mut sector = [0; 512];
        for at in [0, layout.sectors.saturating_sub(1), layout.sectors, random.next()] {
            let expected = if at < layout.sectors { Ok(()) } else { Err(Errno::EIO) };
            assert_eq!(device.read(at, &mut sector), expected, "round {round} sector {at} of {layout:?}");
            // The file in memory is bounded; only errors are of interest here.
            if layout.data_offset < 1 << 20 && at < 2048 {
                let _ = device.write(at, &sector, Durability::ForceUnitAccess);
            }
        }
    }
}
