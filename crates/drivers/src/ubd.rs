//! ubd: files of the host as disks.
//!
//! Here: the option's words ([`Spec`]), a host file as a [`BlockDevice`] ([`Disk`]), a COW file over its backing file ([`CowDisk`]), and the disk
//! that is there all the time while these are opened and closed behind it ([`Unit`]).
//!
//! What it is not: opening and locking files, which needs the host; partitions (`block::partitions`); the device's node and cache
//! (`fs::blockdev`).
//!
//! Always true: a disk never reaches beyond the file's length, rounded up to a sector, that it had when it was opened or last looked at; what
//! lies behind the file's end reads as zeroes, however the file changes meanwhile.
//!
//! Source: the documentation of User Mode Linux on `ubd`.

use abi::Errno;
use block::{BlockDevice, Durability, SECTOR_SIZE};
use cow::{Header, HeaderError, Storage};
use platform::HostFile;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `ubd` in `/proc/devices`.
pub const MAJOR: u32 = 98;
/// Minor numbers of one disk: itself and 15 partitions.
pub const MINORS: u32 = 16;
/// Disks that a machine can have.
pub const DISKS: u32 = 16;
/// Flags that one option may have.
const FLAGS_MAX: usize = 6;

mod unit;

pub use unit::{HEADS, Opener, SECTORS_PER_TRACK, Unit};

/// What `ubd<unit><flags>=<file>[(,|:)<backing>][(,|:)<serial>]` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// 0 to 15.
    pub unit: u32,
    pub file: String,
    pub backing: Option<String>,
    pub serial: Option<String>,
    /// `r`.
    pub read_only: bool,
    /// `s`.
    pub synchronous: bool,
    /// `d`: plain data even if it looks like a COW file.
    pub plain: bool,
    /// `c`: shared with others, no locks.
    pub shared: bool,
    /// `t`: no discard.
    pub no_discard: bool,
}

impl Spec {
    /// From what follows `ubd`, on the command line or in the management console's `config`. The reference's reason when it makes no sense.
    pub fn parse(setting: &str) -> Result<Spec, &'static str> {
        let (unit, rest) = parse_unit(setting).ok_or("Couldn't parse device number")?;
        if unit >= DISKS {
            return Err("Device number out of range");
        }
        let flags_len = rest.find(|c| !"rsdct".contains(c)).unwrap_or(rest.len());
        let (flags, rest) = rest.split_at(flags_len);
        if flags_len > FLAGS_MAX {
            return Err(if rest.starts_with('=') { "Too many flags specified" } else { "Missing '='" });
        }
        let value = rest.strip_prefix('=').ok_or(match rest {
            "" if !flags.is_empty() => "Missing '='",
            _ => "Expected '=' or flag letter (r, s, c, t or d)",
        })?;
        let mut names = value.splitn(3, [',', ':']);
        let file = names.next().unwrap_or_default().to_owned();
        let named = |name: Option<&str>| name.filter(|name| !name.is_empty()).map(str::to_owned);
        let (backing, serial) = (named(names.next()), named(names.next()));
        let has = |flag: char| flags.contains(flag);
        if file.is_empty() {
            return Err("No file name");
        }
        if has('d') && backing.is_some() {
            return Err("Can't specify both 'd' and a cow file");
        }
        Ok(Spec {
            unit,
            file,
            backing,
            serial,
            read_only: has('r'),
            synchronous: has('s'),
            plain: has('d'),
            shared: has('c'),
            no_discard: has('t'),
        })
    }

    /// What `config ubda` answers: the file, or COW file and backing file.
    #[must_use]
    pub fn files(&self) -> String {
        match &self.backing {
            Some(backing) => format!("{},{backing}", self.file),
            None => self.file.clone(),
        }
    }

    /// `ubda`.
    #[must_use]
    pub fn name(&self) -> String {
        disk_name(self.unit)
    }
}

