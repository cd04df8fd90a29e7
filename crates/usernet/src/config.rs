//! What `eth0=user` takes: addresses, exceptions to the policy, published ports.
//!
//! `ethN=user[,MAC][,OPTION=VALUE]...`; options may be repeated where that makes sense:
//!
//! | option | meaning |
//! |---|---|
//! | `allow=HOST:PORT` | the guest may reach this, though it is the host's; PORT may be `A-B` or `*`. The host's loopback is the guest's gateway |
//! | `publish=[ADDR:]PORT[:GUESTPORT][/udp]` | connections to the host's PORT go to the guest; ADDR is the host's loopback if not given |
//! | `net=ADDRESS/LEN` | the guest's IPv4 network, 10.0.2.0/24: .2 is the gateway, .3 the name server, .15 the guest |
//! | `dns=ADDRESS[:PORT]` | this name server instead of the host's |
//! | `mtu=N` | 1280 to 65520 |
//! | `ipv4=off`, `ipv6=off` | none of that |

use crate::policy::{Allow, Policy};
use net::MacAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Turns a host's name into addresses, where the text is not an address itself.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Vec<IpAddr>;

/// TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port of the host that leads to the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    pub protocol: Protocol,
    /// Where the host listens: several addresses when none was given.
    pub at: Vec<SocketAddr>,
    /// The guest's port.
    pub port: u16,
}

/// The network that the guest sees, and what is behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The gateway's hardware address.
    pub gateway_mac: MacAddress,
    /// The gateway. Connections to it go to the host's loopback, where the policy allows that.
    pub gateway: Ipv4Addr,
    /// The name server: port 53 leads to the host's.
    pub dns: Ipv4Addr,
    /// What the guest's first interface is given.
    pub guest: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway6: Ipv6Addr,
    pub dns6: Ipv6Addr,
    pub guest6: Ipv6Addr,
    /// 64 bits of `guest6` are the network.
    pub link_local: Ipv6Addr,
    pub mtu: u16,
    pub ipv4: bool,
    pub ipv6: bool,
    pub policy: Policy,
    pub publish: Vec<Publish>,
    /// Instead of the host's name servers.
    pub resolvers: Vec<SocketAddr>,
    /// Domains that names are looked for in.
    pub search: Vec<String>,
    /// The guest's name, for DHCP.
    pub hostname: Option<String>,
    /// Connections and UDP flows at the same time, together.
    pub flows_max: usize,
}

/// Largest MTU: an IP packet is at most 65,535 bytes, rounded down so that headers stay aligned (as passt does).
pub const MTU_MAX: u16 = 65_520;

