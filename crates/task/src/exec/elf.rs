//! ELF64 headers of programs, elf(5): taken apart and checked. Nothing a file says is believed before it is checked here.

use abi::arch::TASK_SIZE;
use abi::{Errno, PAGE_SIZE};
use platform::Protection;

const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
/// Bytes of program headers at most, as Linux has it.
const PROGRAM_HEADERS_MAX: usize = 65536;
/// Longest interpreter path.
const INTERPRETER_MAX: u64 = 4096;
const EM_X86_64: u16 = 62;

/// What kind of image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `ET_EXEC`: lies where it says.
    Fixed,
    /// `ET_DYN`: lies anywhere.
    Relocatable,
}

/// One `PT_LOAD`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub addr: u64,
    pub offset: u64,
    pub file_len: u64,
    pub memory_len: u64,
    pub rights: Protection,
}

impl Segment {
    /// Its pages: first address, end.
    pub fn pages(&self) -> (u64, u64) {
        (self.addr & !PAGE_MASK, (self.addr + self.memory_len + PAGE_MASK) & !PAGE_MASK)
    }
}

/// What the file header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    pub entry: u64,
    pub program_headers_offset: u64,
    pub program_headers: u16,
}

/// What the program headers say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// In ascending order, not overlapping, at least one.
    pub segments: Vec<Segment>,
    /// Offset and length of the interpreter's path in the file.
    pub interpreter: Option<(u64, u64)>,
    /// Address of the program headers in memory.
    pub headers_addr: u64,
    pub executable_stack: bool,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}
fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    /// From the first bytes of a file. ENOEXEC for what is no x86-64 ELF program.
    pub fn parse(bytes: &[u8]) -> Result<Header, Errno> {
        const LITTLE_64: &[u8] = &[0x7f, b'E', b'L', b'F', 2, 1];
        if bytes.len() < HEADER_LEN || !bytes.starts_with(LITTLE_64) || half(bytes, 18) != EM_X86_64 {
            return Err(Errno::ENOEXEC);
        }
        let kind = match half(bytes, 16) {
            2 => Kind::Fixed,
            3 => Kind::Relocatable,
            _ => return Err(Errno::ENOEXEC),
        };
        let count = half(bytes, 56);
        if half(bytes, 54) as usize != PROGRAM_HEADER_LEN || count == 0 || usize::from(count) * PROGRAM_HEADER_LEN > PROGRAM_HEADERS_MAX {
            return Err(Errno::ENOEXEC);
        }
        Ok(Header { kind, entry: long(bytes, 24), program_headers_offset: long(bytes, 32), program_headers: count })
    }

    /// Bytes of the program headers.
    pub fn program_headers_len(&self) -> usize {
        usize::from(self.program_headers) * PROGRAM_HEADER_LEN
    }
}

impl Image {
    /// From the program headers. ENOEXEC for a table without segments, or with segments that wrap, overlap or lie outside the address space.
    pub fn parse(header: &Header, table: &[u8]) -> Result<Image, Errno> {
        const PT_LOAD: u32 = 1;
        const PT_INTERP: u32 = 3;
        const PT_PHDR: u32 = 6;
        const PT_GNU_STACK: u32 = 0x6474_e551;
        let mut image = Image::default();
        let mut phdr = None;
        for entry in table.chunks_exact(PROGRAM_HEADER_LEN) {
            let (offset, addr, file_len, memory_len) = (long(entry, 8), long(entry, 16), long(entry, 32), long(entry, 40));
            match word(entry, 0) {
                PT_LOAD if memory_len > 0 || file_len > 0 => {
                    let rights = rights(word(entry, 4));
                    image.push(Segment { addr, offset, file_len, memory_len, rights })?;
                }
                PT_INTERP => {
                    if !(2..=INTERPRETER_MAX).contains(&file_len) {
                        return Err(Errno::ENOEXEC);
                    }
                    image.interpreter = Some((offset, file_len));
                }
                PT_PHDR => phdr = Some(addr),
                PT_GNU_STACK => image.executable_stack = word(entry, 4) & 1 != 0,
                _ => {}
            }
        }
        let first = image.segments.first().ok_or(Errno::ENOEXEC)?;
        let wanted = header.program_headers_offset;
        let holder = image.segments.iter().find(|s| s.offset <= wanted && wanted < s.offset.saturating_add(s.file_len));
        image.headers_addr = phdr
            .or_else(|| holder.map(|s| s.addr.wrapping_add(wanted - s.offset)))
            .unwrap_or_else(|| first.addr.wrapping_sub(first.offset).wrapping_add(wanted));
        Ok(image)
    }

