//! The control protocol: a machine connects to a stream socket and says where it receives frames; the switch answers where to send them.
//!
//! Integers are in the host's byte order, sizes are those of Linux's `sockaddr_un`.
//!
//! | version | request | answer |
//! |---|---|---|
//! | 0 | type 0 (4 bytes), hardware address (6), socket address (110) | none: the data socket has a known name |
//! | 1 | magic (4), then as version 0 | socket address (110) |
//! | 2 | refused | |
//! | 3 | magic, version 3, type 0 (4 bytes each), socket address (110), padding (2) | socket address (110) |
//!
//! Then each datagram is one Ethernet frame. Closing the control connection gives the port back.

use std::fmt;

/// The first word of versions 1 and later.
pub const MAGIC: u32 = 0xfeed_face;
/// The version that machines speak.
pub const VERSION: u32 = 3;
/// Bytes of a request of version 3.
pub const REQUEST_LEN: usize = 124;
/// Bytes of a `sockaddr_un`, which is the whole answer.
pub const ADDRESS_LEN: usize = 110;
/// Bytes of its path.
pub const PATH_LEN: usize = 108;
/// `AF_UNIX`.
const FAMILY: u16 = 1;
const NEW_PORT: u32 = 0;

/// A `sockaddr_un` of full length: a NUL and 107 bytes that all count (an abstract name), or a path that ends at a NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    path: [u8; PATH_LEN],
}

impl Address {
    /// The abstract name that UML and its switch choose: process number and a number of its own, three bytes from the start.
    #[must_use]
    pub fn abstract_of(process: u32, number: u32) -> Address {
        let mut path = [0; PATH_LEN];
        path[4..8].copy_from_slice(&process.to_ne_bytes());
        path[8..12].copy_from_slice(&number.to_ne_bytes());
        Address { path }
    }

    /// An abstract name, without its leading NUL; `None` when it is longer than 107 bytes. A shorter one is filled with NULs, as those who
    /// bind it by its whole length have it.
    #[must_use]
    pub fn from_abstract_name(name: &[u8]) -> Option<Address> {
        let mut path = [0; PATH_LEN];
        path[1..].get_mut(..name.len())?.copy_from_slice(name);
        Some(Address { path })
    }

    /// A path; `None` when it has no room with its NUL, or is empty.
    #[must_use]
    pub fn from_path(name: &[u8]) -> Option<Address> {
        if name.is_empty() || name.len() >= PATH_LEN || name.contains(&0) {
            return None;
        }
        let mut path = [0; PATH_LEN];
        path[..name.len()].copy_from_slice(name);
        Some(Address { path })
    }

    /// The 107 bytes of an abstract name.
    #[must_use]
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        (self.path[0] == 0).then(|| &self.path[1..])
    }

    /// The path of one that is no abstract name.
    #[must_use]
    pub fn as_path(&self) -> Option<&[u8]> {
        let end = self.path.iter().position(|&byte| byte == 0).unwrap_or(PATH_LEN);
        (end > 0).then(|| &self.path[..end])
    }

    /// The structure's bytes: what the switch answers.
    #[must_use]
    pub fn encode(&self) -> [u8; ADDRESS_LEN] {
        let mut bytes = [0; ADDRESS_LEN];
        bytes[..2].copy_from_slice(&FAMILY.to_ne_bytes());
        bytes[2..].copy_from_slice(&self.path);
        bytes
    }

    /// Reads a structure, or the beginning of one: what is missing counts as NULs. `None` for another family.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Address> {
        let (family, rest) = bytes.split_first_chunk()?;
        if u16::from_ne_bytes(*family) != FAMILY {
            return None;
        }
        let mut path = [0; PATH_LEN];
        let len = rest.len().min(PATH_LEN);
        path[..len].copy_from_slice(&rest[..len]);
        Some(Address { path })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_path() {
            Some(path) => write!(f, "{}", String::from_utf8_lossy(path)),
            None => write!(f, "@{}", self.path[1..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        }
    }
}

/// A machine that wants a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewPort {
    /// Where it receives frames.
    pub address: Address,
    /// Whether it waits for [`Address::encode`] of the switch's data socket.
    pub wants_answer: bool,
}

/// A request that gets no port. Each prints as the line that the historical switch logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The connection ended before anything came.
    Eof,
    /// Version 2, which never was.
    Version2,
    /// A version of the future.
    Unknown(u32),
    /// Not a request for a port.
    Type(i32),
    /// Its socket address is of no use.
    Address,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Eof => f.write_str("EOF from new port"),
            RequestError::Version2 => f.write_str("Version 2 is not supported"),
            RequestError::Unknown(version) => write!(f, "Request for a version {version} port, which this uml_switch doesn't support"),
            RequestError::Type(kind) => write!(f, "Bad request type : {kind}"),
            RequestError::Address => f.write_str("Bad request : its socket address is not a Unix one"),
        }
    }
}

impl std::error::Error for RequestError {}

/// Reads what came first on a control connection. It may be shorter than the structure: missing bytes count as NULs.
pub fn parse_request(bytes: &[u8]) -> Result<NewPort, RequestError> {
    if bytes.is_empty() {
        return Err(RequestError::Eof);
    }
    let word = |index: usize| {
        let mut raw = [0; 4];
        let there = bytes.get(index * 4..).unwrap_or_default();
        let len = there.len().min(4);
        raw[..len].copy_from_slice(&there[..len]);
        u32::from_ne_bytes(raw)
    };
    let (kind, address_at, wants_answer) = match (word(0), word(1)) {
        (MAGIC, VERSION) => (word(2), 12, true),
        (MAGIC, 2) => return Err(RequestError::Version2),
        (MAGIC, version) if version > VERSION => return Err(RequestError::Unknown(version)),
        // Version 1 has its type where later ones have their version.
        (MAGIC, kind) => (kind, 14, true),
        (kind, _) => (kind, 10, false),
    };
    if kind != NEW_PORT {
        return Err(RequestError::Type(kind as i32));
    }
    let address = bytes.get(address_at..).and_then(Address::parse).ok_or(RequestError::Address)?;
    Ok(NewPort { address, wants_answer })
}

/// A machine's request for a port, version 3.
#[must_use]
pub fn request(data_socket: &Address) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    for (slot, word) in bytes.chunks_mut(4).zip([MAGIC, VERSION, NEW_PORT]) {
        slot.copy_from_slice(&word.to_ne_bytes());
    }
    bytes[12..12 + ADDRESS_LEN].copy_from_slice(&data_socket.encode());
    bytes
}
