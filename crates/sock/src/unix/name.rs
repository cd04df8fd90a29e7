//! Names of local sockets, unix(7) "Address format", and the table of abstract ones.
//!
//! Always true: an abstract name belongs to the living socket that took it, and only among sockets of its type.

use crate::socket::Kind;
use crate::unix::endpoint::Endpoint;
use abi::Errno;
use abi::raw::net::AF_UNIX;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use sync::SpinLock;

/// Where `sun_path` begins.
const PATH_AT: usize = 2;
/// Bytes of `struct sockaddr_un`.
const ADDRESS_MAX: usize = 110;

/// A socket's name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Name {
    /// A file, without NUL.
    Path(Vec<u8>),
    /// Bytes after the leading NUL.
    Abstract(Vec<u8>),
}

/// The family of an address. EINVAL if it has none.
pub(crate) fn family(address: &[u8]) -> Result<u16, Errno> {
    let bytes = address.get(..2).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(u16::from_ne_bytes(bytes))
}

impl Name {
    /// From an address; `None` for one without a name, which asks for a name to be chosen. EINVAL.
    pub fn parse(address: &[u8]) -> Result<Option<Name>, Errno> {
        if family(address)? != AF_UNIX as u16 || address.len() > ADDRESS_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match address.get(PATH_AT..).unwrap_or_default() {
            [] => None,
            [0, name @ ..] => Some(Name::Abstract(name.to_vec())),
            path => Some(Name::Path(path.split(|b| *b == 0).next().unwrap_or_default().to_vec())),
        })
    }
    /// As `struct sockaddr_un`.
    pub fn address(name: Option<&Name>) -> Vec<u8> {
        let mut address = (AF_UNIX as u16).to_ne_bytes().to_vec();
        match name {
            None => {}
            Some(Name::Path(path)) => {
                address.extend_from_slice(path);
                address.push(0);
            }
            Some(Name::Abstract(name)) => {
                address.push(0);
                address.extend_from_slice(name);
            }
        }
        address
    }
}

type Bound = HashMap<(Kind, Vec<u8>), Weak<Endpoint>>;

/// Abstract names, and every local socket for `/proc/net/unix`.
#[derive(Default)]
pub struct Names {
    bound: SpinLock<Bound>,
    all: SpinLock<HashMap<u64, Weak<Endpoint>>>,
    next_auto: AtomicU32,
}

impl Names {
    /// Takes an abstract name. EADDRINUSE.
    pub(crate) fn bind(&self, kind: Kind, name: &[u8], endpoint: &Arc<Endpoint>) -> Result<(), Errno> {
        let mut bound = self.bound.lock();
        let key = (kind, name.to_vec());
        if bound.get(&key).is_some_and(|there| there.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        bound.insert(key, Arc::downgrade(endpoint));
        Ok(())
    }
    /// Takes a free name of five hexadecimal digits. ENOSPC when all million are taken.
    pub(crate) fn auto_bind(&self, kind: Kind, endpoint: &Arc<Endpoint>) -> Result<Name, Errno> {
        for _ in 0..1 << 20 {
            let number = self.next_auto.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
            let name = format!("{number:05x}").into_bytes();
            if self.bind(kind, &name, endpoint).is_ok() {
                return Ok(Name::Abstract(name));
            }
        }
        Err(Errno::ENOSPC)
    }
    /// Whose an abstract name is. ECONNREFUSED.
    pub(crate) fn find(&self, kind: Kind, name: &[u8]) -> Result<Arc<Endpoint>, Errno> {
        self.bound.lock().get(&(kind, name.to_vec())).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
    }
    /// Gives a name back, if it is still this socket's.
    pub(crate) fn unbind(&self, kind: Kind, name: &[u8], endpoint: &Endpoint) {
        let mut bound = self.bound.lock();
        let key = (kind, name.to_vec());
        if bound.get(&key).is_some_and(|there| std::ptr::eq(there.as_ptr(), endpoint)) {
            bound.remove(&key);
        }
    }
    pub(crate) fn add(&self, endpoint: &Arc<Endpoint>) {
        self.all.lock().insert(endpoint.id, Arc::downgrade(endpoint));
    }
    pub(crate) fn remove(&self, id: u64) {
        self.all.lock().remove(&id);
    }
    /// `/proc/net/unix`.
    pub(crate) fn table(&self) -> String {
        const ACCEPTING: u32 = 0x10000;
        let mut endpoints: Vec<Arc<Endpoint>> = self.all.lock().values().filter_map(Weak::upgrade).collect();
        endpoints.sort_by_key(|endpoint| endpoint.id);
        let mut text = String::from("Num       RefCount Protocol Flags    Type St Inode Path\n");
        for endpoint in endpoints {
            let listening = endpoint.is_listening();
            let flags = if listening { ACCEPTING } else { 0 };
            // SS_UNCONNECTED and SS_CONNECTED.
            let state = if endpoint.peer_id.load(Ordering::Relaxed) != 0 { 3 } else { 1 };
            let name = match endpoint.name().as_deref() {
                None => String::new(),
                Some(Name::Path(path)) => format!(" {}", String::from_utf8_lossy(path)),
                Some(Name::Abstract(name)) => {
                    format!(" @{}", String::from_utf8_lossy(name).replace('\0', "@"))
                }
            };
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "{:016x}: {:08X} {:08X} {flags:08X} {:04X} {state:02X} {:5}{name}",
                endpoint.id,
                Arc::strong_count(&endpoint).saturating_sub(1),
                0,
                endpoint.kind.number(),
                endpoint.ino.load(Ordering::Relaxed),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_addresses_and_given_as_addresses() {
        let address = |path: &[u8]| [&[1, 0], path].concat();
        for (path, name, shown) in [
            (&b"/run/x"[..], Some(Name::Path(b"/run/x".to_vec())), &b"/run/x\0"[..]),
            (b"/run/x\0rest", Some(Name::Path(b"/run/x".to_vec())), b"/run/x\0"),
            (b"\0abc\0", Some(Name::Abstract(b"abc\0".to_vec())), b"\0abc\0"),
            (b"\0", Some(Name::Abstract(Vec::new())), b"\0"),
            (b"", None, b""),
        ] {
            assert_eq!(Name::parse(&address(path)), Ok(name.clone()));
            assert_eq!(Name::address(name.as_ref()), address(shown));
        }
        assert_eq!(Name::parse(&[2, 0, b'x']), Err(Errno::EINVAL));
        assert_eq!(Name::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(Name::parse(&[1; 111]), Err(Errno::EINVAL));
    }
}
