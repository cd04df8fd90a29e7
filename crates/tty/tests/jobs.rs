//! Job control: who may do what with a terminal, on this host and in the library, case by case.
//!
//! Three processes play a case. The test holds the master. The *leader*, started as another run of this program, leads a session that the
//! slave controls. The *actor*, started by the leader, is in the position that the case names and does the one thing that it names. The
//! leader reports how that went.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use abi::Signal;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpgrp, waitpid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, QueueSelector, Winsize};
use signal_hook::iterator::Signals;
use tty::job::{Access, Caller, Control, Decision, Target};

const DIRECTORY: &str = "UMLAUT_TTY_JOBS";
const CASE: &str = "UMLAUT_TTY_CASE";

const POSITIONS: [&str; 6] = ["foreground", "background", "shunning", "orphaned", "elsewhere", "elsewhere-leading"];
const ACTIONS: [&str; 12] = [
    "read",
    "write",
    "write-tostop",
    "set-settings",
    "get-settings",
    "flush",
    "break",
    "set-size",
    "get-foreground",
    "set-foreground",
    "get-session",
    "acquire",
];

/// The leader and the actor's group in the library's cases.
const LEADER: i32 = 100;
const ACTOR: i32 = 200;

/// The leader of a session that has no terminal yet.
fn fresh_leader() -> Caller {
    Caller {
        session: LEADER,
        group: LEADER,
        is_session_leader: true,
        controls_this: false,
        has_terminal: false,
        shuns_ttin: false,
        shuns_ttou: false,
        is_orphaned: true,
        is_admin: false,
    }
}

/// What the library says of a case.
fn decide(position: &str, action: &str) -> String {
    let mut control = Control::new();
    let in_session = !position.starts_with("elsewhere");
    let leads = position == "elsewhere-leading";
    let leader = fresh_leader();
    assert_eq!(control.acquire(&leader, false, true), Ok(None));
    let actor = Caller {
        session: if in_session { LEADER } else { ACTOR },
        group: if position == "foreground" { LEADER } else { ACTOR },
        is_session_leader: leads,
        controls_this: in_session,
        has_terminal: in_session,
        shuns_ttin: position == "shunning",
        shuns_ttou: position == "shunning",
        is_orphaned: !["background", "shunning"].contains(&position),
        is_admin: false,
    };
    let name = |result: Result<(), abi::Errno>| result.map_or_else(|errno| errno.to_string(), |()| "allowed".to_owned());
    let decision = match action {
        "read" => control.check(&actor, Access::Read),
        "write" => control.check(&actor, Access::Write { tostop: false }),
        "write-tostop" => control.check(&actor, Access::Write { tostop: true }),
        "set-settings" | "flush" | "break" => control.check(&actor, Access::Change),
        "set-foreground" => control.check_set_foreground(&actor),
        _ => Decision::Allow,
    };
    match decision {
        Decision::StopGroup(signal) => return format!("stopped by {}", signal.name()),
        Decision::Fail(errno) => return errno.to_string(),
        Decision::Allow => {}
    }
    name(match action {
        "get-foreground" => control.foreground_for(&actor).map(drop),
        "set-foreground" => control.set_foreground(&actor, actor.group, Some(actor.session)),
        "get-session" => control.session_for(&actor, false).map(drop),
        "acquire" => control.acquire(&actor, false, true).map(drop),
        _ => Ok(()),
    })
}

/// The actor's one thing.
fn act(slave: &OwnedFd, action: &str) -> Result<(), Errno> {
    match action {
        "read" => rustix::io::read(slave, &mut [0; 1]).map(drop),
        "write" | "write-tostop" => rustix::io::write(slave, b"x").map(drop),
        "set-settings" => rustix::termios::tcsetattr(slave, OptionalActions::Now, &rustix::termios::tcgetattr(slave)?),
        "get-settings" => rustix::termios::tcgetattr(slave).map(drop),
        "flush" => rustix::termios::tcflush(slave, QueueSelector::IFlush),
        "break" => rustix::termios::tcsendbreak(slave),
        "set-size" => rustix::termios::tcsetwinsize(slave, Winsize { ws_row: 5, ws_col: 5, ws_xpixel: 0, ws_ypixel: 0 }),
        "get-foreground" => rustix::termios::tcgetpgrp(slave).map(drop),
        "set-foreground" => rustix::termios::tcsetpgrp(slave, getpgrp()),
        "get-session" => rustix::termios::tcgetsid(slave).map(drop),
        "acquire" => rustix::process::ioctl_tiocsctty(slave),
        _ => panic!("no such action: {action}"),
    }
}

fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

