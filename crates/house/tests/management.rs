//! The management console of a machine that runs: its files on the host, and every command, in the reference's words.
#![forbid(unsafe_code)]

use house::machine::Programs;
use house::managed::{LIMIT, Managed, scratch, shell_archive};
use mconsole::packet::Notification;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

fn boot(arguments: &[&str]) -> Option<Managed> {
    Managed::boot(programs(), arguments, &[])
}

fn ok(text: &str) -> (i32, String) {
    (0, text.to_owned())
}

fn refused(err: i32, text: &str) -> (i32, String) {
    (err, text.to_owned())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_machine_has_a_directory_for_its_owner_alone_and_takes_it_away() {
    let Some(mut machine) = boot(&[]) else { return };
    let directory = machine.directory().join("m");
    assert_eq!(std::fs::read_to_string(directory.join("pid")).unwrap(), format!("{}\n", machine.pid()));
    assert_eq!([mode(&directory), mode(&directory.join("pid")), mode(&machine.socket())], [0o700, 0o600, 0o600]);
    assert!(!machine.shell("cat /proc/cmdline").contains("umid="), "umid= is the host's affair");
    assert_eq!(machine.told("halt"), ok(""));
    assert_eq!(machine.end().code(), Some(0));
    assert!(!directory.exists(), "a machine that was halted leaves nothing");
}

#[test]
fn a_panic_and_a_signal_leave_nothing_behind_either() {
    let Some(mut machine) = boot(&[]) else { return };
    let directory = machine.directory().join("m");
    machine.type_line("exit 3");
    assert_eq!(machine.end().signal(), Some(6), "{}", machine.text());
    assert!(!directory.exists());
}

#[test]
fn names_in_use_are_refused_and_stale_ones_taken_over() {
    let Some(machine) = boot(&[]) else { return };
    let base = machine.directory().to_owned();
    let Some(archive) = shell_archive(&[]) else { return };
    let other = scratch();
    let initrd = other.join("shell.cpio");
    std::fs::write(&initrd, archive).unwrap();
    let start = |loglevel: &str| {
        let mut command = Command::new(&programs().linux);
        command.args([&format!("initrd={}", initrd.display()), &format!("uml_dir={}", base.display())]);
        command.args(["umid=m", "mem=64M", loglevel]);
        let place = scratch();
        let mut started = Managed::start(command, place, "m");
        started.wait_for("SHELL-IS-READY");
        started
    };
    let second = start("loglevel=7");
    let text = second.text();
    assert!(text.contains(&format!("umid \"m\" is already in use by pid {}", machine.pid())), "{text}");
    assert!(text.contains("Failed to initialize umid \"m\", trying with a random umid"), "{text}");
    assert!(text.contains(&format!("mconsole (version 2) initialized on {}/", base.display())), "{text}");
    drop(second);
    // Killed machines leave their directories: the one with a random name is swept up, the named one taken over.
    let pid = machine.pid();
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    let until = Instant::now() + LIMIT;
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    // Still a zombie of ours, which has its number: only when it was waited for it is nobody's.
    let socket = machine.socket();
    assert!(socket.exists());
    let pid_file = socket.with_file_name("pid");
    std::fs::write(&pid_file, "999999999\n").unwrap();
    let third = start("quiet");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", third.pid()));
    drop(third);
    let _ = std::fs::remove_dir_all(other);
}

#[test]
fn questions_are_answered_in_the_references_words() {
    let Some(mut machine) = boot(&["loglevel=7"]) else { return };
    let (err, version) = machine.told("version");
    assert!(err == 0 && version.starts_with("Linux (none) 6.") && version.ends_with(" x86_64"), "{version}");
    assert_eq!(machine.told("versionxyz").0, 0, "commands match by their beginning");
    assert!(machine.told("help").1.starts_with("Commands: \n    version - Get kernel version \n"));
    assert_eq!(machine.told("bogus"), refused(1, "Unknown command"));
    assert_eq!(machine.told("go"), refused(1, "Not stopped"));
    assert_eq!(machine.told("stack"), refused(1, "Please specify a pid"));
    assert_eq!(machine.told("stack 99999"), refused(1, "Couldn't find that pid"));
    assert_eq!(machine.told("config"), refused(1, "Bad configuration option"));
    assert_eq!(machine.told("config bogus0"), refused(1, "Bad configuration option"));
    assert_eq!(machine.told("config bogus0=x"), refused(1, "Bad configuration option"));
    assert_eq!(machine.told("remove bogus"), refused(1, "Bad remove option"));
    assert_eq!(machine.told("config mem"), ok(&(128 << 20).to_string()));
    assert_eq!(machine.told("config mem=16M"), refused(1, "Expected increment to start with '-' or '+'"));
    assert_eq!(machine.told("config mem16M="), refused(1, "Expected '=' after 'mem'"));
    assert_eq!(machine.told("config mem=-lots"), refused(1, "Failed to parse memory increment"));
    assert_eq!(machine.told("remove mem"), refused(-16, "Memory doesn't support the remove operation"));
    // /proc, with a newline before and an empty packet behind.
    let (err, text) = machine.told("proc version");
    assert!(err == 0 && text.starts_with("\nLinux version 6."), "{text:?}");
    assert_eq!(machine.told("proc /version").1, text);
    assert!(machine.told("proc 1/status").1.contains("\nPid:\t1\n"));
    assert_eq!(machine.told("proc nosuch"), refused(1, "Failed to open file"));
    machine.wait_for("open /proc/nosuch: -2");
    // Longer than one packet, in order.
    let (_, long) = machine.told("proc kallsyms");
    assert!(long.is_empty() || long == "Failed to open file" || long.starts_with('\n'));
    assert_eq!(machine.told("log hello from the host"), ok(""));
    machine.wait_for("hello from the host");
    assert!(machine.shell("dmesg | grep -c 'hello from the host'").contains('1'));
}

#[test]
fn wrong_datagrams_get_the_references_errors_and_do_no_harm() {
    let Some(machine) = boot(&[]) else { return };
    let words = |values: &[u32]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
    machine.send(b"version").unwrap();
    assert_eq!(machine.receive().unwrap(), b"ERR Version 0 mconsole clients are not supported by this driver");
    machine.send(&[words(&[0xcafe_babe, 1, 4]), b"halt".to_vec()].concat()).unwrap();
    assert_eq!(machine.receive().unwrap()[12..], *b"This driver only supports version 2 clients\0");
    machine.send(&[words(&[0xcafe_babe, 2, 512]), vec![b'x'; 600]].concat()).unwrap();
    assert_eq!(machine.receive().unwrap()[12..], *b"Request too large\0");
    machine.send(&words(&[0xcafe_babe, 2])).unwrap();
    // Half a header is not answered, and the next request is.
    assert_eq!(machine.told("version").0, 0);
    // Nobody can be told, and nobody is.
    UnixDatagram::unbound().unwrap().send_to(&mconsole::packet::request(b"bogus").unwrap(), machine.socket()).unwrap();
    assert_eq!(machine.told("version").0, 0);
}

#[test]
fn sysrq_keys_answer_with_what_they_print() {
    let Some(mut machine) = boot(&[]) else { return };
    let help = machine.told("sysrq h");
    assert!(help.1.starts_with("sysrq: HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e)"), "{help:?}");
    assert_eq!(machine.told("sysrq"), help);
    assert_eq!(machine.told("sysrq s"), ok("sysrq: Emergency Sync\nEmergency Sync complete\n"));
    assert!(machine.told("sysrq m").1.contains("32768 pages RAM\n"));
    machine.shell("sleep 1000 & cat /dev/zero > /dev/null &");
    let wanted = ["sysrq: Show State\n", "task:sh ", "task:sleep ", "task:cat ", "pid:1 ", "nanosleep+0x0/0x0"];
    let until = Instant::now() + LIMIT;
    loop {
        let states = machine.told("sysrq t").1;
        let missing = wanted.iter().find(|wanted| !states.contains(**wanted));
        let Some(missing) = missing else { break };
        assert!(Instant::now() < until, "{missing:?} in:\n{states}");
    }
    let stack = machine.told("stack 1").1;
    for wanted in ["Stack:\n", "Call Trace:\n", "/bin/busybox+0x"] {
        assert!(stack.contains(wanted), "{wanted:?} in:\n{stack}");
    }
    assert_eq!(machine.told("sysrq 4"), ok("sysrq: Changing Loglevel\nLoglevel set to 4\n"));
    // The same keys from inside.
    assert!(machine.shell("echo m > /proc/sysrq-trigger; dmesg | tail -20").contains("sysrq: Show Memory"));
    // Everything but init. What a shell that reads its commands from a console makes of its children's death is its own affair.
    assert!(machine.told("sysrq i").1.starts_with("sysrq: Kill All Tasks\n"));
}

#[test]
fn a_stopped_machine_stands_still_and_goes_on_where_it_was() {
    let Some(mut machine) = boot(&["ncpus=2"]) else { return };
    machine.type_line("i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done &");
    machine.type_line("while true; do read a < /tmp/count; read b < /proc/uptime; done &");
    machine.shell("sleep 0.1");
    let uptime = |machine: &Managed| machine.told("proc uptime").1.trim().split(' ').next().unwrap_or_default().to_owned();
    let cpu_used = |machine: &Managed| {
        // Of the machine's process and those of its guest's programs.
        let of = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
            let parent = fields.get(1).map(|field| (*field).to_owned()).unwrap_or_default();
            let ticks = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum::<u64>();
            (parent, ticks)
        };
        let own = machine.pid().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let all: Vec<(String, (String, u64))> =
            entries.filter(|name| name.parse::<u32>().is_ok()).map(|pid| (pid.clone(), of(&pid))).collect();
        let mut family = vec![own.clone()];
        let mut at = 0;
        while let Some(parent) = family.get(at).cloned() {
            family.extend(all.iter().filter(|(_, (of, _))| *of == parent).map(|(pid, _)| pid.clone()));
            at += 1;
        }
        all.iter().filter(|(pid, _)| family.contains(pid)).map(|(_, (_, ticks))| ticks).sum::<u64>()
    };
    for round in 0..3 {
        assert_eq!(machine.told("stop"), ok("stopped"));
        assert_eq!(machine.told("stop"), refused(1, "Already stopped"));
        let (before, used) = (uptime(&machine), cpu_used(&machine));
        std::thread::sleep(Duration::from_millis(300));
        // Questions are still answered.
        assert!(machine.told("version").1.starts_with("Linux"));
        assert_eq!(machine.told("sysrq s").1, "sysrq: Emergency Sync\nEmergency Sync complete\n");
        assert_eq!(uptime(&machine), before, "the clock stands still");
        let later = cpu_used(&machine);
        assert!(later <= used + 3, "round {round}: a stopped machine used {} ticks of processor time", later - used);
        assert_eq!(machine.told("go"), ok(""));
        assert_eq!(machine.told("go"), refused(1, "Not stopped"));
        let counted = machine.shell("cat /tmp/count");
        let until = Instant::now() + LIMIT;
        while machine.shell("cat /tmp/count") == counted {
            assert!(Instant::now() < until, "it does not go on");
        }
    }
    // A stopped machine can be halted.
    assert_eq!(machine.told("stop").0, 0);
    assert_eq!(machine.told("halt"), ok(""));
    assert_eq!(machine.end().code(), Some(0));
}

