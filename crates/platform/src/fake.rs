//! Fakes for tests that have no host: a space that remembers what was mapped, threads that never run.

use crate::{Exit, GuestSpace, GuestThread, MapCommand, Platform, Protection, SpaceGone, Xstate};
use abi::Errno;
use abi::arch::Regs;
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::SpinLock;

/// A platform whose threads stop at once with [`Exit::Kicked`].
#[derive(Default)]
pub struct FakePlatform;

/// A space that keeps the pages mapped in it: address to frame and rights.
#[derive(Default)]
pub struct FakeSpace {
    pages: SpinLock<BTreeMap<u64, (u32, Protection)>>,
}

impl FakeSpace {
    /// What is mapped at the page of `addr`.
    pub fn page(&self, addr: u64) -> Option<(u32, Protection)> {
        self.pages.lock().get(&(addr / abi::PAGE_SIZE as u64)).copied()
    }
    /// Number of pages mapped.
    pub fn mapped(&self) -> usize {
        self.pages.lock().len()
    }
}

impl Platform for FakePlatform {
    fn new_space(&self) -> Result<Arc<dyn GuestSpace>, Errno> {
        Ok(Arc::new(FakeSpace::default()))
    }
    fn xstate_len(&self) -> usize {
        576
    }
    fn processor_aux(&self) -> [(u64, u64); 3] {
        [(16, 0), (26, 2), (51, 2048)]
    }
}

impl GuestSpace for FakeSpace {
    fn map(&self, commands: &[MapCommand]) -> Result<(), SpaceGone> {
        let page = abi::PAGE_SIZE as u64;
        let mut pages = self.pages.lock();
        for command in commands {
            match *command {
                MapCommand::Map { addr, len, pfn, protection } => {
                    for i in 0..len / page {
                        pages.insert(addr / page + i, (pfn + i as u32, protection));
                    }
                }
                MapCommand::Unmap { addr, len } => pages.retain(|p, _| !(addr / page..(addr + len) / page).contains(p)),
                MapCommand::Protect { addr, len, protection } => {
                    for (_, entry) in pages.range_mut(addr / page..(addr + len) / page) {
                        entry.1 = protection;
                    }
                }
            }
        }
        Ok(())
    }
    fn new_thread(&self) -> Result<Box<dyn GuestThread>, Errno> {
        Ok(Box::new(FakeThread::default()))
    }
    fn kill(&self) {}
}

/// A thread that never runs and keeps the registers it is given.
#[derive(Default)]
pub struct FakeThread {
    regs: Regs,
    xstate: Xstate,
}

impl GuestThread for FakeThread {
    fn resume(&mut self) -> Exit {
        Exit::Kicked
    }
    fn set_result(&mut self, value: u64) {
        self.regs.set_result(value);
    }
    fn let_host_run(&mut self) {}
    fn regs(&mut self) -> Result<Regs, SpaceGone> {
        Ok(self.regs)
    }
    fn set_regs(&mut self, regs: &Regs) -> Result<(), SpaceGone> {
        self.regs = *regs;
        Ok(())
    }
    fn xstate(&mut self) -> Result<Xstate, SpaceGone> {
        Ok(self.xstate.clone())
    }
    fn set_xstate(&mut self, state: &[u8]) -> Result<(), SpaceGone> {
        self.xstate = state.to_vec();
        Ok(())
    }
}
