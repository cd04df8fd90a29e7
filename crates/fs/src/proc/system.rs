//! Files of `/proc` about the machine as a whole. Each is a closure; what this crate can't know, the kernel gives in a [`SystemInfo`].

use super::Proc;
use crate::blockdev::BlockDev;
use crate::kernfs::{FileSpec, line};
use abi::PAGE_SIZE;
use std::fmt::Write as _;
use std::sync::Arc;
use vfs::{DeviceKind, Vfs};

type Text = Box<dyn Fn() -> String + Send + Sync>;

/// What only the kernel knows.
pub struct SystemInfo {
    /// `/proc/version`, without the newline.
    pub version: String,
    /// `/proc/cmdline`, without the newline.
    pub cmdline: String,
    /// `/proc/cpuinfo`.
    pub cpuinfo: Text,
    /// `/proc/stat`.
    pub stat: Text,
    /// `/proc/loadavg`.
    pub loadavg: Text,
    /// Idle time of all virtual CPUs, nanoseconds, for `/proc/uptime`.
    pub idle_ns: Box<dyn Fn() -> u64 + Send + Sync>,
    /// More lines of `/proc/meminfo`, for what overrides ours: pages of processes, swap. Pairs of name and kilobytes.
    pub memory: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// `/proc/swaps`.
    pub swaps: Text,
}

/// Registers what the kernel knows.
pub fn register_system(proc: &Arc<Proc>, vfs: &'static Vfs, info: SystemInfo) {
    let SystemInfo { version, cmdline, cpuinfo, stat, loadavg, idle_ns, memory, swaps } = info;
    let tree = proc.tree();
    tree.file("version", 0o444, FileSpec::text(move || format!("{version}\n")));
    tree.file("cmdline", 0o444, FileSpec::text(move || format!("{cmdline}\n")));
    tree.file("cpuinfo", 0o444, FileSpec::text(cpuinfo));
    tree.file("stat", 0o444, FileSpec::text(stat));
    tree.file("loadavg", 0o444, FileSpec::text(loadavg));
    tree.file("swaps", 0o444, FileSpec::text(swaps));
    tree.file("uptime", 0o444, FileSpec::text(move || uptime(idle_ns())));
    tree.file("meminfo", 0o444, FileSpec::text(move || meminfo(vfs, &memory())));
}

/// Registers what this crate knows; [`register_system`] replaces some of it.
pub(super) fn register_basics(proc: &Arc<Proc>, vfs: &'static Vfs) {
    let tree = proc.tree();
    tree.file("filesystems", 0o444, FileSpec::text(move || filesystems(vfs)));
    tree.file("devices", 0o444, FileSpec::text(move || devices(vfs)));
    tree.file("uptime", 0o444, FileSpec::text(|| uptime(0)));
    tree.file("meminfo", 0o444, FileSpec::text(move || meminfo(vfs, &[])));
    tree.file("misc", 0o444, FileSpec::text(move || misc(vfs)));
    tree.file("partitions", 0o444, FileSpec::text(move || partitions(vfs)));
    tree.file("diskstats", 0o444, FileSpec::text(move || diskstats(vfs)));
    tree.file("modules", 0o444, FileSpec::text(String::new));
    tree.file("swaps", 0o444, FileSpec::text(|| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()));
    tree.file("locks", 0o444, FileSpec::text(vfs::lock_table));
    tree.file("kmsg", 0o400, kmsg(vfs));
    for dir in ["fs", "driver", "bus", "irq", "tty", "sysvipc"] {
        tree.dir(dir);
    }
    super::sysctl::register_own(proc, vfs);
}

fn uptime(idle_ns: u64) -> String {
    let centi = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100);
    format!("{} {}\n", centi(sync::monotonic_ns()), centi(idle_ns))
}

fn filesystems(vfs: &Vfs) -> String {
    let line = |needs_device: bool, name: &str| format!("{}\t{name}\n", if needs_device { "" } else { "nodev" });
    let own = ["sockfs", "pipefs"].iter().map(|name| line(false, name));
    let types = vfs.file_system_types();
    types.iter().map(|kind| line(kind.needs_device(), kind.name())).chain(own).collect()
}