#[test]
fn time_stands_still_for_programs_while_the_machine_is_stopped() {
    let Some(mut machine) = boot(&[]) else { return };
    // busybox's sleep waits on the monotonic clock: a pause of a second makes it a second later by the host's clock, not earlier.
    machine.type_line("sleep 2; echo SLEPT");
    let begun = Instant::now();
    assert_eq!(machine.told("stop").0, 0);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(machine.told("go").0, 0);
    machine.wait_for("SLEPT");
    assert!(begun.elapsed() >= Duration::from_millis(4000), "it woke after {:?}", begun.elapsed());
    // The real-time clock has caught up.
    let guest: u64 = machine.shell("date +%s").trim().parse().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(host.abs_diff(guest) <= 5, "{guest} {host}");
}

/// Host blocks of the machine's memory file.
fn memory_blocks(machine: &Managed) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap();
    let file = entries.flatten().find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("vm_file")));
    std::fs::metadata(file.expect("the memory file is open").path()).unwrap().blocks() * 512
}

#[test]
fn memory_is_given_back_to_the_host_and_taken_again() {
    let Some(mut machine) = boot(&["mem=256M"]) else { return };
    let free = |machine: &mut Managed| -> u64 {
        let text = machine.shell("grep MemTotal /proc/meminfo");
        text.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    // All of it touched, and free again.
    machine.shell("dd if=/dev/zero of=/tmp/big bs=1M count=200; rm /tmp/big");
    let (before, total) = (memory_blocks(&machine), free(&mut machine));
    assert!(before > 190 << 20, "{before}");
    assert_eq!(machine.told("config mem=-64M"), ok(""));
    assert_eq!(machine.told("config mem"), ok(&(192 << 20).to_string()));
    let after = memory_blocks(&machine);
    assert!(before - after >= 60 << 20, "{before} bytes of host memory became {after}");
    assert_eq!(total - free(&mut machine), 64 << 10);
    assert_eq!(machine.told("config mem=+64M"), ok(""));
    assert_eq!(machine.told("config mem"), ok(&(256 << 20).to_string()));
    assert_eq!(machine.told("config mem=+64M"), ok(""), "only what was taken comes back");
    assert_eq!(machine.told("config mem"), ok(&(256 << 20).to_string()));
    // It can be used.
    let sums = machine.shell("dd if=/dev/urandom of=/tmp/a bs=1M count=110; cp /tmp/a /tmp/b; cmp /tmp/a /tmp/b && echo SAME");
    assert!(sums.contains("SAME"), "{sums}");
    // More than there is: what is free goes, and the machine lives.
    machine.shell("rm /tmp/a /tmp/b");
    assert_eq!(machine.told("config mem=-1G"), ok(""));
    let left: u64 = machine.told("config mem").1.parse().unwrap();
    assert!(left < 128 << 20, "{left}");
    assert_eq!(machine.told("config mem=+1G"), ok(""));
    assert!(machine.shell("echo alive").contains("alive"));
}

#[test]
fn listeners_hear_of_the_start_of_messages_and_of_a_panic() {
    let place = scratch();
    let path = place.join("listener");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(LIMIT)).unwrap();
    let Some(mut machine) = boot(&[&format!("mconsole=notify:{}", path.display())]) else { return };
    let hear = || {
        let mut buffer = [0; 600];
        let len = listener.recv(&mut buffer).unwrap();
        let (kind, data) = Notification::parse(&buffer[..len]).unwrap();
        (kind, String::from_utf8_lossy(data).into_owned())
    };
    assert_eq!(hear(), (Notification::Socket, format!("{}\0", machine.socket().display())));
    assert!(machine.shell("ls -l /proc/mconsole").contains("--w-------"));
    machine.shell("echo from inside > /proc/mconsole");
    assert_eq!(hear(), (Notification::User, "from inside\n".to_owned()));
    machine.shell("head -c 2000 /dev/zero > /proc/mconsole");
    assert_eq!(hear().1.len(), 512);
    machine.type_line("echo c > /proc/sysrq-trigger");
    assert_eq!(hear(), (Notification::Panic, "Kernel panic - not syncing: sysrq triggered crash\0".to_owned()));
    assert_eq!(machine.end().signal(), Some(6));
    let _ = std::fs::remove_dir_all(place);
}

