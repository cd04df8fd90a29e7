//! Path walk: from bytes to a [`Path`], path_resolution(7), openat2(2).
//!
//! What it is not: the last step of calls that create, remove or open; those take the walk to the parent ([`Walk::parent`]) and go on themselves.
//!
//! Always true: at most 40 symbolic links are followed, with a stack and not by recursion; each directory that is gone through allowed execution to
//! the caller; `..` never leads above the caller's root. A walk without symbolic links allocates nothing when every name is remembered.

use crate::dentry::Dentry;
use crate::flags::{Access, LookupFlags, MountFlags};
use crate::fscontext::Caller;
use crate::inode::{AccessPolicy, Link};
use crate::path::Path;
use crate::types::FileKind;
use abi::{Errno, SysResult};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a path, the closing NUL included (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Bytes of a name (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Symbolic links followed in one walk (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// A path and where it starts: the arguments of every `*at` call.
#[derive(Clone, Copy)]
pub struct PathAt<'a> {
    /// `None`: the working directory.
    pub base: Option<&'a Path>,
    pub path: &'a [u8],
}

impl<'a> PathAt<'a> {
    /// From the working directory.
    #[must_use]
    pub fn cwd(path: &'a [u8]) -> PathAt<'a> {
        PathAt { base: None, path }
    }
    /// From `base`.
    #[must_use]
    pub fn at(base: &'a Path, path: &'a [u8]) -> PathAt<'a> {
        PathAt { base: Some(base), path }
    }
    /// `base` itself (needs [`LookupFlags::EMPTY`]).
    #[must_use]
    pub fn itself(base: &'a Path) -> PathAt<'a> {
        PathAt { base: Some(base), path: b"" }
    }
}

/// One name of a path: in the caller's bytes, or in a symbolic link's.
pub(crate) struct Component<'a> {
    text: Text<'a>,
    begin: usize,
    end: usize,
    /// Slashes come after it.
    pub trailing_slash: bool,
    /// Nothing but slashes comes after it, in this text and in those that wait below.
    pub is_last: bool,
}

#[derive(Clone)]
enum Text<'a> {
    Given(&'a [u8]),
    Link(Arc<[u8]>),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Text::Given(bytes) => bytes,
            Text::Link(bytes) => bytes,
        }
    }
}

impl Component<'_> {
    pub fn name(&self) -> &[u8] {
        self.text.bytes().get(self.begin..self.end).unwrap_or_default()
    }
}

/// Where a walk to the parent ended.
pub(crate) enum Last<'a> {
    /// At a name, still to be looked up in the directory.
    Name(Component<'a>),
    /// At the root: the path had no name.
    Root,
    /// At `.`, which is not walked.
    Dot,
    /// At `..`, which is not walked.
    DotDot,
}

/// A walk under way.
pub(crate) struct Walk<'a, 'c> {
    caller: &'a Caller<'c>,
    flags: LookupFlags,
    /// Where we are.
    pub at: Path,
    root: Option<Path>,
    /// Texts still to be walked: the innermost last.
    texts: Vec<(Text<'a>, usize)>,
    current: (Text<'a>, usize),
    links: u32,
}

impl<'a, 'c> Walk<'a, 'c> {
    /// A walk along `path` from its base. ENOENT for an empty path unless [`LookupFlags::EMPTY`] allows it.
    pub fn new(caller: &'a Caller<'c>, path: PathAt<'a>, flags: LookupFlags) -> Result<Walk<'a, 'c>, Errno> {
        if path.path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.path.is_empty() && !flags.contains(LookupFlags::EMPTY) {
            return Err(Errno::ENOENT);
        }
        let absolute = path.path.first() == Some(&b'/');
        let base = || path.base.cloned().unwrap_or_else(|| caller.fs.cwd());
        let mut root = None;
        let at = if flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT) {
            if absolute && flags.contains(LookupFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            let base = base();
            root = Some(base.clone());
            base
        } else if absolute {
            let at = caller.fs.root();
            root = Some(at.clone());
            at
        } else {
            base()
        };
        if !path.path.is_empty() && at.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Walk { caller, flags, at, root, texts: Vec::new(), current: (Text::Given(path.path), 0), links: 0 })
    }

    fn root(&mut self) -> &Path {
        let caller = self.caller;
        self.root.get_or_insert_with(|| caller.fs.root())
    }

    /// The next name. `None` at the end.
    fn next(&mut self) -> Result<Option<Component<'a>>, Errno> {
        loop {
            let (text, position) = (&self.current.0, self.current.1);
            let bytes = text.bytes();
            let rest = bytes.get(position..).unwrap_or_default();
            let begin = position + rest.iter().take_while(|b| **b == b'/').count();
            if begin == bytes.len() {
                match self.texts.pop() {
                    Some(text) => self.current = text,
                    None => return Ok(None),
                }
                continue;
            }
            let rest = bytes.get(begin..).unwrap_or_default();
            let len = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            if len > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let after = rest.get(len..).unwrap_or_default();
            let only_slashes = |bytes: &[u8]| bytes.iter().all(|b| *b == b'/');
            let ends_here = only_slashes(after);
            let waiting_slash = |(text, at): &(Text<'a>, usize)| text.bytes().len() > *at;
            let component = Component {
                text: text.clone(),
                begin,
                end: begin + len,
                trailing_slash: !after.is_empty() || (ends_here && self.texts.iter().any(waiting_slash)),
                is_last: ends_here && self.texts.iter().all(|(text, at)| only_slashes(text.bytes().get(*at..).unwrap_or_default())),
            };
            self.current.1 = begin + len;
            return Ok(Some(component));
        }
    }

    fn may_search(&self) -> Result<(), Errno> {
        let inode = self.at.inode();
        if inode.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        inode.permission(self.caller.credentials, Access::EXEC)
    }

    /// Walks everything but the last name.
    pub fn parent(&mut self) -> SysResult<Last<'a>> {
        let mut last = Last::Root;
        while let Some(component) = self.next()? {
            self.may_search()?;
            let is_last = component.is_last;
            last = match component.name() {
                b"." => Last::Dot,
                b".." if is_last => Last::DotDot,
                b".." => {
                    self.dot_dot()?;
                    Last::Dot
                }
                _ if is_last => return Ok(Last::Name(component)),
                name => {
                    let dentry = self.lookup(name)?;
                    self.step(dentry, true)?;
                    Last::Dot
                }
            };
            if is_last {
                break;
            }
        }
        Ok(last)
    }

