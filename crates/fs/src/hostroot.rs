//! The host's tree as a machine's root, for people who run one command (`umlaut run`): what of it the guest can see, and the mounts.
//!
//! The guest sees the host's files as they are and keeps its changes to itself: an [`Overlay`] in RAM over a read-only [`HostFs`]. Home directories and
//! places of running programs ([`HIDDEN`]) are empty. The directory the user stands in, and what `--share` names, are there too, copy-on-write;
//! what `--bind` names is written through.
//!
//! Hiding is done by what the host's tree *is* to the file system ([`Shown`]), not by mounts on top: a guest's root may take mounts away, and finds
//! the same emptiness below.
//!
//! Always true: a name below a hidden directory is reachable only if it leads to something granted; symbolic links on the way to a hidden or granted
//! place are followed when the plan is made, so a place is hidden under its real name as well.

use crate::hostfs::{HostFs, Options};
use crate::overlay::Overlay;
use crate::tmpfs::{self, Tmpfs};
use abi::Errno;
use platform::{HostDir, HostDirEntry, HostFile, HostKind, HostMetadata, HostOpen, HostStatFs};
use std::collections::BTreeMap;
use std::sync::Arc;
use vfs::{Caller, Credentials, FileSystem, FsContext, LookupFlags, MountFlags, MountNamespace, Path, PathAt, Vfs};

/// What is empty unless it is granted.
pub const HIDDEN: [&str; 8] = ["/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"];
/// How long attributes of the host's files are believed, as NFS does by default for files that change.
const VALID_NS: u64 = 1_000_000_000;
/// Symbolic links followed on the way to one place.
const MAX_LINKS: usize = 40;

/// What of the host's tree becomes the guest's, by absolute paths.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Hidden beside [`HIDDEN`]: the user's home directory, if it is elsewhere.
    pub hidden: Vec<Vec<u8>>,
    /// The directory that the user stands in: shown copy-on-write, and where the guest's command starts.
    pub directory: Vec<u8>,
    /// `--share`: shown copy-on-write.
    pub shares: Vec<Vec<u8>>,
    /// `--bind`: directories that are written through.
    pub binds: Vec<Vec<u8>>,
    /// Most bytes of RAM that changes may take.
    pub changes_max_bytes: u64,
}

/// Why a plan can't be carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanError {
    pub path: Vec<u8>,
    pub errno: Errno,
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", String::from_utf8_lossy(&self.path), self.errno)
    }
}

impl std::error::Error for PlanError {}

/// The mounted root.
pub struct HostRoot {
    pub namespace: Arc<MountNamespace>,
    pub root: Path,
    /// Where the command starts.
    pub directory: Path,
}

/// What is to be seen of a directory and below.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct View {
    /// Whether names that are not in `below` are seen.
    open: bool,
    below: BTreeMap<Vec<u8>, View>,
}

impl View {
    /// The view of what `names` lead to, made as `open` as what is above it if it was not there.
    fn at(&mut self, names: &[Vec<u8>]) -> &mut View {
        let mut at = self;
        for name in names {
            let open = at.open;
            at = at.below.entry(name.clone()).or_insert(View { open, below: BTreeMap::new() });
        }
        at
    }
    /// Whether everything below is seen.
    fn is_plain(&self) -> bool {
        self.open && self.below.values().all(View::is_plain)
    }
}

type Names = Vec<Vec<u8>>;

fn names(path: &[u8]) -> Names {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
}

/// Where a path leads without symbolic links, and the names of the links on the way.
fn resolve(host: &Arc<dyn HostDir>, path: &[u8]) -> Result<(Names, Vec<Names>), Errno> {
    let mut todo: Vec<Vec<u8>> = names(path).into_iter().rev().collect();
    let (mut real, mut links): (Names, Vec<Names>) = (Vec::new(), Vec::new());
    let mut dirs = vec![host.clone()];
    while let Some(name) = todo.pop() {
        if name == b".." {
            if dirs.len() > 1 {
                dirs.pop();
                real.pop();
            }
            continue;
        }
        let dir = dirs.last().cloned().unwrap_or_else(|| host.clone());
        let kind = dir.entry_metadata(&name)?.kind;
        let mut here = real.clone();
        here.push(name.clone());
        match kind {
            HostKind::Symlink => {
                let target = dir.read_link(&name)?;
                links.push(here);
                if links.len() > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if target.starts_with(b"/") {
                    real.clear();
                    dirs.truncate(1);
                }
                todo.extend(names(&target).into_iter().rev());
            }
            HostKind::Directory => {
                dirs.push(dir.open_dir(&name)?);
                real = here;
            }
            _ if todo.is_empty() => real = here,
            _ => return Err(Errno::ENOTDIR),
        }
    }
    Ok((real, links))
}

/// What the guest sees of the host.
fn view(host: &Arc<dyn HostDir>, plan: &Plan) -> Result<View, PlanError> {
    let mut view = View { open: true, below: BTreeMap::new() };
    for path in HIDDEN.iter().map(|path| path.as_bytes()).chain(plan.hidden.iter().map(Vec::as_slice)) {
        // Where it leads, and the name itself should something come to be there.
        let real = resolve(host, path).map_or_else(|_| names(path), |(real, _)| real);
        if !real.is_empty() {
            *view.at(&real) = View::default();
        }
    }
    let grants = [&plan.directory].into_iter().chain(&plan.shares);
    for (path, open) in grants.map(|path| (path, true)).chain(plan.binds.iter().map(|path| (path, false))) {
        let (real, links) = resolve(host, path).map_err(|errno| PlanError { path: path.clone(), errno })?;
        for link in links {
            view.at(&link).open = true;
        }
        let granted = view.at(&real);
        // A bind only needs a place to be mounted on.
        granted.open |= open;
    }
    Ok(view)
}