#[test]
fn a_missing_listener_and_an_unknown_option_are_told_in_the_log() {
    let Some(mut machine) = boot(&["mconsole=notify:/no/such/listener", "loglevel=7"]) else { return };
    assert!(machine.text().contains("mconsole_notify - sendto failed, errno = 2"), "{}", machine.text());
    assert_eq!(machine.told("halt").0, 0);
    machine.end();
    let Some(machine) = boot(&["mconsole=shout", "umid=other", "uml_dir=", "loglevel=8"]) else { return };
    for wanted in ["mconsole_setup : Unknown option - 'shout'", "umid already set", "uml_dir can't be an empty string"] {
        assert!(machine.text().contains(wanted), "{wanted}:\n{}", machine.text());
    }
    assert_eq!(machine.told("version").0, 0);
}

#[test]
fn ctrl_alt_del_restarts_unless_init_wants_to_hear_of_it() {
    let Some(mut machine) = boot(&["noreboot"]) else { return };
    machine.type_line("trap 'echo CAUGHT' INT");
    assert_eq!(machine.told("cad"), ok(""));
    assert_eq!(machine.end().code(), Some(0), "a restart, which noreboot makes an end");
}

#[test]
fn reboot_starts_anew_under_the_same_name() {
    let Some(mut machine) = boot(&[]) else { return };
    machine.shell("touch /tmp/mark");
    assert_eq!(machine.told("reboot"), ok(""));
    machine.wait_for("SHELL-IS-READY");
    assert!(!machine.shell("ls /tmp").contains("mark"), "what was in memory is gone");
    assert_eq!(std::fs::read_to_string(machine.socket().with_file_name("pid")).unwrap(), format!("{}\n", machine.pid()));
    assert_eq!(machine.told("halt").0, 0);
    assert_eq!(machine.end().code(), Some(0));
}

