//! ioctl(2) on interfaces, netdevice(7): what `ifconfig`, `if_nametoindex` and resolvers ask any socket.
//!
//! What it is not: rtnetlink (`netlink`).

use crate::inet::address;
use crate::network::Network;
use abi::{Errno, SysResult};
use net::interface::Interface;
use net::prefix::Prefix;
use net::{Address, Endpoint, Family, InterfaceId, MacAddress, Stack};
use std::net::{IpAddr, Ipv4Addr};
use vfs::{Capability, IoctlCaller};

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCSIFHWADDR: u32 = 0x8924;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCGIFMAP: u32 = 0x8970;

/// Bytes of a name in `struct ifreq`, and of all of it.
const NAME_LEN: usize = 16;
const IFREQ_LEN: usize = 40;

pub(crate) const IFF_UP: u32 = 0x1;
const IFF_BROADCAST: u32 = 0x2;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const IFF_PROMISC: u32 = 0x100;
const IFF_MULTICAST: u32 = 0x1000;
const IFF_LOWER_UP: u32 = 0x10000;
/// `linux/if_arp.h`
pub(crate) const ARPHRD_ETHER: u16 = 1;
pub(crate) const ARPHRD_LOOPBACK: u16 = 772;
pub(crate) const ARPHRD_NONE: u16 = 0xfffe;

/// `ifi_flags`. The bits above 16 do not fit an ifreq.
#[must_use]
pub fn flags(interface: &Interface) -> u32 {
    let mut flags = 0;
    for (set, bits) in [
        (interface.up, IFF_UP),
        (interface.is_running(), IFF_RUNNING | IFF_LOWER_UP),
        (interface.promiscuous > 0, IFF_PROMISC),
        (interface.is_loopback(), IFF_LOOPBACK),
        (!interface.is_loopback() && interface.capabilities().arp, IFF_BROADCAST | IFF_MULTICAST),
        (!interface.is_loopback() && !interface.capabilities().arp, IFF_NOARP),
    ] {
        if set {
            flags |= bits;
        }
    }
    flags
}

/// `ARPHRD_*`.
#[must_use]
pub fn hardware(interface: &Interface) -> u16 {
    use net::link::Medium;
    match interface.capabilities().medium {
        Medium::Loopback => ARPHRD_LOOPBACK,
        Medium::Ethernet => ARPHRD_ETHER,
        Medium::Ip => ARPHRD_NONE,
    }
}

fn mask(prefix: &Prefix) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.len)).unwrap_or(0))
}

fn v4(address: Ipv4Addr) -> Vec<u8> {
    address::format(Family::V4, Endpoint::new(address.into(), 0))
}

fn first_v4(interface: &Interface) -> Result<&Address, Errno> {
    interface.usable(Family::V4).next().ok_or(Errno::EADDRNOTAVAIL)
}

