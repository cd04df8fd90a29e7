//! The host's own tree as a machine's root.

use crate::config::{Config, End, HostTree};
use crate::machine::Machine;
use abi::Errno;
use fs::hostfs::{HostFs, Options};
use fs::hostroot::{self, Plan};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vfs::{Caller, FileSystem, FsContext, MountFlags, MountNamespace};

fn sentence(what: &str, errno: Errno) -> End {
    let advice = match errno {
        Errno::ENOENT => "there is no such directory",
        Errno::ENOTDIR => "it is not a directory",
        Errno::EACCES => "it may not be read by this user",
        _ => "the host does not give it",
    };
    End::NotStarted(format!("{what}: {advice} ({errno})"))
}

/// An absolute path in the bytes that the guest will use.
fn absolute(path: &Path) -> Result<Vec<u8>, End> {
    let full = std::path::absolute(path).map_err(|error| End::NotStarted(format!("{}: {error}", path.display())))?;
    Ok(full.into_os_string().into_encoded_bytes())
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, End> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// The user's home directory, wherever it is: it holds what no guest is to see.
fn home() -> Option<Vec<u8>> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let is_one = home.is_absolute() && home.parent().is_some() && home.is_dir();
    is_one.then(|| home.into_os_string().into_encoded_bytes())
}

/// Mounts what `umlaut run` shows: the host's tree copy-on-write, homes and temporary directories empty, what was shared or bound.
pub fn mount(machine: &Machine, config: &Config, tree: &HostTree) -> Result<(Arc<FsContext>, Arc<MountNamespace>), End> {
    let host = host::files::open_tree(&tree.root).map_err(|errno| sentence(&tree.root.display().to_string(), errno))?;
    let plan = Plan {
        hidden: home().into_iter().collect(),
        directory: absolute(&tree.workdir)?,
        shares: all_absolute(&tree.shares)?,
        binds: all_absolute(&tree.binds)?,
        // Changes take at most four fifths of memory: the rest is for programs.
        changes_max_bytes: config.mem_bytes / 5 * 4,
    };
    let root = hostroot::mount(machine.vfs, &host, &plan).map_err(|error| sentence(&String::from_utf8_lossy(&error.path), error.errno))?;
    let context = FsContext::new(root.root);
    context.set_cwd(root.directory);
    Ok((context, root.namespace))
}

/// Mounts one directory of the host over the root, written through.
pub fn mount_directory(machine: &Machine, caller: &Caller<'_>, dir: &Path, read_only: bool) -> Result<(), End> {
    let failed = |errno| sentence(&dir.display().to_string(), errno);
    let tree = host::files::open_tree(dir).map_err(failed)?;
    let options = Options { read_only, ..Options::default() };
    let hostfs: Arc<dyn FileSystem> = HostFs::new(machine.system.ram, tree, options, "").map_err(failed)?;
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let mount = machine.vfs.new_mount(hostfs, dir.as_os_str().as_encoded_bytes(), flags).map_err(failed)?;
    caller.attach_new(&mount, &caller.fs.root()).map_err(failed)?;
    let root = mount.root_path();
    caller.fs.set_root(root.clone());
    caller.fs.set_cwd(root);
    Ok(())
}
