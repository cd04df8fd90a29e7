//! `vec<unit>:transport=T,name=value,...`: the vector interfaces.
//!
//! Source: the howto of User Mode Linux on vector transports; the messages are the reference's.

use super::transport::{NAME_MAX, Wire};
use std::collections::BTreeMap;

/// Interfaces that a machine can have of this kind.
pub const UNITS: u32 = 32;
/// The driver's name for `ethtool -i`.
pub const DRIVER: &str = "uml-vector";
/// The MTU without `mtu=`, and the greatest one.
const MTU: u32 = 1500;
const MTU_MAX: u32 = 65_534;
const MTU_MIN: u32 = 576;
/// Settings of one interface, at most.
const SETTINGS_MAX: usize = 20;

/// Transports that the reference has and we do not.
const LATER: [&str; 5] = ["hybrid", "gre", "l2tpv3", "bess", "vde"];
/// Settings whose values change nothing here: how many packets go with one system call of the host, how much room is in front of them.
const NO_MATTER: [&str; 3] = ["depth", "headroom", "vec"];

/// What an option says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The number in `vec0`.
    pub unit: u32,
    /// The hardware address, as given.
    pub mac: Option<String>,
    /// The MTU that it starts with.
    pub mtu: u32,
    /// Greatest MTU.
    pub mtu_max: u32,
    /// Where its frames go.
    pub wire: Wire,
}

impl Spec {
    /// From what follows `vec`: `0:transport=tap,ifname=tap0`. A line for the log when it makes no sense.
    pub fn parse(setting: &str) -> Result<Spec, String> {
        let wrong = |why: &str| format!("vector_setup - Couldn't parse '{setting}' : {why}");
        let digits = setting.len() - setting.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = setting.split_at(digits);
        let unit = number.parse().ok().filter(|unit| *unit < UNITS).ok_or_else(|| wrong("Bad device number"))?;
        let text = rest.strip_prefix(':').ok_or_else(|| wrong("Expected ':' after device number"))?;
        let mut settings: BTreeMap<&str, &str> = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, value) =
                item.split_once('=').filter(|(_, value)| !value.contains('=')).ok_or_else(|| wrong("Expected name=value"))?;
            settings.insert(name, value);
        }
        if settings.len() > SETTINGS_MAX {
            return Err(wrong("Too many parameters"));
        }
        let name = format!("vec{unit}");
        let mut take = |key: &str| settings.remove(key).filter(|value| !value.is_empty());
        let transport = take("transport").ok_or_else(|| format!("missing transport for unit {unit}"))?;
        let mac = take("mac").map(str::to_owned);
        let number = |key: &str, value: Option<&str>, range: std::ops::RangeInclusive<u32>| match value {
            None => Ok(None),
            Some(text) => {
                let number = text.parse().ok().filter(|number| range.contains(number));
                number.map(Some).ok_or_else(|| format!("{name}: {key}={text} is not a number from {} to {}", range.start(), range.end()))
            }
        };
        let mtu = number("mtu", take("mtu"), MTU_MIN..=MTU_MAX)?.unwrap_or(MTU);
        // Large packets have to be wanted on both sides. A tap says what it can; `gro=0` is for one that lies.
        let offload = number("gro", take("gro"), 0..=1)? != Some(0);
        let if_up = take("ifup").map(str::to_owned);
        let interface = |value: Option<&str>| match value {
            Some(name) if name.len() > NAME_MAX => Err(format!("vec{unit}: '{name}' is too long for the name of an interface")),
            name => Ok(name.map(str::to_owned)),
        };
        let wire = match transport {
            "tap" => Wire::Tap { name: interface(take("ifname"))?.unwrap_or_default(), offload, if_up },
            "raw" => {
                let missing = || format!("vec{unit}: transport=raw needs an interface of the host: ifname=NAME");
                Wire::Raw { name: interface(take("ifname"))?.ok_or_else(missing)?, offload, if_up }
            }
            "fd" => {
                let number = number("fd", take("fd"), 3..=1 << 20)?;
                let missing = || format!("vec{unit}: transport=fd needs the number of an inherited descriptor: fd=N");
                Wire::Inherited { number: number.ok_or_else(missing)? as i32 }
            }
            later if LATER.contains(&later) => return Err(format!("vec{unit}: transport={later}: not supported yet")),
            other => return Err(format!("vec{unit}: there is no transport '{other}'")),
        };
        let unknown = settings.keys().find(|key| !NO_MATTER.contains(key));
        if let Some(key) = unknown {
            return Err(format!("vec{unit}: {key}= is nothing that transport={transport} knows, or not supported yet"));
        }
        Ok(Spec { unit, mac, mtu, mtu_max: MTU_MAX, wire })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("vec{}", self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(setting: &str) -> String {
        Spec::parse(setting).map(|spec| panic!("{setting}: {spec:?}")).unwrap_err()
    }

    #[test]
    fn settings_have_names_and_any_order() {
        let spec = Spec::parse("3:mtu=9000,transport=tap,ifname=tap0,depth=128,gro=1,mac=fe:fd:0:0:0:1").unwrap();
        assert_eq!((spec.unit, spec.name().as_str(), spec.mtu, spec.mac.as_deref()), (3, "vec3", 9000, Some("fe:fd:0:0:0:1")));
        assert_eq!(spec.wire, Wire::Tap { name: "tap0".into(), offload: true, if_up: None });
        let plain = Spec::parse("0:transport=tap,gro=0,ifup=/bin/up").unwrap();
        assert_eq!(plain.wire, Wire::Tap { name: String::new(), offload: false, if_up: Some("/bin/up".into()) });
        assert_eq!(Spec::parse("0:transport=fd,fd=5,vec=0").unwrap().wire, Wire::Inherited { number: 5 });
    }

    #[test]
    fn what_can_not_be_is_said() {
        assert_eq!(said("x"), "vector_setup - Couldn't parse 'x' : Bad device number");
        assert_eq!(said("0=tap"), "vector_setup - Couldn't parse '0=tap' : Expected ':' after device number");
        assert_eq!(said("0:transport=a=b"), "vector_setup - Couldn't parse '0:transport=a=b' : Expected name=value");
        assert_eq!(said("1:depth=4"), "missing transport for unit 1");
        assert_eq!(said("1:transport=gre,src=a,dst=b"), "vec1: transport=gre: not supported yet");
        assert_eq!(said("1:transport=dove"), "vec1: there is no transport 'dove'");
        assert!(said("1:transport=raw").contains("ifname=NAME"));
        assert!(said("1:transport=fd").contains("fd=N"));
        assert!(said("1:transport=fd,fd=0").contains("fd=0"));
        assert!(said("1:transport=tap,mtu=500").contains("576 to 65534"));
        assert!(said("1:transport=tap,bpffile=/x").contains("bpffile"));
        assert!(said("1:transport=tap,ifname=averyveryverylongname").contains("too long"));
    }

    #[test]
    fn random_settings_are_read_or_refused() {
        let mut state = 9u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let words = ["0", ":", "=", ",", "transport", "tap", "fd", "raw", "mtu", "gro", "ifname", "1", "-1", "99999999999", "é", "\0"];
        for _ in 0..20_000 {
            let setting: String = (0..next() % 14).map(|_| words[next() % words.len()]).collect();
            let _ = Spec::parse(&setting);
        }
    }
}
