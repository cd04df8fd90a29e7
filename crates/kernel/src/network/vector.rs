//! The kind `vec`: interfaces of the vector transports, at boot and at run time.

use super::{ERROR, attach, links, remove};
use crate::config::Config;
use crate::machine::Machine;
use crate::wiring::INFO;
use drivers::net::vec::{self, Spec};
use drivers::net::{Character, mac};
use mconsole::devices::DeviceKind;
use mconsole::server::Refusal;
use net::InterfaceId;
use sock::Network;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfs::Vfs;

struct Vector {
    vfs: &'static Vfs,
    network: &'static Network,
    units: Mutex<BTreeMap<u32, InterfaceId>>,
}

/// Makes the vector interfaces that the command line names.
pub(super) fn make(machine: &Machine, config: &Config, network: &'static Network) {
    let vector = Arc::new(Vector { vfs: machine.vfs, network, units: Mutex::default() });
    for option in &config.interfaces {
        if let Some(setting) = option.strip_prefix("vec")
            && let Err(line) = vector.add(setting)
        {
            machine.vfs.log.print(ERROR, &line);
        }
    }
    machine.configurable.register(vector);
}

impl Vector {
    fn units(&self) -> MutexGuard<'_, BTreeMap<u32, InterfaceId>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, setting: &str) -> Result<(), String> {
        let spec = Spec::parse(setting)?;
        let name = spec.name();
        if self.units().contains_key(&spec.unit) {
            return Err(format!("vector_setup - Couldn't parse '{setting}' : Device already configured"));
        }
        let mut log = |line: String| self.vfs.log.print(INFO, &line);
        let mac = mac::choose(spec.mac.as_deref(), &mut log);
        let link = links::make(&spec.wire, &name, self.vfs)?;
        let character = Character { driver: vec::DRIVER, mtu: spec.mtu, mtu_max: spec.mtu_max, mac };
        let id =
            attach(self.network, &name, link, character).map_err(|errno| format!("{name}: the interface could not be added ({errno})"))?;
        self.units().insert(spec.unit, id);
        Ok(())
    }
}

impl DeviceKind for Vector {
    fn name(&self) -> &'static str {
        "vec"
    }
    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        self.add(setting).map_err(|line| {
            let why = line.rsplit_once(" : ").filter(|_| line.starts_with("vector_setup")).map_or(line.as_str(), |(_, why)| why);
            Refusal::new(why)
        })
    }
    fn query(&self, _: &str) -> Result<String, Refusal> {
        Err(Refusal::new("No get_config routine defined"))
    }
    fn units(&self) -> RangeInclusive<u32> {
        0..=vec::UNITS - 1
    }
    fn remove(&self, unit: u32) -> Result<(), Refusal> {
        remove(self.network, &mut self.units(), unit)
    }
}
