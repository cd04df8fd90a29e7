//! NETLINK_KOBJECT_UEVENT: devices that come and go, told to the first group; `kobject_uevent` of Linux, udev(7).

use super::hub::Sender;
use crate::sockets::Sockets;
use vfs::{DeviceAction, DeviceInfo, DeviceSubscriber};

/// The family's number.
pub(super) const FAMILY: i32 = 15;
/// The kernel's own group; the second one is udev's.
const KERNEL_GROUP: u32 = 1;

/// Tells listeners of devices.
pub(crate) struct Uevents(pub &'static Sockets);

impl DeviceSubscriber for Uevents {
    fn device(&self, action: DeviceAction, info: &DeviceInfo, sequence: u64) {
        self.0.hub.multicast(FAMILY, &message(action, info, sequence), Sender::kernel(KERNEL_GROUP));
    }
}

/// `ACTION@DEVPATH`, then `KEY=VALUE` strings, each ended by a zero byte.
fn message(action: DeviceAction, info: &DeviceInfo, sequence: u64) -> Vec<u8> {
    let path = info.path();
    let mut text = format!("{}@{path}\0ACTION={}\0DEVPATH={path}\0SUBSYSTEM={}\0", action.name(), action.name(), info.class);
    text += &format!("MAJOR={}\0MINOR={}\0DEVNAME={}\0", info.number.major(), info.number.minor(), info.name);
    for (key, value) in &info.properties {
        text += &format!("{key}={value}\0");
    }
    text += &format!("SEQNUM={sequence}\0");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vfs::{DeviceNumber, Open};

    #[test]
    fn a_uevent_reads_as_linux_writes_it() {
        let device = Arc::new(|_: &Open<'_>| Err(abi::Errno::ENXIO.into()));
        let mut info = DeviceInfo::block(DeviceNumber::new(98, 0), "ubda", 0o660, device);
        info.properties.push(("DEVTYPE".into(), "disk".into()));
        let text = String::from_utf8(message(DeviceAction::Add, &info, 7)).unwrap();
        let expected = "add@/devices/virtual/block/ubda\0ACTION=add\0DEVPATH=/devices/virtual/block/ubda\0SUBSYSTEM=block\0\
             MAJOR=98\0MINOR=0\0DEVNAME=ubda\0DEVTYPE=disk\0SEQNUM=7\0";
        assert_eq!(text, expected);
    }
}
