//! Operations on names: looking up, making, linking, removing, renaming.
//!
//! Not here: permissions, path walking, sticky bits, who the owner of a new file is: the caller decides those. Nor locks between names:
//! the caller keeps two changes of one directory apart; each change here is one transaction all the same.

use crate::block_alloc::Claim;
use crate::core::{Core, Seal};
use crate::dir::{DirEntry, NAME_MAX, Named};
use crate::error::{Error, Result, corrupt};
use crate::field::put_part;
use crate::files::Attributes;
use crate::filesystem::{CREDITS, Filesystem};
use crate::hash::{HashKind, hash};
use crate::inode::{FileType, I_BLOCK_LEN, Inode, Timestamp, inode_flags};
use crate::mapping::MappingState;
use crate::superblock::RoCompat;
use crate::xattr::SetMode;

/// Most links to a file, and most to a directory without dir_nlink.
const LINK_MAX: u16 = 65000;

/// What a new inode is.
#[derive(Clone, Debug, Default)]
pub struct NewInode<'a> {
    /// Type and permission bits, as `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node: major and minor.
    pub device: (u32, u32),
    /// Birth and all other times.
    pub now: Timestamp,
    /// Attributes that it has from the beginning: default ACLs, security labels.
    pub attributes: &'a [(&'a [u8], &'a [u8])],
}

/// renameat2(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameMode {
    /// The new name is replaced if it exists.
    #[default]
    Replace,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
    /// `RENAME_WHITEOUT`: a character device 0:0 takes the old name.
    Whiteout,
}

impl Core {
    fn directory(&self, ino: u32) -> Result<Inode> {
        let inode = self.live_inode(ino)?;
        if !inode.is_directory() {
            return Err(Error::NotDirectory);
        }
        Ok(inode)
    }

    /// A directory that still has a name, to make names in.
    fn named_directory(&self, ino: u32) -> Result<Inode> {
        let inode = self.directory(ino)?;
        if inode.links() == 0 {
            return Err(Error::NotFound);
        }
        if inode.has(inode_flags::IMMUTABLE) {
            return Err(Error::NotPermitted);
        }
        Ok(inode)
    }

    fn add_link(&self, inode: &mut Inode) -> Result<()> {
        let links = inode.links();
        if !inode.is_directory() {
            if links >= LINK_MAX {
                return Err(Error::TooManyLinks);
            }
            inode.set_links(links + 1);
            return Ok(());
        }
        // One link means: more subdirectories than can be counted.
        if links == 1 {
            return Ok(());
        }
        if links >= LINK_MAX - 1 {
            if !self.geometry.ro_compat.contains(RoCompat::DIR_NLINK) || !self.is_indexed(inode) {
                return Err(Error::TooManyLinks);
            }
            inode.set_links(1);
            return Ok(());
        }
        inode.set_links(links + 1);
        Ok(())
    }

    fn drop_directory_link(inode: &mut Inode) {
        if inode.links() > 2 {
            inode.set_links(inode.links() - 1);
        }
    }

    fn touch(inode: &mut Inode, now: Timestamp) {
        inode.set_modified(now);
        inode.set_changed(now);
    }

