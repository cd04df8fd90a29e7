//! From what an option says to a link of the host: the one place where transports' settings meet `host`.

use crate::wiring::INFO;
use drivers::net::transport::Wire;
use host::link::{ControlProtocol, Inherited, Link, Multicast, RawInterface, SwitchPort, TapDevice, Transport, Unicast};
use platform::HostLink;
use std::sync::Arc;
use switch::protocol::{self, Address};
use vfs::Vfs;

/// Makes the link of interface `name`, closed. A line for the log when that can't be.
pub fn make(wire: &Wire, name: &str, vfs: &'static Vfs) -> Result<Arc<dyn HostLink>, String> {
    let transport: Box<dyn Transport> = match wire {
        Wire::Switch { control } => Box::new(Arc::new(SwitchPort { path: control.into(), protocol: Box::new(Version3) })),
        Wire::Multicast { group, ttl } => Box::new(Multicast { group: *group, ttl: *ttl }),
        Wire::Tap { name, offload, if_up } => Box::new(TapDevice { name: tap_name(name), offload: *offload, if_up: if_up.clone() }),
        Wire::Raw { name, offload, if_up } => Box::new(RawInterface { name: name.clone(), offload: *offload, if_up: if_up.clone() }),
        Wire::Inherited { number } => Box::new(Inherited { number: *number }),
        Wire::User { .. } => return Err(format!("{name}: a user network has no link of the host")),
        Wire::Unicast { remote, listen_port } => Box::new(Unicast { remote: *remote, listen_port: *listen_port }),
    };
    let name = name.to_owned();
    let log = move |text: &str| vfs.log.print(INFO, &format!("Device '{name}': {text}"));
    Ok(Arc::new(Link::new(transport, Box::new(log))))
}

/// A tap that nobody named gets a name that is likely free.
fn tap_name(name: &str) -> String {
    if !name.is_empty() {
        return name.to_owned();
    }
    let mut bytes = [0; 3];
    host::checks::entropy(&mut bytes);
    bytes.iter().fold("tap".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// Version 3 of the switch's control protocol.
struct Version3;

impl ControlProtocol for Version3 {
    fn data_name(&self, process: u32, number: u32) -> Vec<u8> {
        Address::abstract_of(process, number).as_abstract_name().unwrap_or_default().to_vec()
    }
    fn request(&self, data_name: &[u8]) -> Vec<u8> {
        Address::from_abstract_name(data_name).map_or_else(Vec::new, |address| protocol::request(&address).to_vec())
    }
    fn answer_len(&self) -> usize {
        protocol::ADDRESS_LEN
    }
    fn understand(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let address = Address::parse(answer)?;
        match (address.as_abstract_name(), address.as_path()) {
            (Some(name), _) => Some([&[0], name].concat()),
            (None, path) => path.map(<[u8]>::to_vec),
        }
    }
}