/// A directory of the host of which only a part is seen. Nothing can be changed through it.
struct Shown {
    dir: Arc<dyn HostDir>,
    view: View,
}

impl Shown {
    fn of(dir: Arc<dyn HostDir>, view: View) -> Arc<dyn HostDir> {
        if view.is_plain() { dir } else { Arc::new(Shown { dir, view }) }
    }
    fn check(&self, name: &[u8]) -> Result<(), Errno> {
        if self.view.open || self.view.below.contains_key(name) { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

impl HostDir for Shown {
    fn metadata(&self) -> Result<HostMetadata, Errno> {
        self.dir.metadata()
    }
    fn entry_metadata(&self, name: &[u8]) -> Result<HostMetadata, Errno> {
        self.check(name)?;
        self.dir.entry_metadata(name)
    }
    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn HostDir>, Errno> {
        self.check(name)?;
        let dir = self.dir.open_dir(name)?;
        Ok(match self.view.below.get(name) {
            Some(view) => Shown::of(dir, view.clone()),
            None => dir,
        })
    }
    fn open_file(&self, name: &[u8], how: HostOpen) -> Result<Arc<dyn HostFile>, Errno> {
        self.check(name)?;
        if how != HostOpen::default() {
            return Err(Errno::EROFS);
        }
        self.dir.open_file(name, how)
    }
    fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.check(name)?;
        self.dir.read_link(name)
    }
    fn entries(&self) -> Result<Vec<HostDirEntry>, Errno> {
        if self.view.open {
            return self.dir.entries();
        }
        // Not read: what is granted may lie in a directory that the user may not list.
        let entry = |name: &Vec<u8>| {
            let metadata = self.dir.entry_metadata(name).ok()?;
            Some(HostDirEntry { name: name.clone(), ino: metadata.ino, kind: metadata.kind })
        };
        Ok(self.view.below.keys().filter_map(entry).collect())
    }
    fn make_dir(&self, _: &[u8], _: u32) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn make_symlink(&self, _: &[u8], _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn make_node(&self, _: &[u8], _: HostKind, _: u32) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn link(&self, _: &[u8], _: &dyn HostDir, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn unlink(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn remove_dir(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn rename(&self, _: &[u8], _: &dyn HostDir, _: &[u8], _: bool, _: bool) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn set_mode(&self, _: &[u8], _: u32) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn set_owner(&self, _: &[u8], _: Option<u32>, _: Option<u32>) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn set_times(&self, _: &[u8], _: Option<i128>, _: Option<i128>) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn statfs(&self) -> Result<HostStatFs, Errno> {
        self.dir.statfs()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The directory that `real`, a path without symbolic links, names.
fn open_real(host: &Arc<dyn HostDir>, real: &Names) -> Result<Arc<dyn HostDir>, Errno> {
    real.iter().try_fold(host.clone(), |dir, name| dir.open_dir(name))
}

/// Mounts the host's tree, the directory `host`, as `plan` says. ENOENT, ENOTDIR, EACCES for a place that the plan names and that can't be granted.
pub fn mount(vfs: &'static Vfs, host: &Arc<dyn HostDir>, plan: &Plan) -> Result<HostRoot, PlanError> {
    let failed = |path: &[u8], errno| PlanError { path: path.to_vec(), errno };
    let at_root = |errno| failed(b"/", errno);
    let ram = vfs.ram();
    let shown = Shown::of(host.clone(), view(host, plan)?);
    let options = Options { valid_ns: VALID_NS, read_only: true, append: false };
    let lower = HostFs::new(ram, shown, options, "").map_err(at_root)?;
    let pages = plan.changes_max_bytes.div_ceil(abi::PAGE_SIZE as u64).max(1);
    let upper = Tmpfs::new(ram, "tmpfs", tmpfs::Options { pages: Some(pages), ..Default::default() }).map_err(at_root)?;
    let overlay = Overlay::new(ram, lower.root(), upper, ",lowerdir=host").map_err(at_root)?;
    let mount = vfs.new_mount(overlay, b"host", MountFlags::empty()).map_err(at_root)?;
    let root = mount.root_path();
    let namespace = MountNamespace::new(mount);
    let context = FsContext::new(root.clone());
    let credentials = Arc::new(Credentials::root());
    let caller = Caller { vfs, credentials: &credentials, fs: &context, namespace: &namespace, file_size_limit: u64::MAX };
    let find = |path: &[u8]| {
        let found = caller.lookup(PathAt::cwd(path), LookupFlags::FOLLOW | LookupFlags::DIRECTORY);
        found.map_err(|error| failed(path, error.errno()))
    };
    for path in &plan.binds {
        let named = |errno| failed(path, errno);
        let real = resolve(host, path).map_err(named)?.0;
        let dir = open_real(host, &real).map_err(named)?;
        let bound = HostFs::new(ram, dir, Options::default(), "").map_err(named)?;
        let mount = vfs.new_mount(bound, path, MountFlags::empty()).map_err(named)?;
        caller.attach_new(&mount, &find(path)?).map_err(named)?;
    }
    let directory = find(&plan.directory)?;
    Ok(HostRoot { namespace, root, directory })
}