    fn make_inode(&mut self, parent: &Inode, name: &[u8], new: &NewInode<'_>) -> Result<Inode> {
        let file_type = FileType::from_mode(new.mode);
        let is_directory = file_type == FileType::Directory;
        let spread = hash(name, HashKind { version: 1, unsigned: true }, &self.geometry.hash_seed).map_or(0, |(major, _)| major >> 1);
        let ino = self.allocate_inode(parent, is_directory, spread)?;
        let mut inode = Inode::new(ino, &self.geometry);
        inode.set_mode(new.mode);
        inode.set_owner(new.uid, new.gid);
        inode.set_links(1);
        self.next_generation = self.next_generation.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) ^ new.now.nanoseconds;
        inode.set_generation(self.next_generation);
        for set in [Inode::set_accessed, Inode::set_modified, Inode::set_changed, Inode::set_created] {
            set(&mut inode, new.now);
        }
        let inherited = parent.flags() & inode_flags::INHERITED;
        inode.set_flags(match file_type {
            FileType::Directory => inherited,
            FileType::Regular => inherited & !(inode_flags::DIRSYNC | inode_flags::PROJINHERIT),
            _ => inherited & (inode_flags::NODUMP | inode_flags::NOATIME),
        });
        if parent.has(inode_flags::PROJINHERIT) {
            inode.set_project(parent.project());
        }
        match file_type {
            FileType::Regular | FileType::Directory => self.start_map(&mut inode),
            FileType::CharDevice | FileType::BlockDevice => inode.set_device(new.device.0, new.device.1),
            FileType::Unknown => return Err(Error::Invalid),
            FileType::Fifo | FileType::Socket | FileType::Symlink => {}
        }
        for (name, value) in new.attributes {
            self.set_attribute(&mut inode, name, Some(value), SetMode::Any)?;
        }
        Ok(inode)
    }

    fn add_name(&mut self, dir: &mut Inode, name: &[u8], inode: &Inode, now: Timestamp) -> Result<()> {
        let file_type = self.type_number(inode.file_type());
        self.add_entry(dir, &Named { ino: inode.ino, file_type, name: name.to_vec() })?;
        Core::touch(dir, now);
        self.write_inode(dir)
    }

    fn create(&mut self, dir: u32, name: &[u8], new: &NewInode<'_>, target: Option<&[u8]>) -> Result<u32> {
        let mut parent = self.named_directory(dir)?;
        if self.find_entry(&parent, name)?.is_some() {
            return Err(Error::Exists);
        }
        let mut inode = self.make_inode(&parent, name, new)?;
        if let Some(target) = target {
            self.store_target(&mut inode, target)?;
        }
        if inode.is_directory() {
            inode.set_links(2);
            self.start_directory(&mut inode, dir)?;
            self.add_link(&mut parent)?;
        }
        self.write_inode(&mut inode)?;
        self.add_name(&mut parent, name, &inode, new.now)?;
        Ok(inode.ino)
    }

    fn store_target(&mut self, inode: &mut Inode, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() >= self.geometry.block_size {
            return Err(if target.is_empty() { Error::NotFound } else { Error::NameTooLong });
        }
        if target.len() < I_BLOCK_LEN {
            put_part(inode.i_block_mut(), 0, target);
        } else {
            self.start_map(inode);
            let mapping = self.fill_hole(inode, 0, 1, Claim::Promised, MappingState::Written)?;
            put_part(self.new_block(mapping.physical, Seal::Plain), 0, target);
        }
        inode.set_size(target.len() as u64);
        Ok(())
    }

    fn target(&self, ino: u32) -> Result<Vec<u8>> {
        let inode = self.live_inode(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(Error::Invalid);
        }
        let len = usize::try_from(inode.size()).unwrap_or(usize::MAX);
        if inode.has(inode_flags::INLINE_DATA) {
            return self.inline_bytes(&inode);
        }
        let bytes = match inode.is_fast_symlink(&self.geometry) {
            true if len < I_BLOCK_LEN => inode.i_block().to_vec(),
            true => return corrupt(inode.table_block, "symlink length"),
            false => {
                let Some(home) = self.mapped_block(&inode, 0)? else { return corrupt(inode.table_block, "symlink without a block") };
                self.block(home)?.to_vec()
            }
        };
        if len == 0 || len > bytes.len() {
            return corrupt(inode.table_block, "symlink length");
        }
        Ok(bytes[..len].to_vec())
    }

    fn link(&mut self, ino: u32, dir: u32, name: &[u8], now: Timestamp) -> Result<()> {
        let mut inode = self.live_inode(ino)?;
        let mut parent = self.named_directory(dir)?;
        if inode.is_directory() || inode.has(inode_flags::IMMUTABLE | inode_flags::APPEND) {
            return Err(Error::NotPermitted);
        }
        if self.find_entry(&parent, name)?.is_some() {
            return Err(Error::Exists);
        }
        // linkat(2) with an O_TMPFILE descriptor gives a file its first name.
        if inode.links() == 0 {
            self.remove_orphan(&mut inode)?;
        }
        self.add_link(&mut inode)?;
        inode.set_changed(now);
        self.write_inode(&mut inode)?;
        self.add_name(&mut parent, name, &inode, now)
    }

    /// The inode behind a name that is about to go, for `is_directory` or not.
    fn victim(&self, parent: &Inode, name: &[u8], is_directory: bool) -> Result<(crate::dir::Slot, Inode)> {
        if name == b"." || name == b".." {
            return Err(Error::Invalid);
        }
        if parent.has(inode_flags::APPEND) {
            return Err(Error::NotPermitted);
        }
        let slot = self.find_entry(parent, name)?.ok_or(Error::NotFound)?;
        let inode = match self.live_inode(slot.ino) {
            Err(Error::Stale) => return corrupt(slot.block, "directory entry: the inode is deleted"),
            found => found?,
        };
        match (is_directory, inode.is_directory()) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            _ => {}
        }
        if inode.has(inode_flags::IMMUTABLE | inode_flags::APPEND) {
            return Err(Error::NotPermitted);
        }
        Ok((slot, inode))
    }

    /// Takes one name away from an inode; without any left it is an orphan until it is evicted.
    fn drop_name(&mut self, inode: &mut Inode, now: Timestamp) -> Result<bool> {
        let links = match inode.is_directory() {
            true => 0,
            false if inode.links() == 0 => return corrupt(inode.table_block, "inode link count"),
            false => inode.links() - 1,
        };
        inode.set_links(links);
        inode.set_changed(now);
        if inode.is_directory() {
            inode.set_size(0);
        }
        if links == 0 {
            self.add_orphan(inode)?;
        }
        self.write_inode(inode)?;
        Ok(links == 0)
    }

    fn unlink(&mut self, dir: u32, name: &[u8], is_directory: bool, now: Timestamp) -> Result<(u32, bool)> {
        let mut parent = self.named_directory(dir)?;
        let (slot, mut inode) = self.victim(&parent, name, is_directory)?;
        if is_directory && !self.is_empty_dir(&inode)? {
            return Err(Error::NotEmpty);
        }
        self.remove_entry(&mut parent, slot)?;
        if is_directory {
            Core::drop_directory_link(&mut parent);
        }
        Core::touch(&mut parent, now);
        self.write_inode(&mut parent)?;
        let gone = self.drop_name(&mut inode, now)?;
        Ok((inode.ino, gone))
    }

    /// Whether `ancestor` is `dir` or above it.
    fn is_below(&self, dir: u32, ancestor: u32) -> Result<bool> {
        let mut at = dir;
        for _ in 0..=u16::MAX {
            if at == ancestor {
                return Ok(true);
            }
            let inode = self.directory(at)?;
            let parent =
                self.find_entry(&inode, b"..")?.ok_or(Error::Corrupt { block: inode.table_block, what: "directory without .." })?;
            if parent.ino == at {
                return Ok(false);
            }
            at = parent.ino;
        }
        corrupt(0, "directories in a circle")
    }

    fn set_parent(&mut self, dir: &mut Inode, parent: u32) -> Result<()> {
        let slot = self.find_entry(dir, b"..")?.ok_or(Error::Corrupt { block: dir.table_block, what: "directory without .." })?;
        self.change_entry(dir, slot, parent, FileType::Directory)
    }

    fn rename(&mut self, from: (u32, &[u8]), to: (u32, &[u8]), mode: RenameMode, now: Timestamp) -> Result<Option<u32>> {
        let mut old_dir = self.named_directory(from.0)?;
        let slot = self.find_entry(&old_dir, from.1)?.ok_or(Error::NotFound)?;
        let is_directory = self.live_inode(slot.ino)?.is_directory();
        let (_, mut inode) = self.victim(&old_dir, from.1, is_directory)?;
        let new_dir = self.named_directory(to.0)?;
        let there = self.find_entry(&new_dir, to.1)?;
        let across = from.0 != to.0;
        if is_directory && across && self.is_below(to.0, inode.ino)? {
            return Err(Error::Invalid);
        }
        match (there, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Error::Exists),
            (None, RenameMode::Exchange) => return Err(Error::NotFound),
            (Some(target), RenameMode::Exchange) => return self.exchange((from.0, slot), (to.0, target), now).map(|()| None),
            (Some(target), _) if target.ino == inode.ino => return Ok(None),
            _ => {}
        }
        let mut gone = None;
        match there {
            Some(_) => {
                let mut new_dir = new_dir;
                let (target, mut replaced) = self.victim(&new_dir, to.1, is_directory)?;
                if is_directory && !self.is_empty_dir(&replaced)? {
                    return Err(Error::NotEmpty);
                }
                self.change_entry(&mut new_dir, target, inode.ino, inode.file_type())?;
                // The replaced directory's ".." went; the moved one's comes, if it comes from elsewhere.
                if is_directory && !across {
                    Core::drop_directory_link(&mut new_dir);
                }
                Core::touch(&mut new_dir, now);
                self.write_inode(&mut new_dir)?;
                gone = self.drop_name(&mut replaced, now)?.then_some(replaced.ino);
            }
            None => {
                let mut new_dir = new_dir;
                if is_directory && across {
                    self.add_link(&mut new_dir)?;
                }
                self.add_name(&mut new_dir, to.1, &inode, now)?;
            }
        }
        // The addition may have moved the old entry, and the inodes are one when it is one directory.
        old_dir = self.named_directory(from.0)?;
        let slot =
            self.find_entry(&old_dir, from.1)?.ok_or(Error::Corrupt { block: old_dir.table_block, what: "directory entry vanished" })?;
        if mode == RenameMode::Whiteout {
            let new = NewInode { mode: 0o020_000, now, ..NewInode::default() };
            let mut whiteout = self.make_inode(&old_dir, from.1, &new)?;
            self.write_inode(&mut whiteout)?;
            self.change_entry(&mut old_dir, slot, whiteout.ino, FileType::CharDevice)?;
        } else {
            self.remove_entry(&mut old_dir, slot)?;
        }
        if is_directory && across {
            self.set_parent(&mut inode, to.0)?;
            Core::drop_directory_link(&mut old_dir);
        }
        Core::touch(&mut old_dir, now);
        self.write_inode(&mut old_dir)?;
        inode.set_changed(now);
        self.write_inode(&mut inode)?;
        Ok(gone)
    }

    fn exchange(&mut self, one: (u32, crate::dir::Slot), two: (u32, crate::dir::Slot), now: Timestamp) -> Result<()> {
        let (mut a, mut b) = (self.live_inode(one.1.ino)?, self.live_inode(two.1.ino)?);
        if a.ino == b.ino {
            return Ok(());
        }
        let across = one.0 != two.0;
        if across && b.is_directory() && self.is_below(one.0, b.ino)? {
            return Err(Error::Invalid);
        }
        for (place, new) in [(one, &b), (two, &a)] {
            let mut dir = self.directory(place.0)?;
            self.change_entry(&mut dir, place.1, new.ino, new.file_type())?;
            Core::touch(&mut dir, now);
            self.write_inode(&mut dir)?;
        }
        if across {
            self.move_links(&mut a, b.is_directory(), one.0, two.0)?;
            if b.is_directory() {
                self.set_parent(&mut b, one.0)?;
            }
        }
        for inode in [&mut a, &mut b] {
            inode.set_changed(now);
            self.write_inode(inode)?;
        }
        Ok(())
    }

    /// The link counts of two directories between which `inode` and another one changed places.
    fn move_links(&mut self, inode: &mut Inode, other_is_directory: bool, from: u32, to: u32) -> Result<()> {
        if inode.is_directory() {
            self.set_parent(inode, to)?;
        }
        if inode.is_directory() == other_is_directory {
            return Ok(());
        }
        let (less, more) = if inode.is_directory() { (from, to) } else { (to, from) };
        let mut less = self.directory(less)?;
        Core::drop_directory_link(&mut less);
        self.write_inode(&mut less)?;
        let mut more = self.directory(more)?;
        self.add_link(&mut more)?;
        self.write_inode(&mut more)
    }
}