fn open_slave(directory: &Path) -> OwnedFd {
    let name = fs::read_to_string(directory.join("slave")).expect("the slave's name");
    rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).expect("the slave")
}

fn again(test: &str, directory: &Path, case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--exact", test, "--ignored"]).env(DIRECTORY, directory).env(CASE, case);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs `command` by way of a shell: `prepare` comes first, `after` last.
fn through_shell(command: &Command, prepare: &str, after: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{prepare} \"$0\" \"$@\" {after}")).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell
}

#[test]
#[ignore = "not a test: the process that acts in a case"]
fn the_actor_acts() {
    let Some(directory) = directory() else { return };
    let case = std::env::var(CASE).expect("a case");
    let (position, action) = case.split_once(' ').expect("a position and an action");
    if position == "elsewhere-leading" {
        rustix::process::setsid().expect("a session");
    }
    if position == "orphaned" {
        let started = Instant::now();
        // The shell leads the group, and is our parent until it exits.
        while rustix::process::getppid() == Some(getpgrp()) {
            assert!(started.elapsed() < Duration::from_secs(5), "still a parent in the session");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let slave = open_slave(&directory);
    let result = match act(&slave, action) {
        Ok(()) | Err(Errno::AGAIN) => "allowed",
        Err(error) => abi::Errno::from_raw(error.raw_os_error()).map_or("E?", abi::Errno::name),
    };
    fs::write(directory.join("result.new"), result).expect("a result");
    fs::rename(directory.join("result.new"), directory.join("result")).expect("a result");
}

#[test]
#[ignore = "not a test: the leader of the session in a case"]
fn the_leader_plays_the_cases() {
    let Some(directory) = directory() else { return };
    rustix::process::setsid().expect("a session");
    let slave = open_slave(&directory);
    rustix::process::ioctl_tiocsctty(&slave).expect("a controlling terminal");
    let _ignored = Signals::new([Signal::SIGTTOU.number(), Signal::SIGTTIN.number()]).expect("handlers");
    let mut report = String::new();
    for position in POSITIONS {
        for action in ACTIONS {
            report += &format!("{position} {action}: {}\n", play(&directory, &slave, position, action));
        }
    }
    fs::write(directory.join("report"), report).expect("a report");
}

fn play(directory: &Path, slave: &OwnedFd, position: &str, action: &str) -> String {
    let _ = fs::remove_file(directory.join("result"));
    let mut settings = rustix::termios::tcgetattr(slave).expect("settings");
    settings.local_modes.set(LocalModes::TOSTOP, action == "write-tostop");
    rustix::termios::tcsetattr(slave, OptionalActions::Now, &settings).expect("settings");
    let plain = again("the_actor_acts", directory, &format!("{position} {action}"));
    let mut actor = match position {
        "shunning" => through_shell(&plain, "trap '' TTIN TTOU; exec", ""),
        "orphaned" => through_shell(&plain, "", "&"),
        "elsewhere" => through_shell(&plain, "exec setsid sh -c '\"$0\" \"$@\"; :'", ""),
        _ => plain,
    };
    if !["foreground", "elsewhere-leading"].contains(&position) {
        actor.process_group(0);
    }
    let mut child = actor.spawn().expect("the actor");
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    let started = Instant::now();
    let outcome = loop {
        if let Ok(result) = fs::read_to_string(directory.join("result")) {
            break result;
        }
        if let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::UNTRACED | WaitOptions::NOHANG)
            && let Some(signal) = status.stopping_signal()
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            break format!("stopped by {}", Signal::new(signal).map_or("?", Signal::name));
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{position} {action} hangs");
        thread::sleep(Duration::from_millis(1));
    };
    let _ = child.wait();
    // A new foreground group is gone by now; the leader takes the terminal back. It handles SIGTTOU by ignoring it, in effect: as an
    // orphaned group it would get EIO, so it asks from outside the rules, by taking the terminal anew.
    if rustix::termios::tcgetpgrp(slave) != Ok(getpgrp()) {
        take_back(slave);
    }
    outcome
}

/// Only a process of the foreground group, or one that ignores SIGTTOU, may set the foreground group: a shell does it for the leader.
fn take_back(slave: &OwnedFd) {
    let leader = getpgrp().as_raw_nonzero().to_string();
    let taker = again("the_taker_gives_the_terminal_back", &directory().expect("a directory"), &leader);
    let _ = through_shell(&taker, "trap '' TTOU; exec", "").status();
    assert_eq!(rustix::termios::tcgetpgrp(slave), Ok(getpgrp()), "the leader has the terminal");
}

#[test]
#[ignore = "not a test: the process that makes the leader's group the foreground again"]
fn the_taker_gives_the_terminal_back() {
    let Some(directory) = directory() else { return };
    let group: i32 = std::env::var(CASE).expect("a group").parse().expect("a group");
    rustix::termios::tcsetpgrp(open_slave(&directory), Pid::from_raw(group).expect("a group")).expect("the terminal changes hands");
}

/// A pair, with the slave's name in a fresh directory for the other processes.
fn stage(name: &str) -> Option<(OwnedFd, PathBuf)> {
    let Ok(master) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC) else {
        eprintln!("skipped: no ptys on this machine");
        return None;
    };
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let directory = std::env::temp_dir().join(format!("umlaut-tty-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("slave"), ptsname(&master, Vec::new()).expect("a name").to_bytes()).expect("a file");
    Some((master, directory))
}

#[test]
fn each_position_may_do_what_it_may_do_on_this_host() {
    let Some((master, directory)) = stage("jobs") else { return };
    let status = again("the_leader_plays_the_cases", &directory, "").status().expect("the leader");
    let report = fs::read_to_string(directory.join("report"));
    let _ = fs::remove_dir_all(&directory);
    drop(master);
    assert!(status.success(), "the leader failed: {status}");
    let linux = report.expect("a report");
    if std::env::var_os("UMLAUT_RECORD").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jobs.txt"), &linux).expect("the decisions are written");
    }
    compare(&linux);
}

#[test]
fn each_position_may_do_what_it_may_do_on_linux() {
    compare(include_str!("jobs.txt"));
}

/// Compares a host's report with the library.
fn compare(linux: &str) {
    let library = POSITIONS.iter().flat_map(|position| ACTIONS.iter().map(move |action| (position, action)));
    let library: Vec<String> = library.map(|(position, action)| format!("{position} {action}: {}", decide(position, action))).collect();
    assert_eq!(linux.lines().collect::<Vec<_>>(), library);
}

#[test]
#[ignore = "not a test: a process that writes down which signals it gets"]
fn the_watcher_watches() {
    let Some(directory) = directory() else { return };
    let name = std::env::var(CASE).expect("a name");
    let mut signals = Signals::new([Signal::SIGHUP.number(), Signal::SIGCONT.number()]).expect("handlers");
    let _slave = open_slave(&directory);
    fs::write(directory.join(format!("{name}.ready")), "").expect("a file");
    let started = Instant::now();
    let mut got = Vec::new();
    while started.elapsed() < Duration::from_secs(2) && !directory.join("over").exists() {
        got.extend(signals.pending().filter_map(Signal::new).map(Signal::name));
        thread::sleep(Duration::from_millis(5));
    }
    got.sort_unstable();
    fs::write(directory.join(format!("{name}.new")), got.join(" ")).expect("a file");
    fs::rename(directory.join(format!("{name}.new")), directory.join(format!("{name}.got"))).expect("a file");
}

#[test]
#[ignore = "not a test: a session leader that exits, or waits for the terminal to hang up first"]
#[expect(clippy::zombie_processes, reason = "the leader leaves before its children")]
fn the_leader_exits() {
    let Some(directory) = directory() else { return };
    rustix::process::setsid().expect("a session");
    let slave = open_slave(&directory);
    rustix::process::ioctl_tiocsctty(&slave).expect("a controlling terminal");
    let mut settings = rustix::termios::tcgetattr(&slave).expect("settings");
    settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings).expect("settings");
    let mut signals = Signals::new([Signal::SIGHUP.number(), Signal::SIGCONT.number()]).expect("handlers");
    for name in ["front", "back"] {
        let child = again("the_watcher_watches", &directory, name).process_group(0).spawn().expect("a watcher");
        wait_for(&directory.join(format!("{name}.ready")));
        if name == "front" {
            rustix::termios::tcsetpgrp(&slave, Pid::from_raw(child.id() as i32).expect("a group")).expect("a foreground group");
        }
    }
    if std::env::var(CASE).as_deref() == Ok("after-hangup") {
        fs::write(directory.join("hang-up"), "").expect("a file");
        let mut got: Vec<&str> = Vec::new();
        let started = Instant::now();
        while got.len() < 2 && started.elapsed() < Duration::from_secs(2) {
            got.extend(signals.pending().filter_map(Signal::new).map(Signal::name));
            thread::sleep(Duration::from_millis(1));
        }
        // Time for the foreground group to hear of the hangup, if it would.
        thread::sleep(Duration::from_millis(50));
        got.sort_unstable();
        fs::write(directory.join("leader.got"), got.join(" ")).expect("a file");
    }
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(10), "{} does not come", path.display());
        thread::sleep(Duration::from_millis(2));
    }
}

