use super::*;
use std::collections::BTreeMap;
use std::io::Write;

/// A target that remembers: name to what it is.
#[derive(Default)]
struct Tree {
    made: BTreeMap<String, String>,
    data: BTreeMap<String, Vec<u8>>,
    full_after: Option<usize>,
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Target for Tree {
    fn directory(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        self.made.insert(text(name), format!("d{:o} {}:{}", header.mode & 0o7777, header.uid, header.gid));
        Ok(())
    }
    fn symlink(&mut self, name: &[u8], target: &[u8], _: &Header) -> Result<(), Errno> {
        self.made.insert(text(name), format!("-> {}", text(target)));
        Ok(())
    }
    fn node(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        self.made.insert(text(name), format!("{:o} {}:{}", header.mode, header.rdev.0, header.rdev.1));
        Ok(())
    }
    fn file(&mut self, name: &[u8], header: &Header) -> Result<(), Errno> {
        self.made.insert(text(name), format!("f{:o}", header.mode & 0o7777));
        self.data.insert(text(name), Vec::new());
        Ok(())
    }
    fn link(&mut self, name: &[u8], first: &[u8]) -> Result<(), Errno> {
        self.made.insert(text(name), format!("= {}", text(first)));
        Ok(())
    }
    fn data(&mut self, name: &[u8], offset: u64, data: &[u8]) -> Result<(), Errno> {
        let held: usize = self.data.values().map(Vec::len).sum();
        if self.full_after.is_some_and(|limit| held + data.len() > limit) {
            return Err(Errno::ENOSPC);
        }
        let name = match self.made.get(&text(name)) {
            Some(link) if link.starts_with("= ") => link[2..].to_string(),
            _ => text(name),
        };
        let file = self.data.entry(name).or_default();
        assert_eq!(file.len() as u64, offset);
        file.extend_from_slice(data);
        Ok(())
    }
    fn end_file(&mut self, _: &[u8], _: &Header) -> Result<(), Errno> {
        Ok(())
    }
}

/// Builds an archive.
struct Archive {
    bytes: Vec<u8>,
    magic: &'static str,
}

impl Archive {
    fn new() -> Archive {
        Archive { bytes: Vec::new(), magic: "070701" }
    }
    fn entry(mut self, name: &str, mode: u32, fields: &[(usize, u32)], data: &[u8]) -> Archive {
        let sum = if self.magic == "070702" { data.iter().map(|b| u32::from(*b)).sum() } else { 0 };
        let mut numbers = [1, mode, 5, 6, 1, 1_600_000_000, data.len() as u32, 8, 1, 0, 0, name.len() as u32 + 1, sum];
        for (at, value) in fields {
            numbers[*at] = *value;
        }
        self.bytes.extend_from_slice(self.magic.as_bytes());
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
    fn file(self, name: &str, data: &[u8]) -> Archive {
        self.entry(name, 0o100_644, &[], data)
    }
    fn end(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], b"").bytes
    }
}

const LINKS: usize = 4;
const SIZE: usize = 6;
const INO: usize = 0;
const RMAJOR: usize = 9;
const RMINOR: usize = 10;
const NAME: usize = 11;
const SUM: usize = 12;

fn run(bytes: &[u8]) -> (Tree, Result<Unpacked, (Error, Unpacked)>) {
    let mut tree = Tree::default();
    let result = unpack(&mut &bytes[..], &mut tree);
    (tree, result)
}

fn sample() -> Archive {
    Archive::new()
        .entry(".", 0o040_755, &[], b"")
        .entry("bin", 0o040_755, &[], b"")
        .file("bin/hello", b"#!/bin/sh\necho hello\n")
        .entry("dev/console", 0o020_600, &[(RMAJOR, 5), (RMINOR, 1)], b"")
        .entry("init", 0o120_777, &[], b"bin/hello")
        .entry("./a/../b", 0o100_644, &[], b"lost")
        .entry("/abs//name", 0o100_600, &[], b"x")
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn check_sample(tree: &Tree) {
    let expected = [
        ("", "d755 5:6"),
        ("abs/name", "f600"),
        ("bin", "d755 5:6"),
        ("bin/hello", "f644"),
        ("dev/console", "20600 5:1"),
        ("init", "-> bin/hello"),
    ];
    let made: Vec<_> = tree.made.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(made, expected);
    assert_eq!(tree.data["bin/hello"], b"#!/bin/sh\necho hello\n");
}

#[test]
fn plain_and_compressed_archives_unpack_alike() {
    let plain = sample().end();
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let (tree, result) = run(&bytes);
        assert_eq!(result, Ok(Unpacked { entries: 6, skipped: 1, data_bytes: 22 }));
        check_sample(&tree);
    }
}

