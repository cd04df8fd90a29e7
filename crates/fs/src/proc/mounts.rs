//! `/proc/PID/mounts`, `mountinfo` and `mountstats`, proc_pid_mountinfo(5). They poll as changed when the mount tree changes.

use super::ProcessView;
use crate::kernfs::FileSpec;
use abi::Errno;
use std::fmt::Write as _;
use std::sync::Arc;
use vfs::{Mount, MountFlags, Path, name_below, name_in_mount};

/// Which of the three.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Mounts,
    MountInfo,
    Stats,
}

pub fn file(process: &Arc<dyn ProcessView>, form: Form) -> FileSpec {
    let shown = process.clone();
    let spec = FileSpec::show(move |_| Ok(show(&*shown, form)?.into_bytes()));
    match process.mounts() {
        Some(namespace) => {
            let counted = namespace.clone();
            spec.changes_with(namespace.changed().clone(), move || counted.events())
        }
        None => spec,
    }
}

fn show(process: &dyn ProcessView, form: Form) -> Result<String, Errno> {
    let (namespace, root) = (process.mounts().ok_or(Errno::EINVAL)?, process.root().ok_or(Errno::EINVAL)?);
    let mut text = String::new();
    for mount in namespace.mounts() {
        // What lies outside of the process's root is not shown.
        let Some(at) = name_below(&mount.root_path(), &root) else { continue };
        // Writing to a string does not fail.
        let _ = match form {
            Form::Mounts => mounts_line(&mut text, &mount, &at),
            Form::MountInfo => mountinfo_line(&mut text, &mount, &at),
            Form::Stats => {
                let (source, kind) = (escape(mount.source()), mount.superblock().file_system().type_name());
                writeln!(text, "device {source} mounted on {} with fstype {kind}", escape(&at))
            }
        };
    }
    Ok(text)
}

/// Blank, tab, newline, backslash and `#` as octal numbers, so that fields can be told apart.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ' ' | '\t' | '\n' | '\\' | '#' => {
                    let _ = write!(text, "\\{:03o}", c as u32);
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

/// Options of the mount itself, `rw` or `ro` first.
fn mount_options(flags: MountFlags) -> String {
    let mut text = String::from(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    let names = [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ];
    for (flag, name) in names {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

fn superblock_options(mount: &Mount) -> String {
    let flags = mount.superblock().flags();
    let mut text = String::new();
    for (flag, name) in [(MountFlags::SYNCHRONOUS, ",sync"), (MountFlags::DIRSYNC, ",dirsync"), (MountFlags::LAZYTIME, ",lazytime")] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text + &mount.superblock().file_system().show_options()
}

fn source(mount: &Mount) -> String {
    if mount.source().is_empty() { "none".to_owned() } else { escape(mount.source()) }
}

fn mounts_line(text: &mut String, mount: &Arc<Mount>, at: &[u8]) -> std::fmt::Result {
    let kind = mount.superblock().file_system().type_name();
    // One field for both: read-only if either is, then the superblock's options, then the mount's.
    let own = mount_options(mount.all_flags());
    let (read_write, rest) = own.split_at(2);
    writeln!(text, "{} {} {kind} {read_write}{}{rest} 0 0", source(mount), escape(at), superblock_options(mount))
}

fn mountinfo_line(text: &mut String, mount: &Arc<Mount>, at: &[u8]) -> std::fmt::Result {
    let superblock = mount.superblock();
    let parent = mount.mountpoint().map_or(mount.id(), |p| p.mount.id());
    let root = name_in_mount(&Path { mount: mount.clone(), dentry: mount.root().clone() });
    let mut fields = String::new();
    let propagation = mount.propagation();
    if propagation.group != 0 {
        write!(fields, " shared:{}", propagation.group)?;
    }
    if propagation.master != 0 {
        write!(fields, " master:{}", propagation.master)?;
    }
    if propagation.unbindable {
        fields.push_str(" unbindable");
    }
    let read_write = if superblock.flags().contains(MountFlags::RDONLY) { "ro" } else { "rw" };
    writeln!(
        text,
        "{} {parent} {} {} {} {}{fields} - {} {} {read_write}{}",
        mount.id(),
        superblock.dev(),
        escape(&root),
        escape(at),
        mount_options(mount.flags()),
        superblock.file_system().type_name(),
        source(mount),
        superblock_options(mount),
    )
}
