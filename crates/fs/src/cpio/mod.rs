//! Initramfs archives: cpio in the formats `newc` (070701) and `crc` (070702), plain or compressed with gzip or zstd, several after another with
//! zeroes between, as Linux takes them.
//!
//! Here: the format, giving each entry to a [`Target`]. The target that makes files ([`unpack_into`]) uses path operations, so that an archive
//! can do nothing that a process with these credentials could not do in its own root.
//!
//! Always true: memory is bounded by a few buffers and by the number of hard-linked entries, whatever an archive claims; sizes are believed
//! only as far as bytes are there; what was unpacked before an archive turned out broken stays, as in Linux.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, cpio(5).

#[cfg(test)]
mod tests;
mod unpack;

pub use unpack::unpack_into;

use abi::Errno;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes of a name or of a symbolic link's target, at most (`PATH_MAX`).
const PATH_MAX: u64 = 4096;
/// Bytes handed on at a time.
const CHUNK: usize = 64 * 1024;
/// Files with several names whose other names may still come. Beyond it further names get copies of their own.
const LINKED_FILES: usize = 1 << 20;

/// Why unpacking ended early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// Not an archive from here on, or a damaged one.
    Corrupt { what: &'static str },
    /// A compression that we lack.
    Unsupported { what: &'static str },
    /// The archive could not be read.
    Read(Errno),
    /// An entry could not be made: RAM is used up, for instance.
    Target { name: Vec<u8>, errno: Errno },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Corrupt { what } => write!(f, "damaged archive: {what}"),
            Error::Unsupported { what } => write!(f, "{what} compression is not supported; use gzip or zstd"),
            Error::Read(errno) => write!(f, "the archive can't be read: {errno}"),
            Error::Target { name, errno } => write!(f, "{}: {errno}", String::from_utf8_lossy(name)),
        }
    }
}

impl std::error::Error for Error {}

/// What an archive held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unpacked {
    /// Entries made.
    pub entries: u64,
    /// Entries left out: their name leads out of the tree, or they could not be made.
    pub skipped: u64,
    /// Bytes of file contents.
    pub data_bytes: u64,
}

/// An entry's header. Times are seconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub ino: u32,
    /// `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub modified_s: u32,
    pub size_bytes: u32,
    pub dev: (u32, u32),
    pub rdev: (u32, u32),
    name_bytes: u32,
    /// Sum of the data's bytes, `crc` format only.
    checksum: Option<u32>,
}

/// What entries are made into. Names are relative, without `.` and empty components; `..` never comes.
///
/// An error of EIO, ENOSPC, ENOMEM, EDQUOT or EROFS ends the unpacking; after any other the entry is skipped.
pub trait Target {
    /// A directory; it may be there.
    fn directory(&mut self, name: &[u8], header: &Header) -> Result<(), Errno>;
    /// A symbolic link, device, FIFO or socket. What is there is replaced.
    fn symlink(&mut self, name: &[u8], target: &[u8], header: &Header) -> Result<(), Errno>;
    /// A device, FIFO or socket, as `header.mode` says. What is there is replaced.
    fn node(&mut self, name: &[u8], header: &Header) -> Result<(), Errno>;
    /// A regular file, empty; its data follows.
    fn file(&mut self, name: &[u8], header: &Header) -> Result<(), Errno>;
    /// Another name for a file that was made before.
    fn link(&mut self, name: &[u8], first: &[u8]) -> Result<(), Errno>;
    /// The next bytes of the file `name`, at `offset`.
    fn data(&mut self, name: &[u8], offset: u64, data: &[u8]) -> Result<(), Errno>;
    /// No more data for it comes.
    fn end_file(&mut self, name: &[u8], header: &Header) -> Result<(), Errno>;
}

fn corrupt(what: &'static str) -> Error {
    Error::Corrupt { what }
}

fn read_error(error: &io::Error) -> Error {
    match error.raw_os_error().and_then(Errno::from_raw) {
        Some(errno) => Error::Read(errno),
        None if error.kind() == io::ErrorKind::UnexpectedEof => corrupt("it ends in the middle of an entry"),
        None => corrupt("the compressed data is damaged"),
    }
}

/// Unpacks every archive in `source`, one after the other.
pub fn unpack(source: &mut dyn Read, target: &mut dyn Target) -> Result<Unpacked, (Error, Unpacked)> {
    let mut unpacker = Unpacker { target, linked: HashMap::new(), done: Unpacked::default() };
    let mut input = Input::new(source);
    match unpacker.archives(&mut input, true) {
        Ok(()) => Ok(unpacker.done),
        Err(error) => Err((error, unpacker.done)),
    }
}

/// A source that can be looked ahead into.
struct Input<'a> {
    inner: BufReader<&'a mut dyn Read>,
    /// Looked at and put back; read before `inner`.
    ahead: Vec<u8>,
    position: u64,
}