    fn push(&mut self, segment: Segment) -> Result<(), Errno> {
        let end = segment.addr.checked_add(segment.memory_len).filter(|end| *end <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
        let file_end = segment.offset.checked_add(segment.file_len);
        let misaligned = (segment.addr ^ segment.offset) & PAGE_MASK != 0;
        if segment.file_len > segment.memory_len
            || misaligned
            || file_end.is_none_or(|end| end > i64::MAX as u64)
            || end & !PAGE_MASK > TASK_SIZE - PAGE_SIZE as u64
        {
            return Err(Errno::ENOEXEC);
        }
        let before = self.segments.last().map_or(0, |last| last.addr + last.memory_len);
        if segment.addr < before {
            return Err(Errno::ENOEXEC);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// First address and end of all segments, whole pages.
    pub fn span(&self) -> (u64, u64) {
        let first = self.segments.first().map_or(0, |s| s.pages().0);
        let end = self.segments.last().map_or(0, |s| s.pages().1);
        (first, end)
    }
}

fn rights(flags: u32) -> Protection {
    let mut rights = Protection::empty();
    rights.set(Protection::EXEC, flags & 1 != 0);
    rights.set(Protection::WRITE, flags & 2 != 0);
    rights.set(Protection::READ, flags & 4 != 0);
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_bytes(kind: u16, count: u16) -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&62u16.to_le_bytes());
        bytes[24..32].copy_from_slice(&0x40_1000u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    fn load(flags: u32, offset: u64, addr: u64, file_len: u64, memory_len: u64) -> Vec<u8> {
        let mut entry = vec![0u8; 56];
        entry[..4].copy_from_slice(&1u32.to_le_bytes());
        entry[4..8].copy_from_slice(&flags.to_le_bytes());
        for (at, value) in [(8, offset), (16, addr), (32, file_len), (40, memory_len)] {
            entry[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        entry
    }

    #[test]
    fn what_is_no_program_of_this_processor_is_refused() {
        assert!(Header::parse(&header_bytes(2, 1)).is_ok());
        for bytes in [
            vec![],
            b"#!/bin/sh".to_vec(),
            header_bytes(2, 1)[..63].to_vec(),
            header_bytes(1, 1),
            header_bytes(2, 0),
            header_bytes(2, 2000),
        ] {
            assert_eq!(Header::parse(&bytes), Err(Errno::ENOEXEC));
        }
        let mut wrong_machine = header_bytes(2, 1);
        wrong_machine[18] = 3;
        assert_eq!(Header::parse(&wrong_machine), Err(Errno::ENOEXEC));
    }

    #[test]
    fn segments_must_make_sense() {
        let header = Header::parse(&header_bytes(2, 2)).unwrap();
        let good = [load(5, 0, 0x40_0000, 0x1000, 0x1000), load(6, 0x1000, 0x40_1000, 0x10, 0x3000)].concat();
        let image = Image::parse(&header, &good).unwrap();
        assert_eq!(image.span(), (0x40_0000, 0x40_4000));
        assert_eq!(image.headers_addr, 0x40_0040);
        for bad in [
            load(5, 0, u64::MAX - 10, 100, 100),
            load(5, 0, 0x40_0000, 0x2000, 0x1000),
            load(5, 1, 0x40_0000, 0x1000, 0x1000),
            load(5, !0xfff, 0x40_0000, 0x2000, 0x2000),
            load(5, 0, TASK_SIZE, 0x1000, 0x1000),
            [load(5, 0, 0x40_0000, 0x2000, 0x2000), load(5, 0, 0x40_1000, 0x1000, 0x1000)].concat(),
            vec![0; 56],
        ] {
            assert!(Image::parse(&header, &bad).is_err());
        }
    }

    #[test]
    fn no_sequence_of_bytes_panics() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let mut table: Vec<u8> = (0..56 * 4).map(|_| random() as u8).collect();
            for entry in table.chunks_exact_mut(56) {
                entry[0] = (random() % 7) as u8;
                entry[1..4].fill(0);
                if random() % 2 == 0 {
                    entry[22..24].fill(0);
                    entry[46..48].fill(0);
                }
            }
            let header = Header { kind: Kind::Fixed, entry: random(), program_headers_offset: random(), program_headers: 4 };
            if let Ok(image) = Image::parse(&header, &table) {
                let (first, end) = image.span();
                assert!(first < end && end <= TASK_SIZE);
            }
        }
    }
}
