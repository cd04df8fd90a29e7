//! Hardware addresses: what an option names, and what an interface without one gets.
//!
//! Source: the documentation of User Mode Linux on network devices; the messages are the reference's.

use net::MacAddress;
use std::net::Ipv4Addr;

/// How an interface gets its hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacChoice {
    /// The option named it.
    Given(MacAddress),
    /// `fe:fd` and its first IPv4 address; a random one when it goes up without.
    FromAddress,
}

/// `fe:fd` and the address.
#[must_use]
pub fn from_ipv4(address: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = address.octets();
    MacAddress([0xfe, 0xfd, a, b, c, d])
}

/// A random address, locally administered.
#[must_use]
pub fn random(entropy: &(dyn Fn(&mut [u8]) + Send + Sync)) -> MacAddress {
    let mut bytes = [0; 6];
    entropy(&mut bytes);
    bytes[0] = bytes[0] & !1 | 2;
    MacAddress(bytes)
}

/// Six bytes in hexadecimal, with colons or commas between them.
#[must_use]
pub fn parse(text: &str) -> Option<MacAddress> {
    let mut bytes = [0; 6];
    let mut words = text.split([':', ',']);
    for byte in &mut bytes {
        let word = words.next().filter(|word| (1..=2).contains(&word.len()) && !word.starts_with('+'))?;
        *byte = u8::from_str_radix(word, 16).ok()?;
    }
    words.next().is_none().then_some(MacAddress(bytes))
}

/// Takes an option's hardware address; what is wrong with it goes into `log`.
pub fn choose(text: Option<&str>, log: &mut dyn FnMut(String)) -> MacChoice {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return MacChoice::FromAddress };
    let Some(mac) = parse(text) else {
        log(format!("setup_etheraddr: failed to parse '{text}' as an ethernet address"));
        return MacChoice::FromAddress;
    };
    if mac.is_multicast() {
        log("Attempt to assign a multicast ethernet address to a device disallowed".into());
        return MacChoice::FromAddress;
    }
    if mac == MacAddress::ZERO {
        log("Attempt to assign an invalid ethernet address to a device disallowed".into());
        return MacChoice::FromAddress;
    }
    if mac.0[0] & 2 == 0 {
        let mut local = mac;
        local.0[0] |= 2;
        log("Warning: a globally valid ethernet address was assigned to a device.".into());
        log("A locally administered one has the second lowest bit of its first byte set:".into());
        log(format!("use {local} instead of {mac}."));
    }
    MacChoice::Given(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_six_bytes_with_colons_or_commas() {
        for text in ["fe:fd:0:0:0:1", "fe,fd,00,00,00,01", "FE:FD:00:00:00:01"] {
            assert_eq!(parse(text), Some(MacAddress([0xfe, 0xfd, 0, 0, 0, 1])), "{text}");
        }
        for text in ["", "fe", "fe:fd:0:0:0", "fe:fd:0:0:0:1:2", "fe:fd:0:0:0:100", "fe:fd:0:0:0:+1", "fe:fd:0:0:0:x", "fefd00000001"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        let said = |text: &str| {
            let mut lines = Vec::new();
            let choice = choose(Some(text), &mut |line| lines.push(line));
            (choice, lines)
        };
        assert_eq!(said(""), (MacChoice::FromAddress, vec![]));
        assert_eq!(said("x"), (MacChoice::FromAddress, vec!["setup_etheraddr: failed to parse 'x' as an ethernet address".into()]));
        assert!(said("01:00:5e:0:0:1").1[0].contains("multicast"));
        assert!(said("0:0:0:0:0:0").1[0].contains("invalid"));
        let (choice, lines) = said("00:16:3e:00:00:01");
        assert_eq!(choice, MacChoice::Given(MacAddress([0, 0x16, 0x3e, 0, 0, 1])));
        assert_eq!((lines.len(), lines[2].as_str()), (3, "use 02:16:3e:00:00:01 instead of 00:16:3e:00:00:01."));
        assert!(said("02:16:3e:00:00:01").1.is_empty());
    }
}
