//! The commands of one change, put together page by page so that neighbours become one command.
//!
//! One batch belongs to an address space and is used again, so that a fault allocates nothing.

use abi::{PAGE_SHIFT, PAGE_SIZE};
use platform::{MapCommand, Protection};
use ram::Pfn;

/// See the module.
#[derive(Default)]
pub(crate) struct Batch {
    commands: Vec<MapCommand>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
    pub fn commands(&self) -> &[MapCommand] {
        &self.commands
    }
    pub fn clear(&mut self) {
        self.commands.clear();
        self.commands.shrink_to(4096);
    }

    /// Shows frame `pfn` at `page`.
    pub fn map(&mut self, page: u64, pfn: Pfn, protection: Protection) {
        let addr = page << PAGE_SHIFT;
        if let Some(MapCommand::Map { addr: at, len, pfn: first, protection: same }) = self.commands.last_mut()
            && *at + *len == addr
            && u64::from(*first) + (*len >> PAGE_SHIFT) == u64::from(pfn)
            && *same == protection
        {
            *len += PAGE_SIZE as u64;
            return;
        }
        self.commands.push(MapCommand::Map { addr, len: PAGE_SIZE as u64, pfn, protection });
    }

    /// Gives what is mapped in `first..end`, everywhere there, other rights.
    pub fn protect(&mut self, first: u64, end: u64, protection: Protection) {
        let (addr, more) = (first << PAGE_SHIFT, (end - first) << PAGE_SHIFT);
        if let Some(MapCommand::Protect { addr: at, len, protection: same }) = self.commands.last_mut()
            && *at + *len == addr
            && *same == protection
        {
            *len += more;
            return;
        }
        self.commands.push(MapCommand::Protect { addr, len: more, protection });
    }

    /// Takes away what is mapped in `first..end`.
    pub fn unmap(&mut self, first: u64, end: u64) {
        let addr = first << PAGE_SHIFT;
        if let Some(MapCommand::Unmap { addr: at, len }) = self.commands.last_mut()
            && *at + *len == addr
        {
            *len += (end - first) << PAGE_SHIFT;
            return;
        }
        self.commands.push(MapCommand::Unmap { addr, len: (end - first) << PAGE_SHIFT });
    }
}
