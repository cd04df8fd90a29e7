//! The header of a COW file: five layouts, byte for byte.
//!
//! | version | bytes | order | alignment field |
//! |---|---|---|---|
//! | 1 | 280 | that of the writer, told by the magic | no |
//! | 2 | 4120 | big-endian | no |
//! | 3 | 4128 | big-endian | yes |
//! | 3 as 64-bit programs wrote it until December 2005 | 4136 | big-endian, fields at their natural alignment | yes |
//!
//! Only version 3 is created; a header that must be rewritten keeps its version, because the places of bitmap and data follow from it.
//!
//! Always true of a parsed [`Header`]: its sector size is 512, its alignment is not zero, its path has no NUL and is not empty, and its
//! [`Layout`] is free of overflow.

use std::fmt;

use abi::Errno;

use crate::{SECTOR_SIZE, Storage, storage::read_or_zeroes};

const MAGIC: u32 = 0x4f4f_4f4d;
const V1_PATH_LEN: usize = 256;
const PATH_LEN: usize = 4096;
const V1_LEN: usize = 280;
const V2_LEN: usize = 4120;
const V3_LEN: usize = 4128;
const V3_BROKEN_LEN: usize = 4136;

/// Longest backing path that a new COW file can hold, in bytes without the NUL.
pub const MAX_BACKING_PATH: usize = PATH_LEN - 1;
/// The alignment of bitmap and data in files we create: the page size, as UML has it.
pub const ALIGNMENT: u32 = abi::PAGE_SIZE as u32;

/// Which layout a header has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// Version 1 by a little-endian machine.
    V1Little,
    /// Version 1 by a big-endian machine.
    V1Big,
    /// Version 2.
    V2,
    /// Version 3, the one that is written.
    V3,
    /// Version 3 with the padding that 64-bit compilers put in.
    V3Broken,
}

impl Version {
    /// Bytes of the structure, before any alignment.
    #[must_use]
    pub fn header_len(self) -> usize {
        match self {
            Version::V1Little | Version::V1Big => V1_LEN,
            Version::V2 => V2_LEN,
            Version::V3 => V3_LEN,
            Version::V3Broken => V3_BROKEN_LEN,
        }
    }

    /// Bytes of the path field with its NUL.
    #[must_use]
    pub fn path_field_len(self) -> usize {
        match self {
            Version::V1Little | Version::V1Big => V1_PATH_LEN,
            _ => PATH_LEN,
        }
    }

    /// The number in the file.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Version::V1Little | Version::V1Big => 1,
            Version::V2 => 2,
            Version::V3 | Version::V3Broken => 3,
        }
    }

    fn is_little_endian(self) -> bool {
        self == Version::V1Little
    }
}

/// Why a file is not, or can't be used as, a COW file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// It does not start with the magic number: an ordinary image.
    NotCow,
    /// It ends inside the header.
    Truncated {
        /// Bytes that the header of its version has.
        needed: usize,
    },
    /// A version that nobody has defined.
    UnknownVersion(u32),
    /// A field holds what it can't.
    Invalid {
        /// The field and what is wrong with it.
        what: &'static str,
        /// The value found.
        value: u64,
    },
    /// The path is too long for this version's field.
    PathTooLong {
        /// Bytes of the path.
        len_bytes: usize,
        /// Bytes that fit.
        room: usize,
    },
    /// The host failed.
    Io(Errno),
}

impl HeaderError {
    /// The number that opening such a device fails with.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            HeaderError::Io(errno) => *errno,
            HeaderError::PathTooLong { .. } => Errno::ENAMETOOLONG,
            _ => Errno::EINVAL,
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::NotCow => f.write_str("no COW header: the file does not start with OOOM or MOOO"),
            HeaderError::Truncated { needed } => write!(f, "the file ends inside its COW header of {needed} bytes"),
            HeaderError::UnknownVersion(version) => write!(f, "unknown COW version {version}: versions 1 to 3 exist"),
            HeaderError::Invalid { what, value } => write!(f, "damaged COW header: {what} ({value})"),
            HeaderError::PathTooLong { len_bytes, room } => {
                write!(f, "the backing file's path has {len_bytes} bytes, the COW header has room for {room}")
            }
            HeaderError::Io(errno) => write!(f, "reading or writing the COW header: {errno}"),
        }
    }
}

impl std::error::Error for HeaderError {}

impl From<Errno> for HeaderError {
    fn from(errno: Errno) -> Self {
        HeaderError::Io(errno)
    }
}

