//! The host's own tree as a machine's root.

use crate::config::{End, HostTree};
use crate::machine::Machine;
use abi::Errno;
use fs::hostfs::{HostFs, Options};
use std::path::Path;
use std::sync::Arc;
use vfs::{Caller, FileSystem, MountFlags};

fn sentence(what: &Path, errno: Errno) -> End {
    let advice = match errno {
        Errno::ENOENT => "there is no such directory",
        Errno::ENOTDIR => "it is not a directory",
        Errno::EACCES => "it may not be read by this user",
        _ => "the host does not give it",
    };
    End::NotStarted(format!("{}: {advice} ({errno})", what.display()))
}

/// Mounts what `umlaut run` shows.
pub fn mount(machine: &Machine, caller: &Caller<'_>, tree: &HostTree) -> Result<(), End> {
    mount_directory(machine, caller, &tree.root, true)
}

/// Mounts one directory of the host over the root, written through.
pub fn mount_directory(machine: &Machine, caller: &Caller<'_>, dir: &Path, read_only: bool) -> Result<(), End> {
    let failed = |errno| sentence(dir, errno);
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