fn names(signals: &[(Target, Signal)], target: Target) -> String {
    let mut names: Vec<&str> = signals.iter().filter(|(to, _)| *to == target).map(|(_, signal)| signal.name()).collect();
    names.sort_unstable();
    names.join(" ")
}

/// A session with leader [`LEADER`] whose foreground group is [`ACTOR`].
fn session() -> Control {
    let mut control = Control::new();
    let mut leader = fresh_leader();
    assert_eq!(control.acquire(&leader, false, true), Ok(None));
    (leader.controls_this, leader.has_terminal) = (true, true);
    assert_eq!(control.set_foreground(&leader, ACTOR, Some(LEADER)), Ok(()));
    control
}

#[test]
fn when_the_session_leader_exits_the_foreground_group_hears_of_it_and_a_pty_stays_as_it_is() {
    let Some((master, directory)) = stage("exit") else { return };
    rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK).expect("a master that doesn't block");
    let mut leader = again("the_leader_exits", &directory, "").spawn().expect("the leader");
    assert!(leader.wait().expect("the leader").success());
    // The watchers still have it open.
    let read = rustix::io::read(&master, &mut [0; 10]);
    let settings = rustix::termios::tcgetattr(open_slave(&directory)).expect("settings");
    thread::sleep(Duration::from_millis(50));
    fs::write(directory.join("over"), "").expect("a file");
    let got = ["front", "back"].map(|name| {
        wait_for(&directory.join(format!("{name}.got")));
        fs::read_to_string(directory.join(format!("{name}.got"))).expect("signals")
    });
    let _ = fs::remove_dir_all(&directory);
    let mut control = session();
    let farewell = control.pty_leader_exits();
    assert_eq!((farewell.hang_up, control.session()), (false, None));
    assert_eq!(read.map_err(Errno::raw_os_error), Err(abi::Errno::EAGAIN.raw()));
    assert!(!settings.local_modes.contains(LocalModes::ECHO), "the settings stay");
    assert_eq!(got[0], names(&farewell.signals, Target::Group(ACTOR)), "the foreground group");
    assert_eq!(got[1], "", "the background group");
}

