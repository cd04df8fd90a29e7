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
    assert!(desk.person.runs("dmesg | grep -c from-the-kernel").ends_with('1'));
    assert!(desk.person.runs("cat /proc/consoles").contains("tty0                 -W- (EC p  )    4:0"));
    assert!(desk.person.runs("cat /proc/tty/drivers").contains("UML serial line      /dev/ttyS       4 64-127 serial"));
    assert_eq!(desk.person.runs("head -c 100 /dev/hwrng | wc -c"), "100");
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

/// An X server without a screen, and the display's name. Its picture is a file in `pictures`.
fn display(pictures: &std::path::Path) -> Option<(people::Running, String)> {
    use std::io::BufRead;
    let server = program("Xvfb")?;
    program("xterm")?;
    let mut xvfb = std::process::Command::new(server);
    xvfb.args(["-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-fbdir"]).arg(pictures);
    let mut server = people::Running(xvfb.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap());
    let mut number = String::new();
    std::io::BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut number).unwrap();
    Some((server, format!(":{}", number.trim())))
}

/// Processes of the host that were started by `parent` and are called `name`.
fn children(parent: u32, name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((start, rest)) = stat.rsplit_once(')') else { continue };
        let state_and_parent: Vec<&str> = rest.split_whitespace().take(2).collect();
        if start.ends_with(&format!("({name}"))
            && state_and_parent.get(1) == Some(&parent.to_string().as_str())
            && state_and_parent[0] != "Z"
        {
            found.extend(start.split(' ').next().and_then(|pid| pid.parse::<i32>().ok()));
        }
    }
    found
}

#[test]
fn an_xterm_is_a_console_with_a_size_until_it_is_closed() {
    let pictures = house::repository().join(format!("target/guest-tests/xterm-{}", std::process::id()));
    std::fs::create_dir_all(&pictures).unwrap();
    let Some((_server, display)) = display(&pictures) else { return };
    // Programs may resize the window, which xterm does not let them by itself.
    let resources = pictures.join("resources");
    std::fs::write(&resources, "xterm*allowWindowOps: true\n").unwrap();
    let Some(linux) = linux(&["con=none", "con0=fd:0,fd:1", "ssl=none", "ssl2=xterm", "umid=windows"]) else { return };
    let mut command = vec!["env".to_owned(), format!("DISPLAY={display}"), format!("XENVIRONMENT={}", resources.display())];
    command.extend(linux);
    let mut desk = Desk::new();
    let mut machine = desk.start(&command);
    desk.person.logs_in("root");
    assert_eq!(children(machine.0.id(), "xterm"), [], "no window before somebody opens the line");
    // A session of its own in the window, which answers questions as only a terminal emulator does.
    desk.person.enters("setsid sh -c 'exec <>/dev/ttyS2 >&0 2>&1; stty raw -echo; printf \"\\033[6n\"; head -c 6 > /tmp/answer; printf \"\\033[8;30;100t\"; while sleep 1; do date; done' &");
    desk.person.enters("until grep -q R /tmp/answer 2>/dev/null; do sleep 1; done; hexdump -C /tmp/answer | cut -c 11-28");
    desk.person.sees("1b 5b 31 3b 31 52");
    desk.person.enters("until [ \"$(stty size < /dev/ttyS2)\" = '30 100' ]; do sleep 1; done; echo si\"\"zed");
    desk.person.sees("sized");
    let windows = children(machine.0.id(), "xterm");
    assert_eq!(windows.len(), 1);
    let title = std::fs::read_to_string(format!("/proc/{}/cmdline", windows[0])).unwrap();
    assert!(title.contains("Serial Line #2 (windows)"), "{title}");
    // The picture of the screen is kept: a header, and something on it.
    let picture = std::fs::read(pictures.join("Xvfb_screen0")).unwrap();
    std::fs::write(house::repository().join("target/guest-tests/xterm.xwd"), &picture).unwrap();
    let pixels: std::collections::BTreeSet<&[u8]> = picture.chunks_exact(4).skip(4000).collect();
    assert!(pixels.len() > 1, "nothing on the screen");
    // Closed by its user: the session in it is over, the machine is not.
    let pid = rustix::process::Pid::from_raw(windows[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    desk.person.enters("while ps | grep -v grep | grep -q 'sleep 1; do date'; do sleep 1; done; echo ov\"\"er");
    desk.person.sees("over");
    // Opened anew, it ends with the machine.
    desk.person.enters("sleep 100000 > /dev/ttyS2 &");
    desk.person.enters("echo wi\"\"ndow");
    desk.person.sees("window");
    let until = Instant::now() + people::PATIENCE;
    while children(machine.0.id(), "xterm").is_empty() {
        assert!(Instant::now() < until, "no second window");
        std::thread::sleep(Duration::from_millis(20));
    }
    let windows = children(machine.0.id(), "xterm");
    desk.person.enters("poweroff");
    assert!(machine.ends().success());
    while windows.iter().any(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains("(xterm) S"))) {
        assert!(Instant::now() < until, "the window outlives the machine");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = std::fs::remove_dir_all(pictures);
}