impl<'a> Input<'a> {
    fn new(source: &'a mut dyn Read) -> Input<'a> {
        Input { inner: BufReader::with_capacity(CHUNK, source), ahead: Vec::new(), position: 0 }
    }

    /// The next bytes, up to `len`, which stay.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        let mut byte = [0];
        while self.ahead.len() < len {
            match self.inner.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => self.ahead.extend_from_slice(&byte),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.ahead)
    }

    fn skip(&mut self, len: u64) -> Result<(), Error> {
        let skipped = io::copy(&mut self.by_ref().take(len), &mut io::sink()).map_err(|e| read_error(&e))?;
        if skipped == len { Ok(()) } else { Err(corrupt("it ends in the middle of an entry")) }
    }

    /// Skips to the next multiple of four.
    fn align(&mut self) -> Result<(), Error> {
        self.skip((4 - self.position % 4) % 4)
    }

    fn exactly(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).map_err(|e| read_error(&e))?;
        Ok(bytes)
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = if self.ahead.is_empty() {
            self.inner.read(buffer)?
        } else {
            let n = buffer.len().min(self.ahead.len());
            for (to, from) in buffer.iter_mut().zip(self.ahead.drain(..n)) {
                *to = from;
            }
            n
        };
        self.position += n as u64;
        Ok(n)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead.is_empty() { self.inner.fill_buf() } else { Ok(&self.ahead) }
    }
    fn consume(&mut self, amount: usize) {
        if self.ahead.is_empty() {
            self.inner.consume(amount);
        } else {
            self.ahead.drain(..amount.min(self.ahead.len()));
        }
        self.position += amount as u64;
    }
}

struct Unpacker<'a> {
    target: &'a mut dyn Target,
    /// First name of files with several, by device and inode number.
    linked: HashMap<(u32, u32, u32), Vec<u8>>,
    done: Unpacked,
}