#[test]
fn when_the_session_leader_exits_a_terminal_that_is_no_pty_hangs_up() {
    let farewell = session().leader_exits();
    assert!(farewell.hang_up);
    assert_eq!(names(&farewell.signals, Target::Group(ACTOR)), "SIGHUP");
    assert_eq!(farewell.released_session, Some(LEADER));
}

#[test]
fn when_the_master_closes_the_leader_hears_of_it_and_the_foreground_group_when_the_leader_exits() {
    let Some((master, directory)) = stage("close") else { return };
    let mut leader = again("the_leader_exits", &directory, "after-hangup").spawn().expect("the leader");
    wait_for(&directory.join("hang-up"));
    drop(master);
    wait_for(&directory.join("leader.got"));
    assert!(leader.wait().expect("the leader").success());
    thread::sleep(Duration::from_millis(50));
    fs::write(directory.join("over"), "").expect("a file");
    wait_for(&directory.join("front.got"));
    wait_for(&directory.join("back.got"));
    let [leader_got, front, back] =
        ["leader", "front", "back"].map(|name| fs::read_to_string(directory.join(format!("{name}.got"))).expect("signals"));
    let _ = fs::remove_dir_all(&directory);
    let farewell = session().hang_up();
    assert_eq!(leader_got, names(&farewell.signals, Target::SessionLeader(LEADER)), "the leader");
    let later = tty::job::leader_exits_later(farewell.remembered_group);
    assert_eq!(front, names(&later, Target::Group(ACTOR)), "the foreground group");
    assert_eq!(back, "", "the background group");
}

