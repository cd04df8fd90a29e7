//! NETLINK_KOBJECT_UEVENT: devices that come and go, told to whoever is in group 1; and what udevd tells its own listeners.
//!
//! Events have the words of Linux: `ACTION@DEVPATH`, then `KEY=VALUE`, each ended by a NUL.

use super::{NetlinkSocket, Ports, SEND_MAX, Sender};
use crate::message::Ucred;
use abi::{Errno, SysResult};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::{Capability, DeviceAction, DeviceInfo, DeviceSubscriber, Source};

/// The group of the kernel's own events.
const KERNEL_GROUP: u32 = 1;

/// Everybody who has a socket of this family.
#[derive(Default)]
pub(crate) struct Uevents {
    listeners: SpinLock<Vec<Weak<NetlinkSocket>>>,
    pub(super) ports: Ports,
}

impl Uevents {
    pub(super) fn listen(&self, socket: &Arc<NetlinkSocket>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|weak| weak.strong_count() > 0);
        listeners.push(Arc::downgrade(socket));
    }
    fn listening(&self) -> Vec<Arc<NetlinkSocket>> {
        self.listeners.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// An event as it is read.
fn event(action: DeviceAction, info: &DeviceInfo, sequence: u64) -> Vec<u8> {
    let (action, path) = (action.name(), format!("/devices/virtual/{}/{}", info.class, info.name.replace('/', "!")));
    let mut text = format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={}\0", info.class);
    text += &format!("MAJOR={}\0MINOR={}\0DEVNAME={}\0", info.number.major(), info.number.minor(), info.name);
    for (key, value) in &info.properties {
        text += &format!("{key}={value}\0");
    }
    text += &format!("SEQNUM={sequence}\0");
    text.into_bytes()
}

impl DeviceSubscriber for Uevents {
    fn device(&self, action: DeviceAction, info: &DeviceInfo, sequence: u64) {
        let listening = self.listening();
        if listening.is_empty() {
            return;
        }
        let text = event(action, info, sequence);
        for socket in listening {
            if socket.groups.load(Ordering::Relaxed) & KERNEL_GROUP != 0 {
                socket.deliver(text.clone(), Sender { group: KERNEL_GROUP, ..Sender::KERNEL });
            }
        }
    }
}

impl NetlinkSocket {
    /// Sends to a port, or to all that are in a group. EPERM for a group without CAP_NET_ADMIN, ECONNREFUSED for a port that nobody has.
    pub(super) fn send_uevent(&self, to: u32, group: u32, source: &mut dyn Source) -> SysResult<usize> {
        let who = self.sockets.who();
        let credentials = &who.credentials;
        if (group != 0 || to != 0) && !credentials.has(Capability::NET_ADMIN) {
            return Err(Errno::EPERM.into());
        }
        let len = source.left();
        if len > SEND_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut data = vec![0; len];
        if source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        let port = self.port()?;
        let who = Ucred { pid: who.pid, uid: credentials.uid, gid: credentials.gid };
        if group != 0 {
            // The lowest of the groups that are named.
            let group = group & group.wrapping_neg();
            for socket in self.sockets.uevents.listening() {
                if !std::ptr::eq(&*socket, self) && socket.groups.load(Ordering::Relaxed) & group != 0 {
                    socket.deliver(data.clone(), Sender { port, group, who });
                }
            }
        }
        if to == 0 {
            // The kernel listens to nothing here.
            return if group == 0 { Err(Errno::ECONNREFUSED.into()) } else { Ok(len) };
        }
        let target = self.sockets.uevents.listening().into_iter().find(|socket| socket.port.load(Ordering::Acquire) == to);
        target.ok_or(Errno::ECONNREFUSED)?.deliver(data, Sender { port, group: 0, who });
        Ok(len)
    }
}
