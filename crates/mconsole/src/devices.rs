//! Devices that come, change and go while the machine runs: a registry of their kinds, and what `config` and `remove` make of a text.
//!
//! A driver implements [`DeviceKind`] once (`ubd`, `con`, `ssl`, `eth`, `vec`, `mem`) and registers it at boot; the console does the rest. The
//! words of the refusals are UML's, as recorded; [`Refusal::errno`] carries the number that `uml_mconsole` makes its exit status of.
//!
//! What it is not: the options of the command line at boot. A kind may well use the same parser for both.
//!
//! Always true: no lock is held while a kind is called, so it may sleep, and may look at the registry.

use crate::server::Refusal;
use abi::Errno;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// A kind of device that the management console can configure. All texts come from the host's user, not from the guest; they are checked as any
/// input is. Calls come one at a time, on the console's fiber; they may sleep. They also come while the machine is stopped: then guest
/// threads and timers stand still, so a call must not wait for either.
pub trait DeviceKind: Send + Sync {
    /// What its settings begin with: `ubd`. No kind's name may be the beginning of another's.
    fn name(&self) -> &'static str;

    /// `config ubdb=file`: `setting` is what follows the name, `b=file`. The device is there when this returns.
    fn configure(&self, setting: &str) -> Result<(), Refusal>;

    /// `config ubdb`: `device` is what follows the name, `b`. Empty text: no such device is configured.
    fn query(&self, device: &str) -> Result<String, Refusal> {
        let _ = device;
        Err(Refusal::no_query())
    }

    /// The numbers that [`DeviceKind::remove`] takes.
    fn units(&self) -> RangeInclusive<u32>;

    /// The unit that a text names: a number. Disks also take a letter, memory has but one.
    fn parse_unit(&self, device: &str) -> Option<u32> {
        leading_unit(device)
    }

    /// `remove ubdb`. [`not_there`] and [`busy`] are the usual refusals. What it cannot take away now it leaves untouched.
    fn remove(&self, unit: u32) -> Result<(), Refusal>;
}

/// The decimal number at the beginning of a text, whatever follows.
#[must_use]
pub fn leading_unit(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    // A number too long for 32 bits is out of every kind's range.
    text.get(..digits).filter(|digits| !digits.is_empty()).map(|digits| digits.parse().unwrap_or(u32::MAX))
}

/// No device has that unit.
#[must_use]
pub fn not_there() -> Refusal {
    Refusal::errno(Errno::ENODEV, "Device doesn't exist")
}

/// The device is in use.
#[must_use]
pub fn busy() -> Refusal {
    Refusal::errno(Errno::EBUSY, "Device is currently open")
}

/// The kinds of a machine.
#[derive(Default)]
pub struct Devices {
    kinds: Mutex<Vec<Arc<dyn DeviceKind>>>,
}

impl Devices {
    /// Adds a kind, at boot.
    pub fn register(&self, kind: Arc<dyn DeviceKind>) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
    }

    /// The names of the kinds, in the order in which they came.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|kind| kind.name()).collect()
    }

    /// The kind that a text begins with, and what follows its name.
    fn find<'a>(&self, text: &'a [u8]) -> Option<(Arc<dyn DeviceKind>, &'a str)> {
        let text = std::str::from_utf8(text).ok()?;
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().find_map(|kind| Some((kind.clone(), text.strip_prefix(kind.name())?)))
    }

    /// `config DEV=CFG`.
    pub fn configure(&self, setting: &[u8]) -> Result<(), Refusal> {
        let (kind, rest) = self.find(setting).ok_or_else(Refusal::bad_config)?;
        kind.configure(rest)
    }

    /// `config DEV`. A kind's refusal reaches the client as error 1, whatever its number: that is the reference's way.
    pub fn query(&self, device: &[u8]) -> Result<String, Refusal> {
        let (kind, rest) = self.find(device).ok_or_else(Refusal::bad_config)?;
        kind.query(rest).map_err(|refusal| Refusal::new(refusal.text))
    }

    /// `remove DEV`.
    pub fn remove(&self, device: &[u8]) -> Result<(), Refusal> {
        let (kind, rest) = self.find(device).ok_or_else(Refusal::bad_remove)?;
        let unit = kind.parse_unit(rest).ok_or_else(|| Refusal::new("Couldn't parse device number"))?;
        let units = kind.units();
        if !units.contains(&unit) {
            return Err(Refusal::new(format!("Invalid device number - must be between {} and {}", units.start(), units.end())));
        }
        kind.remove(unit)
    }
}
