//! A machine that is asked, stopped, changed and copied while it works: floods, storms, hot-plug, backups; and the front end's commands.
#![forbid(unsafe_code)]

use house::disk;
use house::machine::Programs;
use house::managed::{LIMIT, Managed, scratch};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

fn boot(arguments: &[&str]) -> Option<Managed> {
    Managed::boot(programs(), arguments, &[])
}

/// `few` as a rule, `many` where the tests are thorough.
fn scaled(few: u32, many: u32) -> u32 {
    if house::scale() == "full" { many } else { few }
}

fn umlaut(arguments: &[&str]) -> Output {
    Command::new(&programs().umlaut).args(arguments).env("HOME", "/nonexistent").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Descriptors and threads of the machine's process.
fn holdings(machine: &Managed) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", machine.pid())).unwrap().count();
    (count("fd"), count("task"))
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn a_flood_of_random_datagrams_does_no_harm() {
    let Some(mut machine) = boot(&[]) else { return };
    machine.type_line("(while true; do echo x > /tmp/f; cat /tmp/f > /dev/null; done) &");
    machine.shell("true");
    let before = holdings(&machine);
    let flooder = std::os::unix::net::UnixDatagram::unbound().unwrap();
    flooder.connect(machine.socket()).unwrap();
    flooder.set_write_timeout(Some(LIMIT)).unwrap();
    let words: [&[u8]; 8] = [b"version", b"help", b"proc ", b"config ", b"remove ", b"stack ", b"sysrq q", b"log "];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let until = Instant::now() + Duration::from_secs(u64::from(scaled(2, 60)));
    let mut sent = 0u32;
    while Instant::now() < until {
        let len = random.next() as usize % 700;
        let mut datagram: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        match random.next() % 4 {
            // Nothing right about it.
            0 => {}
            // The magic and then anything.
            1 => datagram.splice(..len.min(4), 0xcafe_babe_u32.to_ne_bytes()).for_each(drop),
            // A right header with a wrong or a right length, a command and rubbish behind it.
            shape => {
                let said = if shape == 2 { random.next() as u32 % 1024 } else { 512 - 12 };
                let header = [0xcafe_babe, 2, said].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect::<Vec<u8>>();
                datagram = [&header, words[random.next() as usize % words.len()], &datagram].concat();
            }
        }
        flooder.send(&datagram).unwrap();
        sent += 1;
    }
    assert!(machine.told("version").1.starts_with("Linux"), "after {sent} datagrams");
    assert!(machine.shell("echo alive").contains("alive"));
    assert_eq!(holdings(&machine).0, before.0, "descriptors before and after {sent} datagrams");
    println!("{sent} datagrams");
}

#[test]
fn a_storm_of_stops_loses_no_byte() {
    let Some(mut machine) = boot(&["ncpus=2"]) else { return };
    // Numbers through a pipe, counted on the other side.
    machine.type_line("(i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done | (n=0; while read a; do [ $a = $n ] || echo LOST $n; n=$((n+1)); done; echo COUNTED $n)) &");
    machine.type_line("(while true; do sleep 0.01; date > /tmp/now; done) &");
    let mut longest = Duration::ZERO;
    for _ in 0..scaled(60, 2000) {
        let begun = Instant::now();
        assert_eq!(machine.told("stop"), (0, "stopped".into()));
        longest = longest.max(begun.elapsed());
        assert_eq!(machine.told("go"), (0, String::new()));
    }
    let text = machine.wait_for("COUNTED 3000");
    assert!(!text.contains("LOST"), "{text}");
    println!("the longest stop took {longest:?}");
}

#[test]
fn devices_come_and_go_under_load() {
    let Some(mut machine) = boot(&[]) else { return };
    let image = machine.directory().join("b.img");
    std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    machine.type_line("(while true; do dd if=/dev/zero of=/tmp/f bs=64k count=20 2> /dev/null; cat /tmp/f > /dev/null; done) &");
    machine.shell("mount -t devtmpfs dev /dev 2> /dev/null");
    let ok = (0, String::new());
    let mut held = None;
    for round in 0..scaled(8, 1000) {
        assert_eq!(machine.told(&format!("config ubdb={}", image.display())), ok, "round {round}");
        assert_eq!(machine.told("config ubdb"), (0, image.display().to_string()));
        assert_eq!(machine.told(&format!("config ubdb={}", image.display())), (-16, "Device is already configured".into()));
        if round % 4 == 0 {
            assert!(machine.shell("cat /proc/partitions; dd if=/dev/ubdb of=/dev/null bs=1M count=1 2>&1").contains("ubdb"));
            // In use: refused, and still there.
            machine.shell("exec 7< /dev/ubdb");
            assert_eq!(machine.told("remove ubdb"), (-16, "Device is currently open".into()));
            machine.shell("exec 7<&-");
        }
        assert_eq!(machine.told("remove ubdb"), ok);
        assert_eq!(machine.told("remove ubdb"), (-19, "Device doesn't exist".into()));
        for line in ["con3", "ssl2"] {
            assert_eq!(machine.told(&format!("config {line}=null")), ok);
            assert_eq!(machine.told(&format!("config {line}")), (0, "null".into()));
            assert_eq!(machine.told(&format!("remove {line}")), ok);
            assert_eq!(machine.told(&format!("config {line}")), (0, "none".into()));
        }
        assert_eq!(machine.told("config mem=-16M"), ok);
        assert_eq!(machine.told("config mem=+16M"), ok);
        assert_eq!(machine.told("config mem"), (0, (128 << 20).to_string()));
        // The first round may make threads and files that stay.
        let now = holdings(&machine).0;
        assert_eq!(*held.get_or_insert(now), now, "descriptors after round {round}");
    }
    assert_eq!(machine.told("config ubdc=/nonexistent").0, -2);
    assert!(machine.shell("echo alive").contains("alive"));
}

/// The numbers of the records in a copy, which must be whole and without a gap.
fn records(text: &str) -> u32 {
    let mut next = 0;
    for line in text.lines() {
        let mut words = line.split(' ');
        let (number, sum) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let wanted = number.parse::<u32>().ok().map(|number| number.wrapping_mul(2_654_435_761) % 1_000_003);
        assert!(number == next.to_string() && wanted.map(|sum| sum.to_string()).as_deref() == Some(sum), "record {next} is {line:?}");
        next += 1;
    }
    next
}

#[test]
fn a_live_backup_is_clean_and_has_every_record_that_was_synced() {
    let Some(mut machine) = boot(&[]) else { return };
    let place = machine.directory().to_owned();
    let (backing, cow) = (place.join("backing.ext4"), place.join("disk.cow"));
    std::fs::File::create(&backing).unwrap().set_len(24 << 20).unwrap();
    let (made, said) = disk::host("mke2fs", &["-q", "-F", "-t", "ext4", &backing.to_string_lossy()]);
    if !made || disk::program("uml_moo").is_none() {
        println!("skipped: a backup needs mke2fs and uml_moo ({said})");
        return;
    }
    assert_eq!(machine.told(&format!("config ubda={},{}", cow.display(), backing.display())), (0, String::new()));
    machine.shell("mount -t devtmpfs dev /dev 2> /dev/null; mount -t ext4 /dev/ubda /mnt && echo MOUNTED");
    machine.type_line(
        "(i=0; while [ ! -e /tmp/enough ]; do echo $i $(((i*2654435761%4294967296)%1000003)); fsync /mnt/log; echo SYNCED $i >&2; i=$((i+1)); done >> /mnt/log) &",
    );
    let socket = machine.socket();
    let mut last = 0;
    for round in 0..scaled(2, 10) {
        machine.wait_for(&format!("SYNCED {}", last + 20));
        // What is synced by now must be in the copy.
        let text = machine.text();
        let synced = text.lines().filter_map(|line| line.strip_prefix("SYNCED ")?.parse::<u32>().ok()).max().unwrap_or(0);
        let copy = place.join(format!("copy{round}.cow"));
        let told = stdout(&umlaut(&["backup", "--json", &socket.to_string_lossy(), &copy.to_string_lossy()]));
        assert!(told.contains("\"data_bytes\":") && told.contains("\"stopped_ms\":"), "{told}");
        assert!(!place.join(format!("copy{round}.cow.part")).exists());
        let merged = place.join(format!("merged{round}"));
        let (done, said) = disk::host("uml_moo", &["-b", &backing.to_string_lossy(), &copy.to_string_lossy(), &merged.to_string_lossy()]);
        assert!(done, "{said}");
        let (clean, said) = disk::host("e2fsck", &["-fn", &merged.to_string_lossy()]);
        assert!(clean, "{said}");
        let (dumped, text) = disk::host("debugfs", &["-R", "cat /log", &merged.to_string_lossy()]);
        assert!(dumped, "{text}");
        let whole: String = text.lines().filter(|line| !line.starts_with("debugfs ")).map(|line| format!("{line}\n")).collect();
        let found = records(&whole);
        assert!(found > synced, "{found} records in the copy, {synced} was synced");
        last = found;
    }
    // It went on without a gap.
    machine.wait_for(&format!("SYNCED {}", last + 20));
    machine.shell("touch /tmp/enough; wait");
    let text = machine.shell("cat /mnt/log");
    let whole: String = text
        .lines()
        .filter(|line| line.split(' ').all(|word| word.parse::<u32>().is_ok()) && line.contains(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(records(&whole) > last);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_front_end_lists_asks_changes_and_ends_machines() {
    let Some(mut machine) = boot(&["loglevel=8"]) else { return };
    let place = machine.directory().to_string_lossy().into_owned();
    let socket = machine.socket().to_string_lossy().into_owned();
    let list = stdout(&umlaut(&["ps", "--uml-dir", &place]));
    assert!(list.lines().any(|line| line.starts_with("m ") && line.contains(" running ")), "{list}");
    let json = stdout(&umlaut(&["ps", "--json", "--uml-dir", &place]));
    assert_eq!(json, format!("[{{\"name\":\"m\",\"pid\":{},\"running\":true,\"mconsole\":\"{socket}\"}}]\n", machine.pid()));
    assert_eq!(stdout(&umlaut(&["config", &socket, "mem"])), format!("{}\n", 128 << 20));
    assert_eq!(stdout(&umlaut(&["config", "--json", &socket, "mem"])), format!("{{\"device\":\"mem\",\"config\":\"{}\"}}\n", 128 << 20));
    assert_eq!(stdout(&umlaut(&["config", &socket, "mem=-16M"])), "");
    assert_eq!(stdout(&umlaut(&["config", &socket, "mem"])), format!("{}\n", 112 << 20));
    let refused = umlaut(&["config", "--remove", &socket, "mem"]);
    assert_eq!(
        (refused.status.code(), String::from_utf8_lossy(&refused.stderr).into_owned()),
        (Some(1), "umlaut: Memory doesn't support the remove operation\n".into())
    );
    machine.shell("echo hello from inside > /dev/kmsg; sleep 1000 &");
    assert!(stdout(&umlaut(&["log", &socket])).contains("] Run /init as init process\n"));
    assert!(stdout(&umlaut(&["log", &socket])).contains("hello from inside"));
    wait_until("top shows the processes", || {
        let top = stdout(&umlaut(&["top", "-n", "1", &socket]));
        top.contains("2 processes") && top.contains(" sleep\n") && top.contains("%CPU")
    });
    let missing = umlaut(&["stop", "nosuchmachine"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no machine called nosuchmachine"));
    assert_eq!(stdout(&umlaut(&["stop", &socket])), "");
    assert_eq!(machine.end().code(), Some(0), "{}", machine.text());
    assert!(!Path::new(&socket).exists());
}

#[test]
fn a_command_in_a_machine_with_a_name_is_found_and_one_without_leaves_nothing() {
    let home = scratch();
    let start = |words: &[&str]| {
        let mut command = Command::new(&programs().umlaut);
        command.args(["run", "--mem", "256M"]).args(words).args(["--", "sh", "-c", "echo UP; sleep 1000"]).env("HOME", &home);
        let mut machine = Managed::start(command, scratch(), "x");
        machine.wait_for("UP");
        machine
    };
    let unnamed = start(&[]);
    assert!(std::fs::read_dir(&home).unwrap().next().is_none(), "a machine without a name has nothing on the host");
    drop(unnamed);
    let mut named = start(&["--name", "box"]);
    let ask = |arguments: &[&str]| Command::new(&programs().umlaut).args(arguments).env("HOME", &home).output().unwrap();
    assert!(stdout(&ask(&["ps"])).contains("box "));
    assert!(stdout(&ask(&["top", "-n", "1", "box"])).contains("sleep"));
    stdout(&ask(&["stop", "--now", "box"]));
    named.end();
    wait_until("the machine's directory is left", || !home.join(".uml").exists());
    let _ = std::fs::remove_dir_all(home);
}

#[test]
fn a_machine_that_is_told_to_end_by_a_signal_cleans_up() {
    for signal in ["-TERM", "-INT"] {
        let Some(mut machine) = boot(&[]) else { return };
        Command::new("kill").args([signal, &machine.pid().to_string()]).status().unwrap();
        assert_eq!(machine.end().code(), Some(1), "{signal}");
        assert!(!machine.socket().parent().unwrap().exists());
    }
}
