//! `uml_switch`: one conversation, held with ours and with Debian's, then what only ours does.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Scratch, debian, run};
use switch::protocol::{ADDRESS_LEN, Address, request};

const OURS: &str = env!("CARGO_BIN_EXE_uml_switch");

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A switch that runs until the test ends.
struct Running {
    child: Child,
    control: PathBuf,
}

impl Running {
    fn start(program: &Path, scratch: &Scratch, arguments: &[&str]) -> Running {
        let control = scratch.path("ctl");
        let mut command = Command::new(program);
        command.arg("-unix").arg(&control).args(arguments).current_dir(&scratch.0).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the switch's socket", || UnixStream::connect(&control).is_ok());
        Running { child, control }
    }

    /// Ends it by SIGINT; its output, and the signal it died of.
    fn interrupt(mut self) -> (String, Option<i32>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (output, status.signal())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine's network device.
struct Machine {
    data: UnixDatagram,
    control: UnixStream,
    switch: SocketAddr,
}

fn own_address() -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    Address::abstract_of(std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Machine {
    fn connect(control: &Path) -> Machine {
        let address = own_address();
        let data = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(address.as_abstract_name().unwrap()).unwrap()).unwrap();
        let mut control = UnixStream::connect(control).unwrap();
        control.write_all(&request(&address)).unwrap();
        control.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; ADDRESS_LEN];
        control.read_exact(&mut answer).unwrap();
        let switch = Address::parse(&answer).unwrap();
        Machine { data, control, switch: SocketAddr::from_abstract_name(switch.as_abstract_name().unwrap()).unwrap() }
    }

    fn send(&self, to: u8, from: u8, len: usize) {
        self.data.send_to_addr(&frame(to, from, len), &self.switch).unwrap();
    }

    /// Length of the next frame, 0 if none comes within this time.
    fn receive_within(&self, milliseconds: u64) -> usize {
        self.data.set_read_timeout(Some(Duration::from_millis(milliseconds))).unwrap();
        self.data.recv(&mut [0; 70_000]).unwrap_or(0)
    }

    fn receive(&self) -> usize {
        self.receive_within(5000)
    }
}

fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
    if to == 0xff {
        frame[..6].fill(0xff);
    }
    frame.resize(len, 7);
    frame
}

/// Sends six frames between three machines; each row says how long a frame each of them must then receive, 0 for none.
fn converse(program: &Path, mode: &[&str], expected: [[usize; 3]; 6]) {
    let scratch = Scratch::new();
    let switch = Running::start(program, &scratch, mode);
    let machines = [(); 3].map(|()| Machine::connect(&switch.control));
    let frames = [(0, 0xff, 1, 60), (1, 1, 2, 64), (2, 99, 3, 70), (2, 1, 2, 80), (0, 2, 1, 1514), (0, 0xff, 1, 1514)];
    for ((sender, to, from, len), row) in frames.into_iter().zip(expected) {
        machines[sender].send(to, from, len);
        let seen = [0, 1, 2].map(|machine: usize| machines[machine].receive_within(if row[machine] > 0 { 5000 } else { 60 }));
        assert_eq!(seen, row, "{} to {to} from {from}", program.display());
    }
}

#[test]
fn frames_go_the_same_ways_through_our_switch_and_debians() {
    let expected = [[0, 60, 60], [64, 0, 0], [70, 70, 0], [80, 0, 0], [0, 0, 1514], [0, 1514, 1514]];
    converse(Path::new(OURS), &[], expected);
    if let Some(theirs) = debian("uml_switch") {
        converse(&theirs, &[], expected);
    }
}

#[test]
fn a_hub_shows_every_frame_to_all_others() {
    let expected = [[0, 60, 60], [64, 0, 64], [70, 70, 0], [80, 80, 0], [0, 1514, 1514], [0, 1514, 1514]];
    converse(Path::new(OURS), &["-hub"], expected);
    if let Some(theirs) = debian("uml_switch") {
        converse(&theirs, &["-hub"], expected);
    }
}

#[test]
fn the_log_and_the_end_are_those_of_the_reference() {
    let scratch = Scratch::new();
    let switch = Running::start(Path::new(OURS), &scratch, &["-hub"]);
    drop(switch);
    // It was killed: its socket is stale, and taken over.
    let switch = Running::start(Path::new(OURS), &scratch, &[]);
    let control = switch.control.clone();
    let first = Machine::connect(&control);
    let second = Machine::connect(&control);
    first.send(99, 1, 60);
    assert_eq!(second.receive(), 60);
    drop(first);
    std::thread::sleep(Duration::from_millis(100));
    let mut wrong = UnixStream::connect(&control).unwrap();
    wrong.write_all(&[0xce, 0xfa, 0xed, 0xfe, 2, 0, 0, 0]).unwrap();
    assert_eq!(wrong.read(&mut [0; 8]).unwrap(), 0);
    let (output, signal) = switch.interrupt();
    assert_eq!(signal, Some(2));
    assert!(!control.exists());
    let lines: Vec<&str> = output.lines().filter(|line| *line != "EOF from new port").collect();
    assert_eq!(lines[0], format!("{OURS} attached to unix socket '{}'", control.display()));
    assert_eq!(lines[1..4], ["New connection"; 3]);
    assert!(lines[4].starts_with(" Addr: 02:00:00:00:00:01 New port "), "{output}");
    assert!(lines[5].starts_with("unknown Addr: 02:00:00:00:00:63 from port "), "{output}");
    assert_eq!(lines[6..], ["Disconnect", "New connection", "Version 2 is not supported", "Caught signal 2, cleaning up and exiting"]);
}

