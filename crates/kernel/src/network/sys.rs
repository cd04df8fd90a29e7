//! `/sys/class/net`, sysfs(5): a directory for each interface, which comes and goes with it.

use fs::kernfs::{FileSpec, Node};
use fs::sysfs::Sysfs;
use net::interface::{Interface, LinkStatistics};
use net::link::Medium;
use net::{Event, InterfaceId};
use sock::Network;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that `stat` says a file of sysfs has.
const FILE_SIZE: u64 = 4096;

/// What an attribute shows of an interface; `None` where reading fails with EINVAL on Linux.
type Show = fn(&Interface) -> Option<String>;
/// A counter.
type Count = fn(&LinkStatistics) -> u64;

fn operstate(interface: &Interface) -> &'static str {
    match (interface.is_loopback(), interface.up, interface.is_running()) {
        (true, true, _) => "unknown",
        (_, _, true) => "up",
        _ => "down",
    }
}

const ATTRIBUTES: &[(&str, Show)] = &[
    ("address", |i| Some(i.link.mac().to_string())),
    ("broadcast", |i| Some(if i.is_loopback() { "00:00:00:00:00:00" } else { "ff:ff:ff:ff:ff:ff" }.into())),
    ("addr_assign_type", |_| Some("0".into())),
    ("addr_len", |i| Some(if i.capabilities().medium == Medium::Ip { "0" } else { "6" }.into())),
    ("carrier", |i| i.up.then(|| u8::from(i.link.has_carrier()).to_string())),
    ("dev_id", |_| Some("0x0".into())),
    ("dormant", |i| i.up.then(|| "0".into())),
    ("flags", |i| Some(format!("{:#x}", sock::interface_flags(i) & 0xffff & !0x40))),
    ("ifindex", |i| Some(i.id.0.to_string())),
    ("iflink", |i| Some(i.id.0.to_string())),
    ("link_mode", |_| Some("0".into())),
    ("mtu", |i| Some(i.mtu.to_string())),
    ("netdev_group", |_| Some("0".into())),
    ("operstate", |i| Some(operstate(i).into())),
    ("tx_queue_len", |i| Some(i.queue_len.to_string())),
    ("type", |i| Some(sock::hardware_type(i).to_string())),
];

const STATISTICS: &[(&str, Count)] = &[
    ("rx_packets", |s| s.rx_packets),
    ("rx_bytes", |s| s.rx_bytes),
    ("rx_errors", |s| s.rx_errors),
    ("rx_dropped", |s| s.rx_dropped),
    ("multicast", |s| s.multicast),
    ("tx_packets", |s| s.tx_packets),
    ("tx_bytes", |s| s.tx_bytes),
    ("tx_errors", |s| s.tx_errors),
    ("tx_dropped", |s| s.tx_dropped),
    ("collisions", |_| 0),
    ("rx_compressed", |_| 0),
    ("rx_crc_errors", |_| 0),
    ("rx_fifo_errors", |_| 0),
    ("rx_frame_errors", |_| 0),
    ("rx_length_errors", |_| 0),
    ("rx_missed_errors", |_| 0),
    ("rx_nohandler", |_| 0),
    ("rx_over_errors", |_| 0),
    ("tx_aborted_errors", |_| 0),
    ("tx_carrier_errors", |_| 0),
    ("tx_compressed", |_| 0),
    ("tx_fifo_errors", |_| 0),
    ("tx_heartbeat_errors", |_| 0),
    ("tx_window_errors", |_| 0),
];

/// Shows what there is, and what there will be.
pub fn show(sysfs: &Arc<Sysfs>, network: &'static Network) {
    let tree = sysfs.tree().clone();
    tree.dir("class/net");
    let shown: Mutex<BTreeMap<InterfaceId, String>> = Mutex::default();
    let follow = move || {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let there: BTreeMap<InterfaceId, String> = network.look(|stack| stack.interfaces.iter().map(|i| (i.id, i.name.clone())).collect());
        for (_, name) in shown.iter().filter(|(id, name)| there.get(id) != Some(name)) {
            tree.remove(&format!("class/net/{name}"));
            tree.remove(&format!("devices/virtual/net/{name}"));
        }
        for (id, name) in there.iter().filter(|(id, name)| shown.get(id) != Some(name)) {
            add(&tree, network, *id, name);
        }
        *shown = there;
    };
    follow();
    network.subscribe(Box::new(move |events| {
        if events.iter().any(|event| matches!(event, Event::Link(_) | Event::LinkRemoved(_) | Event::Overrun)) {
            follow();
        }
    }));
}

fn add(tree: &Arc<Node>, network: &'static Network, id: InterfaceId, name: &str) {
    let path = format!("devices/virtual/net/{name}");
    tree.dir(&path);
    for (file, show) in ATTRIBUTES {
        let spec = FileSpec::show(move |_| {
            let text = network.look(|stack| stack.interfaces.get(id).and_then(show)).ok_or(abi::Errno::EINVAL)?;
            Ok(format!("{text}\n").into_bytes())
        });
        tree.file(&format!("{path}/{file}"), 0o444, spec.sized(FILE_SIZE));
    }
    for (file, count) in STATISTICS {
        let spec = FileSpec::text(move || {
            let count = network.look(|stack| stack.interfaces.get(id).map_or(0, |interface| count(&interface.statistics)));
            format!("{count}\n")
        });
        tree.file(&format!("{path}/statistics/{file}"), 0o444, spec.sized(FILE_SIZE));
    }
    let uevent = format!("INTERFACE={name}\nIFINDEX={}\n", id.0);
    tree.file(&format!("{path}/uevent"), 0o444, FileSpec::text(move || uevent.clone()).sized(FILE_SIZE));
    tree.link(&format!("{path}/subsystem"), "../../../../class/net");
    tree.link(&format!("class/net/{name}"), &format!("../../{path}"));
}