/// Where the parts of a COW file lie, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// First byte of the bitmap.
    pub bitmap_offset: u64,
    /// Bytes of bitmap that every reader of the format reads.
    pub bitmap_len: u64,
    /// First byte of the data area.
    pub data_offset: u64,
    /// Sectors of the device: the backing file's size, rounded up.
    pub sectors: u64,
}

/// What a COW file says about itself and its backing file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its layout.
    pub version: Version,
    /// Modification time of the backing file in seconds since 1970, good until 2106.
    pub mtime: u32,
    /// Size of the backing file in bytes, not rounded.
    pub size: u64,
    /// Alignment of bitmap and data in bytes; 512 in versions that have no such field.
    pub alignment: u32,
    /// The backing file's path, without NUL.
    pub backing_path: Vec<u8>,
}

impl Header {
    /// The header of a new COW file: version 3, page alignment.
    #[must_use]
    pub fn new(backing_path: Vec<u8>, size: u64, mtime: u32) -> Header {
        Header { version: Version::V3, mtime, size, alignment: ALIGNMENT, backing_path }
    }

    /// Reads the header at the start of a file. [`HeaderError::NotCow`] is the ordinary answer for a plain image.
    pub fn read(storage: &(impl Storage + ?Sized)) -> Result<Header, HeaderError> {
        let mut bytes = vec![0; V3_BROKEN_LEN];
        let len_bytes = storage.len_bytes()?.min(bytes.len() as u64) as usize;
        bytes.truncate(len_bytes);
        read_or_zeroes(storage, 0, &mut bytes)?;
        Header::parse(&bytes)
    }

    /// Parses the first bytes of a file; give it 4136 or all there are.
    pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let version = detect(bytes)?;
        let fields = Fields { bytes, little_endian: version.is_little_endian() };
        if bytes.len() < version.header_len() {
            // The broken layout ends in padding that a file need not have.
            if version != Version::V3Broken || bytes.len() < V3_BROKEN_LEN - 4 {
                return Err(HeaderError::Truncated { needed: version.header_len() });
            }
        }
        let (path_at, mtime_at, size_at, sector_size_at) = field_offsets(version);
        let (alignment, format) = match version {
            Version::V3 => (fields.u32(24)?, fields.u32(28)?),
            Version::V3Broken => (fields.u32(28)?, fields.u32(32)?),
            _ => (SECTOR_SIZE, 0),
        };
        let sector_size = fields.u32(sector_size_at)?;
        if sector_size != SECTOR_SIZE {
            return Err(HeaderError::Invalid { what: "its sector size is not 512", value: sector_size.into() });
        }
        if alignment == 0 {
            return Err(HeaderError::Invalid { what: "its alignment is zero", value: 0 });
        }
        if format != 0 {
            return Err(HeaderError::Invalid { what: "its format is not the sector bitmap", value: format.into() });
        }
        let header = Header {
            version,
            mtime: fields.u32(mtime_at)?,
            size: fields.u64(size_at)?,
            alignment,
            backing_path: fields.path(path_at, version.path_field_len())?,
        };
        header.layout()?;
        Ok(header)
    }

    /// The header's bytes. Fails only when the path is empty, holds a NUL or does not fit.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let room = self.version.path_field_len() - 1;
        if self.backing_path.len() > room {
            return Err(HeaderError::PathTooLong { len_bytes: self.backing_path.len(), room });
        }
        if self.backing_path.is_empty() || self.backing_path.contains(&0) {
            return Err(HeaderError::Invalid { what: "its backing path is empty or holds a NUL", value: 0 });
        }
        let little_endian = self.version.is_little_endian();
        let mut bytes = vec![0; self.version.header_len()];
        let mut put = |at: usize, value: u64, len: usize| {
            let big = value.to_be_bytes();
            let field = &mut bytes[at..at + len];
            field.copy_from_slice(&big[8 - len..]);
            if little_endian {
                field.reverse();
            }
        };
        let (path_at, mtime_at, size_at, sector_size_at) = field_offsets(self.version);
        put(0, MAGIC.into(), 4);
        put(4, self.version.number().into(), 4);
        put(mtime_at, self.mtime.into(), 4);
        put(size_at, self.size, 8);
        put(sector_size_at, SECTOR_SIZE.into(), 4);
        if self.version.number() == 3 {
            put(sector_size_at + 4, self.alignment.into(), 4);
        }
        bytes[path_at..path_at + self.backing_path.len()].copy_from_slice(&self.backing_path);
        Ok(bytes)
    }

    /// Where bitmap and data lie.
    pub fn layout(&self) -> Result<Layout, HeaderError> {
        let too_big = HeaderError::Invalid { what: "its backing file size is beyond any file", value: self.size };
        // A file offset is an i64.
        if self.size > i64::MAX as u64 / 2 {
            return Err(too_big);
        }
        let (alignment, header_len) = (u64::from(self.alignment), self.version.header_len() as u64);
        let sectors = self.size.div_ceil(SECTOR_SIZE.into());
        let (bitmap_offset, bitmap_len) = match self.version {
            Version::V3 | Version::V3Broken => (header_len.next_multiple_of(alignment), sectors.div_ceil(8)),
            // The rounding of the time: up to seven sectors at the end may have no bit.
            _ => (header_len, (self.size + u64::from(SECTOR_SIZE) - 1) / (8 * u64::from(SECTOR_SIZE))),
        };
        let data_offset = (bitmap_offset + bitmap_len).next_multiple_of(alignment);
        Ok(Layout { bitmap_offset, bitmap_len, data_offset, sectors })
    }

    /// Turns an empty file into a COW file that owns nothing: an all-zero, unallocated bitmap and its full length by one zero byte at the
    /// end. The header goes in last and in one write, so a file that was cut short is no COW file.
    pub fn create(&self, storage: &(impl Storage + ?Sized)) -> Result<(), HeaderError> {
        let bytes = self.encode()?;
        let layout = self.layout()?;
        let len_bytes = layout.data_offset + self.size;
        storage.write_at(len_bytes - 1, &[0])?;
        storage.write_at(0, &bytes)?;
        storage.sync()?;
        Ok(())
    }

    /// Writes a changed header over the one that is there, which must have the same version, alignment and size.
    pub fn rewrite(&self, storage: &(impl Storage + ?Sized)) -> Result<(), HeaderError> {
        storage.write_at(0, &self.encode()?)?;
        storage.sync()?;
        Ok(())
    }
}