/// A session leader in perl, for the ioctls that have no safe function. It prints a line for each thing that it does to the slave `$ARGV[0]`.
const PERL_LEADER: &str = r#"
    use Fcntl;
    $| = 1;
    my @got;
    $SIG{HUP} = sub { push @got, 'SIGHUP' };
    $SIG{CONT} = sub { push @got, 'SIGCONT' };
    sub owns { my $group = pack('i', 0); ioctl($_[0], 0x540f, $group) ? (unpack('i', $group) == getpgrp() ? 'mine' : 'not mine') : $! + 0 }
    sysopen(my $writer, $ARGV[0], O_WRONLY) or die; print 'open for writing: ', owns($writer), "\n";
    print 'acquire through it: ', (ioctl($writer, 0x540e, 0) ? 'ok' : $! + 0), "\n" if $>;
    sysopen(my $quiet, $ARGV[0], O_RDWR | O_NOCTTY) or die; print 'open with O_NOCTTY: ', owns($quiet), "\n";
    sysopen(my $slave, $ARGV[0], O_RDWR) or die; print 'open: ', owns($slave), "\n";
    print 'acquire again: ', (ioctl($slave, 0x540e, 0) ? 'ok' : $! + 0), "\n";
    print 'give up: ', (ioctl($slave, 0x5422, 0) ? 'ok' : $! + 0), "\n";
    print 'signals: ', join(' ', sort @got), "\n";
    print 'give up again: ', (ioctl($slave, 0x5422, 0) ? 'ok' : $! + 0), "\n";
    print 'write still: ', (syswrite($slave, 'x') // $! + 0), "\n";
"#;

#[test]
fn a_terminal_is_acquired_by_open_and_given_up_as_on_this_host() {
    let Some((master, directory)) = stage("give-up") else { return };
    let slave = fs::read_to_string(directory.join("slave")).expect("a name");
    let output = Command::new("setsid").args(["-w", "perl", "-e", PERL_LEADER, &slave]).stdin(Stdio::null()).output();
    let _ = fs::remove_dir_all(&directory);
    drop(master);
    let Ok(output) = output else { return };
    let linux = String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.contains("through it")).collect::<Vec<_>>().join("\n");

    let mut control = Control::new();
    let mut caller = fresh_leader();
    let owns = |control: &Control, caller: &Caller| match control.foreground_for(caller) {
        Ok(LEADER) => "mine".to_owned(),
        Ok(_) => "not mine".to_owned(),
        Err(errno) => errno.raw().to_string(),
    };
    let mut library = Vec::new();
    caller.controls_this = control.acquire_by_open(&caller, false);
    library.push(format!("open for writing: {}", owns(&control, &caller)));
    library.push(format!("open with O_NOCTTY: {}", owns(&control, &caller)));
    caller.controls_this = control.acquire_by_open(&caller, true);
    caller.has_terminal = caller.controls_this;
    library.push(format!("open: {}", owns(&control, &caller)));
    library.push(format!(
        "acquire again: {}",
        control.acquire(&caller, false, true).map_or_else(|errno| errno.raw().to_string(), |_| "ok".into())
    ));
    let farewell = control.release(&caller).expect("it is the caller's");
    (caller.controls_this, caller.has_terminal) = (false, false);
    assert_eq!((farewell.released_session, farewell.hang_up), (Some(LEADER), false));
    library.push("give up: ok".to_owned());
    library.push(format!("signals: {}", names(&farewell.signals, Target::Group(LEADER))));
    let again = control.release(&caller).map_or_else(|errno| errno.raw().to_string(), |_| "ok".to_owned());
    library.push(format!("give up again: {again}"));
    library.push("write still: 1".to_owned());
    assert_eq!(linux, library.join("\n"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn only_an_administrator_who_leads_a_session_without_a_terminal_steals_one() {
    let thief = Caller { session: ACTOR, group: ACTOR, is_admin: true, ..fresh_leader() };
    assert_eq!(session().acquire(&thief, false, true), Err(abi::Errno::EPERM));
    assert_eq!(session().acquire(&Caller { is_admin: false, ..thief }, true, true), Err(abi::Errno::EPERM));
    assert_eq!(session().acquire(&Caller { is_session_leader: false, ..thief }, true, true), Err(abi::Errno::EPERM));
    assert_eq!(session().acquire(&Caller { has_terminal: true, ..thief }, true, true), Err(abi::Errno::EPERM));
    let mut control = session();
    assert_eq!(control.acquire(&thief, true, true), Ok(Some(LEADER)));
    assert_eq!((control.session(), control.foreground()), (Some(ACTOR), Some(ACTOR)));
}

#[test]
fn the_foreground_group_is_set_within_the_session_only() {
    let mut caller = Caller { controls_this: true, has_terminal: true, ..fresh_leader() };
    let table = [
        (ACTOR, Some(LEADER), Ok(())),
        (ACTOR, Some(ACTOR), Err(abi::Errno::EPERM)),
        (ACTOR, None, Err(abi::Errno::ESRCH)),
        (-1, None, Err(abi::Errno::EINVAL)),
    ];
    for (group, group_session, expected) in table {
        assert_eq!(session().set_foreground(&caller, group, group_session), expected, "{group}");
    }
    caller.controls_this = false;
    assert_eq!(session().set_foreground(&caller, LEADER, Some(LEADER)), Err(abi::Errno::ENOTTY));
}
