//! `uml_mconsole` against a server that answers as was recorded from UML 6.1, and beside Debian's own client.

mod common;

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use common::{Ended, Scratch, debian};
use mconsole::packet;

const CLIENT: &str = env!("CARGO_BIN_EXE_uml_mconsole");

/// What the recorded machine answered.
const RECORDED: [(&str, i32, &str); 13] = [
    ("version", 0, "Linux (none) 6.1.176 #1 Sat Jul  4 15:38:16 UTC 2026 x86_64"),
    ("config con0", 0, "fd:0,fd:1"),
    ("config ubda", 0, "/peers/f/f1.cow,/peers/debian.ext4"),
    ("config ubdb", 0, ""),
    ("config eth0", 1, "No get_config routine defined"),
    ("config", 1, "Bad configuration option"),
    ("remove ubdb", -16, "Device is currently open"),
    ("remove ubdc", -19, "Device doesn't exist"),
    ("remove", 1, "Bad remove option"),
    ("stop", 0, "stopped"),
    ("go", 1, "Not stopped"),
    ("log", 0, ""),
    ("help", 0, mconsole::command::HELP),
];

/// A machine below a home directory that answers from the record; it ends with the test's process.
struct Machine {
    home: Scratch,
    requests: Receiver<Vec<u8>>,
}

impl Machine {
    fn start(name: &str) -> Machine {
        let home = Scratch::new();
        let directory = home.path(".uml").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let socket = UnixDatagram::bind(directory.join("mconsole")).unwrap();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let text = packet::parse_request(&buffer[..len]).unwrap().to_vec();
                let found = RECORDED.iter().find(|(command, ..)| text.starts_with(command.as_bytes()));
                let packets = match found {
                    Some((_, err, answer)) => packet::reply(*err, answer.as_bytes()),
                    None if text.starts_with(b"proc") => [&b"\n"[..], b"Linux version 6.1.176\n"]
                        .iter()
                        .flat_map(|part| packet::partial_reply(part))
                        .chain(packet::reply(0, b""))
                        .collect(),
                    None => packet::reply(1, b"Unknown command"),
                };
                if sender.send(text).is_err() {
                    return;
                }
                for packet in packets {
                    let _ = socket.send_to_addr(&packet, &from);
                }
            }
        });
        Machine { home, requests }
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> Ended {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.home.0).env("HOME", &self.home.0).env("LC_ALL", "C").env("TERM", "dumb");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    fn ask(&self, arguments: &[&str]) -> Ended {
        self.run(Path::new(CLIENT), &[&["deb"], arguments].concat(), "")
    }

    fn requests(&self) -> Vec<String> {
        self.requests.try_iter().map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }
}

#[test]
fn answers_and_exit_statuses_are_as_recorded() {
    let machine = Machine::start("deb");
    let table: [(&[&str], &str, i32); 9] = [
        (&["version"], "OK Linux (none) 6.1.176 #1 Sat Jul  4 15:38:16 UTC 2026 x86_64\n", 0),
        (&["config", "con0"], "OK fd:0,fd:1\n", 0),
        (&["config", "ubdb"], "OK \n", 0),
        (&["config eth0"], "ERR No get_config routine defined\n", 1),
        (&["remove", "ubdb"], "ERR Device is currently open\n", 240),
        (&["remove", "ubdc"], "ERR Device doesn't exist\n", 237),
        (&["proc", "version"], "OK \nLinux version 6.1.176\n\n", 0),
        (&["log", "hello", "from", "the", "host"], "OK \nOK \n", 0),
        (&["bogus"], "ERR Unknown command\n", 1),
    ];
    for (arguments, stdout, status) in table {
        let ended = machine.ask(arguments);
        assert_eq!(ended, Ended { status, stdout: stdout.into(), stderr: String::new() }, "{arguments:?}");
    }
    assert_eq!(machine.requests()[7..9], ["log hello from the host", "log \n"]);
    let help = machine.ask(&["help"]);
    assert!(
        help.stdout.starts_with("OK Commands: \n")
            && help.stdout.ends_with(
                "specified pid\n\nAdditional local mconsole commands:
    quit - Quit mconsole
    switch <socket-name> - Switch control to the given machine
    log -f <filename> - use contents of <filename> as UML log messages
    mconsole-version - version of this mconsole program
    int  - Interrupt UML session\n"
            ),
        "{}",
        help.stdout
    );
}

