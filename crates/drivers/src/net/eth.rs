//! `eth<unit>=<transport>[,arguments]`: the classic interfaces.
//!
//! Source: the documentation of User Mode Linux on network devices; the messages are the reference's.

use super::transport::{self, Arguments, Wire};

/// Interfaces that a machine can have of this kind.
pub const UNITS: u32 = 32;
/// Its MTU, which the reference fixes.
pub const MTU: u32 = 1500;
/// The driver's name for `ethtool -i`.
pub const DRIVER: &str = "uml-netdev";

/// What an option says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The number in `eth0`.
    pub unit: u32,
    /// The hardware address, as given.
    pub mac: Option<String>,
    /// Where its frames go.
    pub wire: Wire,
    /// How the boot log calls that.
    pub backend: String,
}

/// Why there will be no interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// This line is logged.
    Said(String),
    /// The reference says nothing when it does not know a transport; we say that.
    Unknown(String),
}

impl Spec {
    /// From what follows `eth`: `0=mcast`.
    pub fn parse(setting: &str) -> Result<Spec, Refused> {
        let wrong = |why: &str| Refused::Said(format!("eth_setup - Couldn't parse '{setting}' : {why}"));
        let digits = setting.len() - setting.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = setting.split_at(digits);
        let unit = number.parse().ok().filter(|unit| *unit < UNITS).ok_or_else(|| wrong("Bad device number"))?;
        let value = rest.strip_prefix('=').ok_or_else(|| wrong("Expected '=' after device number"))?;
        let (name, arguments) = value.split_once(',').unwrap_or((value, ""));
        let found = transport::find(name).ok_or_else(|| Refused::Unknown(name.to_owned()))?;
        let mut arguments = Arguments::new(name, arguments);
        let parsed = (found.parse)(&mut arguments).map_err(Refused::Said)?;
        if let Some(garbage) = arguments.rest() {
            return Err(Refused::Said(format!("{name}_setup : Extra garbage on specification : '{garbage}'")));
        }
        Ok(Spec { unit, mac: parsed.mac, wire: parsed.wire, backend: parsed.backend })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("eth{}", self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    fn spec(setting: &str) -> Spec {
        Spec::parse(setting).unwrap_or_else(|refused| panic!("{setting}: {refused:?}"))
    }

    fn said(setting: &str) -> String {
        match Spec::parse(setting) {
            Err(Refused::Said(line)) => line,
            other => panic!("{setting}: {other:?}"),
        }
    }

    #[test]
    fn a_switch_is_named_by_its_control_socket() {
        let default = spec("0=daemon");
        assert_eq!(default.backend, "daemon backend (uml_switch version 3) - unix:/tmp/uml.ctl");
        let given = spec("12=daemon,fe:fd:0:0:0:1,unix,/run/a.ctl");
        assert_eq!((given.unit, given.name().as_str(), given.mac.as_deref()), (12, "eth12", Some("fe:fd:0:0:0:1")));
        assert_eq!(given.wire, Wire::Switch { control: "/run/a.ctl".into() });
        assert_eq!(spec("0=daemon,,,/x").wire, Wire::Switch { control: "/x".into() });
        assert_eq!(said("0=daemon,,tcp,/x"), "daemon_setup : Unknown socket type : tcp");
        assert_eq!(said("0=daemon,,unix,/x,y,z"), "daemon_setup : Extra garbage on specification : 'y,z'");
    }

    #[test]
    fn groups_and_peers_have_defaults() {
        let group: SocketAddrV4 = "239.192.168.1:1102".parse().unwrap();
        assert_eq!(spec("0=mcast").wire, Wire::Multicast { group, ttl: 1 });
        assert_eq!(spec("0=mcast").backend, "mcast backend multicast address: 239.192.168.1:1102, TTL:1");
        assert_eq!(spec("1=mcast,,239.192.168.2,1103,5").wire, Wire::Multicast { group: "239.192.168.2:1103".parse().unwrap(), ttl: 5 });
        assert_eq!(said("0=mcast,,,x"), "mcast_setup - Bad port : 'x'");
        assert_eq!(said("0=mcast,,,1,999"), "mcast_setup - Bad ttl : '999'");
        assert!(said("0=mcast,,10.0.0.1").contains("10.0.0.1"));
        assert_eq!(
            spec("0=ucast,,127.0.0.1,5000,5001").wire,
            Wire::Unicast { remote: "127.0.0.1:5001".parse().unwrap(), listen_port: 5000 }
        );
        assert_eq!(spec("0=ucast,,127.0.0.1").backend, "ucast backend address: 127.0.0.1:1102 listen port: 1102");
        assert!(said("0=ucast").starts_with("ucast_setup - "));
    }

    #[test]
    fn a_tap_that_is_there_needs_no_helper() {
        let tap = |name: &str| Wire::Tap { name: name.into(), offload: true, if_up: None };
        assert_eq!(spec("0=tuntap,tap3,fe:fd:0:0:0:1").wire, tap("tap3"));
        assert_eq!(spec("0=tuntap,tap3").backend, "TUN/TAP backend - ");
        assert_eq!(
            said("0=tuntap,,,192.168.0.254"),
            "tuntap: a tap made by uml_net is not supported yet; name one that tunctl made: eth0=tuntap,tap0"
        );
        assert_eq!(said("0=tuntap"), "tuntap: a tap made by uml_net is not supported yet; name one that tunctl made: eth0=tuntap,tap0");
        assert!(said("0=tuntap,averyveryverylongname").contains("averyveryverylongname"));
    }

    #[test]
    fn what_can_not_be_read_is_said_in_the_words_of_the_reference() {
        assert_eq!(said("x=mcast"), "eth_setup - Couldn't parse 'x=mcast' : Bad device number");
        assert_eq!(said("0"), "eth_setup - Couldn't parse '0' : Expected '=' after device number");
        assert_eq!(said("99999999999=mcast"), "eth_setup - Couldn't parse '99999999999=mcast' : Bad device number");
        assert_eq!(Spec::parse("0=pigeon,,x"), Err(Refused::Unknown("pigeon".into())));
        for later in ["ethertap", "slip", "pcap", "vde"] {
            assert_eq!(said(&format!("0={later},a,b")), format!("{later}: not supported yet"));
        }
    }

    #[test]
    fn random_settings_are_read_or_refused() {
        let mut state = 7u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let words =
            ["0", "=", ",", "mcast", "daemon", "ucast", "unix", "/x", "1102", ":", "-1", "é", "\0", "239.1.1.1", "fe:fd:0:0:0:1", "tuntap"];
        for _ in 0..20_000 {
            let setting: String = (0..next() % 10).map(|_| words[next() % words.len()]).collect();
            let _ = Spec::parse(&setting);
        }
    }

    #[test]
    fn a_user_network_takes_a_hardware_address_and_options() {
        let options = |pairs: &[(&str, &str)]| Wire::User { options: pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect() };
        assert_eq!(spec("0=user").wire, options(&[]));
        let given = spec("0=user,fe:fd:0:0:0:1,allow=localhost:80,publish=8080:80");
        assert_eq!(given.mac.as_deref(), Some("fe:fd:0:0:0:1"));
        assert_eq!(given.wire, options(&[("allow", "localhost:80"), ("publish", "8080:80")]));
        assert_eq!(spec("0=user,,mtu=1500").wire, options(&[("mtu", "1500")]));
        assert_eq!(said("0=user,mtu=1500,x"), "user_setup - 'x' is not of the form OPTION=VALUE");
    }
}