#[test]
fn archives_after_one_another_are_all_taken_with_zeroes_between() {
    // As distributions do it: microcode, plain, first; then the real one, compressed; then another.
    let mut bytes = Archive::new().file("kernel/x86/microcode", &[1; 100]).end();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(gzip(&sample().end()));
    bytes.extend([0; 512]);
    bytes.extend(zstd(&Archive::new().file("second", b"2").end()));
    bytes.extend(Archive::new().file("third", b"3").end());
    bytes.extend(gzip(&Archive::new().file("fourth", b"4").end()));
    let (tree, result) = run(&bytes);
    assert_eq!(result.map(|done| done.entries), Ok(10));
    assert_eq!(tree.data["kernel/x86/microcode"].len(), 100);
    assert_eq!((&tree.data["second"][..], &tree.data["third"][..], &tree.data["fourth"][..]), (&b"2"[..], &b"3"[..], &b"4"[..]));
}

#[test]
fn hard_links_get_their_data_from_whichever_name_brings_it() {
    let linked = |name: &str, ino: u32, data: &[u8], archive: Archive| archive.entry(name, 0o100_644, &[(INO, ino), (LINKS, 3)], data);
    let archive = linked("a", 7, b"", Archive::new());
    let archive = linked("b", 7, b"", archive);
    let archive = linked("c", 7, b"data", archive);
    let archive = linked("other", 8, b"8", archive);
    let (tree, result) = run(&archive.end());
    assert_eq!(result.map(|done| done.entries), Ok(4));
    assert_eq!((tree.made["b"].as_str(), tree.made["c"].as_str()), ("= a", "= a"));
    assert_eq!(tree.data["a"], b"data");
    assert_eq!(tree.data["other"], b"8");
}

#[test]
fn the_crc_format_is_checked() {
    let mut archive = Archive::new();
    archive.magic = "070702";
    let good = archive.file("a", b"abc").end();
    assert_eq!(run(&good).1.map(|done| done.entries), Ok(1));
    let mut archive = Archive::new();
    archive.magic = "070702";
    let bad = archive.entry("a", 0o100_644, &[(SUM, 1)], b"abc").end();
    assert!(matches!(run(&bad).1, Err((Error::Corrupt { .. }, _))));
}

#[test]
fn hostile_archives_end_in_an_error_and_nothing_else() {
    let cases: [(&str, Vec<u8>); 8] = [
        ("a size that is not there", Archive::new().entry("f", 0o100_644, &[(SIZE, u32::MAX)], b"abc").bytes),
        ("a name longer than paths are", Archive::new().entry("f", 0o100_644, &[(NAME, u32::MAX)], b"").bytes),
        ("no name", Archive::new().entry("f", 0o100_644, &[(NAME, 0)], b"").bytes),
        ("a link target longer than paths are", Archive::new().entry("l", 0o120_777, &[(SIZE, 1 << 30)], b"").bytes),
        ("cut off in a header", sample().end()[..60].to_vec()),
        ("text", b"0 is not an archive".to_vec()),
        ("garbage", vec![0x55; 1000]),
        ("gzip of garbage", gzip(&[0x55; 1000])),
    ];
    for (what, bytes) in cases {
        assert!(matches!(run(&bytes).1, Err((Error::Corrupt { .. }, _))), "{what}: {:?}", run(&bytes).1);
    }
    let mut damaged = gzip(&sample().end());
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    assert!(run(&damaged).1.is_err());
    assert_eq!(run(&[0xfd, b'7', b'z', b'X', b'Z', 0, 0]).1.unwrap_err().0, Error::Unsupported { what: "xz" });
    // A compressed archive inside a compressed archive would never end.
    assert!(run(&gzip(&gzip(&sample().end()))).1.is_err());
    assert_eq!(run(&[]).1, Ok(Unpacked::default()));
}

#[test]
fn a_file_of_zeroes_that_compresses_well_stops_where_there_is_no_room() {
    let bomb = gzip(&Archive::new().file("zeroes", &vec![0; 50_000_000]).end());
    assert!(bomb.len() < 400_000);
    let mut tree = Tree { full_after: Some(1_000_000), ..Tree::default() };
    let result = unpack(&mut &bomb[..], &mut tree);
    assert!(matches!(result, Err((Error::Target { errno: Errno::ENOSPC, .. }, _))));
}

#[test]
fn every_truncation_and_many_damages_of_an_archive_are_survived() {
    let whole = sample().end();
    for len in 0..whole.len() {
        let _ = run(&whole[..len]);
    }
    let mut seed = 1u64;
    for compressed in [whole.clone(), gzip(&whole), zstd(&whole)] {
        for _ in 0..500 {
            let mut bytes = compressed.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 20) as u8;
            }
            let _ = run(&bytes);
        }
    }
}
