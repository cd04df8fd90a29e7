//! The host's files behind a disk: sizes, opening, locking, and COW files made at first use.

use super::ERROR;
use crate::wiring::INFO;
use abi::Errno;
use block::BlockDevice;
use cow::open::{BackingFiles, BackingStat};
use cow::{Header, HeaderError};
use drivers::ubd::{self, CowDisk, Disk, Opener, Spec};
use host::files::ImageOpen;
use platform::HostFile;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use vfs::Vfs;

/// The files that an option names.
pub(super) struct HostFiles {
    pub vfs: &'static Vfs,
    pub spec: Spec,
}

impl Opener for HostFiles {
    fn size_bytes(&self) -> Result<u64, Errno> {
        let spec = &self.spec;
        let file = match &spec.backing {
            // The COW file may not be there yet; its device has the backing file's size.
            Some(backing) => match host::files::open_image(Path::new(backing), ImageOpen::default()) {
                Ok(file) => return Ok(file.metadata()?.size_bytes),
                Err(_) => host::files::open_image(Path::new(&spec.file), ImageOpen::default())?,
            },
            None => host::files::open_image(Path::new(&spec.file), ImageOpen::default())?,
        };
        let size = file.metadata()?.size_bytes;
        if spec.plain {
            return Ok(size);
        }
        Ok(Header::read(&ubd::storage(file)).map_or(size, |header| header.size))
    }

    fn open(&self) -> Result<Arc<dyn BlockDevice>, Errno> {
        let mut log = |line: String| self.vfs.log.print(INFO, &line);
        open(&self.spec, &mut log).inspect_err(|errno| {
            let (file, raw) = (&self.spec.file, errno.raw());
            self.vfs.log.print(ERROR, &format!("Failed to open '{file}', errno = {raw}"));
            self.vfs.log.print(ERROR, &format!("{}: Can't open \"{file}\": errno = {raw}", self.spec.name()));
        })
    }
}

/// Opens and locks a file as a disk; whether it could be opened for writing.
fn open_locked(spec: &Spec, path: &Path, write: bool, log: &mut dyn FnMut(String)) -> Result<(Arc<dyn HostFile>, bool), Errno> {
    let how = |write| ImageOpen { write, synchronous: spec.synchronous, create_mode: None };
    let (file, writable) = match host::files::open_image(path, how(write)) {
        Err(Errno::EACCES | Errno::EROFS | Errno::EPERM) if write => (host::files::open_image(path, how(false))?, false),
        opened => (opened?, write),
    };
    let shown = path.display();
    if spec.shared {
        log(format!("Not locking \"{shown}\" on the host"));
    } else if let Err((errno, holder)) = file.lock(writable) {
        if let Some(holder) = holder {
            log(format!("F_SETLK failed, file already locked by pid {holder}"));
        }
        log(format!("Failed to lock '{shown}', err = {}", errno.raw()));
        return Err(errno);
    }
    Ok((file, writable))
}

fn open(spec: &Spec, log: &mut dyn FnMut(String)) -> Result<Arc<dyn BlockDevice>, Errno> {
    let path = Path::new(&spec.file);
    if let (Some(backing), false) = (&spec.backing, path.exists()) {
        create_cow(spec, path, backing, log)?;
    }
    let (file, writable) = open_locked(spec, path, !spec.read_only, log)?;
    let discards = !spec.no_discard;
    let header = if spec.plain { None } else { cow_header(spec, &file, log)? };
    let Some(mut header) = header else {
        return Ok(Arc::new(Disk::new(file, !writable, discards)?));
    };
    let storage = ubd::storage(file.clone());
    let requested = spec.backing.as_deref().map(str::as_bytes);
    cow::open::choose_backing(&mut header, &storage, &spec.file, requested, &HostNames, log).map_err(|error| error.errno())?;
    let backing_path = std::ffi::OsString::from_vec(header.backing_path.clone());
    let (backing, _) = open_locked(spec, Path::new(&backing_path), false, log)?;
    let disk = CowDisk::new(file, &header, backing, !writable, discards).map_err(|error| {
        log(format!("{}: {error}", spec.file));
        error.errno()
    })?;
    Ok(Arc::new(disk))
}

/// The header of a COW file; `None` for a file that is not one, unless a backing file was named, which makes that an error.
fn cow_header(spec: &Spec, file: &Arc<dyn HostFile>, log: &mut dyn FnMut(String)) -> Result<Option<Header>, Errno> {
    match Header::read(&ubd::storage(file.clone())) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::NotCow) if spec.backing.is_none() => Ok(None),
        Err(error) => {
            log(cow::open::unreadable_header_message(&spec.file, &error));
            Err(error.errno())
        }
    }
}

fn create_cow(spec: &Spec, path: &Path, backing: &str, log: &mut dyn FnMut(String)) -> Result<(), Errno> {
    log(cow::open::creating_message(&spec.file, backing));
    let header = cow::open::new_header(backing.as_bytes(), &HostNames).map_err(|error| error.errno())?;
    let how = ImageOpen { write: true, synchronous: spec.synchronous, create_mode: Some(0o644) };
    let file = host::files::open_image(path, how)?;
    header.create(&ubd::storage(file)).map_err(|error| error.errno())
}

/// The host's names, for COW headers.
struct HostNames;

impl BackingFiles for HostNames {
    fn stat(&self, path: &[u8]) -> Result<BackingStat, Errno> {
        let file = host::files::open_image(Path::new(std::ffi::OsStr::from_bytes(path)), ImageOpen::default())?;
        let found = file.metadata()?;
        let seconds = found.modified_ns.div_euclid(1_000_000_000);
        Ok(BackingStat { size: found.size_bytes, mtime: seconds as u32, identity: (found.dev, found.ino) })
    }
    fn absolute(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let errno = |error: std::io::Error| error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO);
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let name = path.file_name().ok_or(Errno::EISDIR)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let full = std::fs::canonicalize(directory).map_err(errno)?.join(name);
        Ok(full.into_os_string().into_vec())
    }
}
