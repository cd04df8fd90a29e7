//! Character devices without hardware: mem(4), null(4), full(4), random(4), kmsg.
//!
//! What it is not: terminals; those come from drivers. Their fixed numbers 5:0 (`tty`) and 5:1 (`console`) are hooks here.

mod kmsg;
mod mem;
mod random;

pub use random::Entropy;

use abi::Errno;
use std::sync::Arc;
use vfs::{Device, DeviceInfo, DeviceKind, DeviceNumber, FileOps, Open, Vfs};

/// Registers null, zero, full, random, urandom and kmsg.
pub fn register(vfs: &'static Vfs, entropy: Entropy) -> Result<(), Errno> {
    vfs.devices.register_major(DeviceKind::Char, 1, "mem", None);
    let add = |minor, name, mode, ops: Arc<dyn FileOps>| {
        let device: Arc<dyn Device> = Arc::new(move |_: &Open<'_>| Ok(ops.clone()));
        vfs.devices.add(DeviceInfo::char(DeviceNumber::new(1, minor), name, mode, "mem", device))
    };
    add(3, "null", 0o666, Arc::new(mem::Null))?;
    add(5, "zero", 0o666, Arc::new(mem::Zero { vfs }))?;
    add(7, "full", 0o666, Arc::new(mem::Full))?;
    add(8, "random", 0o666, Arc::new(random::Random { entropy: entropy.clone() }))?;
    add(9, "urandom", 0o666, Arc::new(random::Random { entropy: entropy.clone() }))?;
    // hwrng(4): the host's own generator, for rngd.
    vfs.devices.register_major(DeviceKind::Char, 10, "misc", None);
    let hardware: Arc<dyn FileOps> = Arc::new(random::Random { entropy });
    let hardware: Arc<dyn Device> = Arc::new(move |_: &Open<'_>| Ok(hardware.clone()));
    vfs.devices.add(DeviceInfo::char(DeviceNumber::new(10, 183), "hwrng", 0o600, "misc", hardware))?;
    let log = &vfs.log;
    let kmsg: Arc<dyn Device> = Arc::new(move |_: &Open<'_>| -> abi::SysResult<Arc<dyn FileOps>> { Ok(Arc::new(kmsg::Kmsg::new(log))) });
    vfs.devices.add(DeviceInfo::char(DeviceNumber::new(1, 11), "kmsg", 0o644, "mem", kmsg))
}

/// Registers `/dev/tty`, the caller's controlling terminal, and `/dev/console`: whoever knows tasks and consoles answers.
pub fn register_tty_hooks(vfs: &'static Vfs, tty: Arc<dyn Device>, console: Arc<dyn Device>) -> Result<(), Errno> {
    vfs.devices.register_major(DeviceKind::Char, 5, "/dev/tty", None);
    vfs.devices.add(DeviceInfo::char(DeviceNumber::new(5, 0), "tty", 0o666, "tty", tty))?;
    vfs.devices.add(DeviceInfo::char(DeviceNumber::new(5, 1), "console", 0o600, "tty", console))
}
