//! `/proc/sys/kernel`: what the machine is called, and randomness; proc_sys(5), random(4).

use abi::Errno;
use fs::proc::{Proc, Setting, register_sysctls};
use std::sync::Arc;
use task::System;
use task::system::Names;

/// Bytes of a name, uname(2).
const NAME_MAX: usize = 64;
/// Bits that the generator is said to hold: it is the host's, and never runs dry.
const POOL_BITS: i64 = 256;

/// What `kernel.pid_max` may be on 64-bit machines.
const PID_MAX_RANGE: (i64, i64) = (301, 4_194_304);

/// A random UUID of version 4, RFC 9562.
fn uuid() -> String {
    let mut bytes = [0; 16];
    host::checks::entropy(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut parts = Vec::new();
    let mut rest = hex.as_str();
    for len in [8, 4, 4, 4, 12] {
        let (part, more) = rest.split_at(len);
        parts.push(part);
        rest = more;
    }
    parts.join("-")
}

fn name(path: &'static str, system: &'static System, field: fn(&mut Names) -> &mut Vec<u8>) -> Setting {
    // A task sees and changes its own namespace's.
    let uts = move || task::current_task().map_or_else(|| system.uts.clone(), |task| task.uts.lock().clone());
    let get = move || String::from_utf8_lossy(field(&mut uts().names.lock())).into_owned();
    let set = move |new: &str| -> Result<(), Errno> {
        let old = std::mem::replace(field(&mut uts().names.lock()), new.as_bytes().to_vec());
        drop(old);
        Ok(())
    };
    Setting::text(path, NAME_MAX, get, set)
}

/// Hangs them into `/proc`.
pub fn register(proc: &Arc<Proc>, system: &'static System) {
    let boot_id = uuid();
    let shown = |path, text: String| Setting::shows(path, move || text.clone());
    let names = system.uts.names.lock().clone();
    register_sysctls(
        proc,
        [
            name("kernel/hostname", system, |names| &mut names.node),
            name("kernel/domainname", system, |names| &mut names.domain),
            shown("kernel/ostype", "Linux".into()),
            shown("kernel/osrelease", String::from_utf8_lossy(&names.release).into_owned()),
            shown("kernel/version", String::from_utf8_lossy(&names.version).into_owned()),
            Setting::number(
                "kernel/pid_max",
                PID_MAX_RANGE,
                move || i64::from(system.table().tree.pid_max()),
                move |new| {
                    system.table().tree.set_pid_max(new as i32);
                    Ok(())
                },
            ),
            shown("kernel/threads-max", system.limits.threads_max.to_string()),
            shown("kernel/random/boot_id", boot_id),
            Setting::shows("kernel/random/uuid", uuid),
            shown("kernel/random/entropy_avail", POOL_BITS.to_string()),
            shown("kernel/random/poolsize", POOL_BITS.to_string()),
            Setting::kept("kernel/random/write_wakeup_threshold", (0, i64::from(i32::MAX)), POOL_BITS),
            Setting::kept("kernel/random/urandom_min_reseed_secs", (0, i64::from(i32::MAX)), 60),
        ],
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_are_of_version_four_and_differ() {
        let (a, b) = (super::uuid(), super::uuid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(a.as_bytes()[14], b'4');
        assert!(matches!(a.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert!(a.bytes().enumerate().all(|(i, c)| if matches!(i, 8 | 13 | 18 | 23) { c == b'-' } else { c.is_ascii_hexdigit() }));
    }
}