/// The unit that a text begins with, a letter or a number as C has them, and the rest. A number too large for its type is out of range anyway.
#[must_use]
pub fn parse_unit(text: &str) -> Option<(u32, &str)> {
    let first = text.chars().next()?;
    if first.is_ascii_lowercase() {
        // Beyond `p` it is no disk's letter.
        let unit = u32::from(first) - u32::from('a');
        return (unit < DISKS).then(|| (unit, text.get(1..).unwrap_or_default()));
    }
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (digits, 16),
        _ if first == '0' => (text, 8),
        _ => (text, 10),
    };
    let len = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(len);
    (!digits.is_empty()).then(|| (u32::from_str_radix(digits, radix).unwrap_or(u32::MAX), rest))
}

/// `ubda` for unit 0.
#[must_use]
pub fn disk_name(unit: u32) -> String {
    format!("ubd{}", char::from(b'a' + (unit % DISKS) as u8))
}

fn sectors_of(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(SECTOR_SIZE as u64)
}

/// Fills `buffer`; what the file does not have is zeroes.
fn read_padded(file: &dyn HostFile, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let n = file.read_at(offset, buffer)?;
    buffer.get_mut(n..).unwrap_or_default().fill(0);
    Ok(())
}

/// A host file as a disk.
pub struct Disk {
    file: Arc<dyn HostFile>,
    sectors: AtomicU64,
    read_only: bool,
    /// What the host can do with this file, as far as it is known.
    discards: AtomicBool,
    zeroes: AtomicBool,
}

impl Disk {
    /// A disk of the file's size now.
    pub fn new(file: Arc<dyn HostFile>, read_only: bool, discards: bool) -> Result<Disk, Errno> {
        let sectors = AtomicU64::new(sectors_of(file.metadata()?.size_bytes));
        Ok(Disk { file, sectors, read_only, discards: AtomicBool::new(discards), zeroes: AtomicBool::new(discards) })
    }

    /// Byte offset of a request that lies inside. EIO.
    fn check(&self, sector: u64, len_bytes: u64) -> Result<u64, Errno> {
        let count = len_bytes / SECTOR_SIZE as u64;
        let inside = len_bytes.is_multiple_of(SECTOR_SIZE as u64) && sector.checked_add(count).is_some_and(|end| end <= self.sectors());
        if inside { Ok(sector * SECTOR_SIZE as u64) } else { Err(Errno::EIO) }
    }
    fn check_write(&self, sector: u64, len_bytes: u64) -> Result<u64, Errno> {
        if self.read_only { Err(Errno::EROFS) } else { self.check(sector, len_bytes) }
    }
}

impl BlockDevice for Disk {
    fn look_again(&self) -> Result<(), Errno> {
        // A file that shrinks under its users keeps its size for them: what is gone reads as zeroes.
        self.sectors.fetch_max(sectors_of(self.file.metadata()?.size_bytes), Ordering::Relaxed);
        Ok(())
    }
    fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let offset = self.check(sector, buffer.len() as u64)?;
        read_padded(&*self.file, offset, buffer)
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        let offset = self.check_write(sector, data.len() as u64)?;
        self.file.write_at(offset, data)?;
        match durability {
            Durability::Cached => Ok(()),
            Durability::ForceUnitAccess => self.file.sync(true),
        }
    }
    fn flush(&self) -> Result<(), Errno> {
        if self.read_only { Ok(()) } else { self.file.sync(true) }
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        let len = sectors.checked_mul(SECTOR_SIZE as u64).ok_or(Errno::EIO)?;
        let offset = self.check_write(sector, len)?;
        if self.discards.load(Ordering::Relaxed) {
            let punched = self.file.punch(offset, len);
            if punched == Err(Errno::EOPNOTSUPP) {
                // The host's file system can't: nobody need ask again.
                self.discards.store(false, Ordering::Relaxed);
            }
            punched
        } else {
            Err(Errno::EOPNOTSUPP)
        }
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        let len = sectors.checked_mul(SECTOR_SIZE as u64).ok_or(Errno::EIO)?;
        let offset = self.check_write(sector, len)?;
        if self.zeroes.load(Ordering::Relaxed) {
            match self.file.zero(offset, len) {
                Err(Errno::EOPNOTSUPP) => self.zeroes.store(false, Ordering::Relaxed),
                answer => return answer,
            }
        }
        block::write_zeroes_by_hand(self, sector, sectors)
    }
}

