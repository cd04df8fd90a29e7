//! `uml_watchdog`: fed, ended and starved.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, debian, run};
use mconsole::packet::Notification;

const OURS: &str = env!("CARGO_BIN_EXE_uml_watchdog");

/// Starts one and waits until it says that it is ready.
fn start(program: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut ready = [0xff];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(ready, [0]);
    child
}

fn machine(script: &str) -> Child {
    let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    child
}

#[test]
fn the_end_of_its_input_ends_it_in_order_as_debians() {
    for program in [Some(OURS.into()), debian("uml_watchdog")].into_iter().flatten() {
        let mut machine = machine("echo up; exec sleep 60");
        let mut watchdog = start(&program, &["-pid", &machine.id().to_string()]);
        for _ in 0..3 {
            watchdog.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        }
        drop(watchdog.stdin.take());
        assert_eq!(watchdog.wait().unwrap().code(), Some(0));
        assert!(machine.try_wait().unwrap().is_none());
        machine.kill().unwrap();
        machine.wait().unwrap();
    }
}

#[test]
fn a_fed_machine_lives_and_a_silent_one_is_interrupted() {
    let mut machine = machine("echo up; exec sleep 60");
    let mut watchdog = start(Path::new(OURS), &["-pid", &machine.id().to_string(), "-timeout", "1"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1600) {
        watchdog.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(machine.try_wait().unwrap().is_none());
    assert_eq!(machine.wait().unwrap().signal(), Some(2));
    assert_eq!(watchdog.wait().unwrap().code(), Some(1));
}

#[test]
fn a_machine_that_ignores_interrupts_is_killed() {
    let mut machine = machine("trap '' INT; echo up; while :; do sleep 1; done");
    let mut watchdog = start(Path::new(OURS), &["-pid", &machine.id().to_string(), "-timeout", "1"]);
    assert_eq!(machine.wait().unwrap().signal(), Some(9));
    assert_eq!(watchdog.wait().unwrap().code(), Some(1));
}

#[test]
fn with_mconsole_a_hang_is_reported() {
    let scratch = Scratch::new();
    let listener = UnixDatagram::bind(scratch.path("notify")).unwrap();
    let mut watchdog = start(Path::new(OURS), &["-mconsole", scratch.path("notify").to_str().unwrap(), "-timeout", "1"]);
    let mut datagram = [0; 600];
    let len = listener.recv(&mut datagram).unwrap();
    assert_eq!(Notification::parse(&datagram[..len]), Some((Notification::Hang, &[][..])));
    watchdog.wait().unwrap();
}

#[test]
fn wrong_command_lines_and_processes_that_can_be_no_machine_are_refused() {
    let scratch = Scratch::new();
    for arguments in [&[][..], &["-x"], &["-pid"], &["-pid", "abc"], &["-pid", "1"], &["-pid", "-5"], &["-mconsole"], &["-timeout", "0"]] {
        let ended = run(OURS, arguments, &scratch.0);
        assert!(ended.status == 1 && ended.stdout.is_empty() && ended.stderr.contains("Usage : uml_watchdog"), "{arguments:?}: {ended:?}");
    }
    assert_eq!(run(OURS, &["-pid", "999999999"], &scratch.0).status, 1);
}