    /// Walks to the end. ENOENT.
    pub fn finish(mut self) -> SysResult<Path> {
        let mut must_be_directory = self.flags.contains(LookupFlags::DIRECTORY);
        while let Some(component) = self.next()? {
            self.may_search()?;
            match component.name() {
                b"." => {}
                b".." => self.dot_dot()?,
                name => {
                    let follow = !component.is_last || component.trailing_slash || self.flags.contains(LookupFlags::FOLLOW);
                    must_be_directory |= component.is_last && component.trailing_slash;
                    let dentry = self.lookup(name)?;
                    self.step(dentry, follow)?;
                }
            }
        }
        if must_be_directory && self.at.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(self.at)
    }

    /// The dentry of `name` here, perhaps negative.
    pub fn lookup(&self, name: &[u8]) -> Result<Arc<Dentry>, Errno> {
        if let Some(dentry) = self.at.dentry.child(name)
            && !dentry.is_stale()
        {
            return Ok(dentry);
        }
        if self.flags.contains(LookupFlags::CACHED) {
            return Err(Errno::EAGAIN);
        }
        let _names = self.at.dentry.lock_names();
        lookup_locked(&self.at.dentry, name)
    }

    /// Goes to `dentry`: onto what is mounted there, and along it if it is a symbolic link and `follow`. ENOENT if it is negative.
    pub fn step(&mut self, dentry: Arc<Dentry>, follow: bool) -> SysResult<()> {
        let Some(inode) = dentry.inode() else { return Err(Errno::ENOENT.into()) };
        if inode.kind() == FileKind::Symlink && follow {
            return self.follow(&dentry);
        }
        let mounted = dentry.is_mountpoint();
        self.at.dentry = dentry;
        if mounted { Ok(self.enter_mounts()?) } else { Ok(()) }
    }

    fn enter_mounts(&mut self) -> Result<(), Errno> {
        while self.at.dentry.is_mountpoint() {
            let Some(mount) = self.at.mount.child_at(&self.at.dentry) else { break };
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.at = mount.root_path();
        }
        Ok(())
    }

    /// Goes along a symbolic link that lies here. ELOOP.
    pub fn follow(&mut self, link: &Arc<Dentry>) -> SysResult<()> {
        self.links += 1;
        let forbidden = self.flags.contains(LookupFlags::NO_SYMLINKS) || self.at.mount.all_flags().contains(MountFlags::NOSYMFOLLOW);
        if self.links > MAX_LINKS || forbidden {
            return Err(Errno::ELOOP.into());
        }
        let inode = link.expect_inode();
        if self.caller.vfs.protections.symlinks.load(Ordering::Relaxed) != 0 {
            let (dir, owner) = (self.at.inode().owner(), inode.owner());
            let elsewhere = dir.mode & 0o1002 != 0o1002;
            if !elsewhere && owner.uid != self.caller.credentials.fsuid && owner.uid != dir.uid {
                return Err(Errno::EACCES.into());
            }
        }
        if let Some(policy) = AccessPolicy::of(&self.at.mount) {
            inode.touch_accessed(policy);
        }
        match inode.follow_link(self.caller.credentials)? {
            Link::Text(text) => {
                if text.is_empty() {
                    return Err(Errno::ENOENT.into());
                }
                if text.first() == Some(&b'/') {
                    if self.flags.contains(LookupFlags::BENEATH) {
                        return Err(Errno::EXDEV.into());
                    }
                    let root = self.root().clone();
                    if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&root.mount, &self.at.mount) {
                        return Err(Errno::EXDEV.into());
                    }
                    self.at = root;
                }
                let outer = std::mem::replace(&mut self.current, (Text::Link(text), 0));
                // What is used up is dropped, so that the stack only holds texts with something left (a slash counts: it asks for a directory).
                if outer.1 < outer.0.bytes().len() {
                    self.texts.push(outer);
                }
            }
            Link::Magic(path) => {
                if self.flags.contains(LookupFlags::NO_MAGICLINKS) {
                    return Err(Errno::ELOOP.into());
                }
                let confined = self.flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT);
                if confined || (self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&path.mount, &self.at.mount)) {
                    return Err(Errno::EXDEV.into());
                }
                self.at = path;
            }
        }
        Ok(())
    }

    fn dot_dot(&mut self) -> Result<(), Errno> {
        let root = self.root().clone();
        loop {
            if self.at == root {
                return if self.flags.contains(LookupFlags::BENEATH) { Err(Errno::EXDEV) } else { self.enter_mounts() };
            }
            if self.at.is_mount_root() {
                let Some(below) = self.at.mount.mountpoint() else { return Ok(()) };
                if self.flags.contains(LookupFlags::NO_XDEV) {
                    return Err(Errno::EXDEV);
                }
                self.at = below;
                continue;
            }
            if let Some(parent) = self.at.dentry.parent() {
                self.at.dentry = parent;
            }
            // A directory that was moved away meanwhile must not lead out.
            if self.flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT) && !is_below(&self.at, &root) {
                return Err(Errno::EXDEV);
            }
            return self.enter_mounts();
        }
    }
}