fn devices(vfs: &Vfs) -> String {
    let mut text = String::from("Character devices:\n");
    let list = |text: &mut String, kind| {
        for (major, name) in vfs.devices.majors(kind) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{major:3} {name}");
        }
    };
    list(&mut text, DeviceKind::Char);
    text.push_str("\nBlock devices:\n");
    list(&mut text, DeviceKind::Block);
    text
}

/// The block devices, by number.
fn block_devices(vfs: &Vfs) -> impl Iterator<Item = (vfs::DeviceInfo, Arc<BlockDev>)> {
    vfs.devices.list().into_iter().filter_map(|info| BlockDev::of(&info).map(|dev| (info, dev)))
}

/// `/proc/partitions`: disks and partitions that have any size, in KiB.
fn partitions(vfs: &Vfs) -> String {
    let lines = block_devices(vfs)
        .filter(|(_, dev)| dev.disk().sectors() > 0)
        .map(|(info, dev)| format!("{:4}  {:7} {:10} {}\n", info.number.major(), info.number.minor(), dev.disk().sectors() / 2, info.name));
    "major minor  #blocks  name\n\n".to_owned() + &lines.collect::<String>()
}

/// `/proc/diskstats`.
fn diskstats(vfs: &Vfs) -> String {
    let line = |(info, dev): (vfs::DeviceInfo, Arc<BlockDev>)| {
        format!("{:4} {:7} {} {}\n", info.number.major(), info.number.minor(), info.name, dev.statistics())
    };
    block_devices(vfs).map(line).collect()
}

/// Minor numbers of the misc major, 10.
fn misc(vfs: &Vfs) -> String {
    let devices = vfs.devices.list();
    let misc = devices.iter().filter(|info| info.kind == DeviceKind::Char && info.number.major() == 10);
    misc.map(|info| format!("{:3} {}\n", info.number.minor(), info.name)).collect()
}

fn kmsg(vfs: &'static Vfs) -> FileSpec {
    FileSpec::show(move |_| {
        let (first, next) = vfs.log.range();
        let mut text = Vec::new();
        for record in (first..next).filter_map(|sequence| vfs.log.at(sequence)) {
            let (sec, usec) = (record.at_ns / 1_000_000_000, record.at_ns / 1000 % 1_000_000);
            text.extend_from_slice(format!("<{}>[{sec:5}.{usec:06}] ", record.level).as_bytes());
            text.extend_from_slice(&record.text);
            text.push(b'\n');
        }
        Ok(text)
    })
}

fn meminfo(vfs: &Vfs, more: &[(&'static str, u64)]) -> String {
    let stats = vfs.ram().stats();
    let kb = |frames: usize| (frames * (PAGE_SIZE / 1024)) as u64;
    let (dirty, cached) = vfs.page_caches.stats();
    let slab = (stats.charged_bytes / 1024) as u64;
    let free = kb(stats.free).saturating_sub(slab);
    let mut rows: Vec<(&str, u64)> = vec![
        ("MemTotal", kb(stats.total)),
        ("MemFree", free),
        ("MemAvailable", free + kb(cached.saturating_sub(dirty))),
        ("Buffers", 0),
        ("Cached", kb(cached)),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("Active(anon)", 0),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", kb(cached)),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("HighTotal", 0),
        ("HighFree", 0),
        ("LowTotal", kb(stats.total)),
        ("LowFree", free),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", kb(dirty)),
        ("Writeback", 0),
        ("AnonPages", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", slab),
        ("Slab", slab),
        ("SReclaimable", slab),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", kb(stats.total) / 2),
        ("Committed_AS", 0),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
    ];
    for (name, kilobytes) in more {
        match rows.iter_mut().find(|row| row.0 == *name) {
            Some(row) => row.1 = *kilobytes,
            None => rows.push((name, *kilobytes)),
        }
    }
    rows.iter().map(|(name, kilobytes)| format!("{:<16}{kilobytes:8} kB\n", format!("{name}:"))).collect()
}

/// A number that never changes, as a file.
pub(super) fn fixed(value: impl std::fmt::Display) -> FileSpec {
    let text = line(value);
    FileSpec::show(move |_| Ok(text.clone()))
}
