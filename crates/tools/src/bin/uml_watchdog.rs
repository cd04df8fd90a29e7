//! `uml_watchdog`: ends a machine, or reports it, when its watchdog is not fed. The machine's driver starts it and holds its standard streams.
//!
//! Always true: one byte on standard output says that it is ready; the end of standard input is an orderly end; the machine is named by a
//! descriptor from the start, so that no other process with its number can be hit.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mconsole::packet::Notification;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tools::command_line::{Failure, run, strerror};

const USAGE: &str = "\
Usage : uml_watchdog -pid <process of the machine> [ -timeout <seconds> ]
or : uml_watchdog -mconsole <notification socket> [ -timeout <seconds> ]
It is started by a machine's watchdog driver, not by hand.
";
/// How long a machine may be silent unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between one blow and the next.
const GRACE: Duration = Duration::from_secs(1);

/// What happens to a machine that hangs.
enum Remedy {
    Kill(OwnedFd),
    Report(PathBuf),
}

fn main() -> ExitCode {
    run(|| {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let (remedy, timeout) = parse(&arguments)?;
        let failed = |what: &str, error: io::Error| Failure::Message(format!("uml_watchdog: {what}: {}", strerror(&error)));
        let mut stdout = io::stdout();
        stdout.write_all(&[0]).and_then(|()| stdout.flush()).map_err(|error| failed("saying that it is ready", error))?;
        match watch(timeout).map_err(|error| failed("waiting for the machine", error))? {
            Ended::Orderly => Ok(()),
            Ended::Silent => {
                act(&remedy).map_err(|error| failed("the machine hangs, and it can't be helped", error))?;
                Err(Failure::Message(format!("uml_watchdog: the machine was silent for {} seconds", timeout.as_secs())))
            }
        }
    })
}

fn parse(arguments: &[OsString]) -> Result<(Remedy, Duration), Failure> {
    let usage = |reason: String| Failure::Usage { text: USAGE, reason: Some(reason), status: 1 };
    let (mut remedy, mut timeout) = (None, TIMEOUT);
    for pair in arguments.chunks(2) {
        let [option, value] = pair else { return Err(usage(format!("{} wants a value", pair[0].display()))) };
        match option.to_str() {
            Some("-pid") => {
                let number = value.to_str().and_then(|text| text.parse().ok()).filter(|&number: &i32| number > 1);
                let pid =
                    number.and_then(Pid::from_raw).ok_or_else(|| usage(format!("'{}' is no process of a machine", value.display())))?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty());
                remedy = Some(Remedy::Kill(pidfd.map_err(|error| {
                    Failure::Message(format!("uml_watchdog: process {}: {}", pid.as_raw_nonzero(), strerror(&error.into())))
                })?));
            }
            Some("-mconsole") => remedy = Some(Remedy::Report(value.into())),
            Some("-timeout") => {
                let seconds = value.to_str().and_then(|text| text.parse().ok()).filter(|&seconds: &u64| (1..=86_400).contains(&seconds));
                timeout = Duration::from_secs(seconds.ok_or_else(|| usage(format!("'{}' is no time in seconds", value.display())))?);
            }
            _ => return Err(usage(format!("unknown option '{}'", option.display()))),
        }
    }
    remedy.map(|remedy| (remedy, timeout)).ok_or_else(|| usage("who is to be watched?".into()))
}

enum Ended {
    Orderly,
    Silent,
}

/// Waits while standard input is written to often enough.
fn watch(timeout: Duration) -> io::Result<Ended> {
    let stdin = rustix::stdio::stdin();
    let mut heard = Instant::now();
    loop {
        let left = timeout.saturating_sub(heard.elapsed());
        if left.is_zero() {
            return Ok(Ended::Silent);
        }
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(stdin, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(stdin, &mut [0u8; 256]) {
            Ok(0) => return Ok(Ended::Orderly),
            Ok(_) => heard = Instant::now(),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn act(remedy: &Remedy) -> io::Result<()> {
    match remedy {
        Remedy::Kill(machine) => {
            for (signal, grace) in [(Signal::INT, GRACE), (Signal::INT, GRACE), (Signal::KILL, Duration::ZERO)] {
                match pidfd_send_signal(machine, signal) {
                    Ok(()) => std::thread::sleep(grace),
                    // It is gone.
                    Err(rustix::io::Errno::SRCH) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }
        Remedy::Report(path) => UnixDatagram::unbound()?.send_to(&Notification::Hang.datagram(&[]), path).map(|_| ()),
    }
}