/// An ifreq's union, as far as it is used.
fn answer(interface: &Interface, command: u32) -> Result<Vec<u8>, Errno> {
    let number = |number: u32| Ok(number.to_ne_bytes().to_vec());
    let of = |address: &Address, which: fn(&Prefix) -> Option<Ipv4Addr>| v4(which(&address.prefix).unwrap_or(Ipv4Addr::UNSPECIFIED));
    let own = |prefix: &Prefix| match prefix.address {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    match command {
        SIOCGIFFLAGS => Ok((flags(interface) as u16).to_ne_bytes().to_vec()),
        SIOCGIFADDR | SIOCGIFDSTADDR => Ok(of(first_v4(interface)?, own)),
        SIOCGIFBRDADDR => Ok(of(first_v4(interface)?, Prefix::broadcast)),
        SIOCGIFNETMASK => Ok(v4(mask(&first_v4(interface)?.prefix))),
        SIOCGIFMETRIC => number(0),
        SIOCGIFMTU => number(interface.mtu),
        SIOCGIFINDEX => number(interface.id.0),
        SIOCGIFTXQLEN => number(interface.queue_len as u32),
        SIOCGIFMAP => Ok(vec![0; IFREQ_LEN - NAME_LEN]),
        SIOCGIFHWADDR => {
            let MacAddress(mac) = interface.link.mac();
            Ok([&hardware(interface).to_ne_bytes()[..], &mac].concat())
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Gives an interface its only IPv4 address, or changes that one's prefix.
fn set_v4(stack: &mut Stack, id: InterfaceId, address: Option<Ipv4Addr>, len: Option<u8>) -> Result<(), Errno> {
    let interface = stack.interfaces.get(id).ok_or(Errno::ENODEV)?;
    let old = first_v4(interface).map(|old| old.prefix).ok();
    let Some(address) = address.map(IpAddr::V4).or(old.map(|old| old.address)) else { return Err(Errno::EADDRNOTAVAIL) };
    // Without a netmask the class decides, as it did in 1981.
    let class = match address {
        IpAddr::V4(ip) if ip.octets()[0] < 128 => 8,
        IpAddr::V4(ip) if ip.octets()[0] < 192 => 16,
        _ => 24,
    };
    if let Some(old) = old {
        stack.remove_address(id, old.address)?;
    }
    if address.is_unspecified() {
        return Ok(());
    }
    stack.add_address(id, Address::new(Prefix { address, len: len.unwrap_or(class) }))
}

fn change(network: &Network, id: InterfaceId, command: u32, union: &[u8]) -> Result<(), Errno> {
    let word: [u8; 4] = union.get(..4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    let ip = || match address::parse(Family::V4, union.get(..16).unwrap_or_default())?.address {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(Errno::EINVAL),
    };
    network.with(|stack| match command {
        SIOCSIFFLAGS => stack.set_up(id, u16::from_ne_bytes([word[0], word[1]]) & IFF_UP as u16 != 0),
        SIOCSIFMTU => stack.set_mtu(id, u32::from_ne_bytes(word)),
        SIOCSIFADDR => {
            set_v4(stack, id, Some(ip()?), None)?;
            stack.set_up(id, true)
        }
        SIOCSIFNETMASK => {
            let bits = u32::from(ip()?);
            if bits.leading_ones() != bits.count_ones() {
                return Err(Errno::EINVAL);
            }
            set_v4(stack, id, None, Some(bits.count_ones() as u8))
        }
        // The stack takes the last address of the prefix.
        SIOCSIFBRDADDR => Ok(()),
        SIOCSIFHWADDR => {
            let family = u16::from_ne_bytes([word[0], word[1]]);
            if stack.interfaces.get(id).is_none_or(|interface| hardware(interface) != family) {
                return Err(Errno::EINVAL);
            }
            let mac = union.get(2..8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            stack.set_mac(id, MacAddress(mac))
        }
        SIOCSIFTXQLEN => stack.set_queue_len(id, i32::from_ne_bytes(word)),
        SIOCSIFNAME => {
            let name = union.split(|b| *b == 0).next().and_then(|name| std::str::from_utf8(name).ok()).ok_or(Errno::EINVAL)?;
            stack.rename(id, name)
        }
        _ => Err(Errno::ENOTTY),
    })
}

/// SIOCGIFCONF: every IPv4 address, as many as there is room for; without a buffer, how much room they need.
fn list(network: &Network, caller: &IoctlCaller<'_>, argument: u64) -> SysResult<i64> {
    let mut head = [0; 16];
    caller.memory.read_exact(argument, &mut head)?;
    let [a, b, c, d, _, _, _, _, buffer @ ..] = head;
    let (len, buffer) = (i32::from_ne_bytes([a, b, c, d]), u64::from_ne_bytes(buffer));
    let mut requests = Vec::new();
    network.look(|stack| {
        for interface in stack.interfaces.iter() {
            for address in interface.usable(Family::V4) {
                let start = requests.len();
                requests.extend_from_slice(interface.name.as_bytes());
                requests.resize(start + NAME_LEN, 0);
                requests.extend_from_slice(&address::format(Family::V4, Endpoint::new(address.prefix.address, 0)));
                requests.resize(start + IFREQ_LEN, 0);
            }
        }
    });
    if buffer != 0 {
        let room = usize::try_from(len).map_err(|_| Errno::EINVAL)? / IFREQ_LEN * IFREQ_LEN;
        requests.truncate(room);
        caller.memory.write_all(buffer, &requests)?;
    }
    caller.memory.write_all(argument, &(requests.len() as i32).to_ne_bytes())?;
    Ok(0)
}

/// Whether a command changes something, which needs CAP_NET_ADMIN.
fn is_change(command: u32) -> bool {
    matches!(
        command,
        SIOCSIFFLAGS | SIOCSIFMTU | SIOCSIFADDR | SIOCSIFNETMASK | SIOCSIFBRDADDR | SIOCSIFHWADDR | SIOCSIFTXQLEN | SIOCSIFNAME
    )
}

/// Whether a command is about interfaces.
pub(crate) fn is_for_interfaces(command: u32) -> bool {
    (SIOCGIFNAME..=SIOCSIFTXQLEN).contains(&command) || command == SIOCGIFMAP
}

/// An ioctl on interfaces. ENOTTY for one that is not here; ENODEV for an interface that is not there.
pub(crate) fn ioctl(network: &Network, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
    if command == SIOCGIFCONF {
        return list(network, caller, argument);
    }
    let mut request = [0; IFREQ_LEN];
    caller.memory.read_exact(argument, &mut request)?;
    let (name, union) = request.split_at_mut(NAME_LEN);
    if command == SIOCGIFNAME {
        let index = u32::from_ne_bytes([union[0], union[1], union[2], union[3]]);
        let found = network.look(|stack| stack.interfaces.get(InterfaceId(index)).map(|i| i.name.clone())).ok_or(Errno::ENODEV)?;
        name.fill(0);
        name.iter_mut().zip(found.bytes().take(NAME_LEN - 1)).for_each(|(to, from)| *to = from);
        return Ok(caller.memory.write_all(argument, &request).map(|()| 0)?);
    }
    let wanted = name.split(|b| *b == 0 || *b == b':').next().unwrap_or_default().to_vec();
    let wanted = String::from_utf8(wanted).map_err(|_| Errno::ENODEV)?;
    let id = network.look(|stack| stack.interfaces.by_name(&wanted).map(|i| i.id)).ok_or(Errno::ENODEV)?;
    if is_change(command) {
        caller.credentials.require(Capability::NET_ADMIN)?;
        change(network, id, command, union)?;
        return Ok(0);
    }
    let bytes = network.look(|stack| answer(stack.interfaces.get(id).ok_or(Errno::ENODEV)?, command))?;
    union.fill(0);
    union.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    caller.memory.write_all(argument, &request)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_follow_the_prefix_length() {
        let mask = |len| mask(&Prefix { address: Ipv4Addr::LOCALHOST.into(), len }).to_string();
        assert_eq!([mask(0), mask(8), mask(32)], ["0.0.0.0", "255.0.0.0", "255.255.255.255"]);
        assert_eq!(v4(Ipv4Addr::LOCALHOST)[..8], [2, 0, 0, 0, 127, 0, 0, 1]);
    }
}
