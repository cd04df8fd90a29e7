//! `config mem=-SIZE`, `config mem=+SIZE`: RAM that is given back to the host and taken again.
//!
//! Taking away stops early, without an error, when no more is free; giving returns at most what was taken.

use abi::{Errno, PAGE_SIZE};
use mconsole::devices::DeviceKind;
use mconsole::server::Refusal;
use ram::Ram;
use std::ops::RangeInclusive;

/// The machine's memory as a device.
pub struct Memory {
    ram: &'static Ram,
}

impl Memory {
    pub fn new(ram: &'static Ram) -> Memory {
        Memory { ram }
    }
}

impl DeviceKind for Memory {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        let increment = setting.strip_prefix('=').ok_or_else(|| Refusal::new("Expected '=' after 'mem'"))?;
        let unplug = match increment.chars().next() {
            Some('-') => true,
            Some('+') => false,
            _ => return Err(Refusal::new("Expected increment to start with '-' or '+'")),
        };
        let size = increment.get(1..).and_then(crate::cmdline::parse_size).and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| Refusal::new("Failed to parse memory increment"))?;
        // Whole pages: fewer when taking, so that nobody loses what he did not offer.
        let size = size / PAGE_SIZE * PAGE_SIZE;
        if unplug {
            self.ram.offline(size);
        } else {
            self.ram.online(size);
        }
        Ok(())
    }

    /// The memory that the machine has now, in bytes.
    fn query(&self, _: &str) -> Result<String, Refusal> {
        Ok((self.ram.stats().total * PAGE_SIZE).to_string())
    }

    fn units(&self) -> RangeInclusive<u32> {
        0..=0
    }

    fn parse_unit(&self, _: &str) -> Option<u32> {
        Some(0)
    }

    fn remove(&self, _: u32) -> Result<(), Refusal> {
        Err(Refusal::errno(Errno::EBUSY, "Memory doesn't support the remove operation"))
    }
}