impl Filesystem {
    /// The inode that a name in a directory means.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NameTooLong`].
    pub fn lookup(&self, dir: u32, name: &[u8]) -> Result<u32> {
        self.look(|core| {
            let inode = core.directory(dir)?;
            core.find_entry(&inode, name)?.map(|slot| slot.ino).ok_or(Error::NotFound)
        })
    }

    /// Some entries from `cursor` on: 0 is the start, [`DirEntry::next`] goes on, an empty list is the end. Entries neither added nor
    /// removed in between are given exactly once.
    ///
    /// # Errors
    /// [`Error::NotDirectory`].
    pub fn read_dir(&self, dir: u32, cursor: u64) -> Result<Vec<DirEntry>> {
        self.look(|core| {
            let inode = core.directory(dir)?;
            core.read_entries(&inode, cursor)
        })
    }

    /// Makes a file, directory or node, by `new.mode`. Symlinks have [`Filesystem::symlink`].
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoSpace`], [`Error::NameTooLong`], [`Error::TooManyLinks`].
    pub fn create(&self, dir: u32, name: &[u8], new: &NewInode<'_>) -> Result<Attributes> {
        if FileType::from_mode(new.mode) == FileType::Symlink {
            return Err(Error::Invalid);
        }
        self.make(dir, name, new, None)
    }

    /// Makes a symlink; `new.mode` need not say so.
    ///
    /// # Errors
    /// As [`Filesystem::create`]; [`Error::NameTooLong`] for a target that does not fit a block.
    pub fn symlink(&self, dir: u32, name: &[u8], target: &[u8], new: &NewInode<'_>) -> Result<Attributes> {
        let new = NewInode { mode: 0o120_777, ..new.clone() };
        self.make(dir, name, &new, Some(target))
    }

    fn make(&self, dir: u32, name: &[u8], new: &NewInode<'_>, target: Option<&[u8]>) -> Result<Attributes> {
        self.set_clock(new.now);
        check_name(name)?;
        let ino = self.update(CREDITS, |core| core.create(dir, name, new, target))?;
        self.attributes(ino)
    }

    /// Makes an inode without a name (`O_TMPFILE`): an orphan until it is linked.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn create_unnamed(&self, dir: u32, new: &NewInode<'_>) -> Result<Attributes> {
        self.set_clock(new.now);
        let ino = self.update(CREDITS, |core| {
            let parent = core.named_directory(dir)?;
            let mut inode = core.make_inode(&parent, b"", new)?;
            inode.set_links(0);
            core.add_orphan(&mut inode)?;
            core.write_inode(&mut inode)?;
            Ok(inode.ino)
        })?;
        self.attributes(ino)
    }

    /// What a symlink says.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else.
    pub fn read_link(&self, ino: u32) -> Result<Vec<u8>> {
        self.look(|core| core.target(ino))
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::TooManyLinks`], [`Error::NotPermitted`] for directories.
    pub fn link(&self, ino: u32, dir: u32, name: &[u8], now: Timestamp) -> Result<()> {
        self.set_clock(now);
        check_name(name)?;
        self.update(CREDITS, |core| core.link(ino, dir, name, now))
    }

    /// Removes a name of anything but a directory. Gives the inode when that was its last name: [`Filesystem::evict`] it when nobody has
    /// it open.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`].
    pub fn unlink(&self, dir: u32, name: &[u8], now: Timestamp) -> Result<Option<u32>> {
        self.set_clock(now);
        let (ino, gone) = self.update(CREDITS, |core| core.unlink(dir, name, false, now))?;
        Ok(gone.then_some(ino))
    }

    /// Removes an empty directory, and gives its inode to evict as [`Filesystem::unlink`] does.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::NotDirectory`], [`Error::NotFound`].
    pub fn remove_dir(&self, dir: u32, name: &[u8], now: Timestamp) -> Result<u32> {
        self.set_clock(now);
        Ok(self.update(CREDITS, |core| core.unlink(dir, name, true, now))?.0)
    }

    /// Renames; gives the inode that the new name meant before, if that was its last name, to evict.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotFound`], [`Error::NotEmpty`], [`Error::Invalid`] for a directory into itself.
    pub fn rename(&self, from: (u32, &[u8]), to: (u32, &[u8]), mode: RenameMode, now: Timestamp) -> Result<Option<u32>> {
        self.set_clock(now);
        check_name(to.1)?;
        if to.1 == b"." || to.1 == b".." || from.1 == b"." || from.1 == b".." {
            return Err(Error::Invalid);
        }
        self.update(CREDITS * 2, |core| core.rename(from, to, mode, now))
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name.iter().any(|&c| c == 0 || c == b'/') {
        return Err(Error::Invalid);
    }
    Ok(())
}
