//! Directory listings with cookies that stay good: for file systems whose directories have no positions of their own.
//!
//! Always true: a name keeps its cookie as long as the listing lives and the name is there at each refresh; cookies grow in the order in which
//! names were first seen. So a reader that goes on from a cookie meets every name that was there all the time exactly once.

use abi::Errno;
use ram::{Charge, Ram};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use vfs::{DirEntry, Emit, FileKind};

/// First cookie: 0 to 2 belong to the beginning, `.` and `..`.
const FIRST: u64 = 3;
/// Bytes that an entry costs beside its name.
const ENTRY_COST: usize = 128;

/// What a directory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub name: Arc<[u8]>,
    pub ino: u64,
    pub kind: Option<FileKind>,
}

/// The names of one directory, by cookie.
#[derive(Default)]
pub(crate) struct Listing {
    entries: BTreeMap<u64, Entry>,
    cookies: HashMap<Arc<[u8]>, u64>,
    next: u64,
    charge: Option<Charge>,
}

impl Listing {
    /// Whether it was never filled.
    pub fn is_new(&self) -> bool {
        self.next == 0
    }

    /// Takes over what is there now. ENOMEM when RAM has no room for it.
    pub fn refresh(&mut self, ram: &'static Ram, now: Vec<Entry>) -> Result<(), Errno> {
        let cost = now.iter().map(|entry| ENTRY_COST + entry.name.len()).sum();
        let charge = ram.charge(cost)?;
        self.next = self.next.max(FIRST);
        let mut entries = BTreeMap::new();
        let mut cookies = HashMap::with_capacity(now.len());
        for entry in now {
            let cookie = self.cookies.get(&entry.name).copied().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            cookies.insert(entry.name.clone(), cookie);
            entries.insert(cookie, entry);
        }
        (self.entries, self.cookies, self.charge) = (entries, cookies, Some(charge));
        Ok(())
    }

    /// Gives the entries from the cookie `from` on to `emit`, until it has no room.
    pub fn emit(&self, from: u64, emit: Emit<'_>) {
        for (cookie, entry) in self.entries.range(from.max(FIRST)..) {
            if !emit(DirEntry { name: &entry.name, ino: entry.ino, kind: entry.kind, next: cookie + 1 }) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry { name: Arc::from(name.as_bytes()), ino: 1, kind: None }).collect()
    }

    fn read(listing: &Listing, from: u64, count: usize) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        listing.emit(from, &mut |entry| {
            let room = out.len() < count;
            if room {
                out.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
            }
            room
        });
        out
    }

    #[test]
    fn a_reader_goes_on_where_it_was_though_names_come_and_go() {
        let ram = Ram::for_tests(1 << 20);
        let mut listing = Listing::default();
        assert!(listing.is_new());
        listing.refresh(ram, entries(&["a", "b", "c", "d"])).unwrap();
        let first = read(&listing, 0, 2);
        assert_eq!(first.iter().map(|e| e.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        listing.refresh(ram, entries(&["new", "d", "b", "c"])).unwrap();
        let rest = read(&listing, first[1].1, 9);
        assert_eq!(rest.iter().map(|e| e.0.as_str()).collect::<Vec<_>>(), ["c", "d", "new"]);
        assert_eq!(read(&listing, rest[2].1, 9), []);
    }

    #[test]
    fn a_listing_is_charged() {
        let ram = Ram::for_tests(1 << 20);
        let names: Vec<String> = (0..100_000).map(|i| format!("name {i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(Listing::default().refresh(ram, entries(&names)), Err(Errno::ENOMEM));
    }
}