#[test]
fn debians_client_prints_and_sends_the_same() {
    let Some(theirs) = debian("uml_mconsole") else { return };
    let machine = Machine::start("deb");
    std::fs::write(machine.home.path("img"), "x").unwrap();
    std::fs::write(machine.home.path("long"), "0123456789".repeat(120)).unwrap();
    std::fs::write(machine.home.path("line"), "one line\n").unwrap();
    let commands = [
        "version",
        "help",
        "config con0",
        "config ubdb",
        "config eth0",
        "remove ubdb",
        "remove ubdc",
        "stop",
        "go",
        "log some text",
        "log -f long",
        "log",
        "proc version",
        "mconsole-version",
        "config ubdb=img",
        "config ubd1r=/img,img",
        "config ubdb=img,/usr/../etc/img,SER",
        "config con1=pts",
        "bogus  with  blanks",
        "umlfs x",
        "quit",
    ];
    for command in commands {
        let arguments = [&["deb"][..], &command.split(' ').collect::<Vec<_>>()].concat();
        let (ours, our_requests) = (machine.run(Path::new(CLIENT), &arguments, ""), machine.requests());
        let (theirs, their_requests) = (machine.run(&theirs, &arguments, ""), machine.requests());
        assert_eq!((ours.status, ours.stdout, our_requests), (theirs.status, theirs.stdout, their_requests), "{command}");
    }
    let script = "version\nconfig con0  \nmconsole-version\nremove ubdb\n";
    let ours = machine.run(Path::new(CLIENT), &["deb"], script);
    let theirs = machine.run(&theirs, &["deb"], script);
    // Its readline shows what is left of a line's blanks.
    let unblanked = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!((ours.status, unblanked(&ours.stdout)), (theirs.status, unblanked(&theirs.stdout)));
}

#[test]
fn a_machine_is_found_by_path_with_a_warning_for_each_miss() {
    let machine = Machine::start("deb");
    let path: PathBuf = machine.home.path(".uml/deb/mconsole");
    let path = path.to_str().unwrap();
    let ended = machine.run(Path::new(CLIENT), &[path, "config", "con0"], "");
    let home = machine.home.0.display();
    let warnings = format!(
        "Warning: couldn't stat file: {home}/.uml/{path}/mconsole - No such file or directory\n\
         Warning: couldn't stat file: /tmp/uml/{path}/mconsole - No such file or directory\n"
    );
    assert_eq!(ended, Ended { status: 0, stdout: "OK fd:0,fd:1\n".into(), stderr: warnings });
    let missing = machine.run(Path::new(CLIENT), &["nope", "version"], "");
    assert_eq!((missing.status, missing.stderr.matches("Warning: couldn't stat file: ").count()), (1, 3));
    assert!(missing.stderr.contains("There are: deb"), "{}", missing.stderr);
    let usage = machine.run(Path::new(CLIENT), &[], "");
    assert_eq!((usage.status, usage.stderr.as_str()), (1, "Usage : uml_mconsole socket-name [command]\n"));
}

#[test]
fn commands_from_a_pipe_run_until_quit_and_switch_changes_the_prompt() {
    let machine = Machine::start("deb");
    let path = machine.home.path(".uml/deb/mconsole");
    let script = format!("config con0\n\nswitch {}\nversion\nquit\nbogus\n", path.display());
    let ended = machine.run(Path::new(CLIENT), &["deb"], &script);
    assert_eq!(ended.status, 0);
    assert!(ended.stdout.starts_with("(deb) config con0\nOK fd:0,fd:1\n(deb) \n(deb) switch "), "{}", ended.stdout);
    let prompt = mconsole::client::prompt(path.to_str().unwrap());
    assert!(ended.stdout.ends_with(&format!("{prompt}quit\n")), "{}", ended.stdout);
}

#[test]
fn file_names_of_disks_are_sent_in_full_and_bad_ones_reported() {
    let machine = Machine::start("deb");
    machine.ask(&["config", "ubdb=cow:back"]);
    machine.ask(&["config", "ubdc=/nonexistent"]);
    let bad = machine.ask(&["config", "ubdd=nodir/x"]);
    assert_eq!(bad.stderr, "absolutize : Can't cd to 'nodir', No such file or directory\n");
    let home = machine.home.0.display();
    assert_eq!(
        machine.requests(),
        [format!("config ubdb={home}/cow:{home}/back"), "config ubdc=/nonexistent".into(), "config ubdd=nodir/x".into()]
    );
}

#[test]
fn int_sends_a_signal_to_the_process_in_the_pid_file_only() {
    let machine = Machine::start("deb");
    for nonsense in ["", "0\n", "-1\n", "1\n", "x\n"] {
        std::fs::write(machine.home.path(".uml/deb/pid"), nonsense).unwrap();
        let ended = machine.ask(&["int"]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, "Cannot determine the PID of your UML session, not sending signal.\n"));
    }
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(machine.home.path(".uml/deb/pid"), format!("{}\n", sleeper.id())).unwrap();
    assert_eq!(machine.ask(&["int"]).status, 0);
    let status = sleeper.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
}

#[test]
fn a_socket_that_nobody_listens_on_is_an_error_that_says_so() {
    let machine = Machine::start("deb");
    let stale = machine.home.path("stale");
    drop(UnixDatagram::bind(&stale).unwrap());
    let ended = machine.run(Path::new(CLIENT), &[stale.to_str().unwrap(), "version"], "");
    assert!(
        ended.status == 1 && ended.stderr.contains("Connection refused") && ended.stderr.contains("Start it again"),
        "{}",
        ended.stderr
    );
    let long = machine.ask(&[&"x".repeat(600)]);
    assert!(long.status == 1 && long.stderr.contains("at most 511 bytes"), "{}", long.stderr);
}