impl Default for Config {
    fn default() -> Config {
        Config {
            gateway_mac: MacAddress([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            guest: Ipv4Addr::new(10, 0, 2, 15),
            prefix_len: 24,
            gateway6: Ipv6Addr::new(0xfd75, 0x6d6c, 0x6175, 0, 0, 0, 0, 2),
            dns6: Ipv6Addr::new(0xfd75, 0x6d6c, 0x6175, 0, 0, 0, 0, 3),
            guest6: Ipv6Addr::new(0xfd75, 0x6d6c, 0x6175, 0, 0, 0, 0, 0x15),
            link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            mtu: MTU_MAX,
            ipv4: true,
            ipv6: true,
            policy: Policy::default(),
            publish: Vec::new(),
            resolvers: Vec::new(),
            search: Vec::new(),
            hostname: None,
            flows_max: 1024,
        }
    }
}

impl Config {
    /// Takes one `OPTION=VALUE`. A sentence when it can't be.
    pub fn set(&mut self, name: &str, value: &str, resolve: Resolve<'_>) -> Result<(), String> {
        match name {
            "allow" => self.policy.allow.extend(parse_allow(value, resolve)?),
            "publish" => self.publish.push(parse_publish(value)?),
            "dns" => {
                let alone = value.parse().map(|address| SocketAddr::new(address, 53));
                self.resolvers.push(alone.or_else(|_| value.parse()).map_err(|_| format!("dns={value}: not an address"))?);
            }
            "mtu" => match value.parse() {
                Ok(mtu @ 1280..=MTU_MAX) => self.mtu = mtu,
                _ => return Err(format!("mtu={value}: not a number from 1280 to {MTU_MAX}")),
            },
            "net" => self.set_network(value)?,
            "ipv4" => self.ipv4 = parse_switch(name, value)?,
            "ipv6" => self.ipv6 = parse_switch(name, value)?,
            _ => return Err(format!("{name}: not an option of a user network; there are allow, publish, net, dns, mtu, ipv4 and ipv6")),
        }
        Ok(())
    }

    fn set_network(&mut self, value: &str) -> Result<(), String> {
        let wrong = || format!("net={value}: not of the form ADDRESS/LEN with LEN from 8 to 27, such as 10.0.2.0/24");
        let (address, len) = value.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().ok().filter(|len| (8..=27).contains(len)).ok_or_else(wrong)?;
        let network = u32::from(address) & (u32::MAX << (32 - len));
        if crate::policy::is_refused(Ipv4Addr::from(network).into()) {
            return Err(format!("net={value}: no network can have these addresses"));
        }
        self.prefix_len = len;
        self.gateway = Ipv4Addr::from(network + 2);
        self.dns = Ipv4Addr::from(network + 3);
        self.guest = Ipv4Addr::from(network + 15);
        Ok(())
    }

    /// The IPv4 network's mask.
    #[must_use]
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0))
    }

    /// The IPv4 network's broadcast address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.gateway) | !u32::from(self.netmask()))
    }

    /// Whether an address belongs to the guest's own network.
    #[must_use]
    pub fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => u32::from(address) & u32::from(self.netmask()) == u32::from(self.gateway) & u32::from(self.netmask()),
            IpAddr::V6(address) => address.segments()[..4] == self.gateway6.segments()[..4],
        }
    }

    /// Whether we answer for an address.
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway || address == self.dns,
            IpAddr::V6(address) => address == self.gateway6 || address == self.dns6 || address == self.link_local,
        }
    }
}

fn parse_switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name}={value}: neither on nor off")),
    }
}