/// Whether `path` is `ancestor` or below it, across mounts.
#[must_use]
pub fn is_below(path: &Path, ancestor: &Path) -> bool {
    let mut at = path.clone();
    loop {
        if Arc::ptr_eq(&at.mount, &ancestor.mount) {
            return at.dentry.is_at_or_below(&ancestor.dentry);
        }
        match at.mount.mountpoint() {
            Some(below) => at = below,
            None => return false,
        }
    }
}

/// The dentry of `name` in `dir`, asked of the file system if it is not remembered; with the names of `dir` locked.
pub(crate) fn lookup_locked(dir: &Arc<Dentry>, name: &[u8]) -> Result<Arc<Dentry>, Errno> {
    if let Some(dentry) = dir.child(name)
        && !dentry.is_stale()
    {
        return Ok(dentry);
    }
    if dir.is_deleted() {
        return Err(Errno::ENOENT);
    }
    match dir.expect_inode().lookup(name) {
        Ok(inode) => dir.remember(name, Some(inode)),
        Err(Errno::ENOENT) => dir.remember(name, None),
        Err(errno) => Err(errno),
    }
}

impl Caller<'_> {
    /// What `path` names. ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EXDEV; see openat2(2) for restrictions.
    pub fn lookup(&self, path: PathAt<'_>, flags: LookupFlags) -> SysResult<Path> {
        Walk::new(self, path, flags)?.finish()
    }

    /// The absolute path of `path` as this caller sees it: `None` if it is not below the caller's root. ` (deleted)` is not added.
    #[must_use]
    pub fn path_name(&self, path: &Path) -> Option<Vec<u8>> {
        name_below(path, &self.fs.root())
    }
}

/// The name of `path` from `root`, with a leading slash; `None` if `root` is not above it.
#[must_use]
pub fn name_below(path: &Path, root: &Path) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    let mut at = path.clone();
    while at != *root {
        if at.is_mount_root() {
            at = at.mount.mountpoint()?;
            continue;
        }
        let (parent, name) = at.dentry.place();
        names.push(name);
        at.dentry = parent?;
    }
    if names.is_empty() {
        return Some(b"/".to_vec());
    }
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    Some(text)
}

/// How `path` is shown to somebody with this root: as [`name_below`] says; ` (deleted)` after what has lost its name, `(unreachable)` before what
/// lies elsewhere, and the bare name of files that are in no tree (`pipe:[17]`).
#[must_use]
pub fn display_name(path: &Path, root: &Path) -> Vec<u8> {
    let mut text = match name_below(path, root) {
        Some(text) => text,
        None => {
            let (parent, name) = path.dentry.place();
            match parent {
                None if path.is_mount_root() => b"/".to_vec(),
                // In no tree. Those that say so have a name of their own kind; the rest are files of memory.
                None if path.dentry.is_deleted() => [b"/", &*name].concat(),
                None => return name.to_vec(),
                Some(_) => [&b"(unreachable)"[..], &name_in_mount(path)].concat(),
            }
        }
    };
    if path.dentry.is_deleted() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

/// The name of `path` from the root of its file system.
#[must_use]
pub fn name_in_mount(path: &Path) -> Vec<u8> {
    let top = path.mount.superblock().root();
    let root = Path { mount: path.mount.clone(), dentry: top.clone() };
    let mut names = Vec::new();
    let mut at = path.dentry.clone();
    while !Arc::ptr_eq(&at, &root.dentry) {
        let (parent, name) = at.place();
        names.push(name);
        match parent {
            Some(parent) => at = parent,
            None => break,
        }
    }
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().rev().flat_map(|name| [&b"/"[..], name].concat()).collect()
}