#[test]
fn debians_client_and_ours_talk_to_the_machine() {
    let Some(machine) = boot(&[]) else { return };
    let socket = machine.socket();
    if Command::new("uml_mconsole").output().is_err() {
        println!("skipped: uml_mconsole of uml-utilities is not installed");
        return;
    }
    let client = |command: &[&str]| {
        let output = Command::new("uml_mconsole").arg(&socket).args(command).env("HOME", "/nonexistent").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(client(&["version"]).1.starts_with("OK Linux (none) 6."));
    assert_eq!(client(&["stop"]), (Some(0), "OK stopped\n".into()));
    assert_eq!(client(&["stop"]).0, Some(1));
    assert_eq!(client(&["go"]), (Some(0), "OK \n".into()));
    assert_eq!(client(&["config", "mem"]), (Some(0), format!("OK {}\n", 128 << 20)));
    assert_eq!(client(&["remove", "mem"]), (Some(240), "ERR Memory doesn't support the remove operation\n".into()));
    assert_eq!(client(&["bogus"]), (Some(1), "ERR Unknown command\n".into()));
    assert!(client(&["proc", "cpuinfo"]).1.starts_with("OK \nprocessor\t: 0\n"));
    assert_eq!(client(&["halt"]), (Some(0), "OK \n".into()));
}

#[test]
fn a_start_without_a_home_directory_and_one_without_a_place_to_write() {
    let Some(archive) = shell_archive(&[]) else { return };
    let place = scratch();
    let initrd = place.join("shell.cpio");
    std::fs::write(&initrd, archive).unwrap();
    let start = |name: &str, change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(&programs().linux);
        command.args([&format!("initrd={}", initrd.display()), "mem=64M", "umid=m", "loglevel=7"]);
        change(&mut command);
        let mut machine = Managed::start(command, scratch(), name);
        machine.wait_for("SHELL-IS-READY");
        machine.text()
    };
    let text = start("m", &|command| {
        command.env_remove("HOME").env("TMPDIR", &place);
    });
    assert!(text.contains(&format!("mconsole (version 2) initialized on {}/uml/m/mconsole", place.display())), "{text}");
    assert!(text.contains("no value in environment for $HOME"), "{text}");
    let text = start("m", &|command| {
        command.arg("uml_dir=/proc/nowhere");
    });
    assert!(text.contains("Failed to mkdir '/proc/nowhere'") && !text.contains("mconsole (version"), "{text}");
    let _ = std::fs::remove_dir_all(place);
}
