//! What `/sys` shows of a disk or partition beside its number. Source: Linux, `Documentation/ABI/stable/sysfs-block`.

use crate::blockdev::BlockDev;
use crate::kernfs::{FileSpec, Node, SYSFS_FILE_SIZE};

use std::sync::{Arc, Weak};

/// One file below the device's directory: its name, and its text without the end of the line.
struct Shown(&'static str, fn(&BlockDev) -> String);

/// Requests that one disk may have at a time: nobody waits for a place here, so it is what UML says.
const DEPTH: u32 = 64;

/// Of disks and partitions.
const COMMON: [Shown; 6] = [
    Shown("size", |dev| dev.disk().sectors().to_string()),
    Shown("ro", |dev| u8::from(dev.disk().is_read_only()).to_string()),
    Shown("stat", |dev| dev.statistics().to_string()),
    Shown("inflight", |dev| format!("{:8} {:8}", dev.statistics().in_flight, 0)),
    Shown("alignment_offset", |_| "0".into()),
    Shown("discard_alignment", |_| "0".into()),
];

/// Of partitions.
const PARTITION: [Shown; 2] = [
    Shown("partition", |dev| dev.about().partition.map_or(0, |(number, _)| number).to_string()),
    Shown("start", |dev| dev.about().partition.map_or(0, |(_, start)| start).to_string()),
];

/// Of disks.
const DISK: [Shown; 23] = [
    Shown("range", |_| "16".into()),
    Shown("ext_range", |_| "16".into()),
    Shown("removable", |_| "0".into()),
    Shown("hidden", |_| "0".into()),
    Shown("capability", |_| "0".into()),
    Shown("events", |_| String::new()),
    Shown("events_async", |_| String::new()),
    Shown("queue/rotational", |_| "0".into()),
    Shown("queue/write_cache", |_| "write back".into()),
    Shown("queue/fua", |_| "1".into()),
    Shown("queue/nr_requests", |_| DEPTH.to_string()),
    Shown("queue/scheduler", |_| "[none]".into()),
    Shown("queue/read_ahead_kb", |_| "128".into()),
    Shown("queue/max_sectors_kb", |_| "1280".into()),
    Shown("queue/max_hw_sectors_kb", |_| "1280".into()),
    Shown("queue/logical_block_size", |dev| dev.disk().logical_block_size().to_string()),
    Shown("queue/physical_block_size", |dev| dev.disk().logical_block_size().to_string()),
    Shown("queue/hw_sector_size", |dev| dev.disk().logical_block_size().to_string()),
    Shown("queue/minimum_io_size", |dev| dev.disk().logical_block_size().to_string()),
    Shown("queue/optimal_io_size", |_| "0".into()),
    Shown("queue/discard_granularity", |dev| if dev.about().discard_bytes > 0 { "512".into() } else { "0".into() }),
    Shown("queue/discard_max_bytes", |dev| dev.about().discard_bytes.to_string()),
    Shown("queue/write_zeroes_max_bytes", |dev| dev.about().discard_bytes.to_string()),
];

/// Puts a device's files into its directory `path`.
pub(crate) fn describe(tree: &Arc<Node>, path: &str, dev: &Arc<BlockDev>) {
    let more: &[Shown] = if dev.about().partition.is_some() { &PARTITION } else { &DISK };
    for Shown(name, show) in COMMON.iter().chain(more) {
        file(tree, &format!("{path}/{name}"), dev, *show);
    }
    if dev.about().serial.is_some() {
        file(tree, &format!("{path}/serial"), dev, |dev| dev.about().serial.clone().unwrap_or_default());
    }
    tree.dir(&format!("{path}/holders"));
    if dev.about().partition.is_none() {
        tree.dir(&format!("{path}/slaves"));
    }
}

fn file(tree: &Arc<Node>, path: &str, dev: &Arc<BlockDev>, show: fn(&BlockDev) -> String) {
    // The file may stay open when the device has gone.
    let dev: Weak<BlockDev> = Arc::downgrade(dev);
    let text = move || dev.upgrade().map_or_else(String::new, |dev| show(&dev) + "\n");
    tree.file(path, 0o444, FileSpec::text(text).sized(SYSFS_FILE_SIZE));
}