/// A host file as the COW format sees it.
struct CowFile(Arc<dyn HostFile>);

impl Storage for CowFile {
    fn len_bytes(&self) -> Result<u64, Errno> {
        Ok(self.0.metadata()?.size_bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> Result<(), Errno> {
        self.0.sync(true)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        self.0.punch(offset, len_bytes)
    }
}

/// A COW file over its backing file as a disk.
pub struct CowDisk {
    device: cow::Device<CowFile, CowFile>,
    discards: bool,
}

impl CowDisk {
    /// Joins the two.
    pub fn new(
        file: Arc<dyn HostFile>,
        header: &Header,
        backing: Arc<dyn HostFile>,
        read_only: bool,
        discards: bool,
    ) -> Result<CowDisk, HeaderError> {
        let access = if read_only { cow::device::Access::ReadOnly } else { cow::device::Access::ReadWrite };
        let device = cow::Device::new(CowFile(file), header, CowFile(backing), access)?;
        Ok(CowDisk { device, discards })
    }
}

impl BlockDevice for CowDisk {
    fn sectors(&self) -> u64 {
        self.device.sectors()
    }
    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.device.read(sector, buffer)
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.device.write(sector, data, durability)
    }
    fn flush(&self) -> Result<(), Errno> {
        self.device.flush()
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        if !self.discards {
            return Err(Errno::EOPNOTSUPP);
        }
        self.device.discard(sector, sectors)
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        if self.discards { self.device.write_zeroes(sector, sectors) } else { block::write_zeroes_by_hand(self, sector, sectors) }
    }
}

/// A host file as [`Storage`], to read and make COW headers.
#[must_use]
pub fn storage(file: Arc<dyn HostFile>) -> impl Storage {
    CowFile(file)
}

#[cfg(test)]
mod tests {
    use super::Spec;

    #[test]
    fn the_option_names_a_unit_files_and_flags() {
        let plain = Spec::parse("0=root_fs").unwrap();
        assert_eq!((plain.unit, plain.file.as_str(), &plain.backing, &plain.serial), (0, "root_fs", &None, &None));
        let cow = Spec::parse("brs=cow:back,SER").unwrap();
        assert_eq!((cow.unit, cow.file.as_str(), cow.backing.as_deref(), cow.serial.as_deref()), (1, "cow", Some("back"), Some("SER")));
        assert!(cow.read_only && cow.synchronous && !cow.shared && !cow.plain);
        assert_eq!((cow.files().as_str(), plain.files().as_str()), ("cow,back", "root_fs"));
        assert_eq!(Spec::parse("a=img,,SER").unwrap().serial.as_deref(), Some("SER"));
        for (setting, unit) in [("0xf=x", 15), ("017=x", 15), ("p=x", 15), ("10=x", 10), ("0c=x", 0)] {
            assert_eq!(Spec::parse(setting).unwrap().unit, unit, "{setting}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (setting, reason) in [
            ("99=base2", "Device number out of range"),
            ("99999999999999999999=x", "Device number out of range"),
            ("q=x", "Couldn't parse device number"),
            ("=x", "Couldn't parse device number"),
            ("0=", "No file name"),
            ("ad=a,b", "Can't specify both 'd' and a cow file"),
            ("ax=a", "Expected '=' or flag letter (r, s, c, t or d)"),
            ("a", "Expected '=' or flag letter (r, s, c, t or d)"),
            ("ar", "Missing '='"),
            ("arrrrrrrr=x", "Too many flags specified"),
        ] {
            assert_eq!(Spec::parse(setting), Err(reason), "{setting}");
        }
    }
}
