//! Consoles and serial lines as people meet them: logins over every kind of channel, hangups, sizes, and nothing left behind.
#![forbid(unsafe_code)]

mod people;

use people::{Desk, Person, linux, make_raw, open_terminal, program};
use rustix::termios::LocalModes;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A TCP port that nobody has.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A telnet client of the simplest kind: it agrees to nothing and sends what is typed.
fn telnet(port: u16) -> Person {
    let until = Instant::now() + people::PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return Person::at(OwnedFd::from(stream)),
            Err(error) => assert!(Instant::now() < until, "port {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The path in a line such as `Serial line 0 assigned device '/dev/pts/3'`.
fn assigned(person: &mut Person, line: &str) -> String {
    person.sees(&format!("{line} assigned device '"));
    person.sees("'").trim_end_matches('\'').to_owned()
}

#[test]
fn people_log_in_at_the_terminal_that_the_machine_was_started_in() {
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", "quiet"]) else { return };
    let mut desk = Desk::new();
    let before = desk.settings();
    assert!(before.local_modes.contains(LocalModes::ICANON));
    let mut machine = desk.start(&command);
    desk.person.sees("login: ");
    assert!(!desk.settings().local_modes.contains(LocalModes::ICANON), "raw while the machine has it");
    desk.person.enters("root");
    desk.person.sees("assword: ");
    desk.person.enters("wrong");
    desk.person.sees("ncorrect");
    desk.person.logs_in("root");
    assert_eq!(desk.person.runs("tty"), "/dev/tty0");
    assert_eq!(desk.person.runs("stty size"), "24 200");
    desk.resize(50, 132);
    desk.person.enters("until [ \"$(stty size)\" = '50 132' ]; do :; done; echo re\"\"sized");
    desk.person.sees("resized");
    // Job control: interrupt, stop, go on in the background and in front, in a pipeline.
    // What is shown has passed through every part, so each of them is there.
    desk.person.enters("(echo run\"\"ning; sleep 1000) | cat | cat");
    desk.person.sees("running");
    desk.person.types([3]);
    desk.person.sees("# ");
    assert_eq!(desk.person.runs("echo $?"), "130");
    desk.person.enters("(echo run\"\"ning; sleep 1000) | cat | cat | cat");
    desk.person.sees("running");
    desk.person.types([26]);
    desk.person.sees("Stopped");
    desk.person.sees("# ");
    desk.person.runs("bg");
    assert!(desk.person.runs("jobs").contains("Running"));
    desk.person.enters("fg");
    desk.person.sees("cat\r\n");
    desk.person.types([3]);
    desk.person.sees("# ");
    desk.person.enters("exit");
    desk.person.logs_in("user");
    assert!(desk.person.runs("rm /bin/ls").contains("Permission denied"));
    desk.person.enters("exit");
    desk.person.logs_in("root");
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
    assert!(!desk.person.seen().contains("panic"), "{}", desk.person.seen());
    let after = desk.settings();
    assert_eq!((after.local_modes, after.input_modes, after.output_modes), (before.local_modes, before.input_modes, before.output_modes));
}

#[test]
fn telnets_on_one_port_get_lines_of_their_own_and_a_hangup_is_one_sessions_own() {
    let port = free_port();
    let channel = format!("port:{port}");
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", &format!("con1={channel}"), &format!("con2={channel}"), "ssl=none"]) else {
        return;
    };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    desk.person.logs_in("root");
    let mut first = telnet(port);
    first.logs_in("root");
    let mut second = telnet(port);
    second.logs_in("root");
    let lines = [first.runs("tty"), second.runs("tty")];
    assert!(lines.contains(&"/dev/tty1".into()) && lines.contains(&"/dev/tty2".into()), "{lines:?}");
    let mut third = telnet(port);
    third.sees("****");
    // The window's size, with what a telnet client sends: IAC SB NAWS 0 100 0 40 IAC SE.
    first.types([255, 251, 31, 255, 250, 31, 0, 100, 0, 40, 255, 240]);
    first.enters("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo re\"\"sized");
    first.sees("resized");
    // In the middle of output the connection goes: the session with it, and the one who waited gets the line.
    first.enters("cat /dev/urandom");
    first.sees_bytes(100_000);
    drop(first);
    third.logs_in("root");
    let ps = third.runs("ps");
    assert!(!ps.contains("cat /dev/urandom"), "{ps}");
    assert_eq!(second.runs("echo still here"), "still here");
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
    second.sees_the_end();
    third.sees_the_end();
}

#[test]
fn a_serial_line_is_a_pty_that_is_made_anew_after_each_hangup() {
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", "ssl0=pts", "ssl1=pty"]) else { return };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    let path = assigned(&mut desk.person, "Serial line 0");
    let mut serial = {
        let terminal = open_terminal(&path);
        make_raw(&terminal);
        Person::at(terminal)
    };
    serial.logs_in("root");
    assert_eq!(serial.runs("tty"), "/dev/ttyS0");
    serial.enters("cat /dev/urandom");
    serial.sees_bytes(100_000);
    drop(serial);
    // The getty that comes after it gets a new one.
    assigned(&mut desk.person, "Serial line 0");
    desk.person.enters("");
    desk.person.logs_in("root");
    assert!(!desk.person.runs("ps").contains("urandom"));
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
}

#[test]
fn a_line_takes_input_from_one_place_and_gives_output_to_another() {
    let Some(command) = linux(&["con=null", "con0=null,fd:2", "con1=fd:0,fd:1", "ssl=none"]) else { return };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    // Both gettys share the screen; only one hears the keyboard.
    desk.person.sees("login: ");
    desk.person.logs_in("root");
    assert_eq!(desk.person.runs("tty"), "/dev/tty1");
    desk.person.runs("echo to-the-other > /dev/tty0");
    assert!(desk.person.seen().contains("to-the-other"));
    // Where nothing leads, all is taken and nothing comes.
    assert_eq!(desk.person.runs("dd if=/dev/urandom of=/dev/tty3 bs=1000 count=1000 2>/dev/null"), "");
    assert!(desk.person.runs("timeout 1 cat < /dev/tty3; echo $?").contains("143"));
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
}

#[test]
fn kernel_messages_go_where_console_says() {
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", "ssl0=tty:/dev/null/none", "console=ttyS1", "console=tty0"])
    else {
        return;
    };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    desk.person.sees("console ttyS1 can't be opened");
    desk.person.sees("printk: console [tty0] enabled");
    desk.person.logs_in("root");
    assert!(desk.person.runs("cat /proc/cmdline").ends_with("console=ttyS1 console=tty0"));
    desk.person.enters("echo from-the-kernel > /dev/kmsg");
    desk.person.sees("from-the-kernel\r\n");
    desk.person.enters("echo to-the-console > /dev/console");
    desk.person.sees("to-the-console\r\n");
    assert!(desk.person.runs("echo x > /dev/ttyS0").contains("can't create"));
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
}

#[test]
fn two_machines_talk_over_a_serial_line() {
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", "ssl7=pts"]) else { return };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    desk.person.logs_in("root");
    desk.person.enters("sleep 100000 > /dev/ttyS7 &");
    let path = assigned(&mut desk.person, "Serial line 7");
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", &format!("ssl5=tty:{path}")]) else { return };
    let mut other_desk = Desk::new();
    let mut other = other_desk.start(&command);
    other_desk.person.logs_in("root");
    // A terminal program in the second machine: what is typed goes over the line, what comes back is shown.
    other_desk.person.enters("(stty raw -echo; cat) < /dev/ttyS5 & sleep 1; stty -echo; echo re\"\"ady; cat > /dev/ttyS5");
    other_desk.person.sees("ready");
    desk.person.enters("setsid getty 38400 ttyS7 vt100 &");
    other_desk.person.sees("login: ");
    other_desk.person.types("root\n");
    other_desk.person.sees("assword: ");
    other_desk.person.types("root\n");
    other_desk.person.sees("# ");
    other_desk.person.types("cat /proc/cmdline\n");
    other_desk.person.sees("ssl7=pts");
    drop((machine.0.kill(), other.0.kill()));
}

#[test]
fn debians_telnet_logs_in() {
    let Some(client) = program("telnet") else { return };
    let port = free_port();
    let Some(command) = linux(&["con=none", "con0=fd:0,fd:1", &format!("con1=port:{port}"), "ssl=none"]) else { return };
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    desk.person.logs_in("root");
    drop(telnet(port));
    let mut remote = Desk::new();
    remote.resize(33, 99);
    let mut client = remote.start(&[client.display().to_string(), "127.0.0.1".into(), port.to_string()]);
    remote.person.logs_in("root");
    assert_eq!(remote.person.runs("tty"), "/dev/tty1");
    remote.person.enters("until [ \"$(stty size)\" = '33 99' ]; do :; done; echo si\"\"zed");
    remote.person.sees("sized");
    remote.person.enters("(echo run\"\"ning; sleep 1000)");
    remote.person.sees("running");
    remote.person.types([3]);
    remote.person.sees("# ");
    assert_eq!(remote.person.runs("printf 'gr\\303\\274n\\n'"), "grün");
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
    remote.person.sees("closed by foreign host");
    client.ends();
}
