//! `tuntap,DEVICE[,MAC]`: a tap of the host that is there and belongs to the user.
//!
//! What it is not: `tuntap,,[MAC],ADDRESS`, a tap that the helper `uml_net` makes.

use super::{Arguments, Parsed, Wire};

/// Longest name of an interface.
pub(crate) const NAME_MAX: usize = 15;

pub(super) fn parse(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    let name = arguments.take();
    let mac = arguments.take().map(str::to_owned);
    let Some(name) = name else {
        return Err("tuntap: a tap made by uml_net is not supported yet; name one that tunctl made: eth0=tuntap,tap0".into());
    };
    if name.len() > NAME_MAX {
        return Err(format!("tuntap_setup - '{name}' is too long for the name of a tap"));
    }
    let wire = Wire::Tap { name: name.to_owned(), offload: true, if_up: None };
    Ok(Parsed { mac, wire, backend: "TUN/TAP backend - ".into() })
}
