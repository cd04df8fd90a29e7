//! The machine's network interfaces: makes what `eth` options name, at boot and at run time, and shows interfaces in `/sys/class/net`.
//!
//! Source: the documentation of User Mode Linux on network devices; the messages are the reference's.

mod links;
mod proc;
mod setup;
mod sys;
mod user;
mod vector;

pub use setup::set_up;

use crate::config::Config;
use crate::machine::Machine;
use crate::wiring::INFO;
use abi::Errno;
use drivers::net::eth::{self, Refused, Spec};
use drivers::net::transport::Wire;
use drivers::net::{Character, Device, Entropy, mac};
use fs::proc::Proc;
use fs::sysfs::Sysfs;
use mconsole::devices::{self, DeviceKind};
use mconsole::server::Refusal;
use net::InterfaceId;
use platform::HostLink;
use sock::Network;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sync::sched::Scheduler;
use sync::{Events, Observer};
use vfs::Vfs;

/// Level of what went wrong.
const ERROR: u8 = 3;

/// Makes every interface that the command line names. One that can't be made is told of, and the boot goes on without it; the first such line is
/// answered, for those who can't do without.
pub fn make(machine: &Machine, config: &Config, sysfs: &Arc<Sysfs>, proc: &Arc<Proc>) -> Result<(), String> {
    let mut result = Ok(());
    let sockets = syscall::sockets(machine.system);
    let network = sockets.network();
    proc::show(proc, sockets);
    sys::show(sysfs, network);
    let eth = Arc::new(Eth { vfs: machine.vfs, scheduler: machine.scheduler, network, units: Mutex::default() });
    for option in &config.interfaces {
        if let Some(setting) = option.strip_prefix("eth")
            && let Err(line) = eth.add(setting).map_err(Failure::line)
        {
            machine.vfs.log.print(ERROR, &line);
            result = result.and(Err(line));
        }
    }
    machine.configurable.register(eth);
    vector::make(machine, config, network);
    if config.program.search_path {
        // There is no init that would do it.
        network
            .with(|stack| stack.interfaces.loopback().map(|lo| lo.id).map_or(Err(Errno::ENODEV), |lo| stack.set_up(lo, true)))
            .unwrap_or_else(|errno| machine.vfs.log.print(ERROR, &format!("lo: it could not be brought up ({errno})")));
    }
    result
}

/// Moves the stack's packets when a link has something to tell.
struct Waker(&'static Network);

impl Observer for Waker {
    fn notify(&self, _: Events) {
        self.0.with(|_| ());
    }
}

/// Adds an interface over a link to the stack.
fn attach(network: &'static Network, name: &str, link: Arc<dyn HostLink>, character: Character) -> Result<InterfaceId, Errno> {
    link.observe(Arc::new(Waker(network)));
    let entropy: Entropy = Arc::new(host::checks::entropy);
    network.attach(name, Box::new(Device::new(link, character, entropy)))
}

/// The kind `eth`.
struct Eth {
    vfs: &'static Vfs,
    scheduler: &'static Scheduler,
    network: &'static Network,
    units: Mutex<BTreeMap<u32, InterfaceId>>,
}

/// Why there is no interface: the setting, or the host.
enum Failure {
    Setting(Refused),
    Twice(String),
    Host(String),
}

impl Failure {
    fn line(self) -> String {
        match self {
            Failure::Setting(Refused::Said(line)) | Failure::Host(line) => line,
            Failure::Setting(Refused::Unknown(name)) => format!("eth: there is no transport '{name}'"),
            Failure::Twice(setting) => format!("eth_setup - Couldn't parse '{setting}' : Device already configured"),
        }
    }

    /// As the management console tells it.
    fn refusal(self) -> Refusal {
        match self {
            Failure::Setting(Refused::Unknown(_)) => Refusal::new(""),
            Failure::Twice(_) => Refusal::new("Device already configured"),
            other => {
                let line = other.line();
                Refusal::new(line.rsplit_once(" : ").filter(|_| line.starts_with("eth_setup")).map_or(line.as_str(), |(_, why)| why))
            }
        }
    }
}

impl Eth {
    fn units(&self) -> MutexGuard<'_, BTreeMap<u32, InterfaceId>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the interface of a setting: `0=mcast`.
    fn add(&self, setting: &str) -> Result<(), Failure> {
        let spec = Spec::parse(setting).map_err(Failure::Setting)?;
        let name = spec.name();
        if self.units().contains_key(&spec.unit) {
            return Err(Failure::Twice(setting.to_owned()));
        }
        let mut log = |line: String| self.vfs.log.print(INFO, &line);
        let mac = mac::choose(spec.mac.as_deref(), &mut log);
        let attached = if let Wire::User { options } = &spec.wire {
            let port =
                user::make(self.scheduler, self.network, user::configure(options).map_err(Failure::Host)?, mac).map_err(Failure::Host)?;
            self.network.attach(&name, Box::new(port))
        } else {
            let link = links::make(&spec.wire, &name, self.vfs).map_err(Failure::Host)?;
            let character = Character { driver: eth::DRIVER, mtu: eth::MTU, mtu_max: eth::MTU, mac };
            attach(self.network, &name, link, character)
        };
        let id = attached.map_err(|errno| Failure::Host(format!("{name}: the interface could not be added ({errno})")))?;
        self.units().insert(spec.unit, id);
        log(format!("Netdevice {} : {}", spec.unit, spec.backend));
        Ok(())
    }
}

impl DeviceKind for Eth {
    fn name(&self) -> &'static str {
        "eth"
    }
    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        self.add(setting).map_err(Failure::refusal)
    }
    fn query(&self, _: &str) -> Result<String, Refusal> {
        Err(Refusal::new("No get_config routine defined"))
    }
    fn units(&self) -> RangeInclusive<u32> {
        0..=eth::UNITS - 1
    }
    fn remove(&self, unit: u32) -> Result<(), Refusal> {
        remove(self.network, &mut self.units(), unit)
    }
}

/// Takes the interface of a unit away, which must be down.
fn remove(network: &Network, units: &mut BTreeMap<u32, InterfaceId>, unit: u32) -> Result<(), Refusal> {
    let id = *units.get(&unit).ok_or_else(devices::not_there)?;
    match network.detach(id) {
        // Gone by another way: it may be made anew.
        Ok(()) | Err(Errno::ENODEV) => {
            units.remove(&unit);
            Ok(())
        }
        Err(_) => Err(devices::busy()),
    }
}