impl Unpacker<'_> {
    /// All archives to the end of the input. Compressed ones are taken only at the outer level: an archive that unfolds for ever can't be.
    fn archives(&mut self, input: &mut Input<'_>, outer: bool) -> Result<(), Error> {
        loop {
            // Archives start at multiples of four, with zeroes between.
            let magic = input.peek(6).map_err(|e| read_error(&e))?;
            match magic {
                [] => return Ok(()),
                [0, ..] => input.skip(1)?,
                [b'0', ..] => {
                    self.archive(input)?;
                    self.linked.clear();
                }
                [0x1f, 0x8b, ..] if outer => {
                    let mut plain = flate2::bufread::GzDecoder::new(&mut *input);
                    self.archives(&mut Input::new(&mut plain), false)?;
                    drain(&mut plain)?;
                    input.position = 0;
                }
                [0x28, 0xb5, 0x2f, 0xfd, ..] if outer => {
                    let plain = ruzstd::decoding::StreamingDecoder::new(&mut *input);
                    let mut plain = plain.map_err(|_| corrupt("the compressed data is damaged"))?;
                    self.archives(&mut Input::new(&mut plain), false)?;
                    drain(&mut plain)?;
                    input.position = 0;
                }
                other => return Err(unknown(other)),
            }
        }
    }

    /// One archive, to its trailer or to the end of the input.
    fn archive(&mut self, input: &mut Input<'_>) -> Result<(), Error> {
        input.position = 0;
        loop {
            if input.peek(1).map_err(|e| read_error(&e))?.is_empty() {
                return Ok(());
            }
            let header = read_header(input)?;
            if header.name_bytes == 0 || u64::from(header.name_bytes) > PATH_MAX {
                return Err(corrupt("the length of a name"));
            }
            let mut name = input.exactly(header.name_bytes as usize)?;
            if name.pop() != Some(0) {
                return Err(corrupt("a name without its end"));
            }
            name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
            input.align()?;
            if name == b"TRAILER!!!" {
                input.skip(u64::from(header.size_bytes))?;
                return input.align();
            }
            self.entry(input, &name, &header)?;
            // An archive that was cut off at the very end of the last data is whole.
            let _ = input.align();
        }
    }

    fn entry(&mut self, input: &mut Input<'_>, name: &[u8], header: &Header) -> Result<(), Error> {
        let Some(name) = clean(name) else {
            self.done.skipped += 1;
            return input.skip(u64::from(header.size_bytes));
        };
        const FILE: u32 = 0o100_000;
        const DIRECTORY: u32 = 0o040_000;
        const SYMLINK: u32 = 0o120_000;
        match header.mode & 0o170_000 {
            FILE if !name.is_empty() => self.file(input, &name, header),
            SYMLINK if !name.is_empty() => {
                if u64::from(header.size_bytes) > PATH_MAX {
                    return Err(corrupt("the length of a symbolic link"));
                }
                let mut to = input.exactly(header.size_bytes as usize)?;
                to.truncate(to.iter().position(|b| *b == 0).unwrap_or(to.len()));
                let made = self.target.symlink(&name, &to, header);
                self.count(&name, made).map(drop)
            }
            kind => {
                let made = match kind {
                    DIRECTORY => self.target.directory(&name, header),
                    0o010_000 | 0o020_000 | 0o060_000 | 0o140_000 if !name.is_empty() => self.target.node(&name, header),
                    _ => Err(Errno::EINVAL),
                };
                self.count(&name, made)?;
                input.skip(u64::from(header.size_bytes))
            }
        }
    }

    fn file(&mut self, input: &mut Input<'_>, name: &[u8], header: &Header) -> Result<(), Error> {
        let key = (header.ino, header.dev.0, header.dev.1);
        let first = if header.links >= 2 { self.linked.get(&key).cloned() } else { None };
        let made = match &first {
            Some(first) => self.target.link(name, first),
            None => self.target.file(name, header),
        };
        if !self.count(name, made)? {
            return input.skip(u64::from(header.size_bytes));
        }
        if first.is_none() && header.links >= 2 && self.linked.len() < LINKED_FILES {
            self.linked.insert(key, name.to_vec());
        }
        // The data of a file with several names may come with any of them; names without bring no emptiness.
        if first.is_some() && header.size_bytes == 0 {
            return Ok(());
        }
        self.copy(input, name, header)?;
        self.target.end_file(name, header).map_err(|errno| Error::Target { name: name.to_vec(), errno })
    }

    fn copy(&mut self, input: &mut Input<'_>, name: &[u8], header: &Header) -> Result<(), Error> {
        let (size, mut done, mut sum) = (u64::from(header.size_bytes), 0, 0u32);
        let mut buffer = vec![0; CHUNK.min(header.size_bytes as usize)];
        while done < size {
            let want = buffer.len().min(usize::try_from(size - done).unwrap_or(CHUNK));
            let part = buffer.get_mut(..want).unwrap_or_default();
            let n = match input.read(part) {
                Ok(0) => return Err(corrupt("it ends in the middle of a file")),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(&error)),
            };
            let part = part.get(..n).unwrap_or_default();
            if header.checksum.is_some() {
                sum = part.iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            }
            self.target.data(name, done, part).map_err(|errno| Error::Target { name: name.to_vec(), errno })?;
            done += n as u64;
        }
        self.done.data_bytes += done;
        if header.checksum.is_some_and(|expected| expected != sum) {
            return Err(corrupt("a file's checksum is wrong"));
        }
        Ok(())
    }

    /// Counts an entry; whether it was made. Errors that will not go away end the unpacking.
    fn count(&mut self, name: &[u8], made: Result<(), Errno>) -> Result<bool, Error> {
        match made {
            Ok(()) => self.done.entries += 1,
            Err(errno @ (Errno::EIO | Errno::ENOSPC | Errno::ENOMEM | Errno::EDQUOT | Errno::EROFS)) => {
                return Err(Error::Target { name: name.to_vec(), errno });
            }
            Err(_) => self.done.skipped += 1,
        }
        Ok(made.is_ok())
    }
}

/// Reads what is left of a compressed stream: its checksum comes last.
fn drain(plain: &mut dyn Read) -> Result<(), Error> {
    io::copy(plain, &mut io::sink()).map(drop).map_err(|e| read_error(&e))
}

fn unknown(magic: &[u8]) -> Error {
    let what = match magic {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        [0x5d, 0, ..] => "lzma",
        _ => return corrupt("no archive starts here"),
    };
    Error::Unsupported { what }
}

fn read_header(input: &mut Input<'_>) -> Result<Header, Error> {
    let bytes = input.exactly(110)?;
    let with_sum = match bytes.get(..6) {
        Some(b"070701") => false,
        Some(b"070702") => true,
        Some(b"070707") => return Err(Error::Unsupported { what: "the old cpio format instead of newc, or its" }),
        _ => return Err(corrupt("the magic number of an entry")),
    };
    let mut fields = [0; 13];
    for (field, text) in fields.iter_mut().zip(bytes.get(6..).unwrap_or_default().chunks_exact(8)) {
        let digits = text.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(text).ok().filter(|_| digits);
        *field = text.and_then(|t| u32::from_str_radix(t, 16).ok()).ok_or(corrupt("a number of an entry"))?;
    }
    let [ino, mode, uid, gid, links, modified_s, size_bytes, major, minor, rmajor, rminor, name_bytes, sum] = fields;
    let checksum = with_sum.then_some(sum);
    let (dev, rdev) = ((major, minor), (rmajor, rminor));
    Ok(Header { ino, mode, uid, gid, links, modified_s, size_bytes, dev, rdev, name_bytes, checksum })
}

/// The name without a leading slash and without empty and `.` components; `None` if it has a `..`.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    Some(out)
}
