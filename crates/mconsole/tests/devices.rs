//! `config` and `remove` over the registry of device kinds.

use mconsole::devices::{DeviceKind, Devices, busy, leading_unit, not_there};
use mconsole::server::Refusal;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

/// Four lines, of which one may be in use.
#[derive(Default)]
struct Lines(Mutex<[Option<String>; 4]>);

impl DeviceKind for Lines {
    fn name(&self) -> &'static str {
        "con"
    }
    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        let (unit, channel) = setting.split_once('=').ok_or_else(|| Refusal::new("Missing '='"))?;
        let unit = leading_unit(unit).ok_or_else(|| Refusal::new("Can't configure all devices from mconsole"))?;
        *self.0.lock().unwrap().get_mut(unit as usize).ok_or_else(|| Refusal::new("Device number out of range"))? = Some(channel.into());
        Ok(())
    }
    fn query(&self, device: &str) -> Result<String, Refusal> {
        let unit =
            leading_unit(device).ok_or_else(|| Refusal::errno(abi::Errno::EINVAL, "line_get_config failed to parse device number"))?;
        Ok(self.0.lock().unwrap().get(unit as usize).cloned().flatten().unwrap_or_else(|| "none".into()))
    }
    fn units(&self) -> RangeInclusive<u32> {
        0..=3
    }
    fn remove(&self, unit: u32) -> Result<(), Refusal> {
        match self.0.lock().unwrap()[unit as usize].take() {
            Some(channel) if channel == "busy" => Err(busy()),
            Some(_) => Ok(()),
            None => Err(not_there()),
        }
    }
}

/// Network devices, which can't be asked.
struct Cards;

impl DeviceKind for Cards {
    fn name(&self) -> &'static str {
        "eth"
    }
    fn configure(&self, _: &str) -> Result<(), Refusal> {
        Ok(())
    }
    fn units(&self) -> RangeInclusive<u32> {
        0..=15
    }
    fn remove(&self, _: u32) -> Result<(), Refusal> {
        Err(not_there())
    }
}

#[test]
fn a_setting_goes_to_the_kind_it_begins_with() {
    let devices = Devices::default();
    devices.register(Arc::new(Lines::default()));
    devices.register(Arc::new(Cards));
    assert_eq!(devices.names(), ["con", "eth"]);
    assert_eq!(devices.configure(b"con1=pts"), Ok(()));
    assert_eq!(devices.query(b"con1").as_deref(), Ok("pts"));
    assert_eq!(devices.query(b"con2").as_deref(), Ok("none"));
    assert_eq!(devices.remove(b"con1"), Ok(()));
    assert_eq!(devices.query(b"con1").as_deref(), Ok("none"));
}

#[test]
fn refusals_are_the_references() {
    let devices = Devices::default();
    devices.register(Arc::new(Lines::default()));
    devices.register(Arc::new(Cards));
    devices.configure(b"con3=busy").unwrap();
    let refused = |err: i32, text: &str| Err(Refusal { err, text: text.into() });
    assert_eq!(devices.configure(b"bogus0=x"), refused(1, "Bad configuration option"));
    assert_eq!(devices.configure(b"con=pts"), refused(1, "Can't configure all devices from mconsole"));
    assert_eq!(devices.configure(b"con\xff=pts"), refused(1, "Bad configuration option"));
    assert_eq!(devices.query(b"").map(drop), refused(1, "Bad configuration option"));
    assert_eq!(devices.query(b"eth0").map(drop), refused(1, "No get_config routine defined"));
    assert_eq!(devices.query(b"con").map(drop), refused(1, "line_get_config failed to parse device number"));
    assert_eq!(devices.remove(b"bogus"), refused(1, "Bad remove option"));
    assert_eq!(devices.remove(b"con"), refused(1, "Couldn't parse device number"));
    assert_eq!(devices.remove(b"con4"), refused(1, "Invalid device number - must be between 0 and 3"));
    assert_eq!(devices.remove(b"con99999999999999"), refused(1, "Invalid device number - must be between 0 and 3"));
    assert_eq!(devices.remove(b"con2"), refused(-19, "Device doesn't exist"));
    assert_eq!(devices.remove(b"con3"), refused(-16, "Device is currently open"));
}