/// Offsets of path, mtime, size and sector size.
fn field_offsets(version: Version) -> (usize, usize, usize, usize) {
    match version {
        Version::V1Little | Version::V1Big => (8, 264, 268, 276),
        Version::V2 => (8, 4104, 4108, 4116),
        Version::V3 => (32, 8, 12, 20),
        Version::V3Broken => (36, 8, 16, 24),
    }
}

fn detect(bytes: &[u8]) -> Result<Version, HeaderError> {
    let Some(&magic) = bytes.first_chunk::<4>() else { return Err(HeaderError::NotCow) };
    let little_endian = match magic {
        m if m == MAGIC.to_be_bytes() => false,
        m if m == MAGIC.to_le_bytes() => true,
        _ => return Err(HeaderError::NotCow),
    };
    match (Fields { bytes, little_endian }.u32(4)?, little_endian) {
        (1, true) => Ok(Version::V1Little),
        (1, false) => Ok(Version::V1Big),
        (2, false) => Ok(Version::V2),
        // A path starts where the broken layout has its format, which is 0.
        (3, false) if bytes.get(32..36) == Some(&[0; 4]) => Ok(Version::V3Broken),
        (3, false) => Ok(Version::V3),
        (version, _) => Err(HeaderError::UnknownVersion(version)),
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], HeaderError> {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(HeaderError::Truncated { needed: at + N })
    }

    fn u32(&self, at: usize) -> Result<u32, HeaderError> {
        let raw = self.take(at)?;
        Ok(if self.little_endian { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) })
    }

    fn u64(&self, at: usize) -> Result<u64, HeaderError> {
        let raw = self.take(at)?;
        Ok(if self.little_endian { u64::from_le_bytes(raw) } else { u64::from_be_bytes(raw) })
    }

    fn path(&self, at: usize, field_len: usize) -> Result<Vec<u8>, HeaderError> {
        let field = self.bytes.get(at..at + field_len).ok_or(HeaderError::Truncated { needed: at + field_len })?;
        match field.iter().position(|&byte| byte == 0) {
            Some(0) => Err(HeaderError::Invalid { what: "its backing path is empty", value: 0 }),
            Some(len_bytes) => Ok(field[..len_bytes].to_vec()),
            None => Err(HeaderError::Invalid { what: "its backing path has no end", value: field_len as u64 }),
        }
    }
}