#[test]
fn a_second_switch_on_the_same_socket_is_refused_with_the_remedies_and_files_are_left_alone() {
    let scratch = Scratch::new();
    let switch = Running::start(Path::new(OURS), &scratch, &[]);
    let refused = run(OURS, &["-unix", "ctl"], &scratch.0);
    assert_eq!(refused.status, 1);
    assert_eq!(
        refused.stderr,
        "The control socket 'ctl' has another server attached to it\nYou can either\n\tremove 'ctl'\n\tor rerun with a different, unused filename for a socket\n"
    );
    Machine::connect(&switch.control);
    std::fs::write(scratch.path("precious"), "data").unwrap();
    assert_eq!(run(OURS, &["-unix", "precious"], &scratch.0).status, 1);
    assert_eq!(std::fs::read(scratch.path("precious")).unwrap(), b"data");
    let nowhere = run(OURS, &["-unix", "no/dir"], &scratch.0);
    assert!(nowhere.status == 1 && nowhere.stderr.starts_with("bind: No such file or directory"), "{}", nowhere.stderr);
}

#[test]
fn wrong_options_end_with_the_usage() {
    let scratch = Scratch::new();
    for arguments in [&["-x"][..], &["-unix"], &["-tap"], &["a"], &["-h"], &["-unix", "ctl", "data"]] {
        let ended = run(OURS, arguments, &scratch.0);
        assert!(
            ended.status == 1 && ended.stderr.starts_with(&format!("Usage : {OURS} [ -unix control-socket ]")),
            "{arguments:?} {}",
            ended.stderr
        );
    }
    let tap = run(OURS, &["-unix", "ctl", "-tap", "lo"], &scratch.0);
    assert!(tap.status == 1 && tap.stderr.contains("tap device 'lo'"), "{}", tap.stderr);
    assert!(!scratch.path("ctl").exists());
}

#[test]
fn clients_of_protocol_0_use_the_data_sockets_path() {
    let scratch = Scratch::new();
    let data_path = scratch.path("data");
    let switch = Running::start(Path::new(OURS), &scratch, &["-compat-v0"]);
    drop(switch);
    let arguments = ["-compat-v0", "-unix", "ctl0", "data"];
    let mut child = Command::new(OURS).args(arguments).current_dir(&scratch.0).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually("the data socket", || data_path.exists() && UnixStream::connect(scratch.path("ctl0")).is_ok());
    let machines: Vec<(UnixDatagram, UnixStream)> = (0..2)
        .map(|_| {
            let address = own_address();
            let data = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(address.as_abstract_name().unwrap()).unwrap()).unwrap();
            data.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut control = UnixStream::connect(scratch.path("ctl0")).unwrap();
            control.write_all(&[&[0u8; 4][..], &[2, 0, 0, 0, 0, 1], &address.encode()].concat()).unwrap();
            (data, control)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    machines[0].0.send_to(&frame(0xff, 1, 60), &data_path).unwrap();
    assert_eq!(machines[1].0.recv(&mut [0; 100]).unwrap(), 60);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_daemon_serves_when_the_command_returns_and_outlives_it() {
    let scratch = Scratch::new();
    assert_eq!(run(OURS, &["-daemon", "-unix", "ctl"], &scratch.0).status, 0);
    let first = Machine::connect(&scratch.path("ctl"));
    let second = Machine::connect(&scratch.path("ctl"));
    first.send(0xff, 1, 100);
    assert_eq!(second.receive(), 100);
    let refused = run(OURS, &["-daemon", "-unix", "ctl"], &scratch.0);
    assert!(refused.status == 1 && refused.stderr.contains("another server"), "{}", refused.stderr);
    let pid = rustix::net::sockopt::socket_peercred(&first.control).unwrap().pid;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the socket's removal", || !scratch.path("ctl").exists());
}

#[test]
fn random_connections_and_frames_do_not_disturb_others() {
    let scratch = Scratch::new();
    let switch = Running::start(Path::new(OURS), &scratch, &[]);
    let machines = [(); 2].map(|()| Machine::connect(&switch.control));
    let mut state = 1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
    };
    let stranger = UnixDatagram::unbound().unwrap();
    for _ in 0..200 {
        let mut connection = UnixStream::connect(&switch.control).unwrap();
        let mut bytes = request(&own_address()).to_vec();
        bytes[next() as usize % 124] = next() as u8;
        bytes.truncate(next() as usize % 125);
        let _ = connection.write_all(&bytes);
        let noise: Vec<u8> = (0..next() % 80).map(|_| next() as u8).collect();
        let _ = stranger.send_to_addr(&noise, &machines[0].switch);
        let _ = machines[0].data.send_to_addr(&noise[..noise.len().min(13)], &machines[0].switch);
    }
    machines[0].send(0xff, 1, 333);
    assert_eq!(machines[1].receive(), 333);
    assert!(switch.child.stdout.as_ref().unwrap().as_raw_fd() > 0);
}

#[test]
fn a_stale_socket_of_another_program_is_replaced() {
    let scratch = Scratch::new();
    drop(UnixListener::bind(scratch.path("ctl")).unwrap());
    let switch = Running::start(Path::new(OURS), &scratch, &[]);
    Machine::connect(&switch.control);
}