/// `HOST:PORT`, `HOST:A-B`, `HOST:*`; an IPv6 address stands in brackets.
fn parse_allow(text: &str, resolve: Resolve<'_>) -> Result<Vec<Allow>, String> {
    let wrong = || format!("allow={text}: not of the form HOST:PORT, such as localhost:8080, [::1]:53 or 192.168.1.7:*");
    let (name, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
    let ports = match ports.split_once('-') {
        _ if ports == "*" => 1..=u16::MAX,
        Some((first, last)) => parse_port(first).ok_or_else(wrong)?..=parse_port(last).ok_or_else(wrong)?,
        None => parse_port(ports).map(|port| port..=port).ok_or_else(wrong)?,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if name == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Err(_) if name.is_empty() || name.contains(':') => return Err(wrong()),
        Err(_) => resolve(name),
    };
    if addresses.is_empty() {
        return Err(format!("allow={text}: the host {name} is not known"));
    }
    Ok(addresses.into_iter().map(|address| Allow { address, ports: ports.clone() }).collect())
}

/// `[ADDR:]PORT[:GUESTPORT][/tcp|/udp]`.
fn parse_publish(text: &str) -> Result<Publish, String> {
    let wrong = || format!("publish={text}: not of the form [ADDRESS:]PORT[:GUESTPORT][/udp], such as 8080:80 or 0.0.0.0:8080:80");
    let (places, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((places, "udp")) => (places, Protocol::Udp),
        Some(_) => return Err(wrong()),
    };
    let (address, ports) = match places.strip_prefix('[') {
        Some(rest) => {
            let (address, ports) = rest.split_once("]:").ok_or_else(wrong)?;
            (Some(address.parse().map_err(|_| wrong())?), ports)
        }
        None => match places.split_once(':') {
            Some((address, ports)) if address.contains('.') => (Some(address.parse().map_err(|_| wrong())?), ports),
            _ => (None, places),
        },
    };
    let (outside, inside) = ports.split_once(':').unwrap_or((ports, ports));
    // Port 0 outside lets the host choose, which only a test can make use of.
    let outside: u16 = outside.parse().map_err(|_| wrong())?;
    let port = parse_port(inside).ok_or_else(wrong)?;
    let at: Vec<IpAddr> = match address {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    Ok(Publish { protocol, at: at.into_iter().map(|address| SocketAddr::new(address, outside)).collect(), port })
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(_: &str) -> Vec<IpAddr> {
        Vec::new()
    }

    fn with(name: &str, value: &str) -> Result<Config, String> {
        let mut config = Config::default();
        config.set(name, value, &nobody).map(|()| config)
    }

    #[test]
    fn exceptions_are_read_in_all_their_forms() {
        let allow = |text: &str| with("allow", text).unwrap().policy;
        assert!(allow("127.0.0.1:80").is_allowed(Ipv4Addr::LOCALHOST.into(), Some(80)));
        assert!(!allow("127.0.0.1:80").is_allowed(Ipv4Addr::LOCALHOST.into(), Some(81)));
        assert!(allow("localhost:1-9").is_allowed(Ipv6Addr::LOCALHOST.into(), Some(9)));
        assert!(!allow("localhost:1-9").is_allowed(Ipv6Addr::LOCALHOST.into(), Some(10)));
        assert!(allow("[::1]:*").is_allowed(Ipv6Addr::LOCALHOST.into(), Some(65535)));
        assert!(!allow("[::1]:*").is_allowed(Ipv4Addr::LOCALHOST.into(), Some(65535)));
        for bad in ["", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:80:x", "1-2", "nosuch.example:80"] {
            assert!(with("allow", bad).is_err(), "{bad}");
        }
        let mut config = Config::default();
        config.set("allow", "printer:631", &|name| if name == "printer" { vec![[10, 9, 8, 7].into()] } else { vec![] }).unwrap();
        assert!(config.policy.is_allowed([10, 9, 8, 7].into(), Some(631)));
    }

    #[test]
    fn published_ports_are_read_in_all_their_forms() {
        let publish = |text: &str| with("publish", text).unwrap().publish.remove(0);
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (text, at, port, protocol) in [
            ("8080:80", &["127.0.0.1:8080", "[::1]:8080"][..], 80, Protocol::Tcp),
            ("22", &["127.0.0.1:22", "[::1]:22"], 22, Protocol::Tcp),
            ("0.0.0.0:8080:80/tcp", &["0.0.0.0:8080"], 80, Protocol::Tcp),
            ("[::]:53/udp", &["[::]:53"], 53, Protocol::Udp),
        ] {
            assert_eq!(publish(text), Publish { protocol, at: addresses(at), port }, "{text}");
        }
        for bad in ["", "x", "80:0", "80:80:80", "80/sctp", "1.2.3.4", "[::1:80", "70000"] {
            assert!(with("publish", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_brings_its_own_addresses() {
        let config = with("net", "192.168.77.9/24").unwrap();
        assert_eq!(
            (config.gateway, config.dns, config.guest),
            ([192, 168, 77, 2].into(), [192, 168, 77, 3].into(), [192, 168, 77, 15].into())
        );
        assert_eq!((config.netmask(), config.broadcast()), ([255, 255, 255, 0].into(), [192, 168, 77, 255].into()));
        assert!(config.is_inside("192.168.77.200".parse().unwrap()) && !config.is_inside("192.168.78.2".parse().unwrap()));
        for (name, bad) in
            [("net", "127.0.0.0/8"), ("net", "10.0.0.0"), ("net", "10.0.0.0/30"), ("mtu", "1000"), ("ipv6", "no"), ("nonsense", "")]
        {
            assert!(with(name, bad).is_err(), "{name}={bad}");
        }
    }
}
