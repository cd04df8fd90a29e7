//! Transports of the classic interfaces, one module each: what their arguments mean. A transport joins by its line in [`TRANSPORTS`].
//!
//! What it is not: opening them, which is `kernel`'s with `host`.

mod daemon;
mod mcast;
mod tuntap;
mod ucast;
mod user;

use std::net::SocketAddrV4;
pub(super) use tuntap::NAME_MAX;

/// Where an interface's frames go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wire {
    /// A port of the switch with this control socket.
    Switch { control: String },
    /// A group of UDP, which every member joins.
    Multicast { group: SocketAddrV4, ttl: u8 },
    /// One other station, by UDP.
    Unicast { remote: SocketAddrV4, listen_port: u16 },
    /// A tap of the host.
    Tap { name: String, offload: bool, if_up: Option<String> },
    /// An interface of the host.
    Raw { name: String, offload: bool, if_up: Option<String> },
    /// A descriptor that was inherited.
    Inherited { number: i32 },
    /// Sockets of the host, by these options.
    User { options: Vec<(String, String)> },
}

/// What the arguments of a transport say.
pub struct Parsed {
    /// The hardware address as given.
    pub mac: Option<String>,
    /// Where frames go.
    pub wire: Wire,
    /// How the boot log calls that.
    pub backend: String,
}

/// A transport by its name. `parse` answers a line for the log when the arguments make no sense.
pub struct Transport {
    /// As it stands behind `eth0=`.
    pub name: &'static str,
    /// Takes what it knows from the arguments.
    pub parse: fn(&mut Arguments<'_>) -> Result<Parsed, String>,
}

/// All that are known.
const TRANSPORTS: &[Transport] = &[
    Transport { name: "daemon", parse: daemon::parse },
    Transport { name: "mcast", parse: mcast::parse },
    Transport { name: "ucast", parse: ucast::parse },
    Transport { name: "tuntap", parse: tuntap::parse },
    Transport { name: "user", parse: user::parse },
    Transport { name: "slirp", parse: not_yet },
    Transport { name: "ethertap", parse: not_yet },
    Transport { name: "slip", parse: not_yet },
    Transport { name: "pcap", parse: not_yet },
    Transport { name: "vde", parse: not_yet },
];

/// The transport of this name.
pub fn find(name: &str) -> Option<&'static Transport> {
    TRANSPORTS.iter().find(|transport| transport.name == name)
}

fn not_yet(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    Err(format!("{}: not supported yet", arguments.transport))
}

/// Positional arguments: each may be empty, trailing ones may be left out.
pub struct Arguments<'a> {
    /// The transport's name, for messages.
    pub transport: &'a str,
    rest: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    /// What follows the transport's name and a comma.
    #[must_use]
    pub fn new(transport: &'a str, text: &'a str) -> Arguments<'a> {
        Arguments { transport, rest: Some(text).filter(|text| !text.is_empty()) }
    }

    /// The next argument; `None` when it is empty or not there.
    pub fn take(&mut self) -> Option<&'a str> {
        let text = self.rest?;
        let (first, rest) = match text.split_once(',') {
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        self.rest = rest;
        Some(first).filter(|first| !first.is_empty())
    }

    /// What nobody took.
    #[must_use]
    pub fn rest(&self) -> Option<&'a str> {
        self.rest.filter(|rest| !rest.is_empty())
    }

    /// The next argument as a number, or `default`. A line that names `what` when it is none.
    fn number<T: std::str::FromStr>(&mut self, what: &str, default: T) -> Result<T, String> {
        let name = self.transport;
        self.take().map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name}_setup - Bad {what} : '{text}'")))
    }
}
