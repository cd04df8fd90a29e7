//! Where frames go: a bridge that learns (IEEE 802.1D, without spanning tree), or a hub.
//!
//! Always true: a frame never goes back to the port it came from; one to a group or to an unknown address goes to every other port; what
//! is remembered is bounded, whatever the ports send.

use std::collections::HashMap;
use std::fmt;

/// Bytes of an Ethernet header, the least that is a frame.
pub const HEADER_LEN: usize = 14;
/// How long an address is remembered without traffic.
pub const AGE_NS: u64 = 100_000_000_000;
/// How often that is checked.
pub const AGEING_PERIOD_NS: u64 = 2_000_000_000;
/// Addresses remembered of one port. A port that sends from more is not learned further; its frames still pass.
pub const MAX_ADDRESSES_OF_PORT: usize = 4096;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names a group: multicast or broadcast.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port's number, chosen by who owns its socket.
pub type Port = u32;

/// What is done with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: it is no frame, or its receiver is behind the port it came from.
    Drop,
    /// It goes to this port.
    To(Port),
    /// It goes to every port but the one it came from.
    Flood,
}

/// Something for the log. Each prints as the line that the historical switch prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An address was seen first, or at another port than before.
    Learned {
        /// The address.
        mac: Mac,
        /// Where it is.
        port: Port,
        /// Where it was.
        old: Option<Port>,
    },
    /// A frame to an address that nobody has sent from.
    Unknown {
        /// The address.
        mac: Mac,
        /// Where the frame came from.
        port: Port,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Learned { mac, port, old: None } => write!(f, " Addr: {mac} New port {port}"),
            Event::Learned { mac, port, old: Some(old) } => write!(f, " Addr: {mac} New port {port} old port {old}"),
            Event::Unknown { mac, port } => write!(f, "unknown Addr: {mac} from port {port}"),
        }
    }
}

/// Whether addresses are learned at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Frames go where their receiver is.
    Switch,
    /// Every frame goes everywhere.
    Hub,
}

struct Known {
    port: Port,
    seen_ns: u64,
}

/// The memory of a switch.
pub struct Forwarding {
    mode: Mode,
    known: HashMap<Mac, Known>,
    count_of_port: HashMap<Port, usize>,
}

impl Forwarding {
    /// A switch that knows nothing yet, or a hub.
    #[must_use]
    pub fn new(mode: Mode) -> Forwarding {
        Forwarding { mode, known: HashMap::new(), count_of_port: HashMap::new() }
    }

    /// Decides about a frame that came in at `port`, and learns from it.
    pub fn decide(&mut self, port: Port, frame: &[u8], now_ns: u64, log: &mut dyn FnMut(Event)) -> Verdict {
        let (Some(to), Some(from)) = (mac_at(frame, 0), mac_at(frame, 6)) else { return Verdict::Drop };
        if frame.len() < HEADER_LEN {
            return Verdict::Drop;
        }
        if self.mode == Mode::Hub {
            return Verdict::Flood;
        }
        if !from.is_group() {
            self.learn(from, port, now_ns, log);
        }
        if to.is_group() {
            return Verdict::Flood;
        }
        match self.known.get(&to) {
            Some(known) if known.port == port => Verdict::Drop,
            Some(known) => Verdict::To(known.port),
            None => {
                log(Event::Unknown { mac: to, port });
                Verdict::Flood
            }
        }
    }

    /// Forgets what has been silent too long. To be called every [`AGEING_PERIOD_NS`].
    pub fn age(&mut self, now_ns: u64) {
        self.forget(|known| now_ns.saturating_sub(known.seen_ns) > AGE_NS);
    }

    /// Forgets a port that is gone.
    pub fn remove_port(&mut self, port: Port) {
        self.forget(|known| known.port == port);
    }

    /// How many addresses are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn forget(&mut self, which: impl Fn(&Known) -> bool) {
        let counts = &mut self.count_of_port;
        self.known.retain(|_, known| {
            let stays = !which(known);
            if !stays {
                uncount(counts, known.port);
            }
            stays
        });
    }

    fn learn(&mut self, mac: Mac, port: Port, now_ns: u64, log: &mut dyn FnMut(Event)) {
        let old = match self.known.get_mut(&mac) {
            Some(known) if known.port == port => {
                known.seen_ns = now_ns;
                return;
            }
            Some(known) => Some(known.port),
            None => None,
        };
        let count = self.count_of_port.entry(port).or_default();
        if *count >= MAX_ADDRESSES_OF_PORT {
            return;
        }
        *count += 1;
        if let Some(old) = old {
            uncount(&mut self.count_of_port, old);
        }
        self.known.insert(mac, Known { port, seen_ns: now_ns });
        log(Event::Learned { mac, port, old });
    }
}

fn uncount(counts: &mut HashMap<Port, usize>, port: Port) {
    if let Some(count) = counts.get_mut(&port) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&port);
        }
    }
}

fn mac_at(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..).and_then(|rest| rest.first_chunk()).copied().map(Mac)
}
