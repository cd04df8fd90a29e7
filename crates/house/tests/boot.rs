//! The program as its user meets it: command lines, what is printed, exit statuses, standard streams, and what is left behind.
#![forbid(unsafe_code)]

use house::machine::{Archive, Programs, compile};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// An initramfs whose first process tells what it was given.
fn initrd() -> &'static PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let place = house::repository().join("target/guest-tests");
        std::fs::create_dir_all(&place).unwrap();
        let program = place.join("tell");
        compile(&house::repository().join("tests/guest/runner/tell.c"), &program, &[], &[]).unwrap();
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.file("init", &std::fs::read(program).unwrap());
        let path = place.join("tell.cpio");
        std::fs::write(&path, archive.finish()).unwrap();
        path
    })
}

/// Runs to the end, or panics after a while.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let gather = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    let stdout = gather(Box::new(child.stdout.take().unwrap()));
    let stderr = gather(Box::new(child.stderr.take().unwrap()));
    let until = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("{command:?} took over 30 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Who doesn't read its input closes it early; that is its right.
    let _ = writer.join().unwrap();
    Output { status, stdout: stdout.join().unwrap().unwrap(), stderr: stderr.join().unwrap().unwrap() }
}

fn linux(arguments: &[&str]) -> (String, Option<i32>) {
    let scratch = house::repository().join("target/guest-tests/empty");
    std::fs::create_dir_all(&scratch).unwrap();
    let output = run(Command::new(&programs().linux).args(arguments).current_dir(scratch), b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    use std::os::unix::process::ExitStatusExt;
    // A shell shows death by SIGABRT as 134; both count as the panic's status.
    (text.replace('\r', ""), output.status.code().or(output.status.signal().map(|signal| 128 + signal)))
}

fn boot(arguments: &[&str]) -> (String, Option<i32>) {
    let initrd = format!("initrd={}", initrd().display());
    linux(&[&[initrd.as_str(), "mem=64M"], arguments].concat())
}

fn umlaut_run(command: &[&str], input: &[u8]) -> Output {
    run(Command::new(&programs().umlaut).args(["run", "--mem", "256M", "--"]).args(command), input)
}

fn says(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "not said: {wanted:?}\nwhat was said:\n{text}");
}

#[test]
fn the_boot_log_tells_the_release_the_command_line_and_the_memory() {
    let (text, status) = boot(&[]);
    says(&text, "Linux version 6.");
    says(&text, "Kernel command line: initrd=");
    says(&text, "k available");
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn without_a_root_device_it_panics_in_the_words_of_linux() {
    let (text, status) = linux(&[]);
    says(&text, "Kernel command line: root=98:0");
    says(&text, "VFS: Cannot open root device \"98:0\" or unknown-block(98,0)");
    says(&text, "Please append a correct \"root=\" boot option");
    says(&text, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)");
    assert_eq!(status, Some(134), "{text}");
}

#[test]
fn sizes_of_memory_are_taken_with_suffixes_and_wrong_ones_refused() {
    for (argument, kib) in [("mem=33554432", 32 << 10), ("mem=32768K", 32 << 10), ("mem=48M", 48 << 10), ("mem=1G", 1 << 20)] {
        let (text, status) = boot(&[argument]);
        let line = text.lines().find(|line| line.starts_with("Memory: ")).unwrap_or_default();
        let told: u64 = line.trim_start_matches("Memory: ").trim_end_matches("k available").parse().unwrap_or(0);
        assert!(told <= kib && told > kib * 9 / 10, "{argument}: {line:?}");
        assert_eq!(status, Some(0));
    }
    for argument in ["mem=", "mem=lots", "mem=1K", "mem=-5M", "mem=99999999999999999999G"] {
        let (text, status) = linux(&[argument]);
        assert_eq!(status, Some(1), "{argument}: {text}");
        assert!(text.lines().count() <= 3 && !text.is_empty(), "{argument}: {text}");
    }
}

#[test]
fn questions_about_the_program_are_answered_without_booting() {
    for (argument, wanted) in [("--help", "mem=SIZE"), ("--version", "6."), ("--showconfig", "CONFIG_UML")] {
        let (text, status) = linux(&[argument]);
        says(&text, wanted);
        assert_eq!(status, Some(0));
        assert!(!text.contains("Linux version"), "{argument} booted");
    }
}

#[test]
fn what_the_kernel_does_not_know_goes_to_init() {
    let (text, status) = boot(&["someword", "COLOUR=green", "quiet", "--", "first", "second=2"]);
    for wanted in ["argument someword", "environment COLOUR=green", "argument first", "argument second=2"] {
        says(&text, wanted);
    }
    assert_eq!(status, Some(0));
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    let long = "x".repeat(5000);
    let (text, status) = linux(&[&long]);
    says(&text, "add_arg: Too many command line arguments!");
    assert_eq!(status, Some(1));
}

#[test]
fn a_quiet_boot_says_nothing_of_its_own() {
    let (text, status) = boot(&["quiet"]);
    assert!(!text.contains("Linux version") && !text.contains("Memory:"), "{text}");
    assert_eq!(status, Some(0));
}

#[test]
fn options_of_the_reference_that_are_not_there_are_named_and_boot_goes_on() {
    for argument in ["dtb=file", "time-travel", "iomem=a,b", "mode=skas0", "gdb-pid=5", "seccomp=off", "jail"] {
        let (text, status) = boot(&[argument]);
        assert_eq!(status, Some(0), "{argument}: {text}");
        let name = argument.split('=').next().unwrap_or_default();
        let lines = text.lines().filter(|line| {
            line.contains(name) && !line.contains("command line") && !line.starts_with("environment") && !line.starts_with("argument")
        });
        assert_eq!(lines.count(), 1, "{argument} should have one line:\n{text}");
    }
    let (text, status) = linux(&["seccomp=perhaps"]);
    assert_eq!(status, Some(1), "{text}");
}

#[test]
fn an_init_that_ends_or_is_missing_is_a_panic() {
    let (text, status) = boot(&["status=3"]);
    says(&text, "Kernel panic - not syncing: Attempted to kill init!");
    assert_eq!(status, Some(134));
    let (text, status) = boot(&["rdinit=/missing"]);
    says(&text, "Kernel panic");
    assert_eq!(status, Some(134));
    let (text, status) = linux(&["initrd=/missing/archive"]);
    assert!(status.is_some_and(|status| status != 0), "{text}");
    says(&text, "/missing/archive");
}

#[test]
fn the_processors_are_as_many_as_asked_for() {
    for count in ["1", "2", "3"] {
        let output = run(Command::new(&programs().umlaut).args(["run", "--cpus", count, "--", "nproc"]), b"");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), count);
    }
}

#[test]
fn run_ends_with_the_status_of_its_command() {
    for (script, wanted) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)]
    {
        let output = umlaut_run(&["sh", "-c", script], b"");
        assert_eq!(output.status.code(), Some(wanted), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(umlaut_run(&["/no/such/command"], b"").status.code(), Some(127));
}

#[test]
fn standard_streams_pass_through_unchanged_and_apart() {
    let output = umlaut_run(&["sh", "-c", "echo to-output; echo to-errors >&2"], b"");
    assert_eq!(output.stdout, b"to-output\n");
    assert_eq!(output.stderr, b"to-errors\n");
    let megabytes = if house::scale() == "full" { 1024 } else { 8 };
    let mut seed = 1u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        (seed >> 16) as u8
    })
    .take(megabytes << 20)
    .collect();
    let output = umlaut_run(&["cat"], &bytes);
    assert_eq!(output.stdout.len(), bytes.len());
    assert!(output.stdout == bytes, "the bytes differ");
}

#[test]
fn the_hosts_files_are_there_and_do_not_change() {
    let marker = format!("/usr/umlaut-house-test-{}", std::process::id());
    let script = format!("echo changed > {marker} && cat {marker} && rm /etc/passwd && ls /etc/passwd");
    let output = umlaut_run(&["sh", "-c", &script], b"");
    assert_eq!(output.stdout, b"changed\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2));
    assert!(!PathBuf::from(&marker).exists());
    assert!(PathBuf::from("/etc/passwd").exists());
}

#[test]
fn a_wrong_command_line_of_umlaut_is_one_clear_sentence() {
    for arguments in [
        &["run", "--mem", "lots", "true"][..],
        &["run", "--cpus", "0", "true"],
        &["run", "--root", "/no/such/directory", "--", "true"],
        &["fly"],
    ] {
        let output = run(Command::new(&programs().umlaut).args(arguments), b"");
        assert!(!output.status.success(), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.is_empty() && !text.contains("panicked"), "{arguments:?}: {text}");
    }
}

#[test]
fn the_doctor_says_what_the_host_offers() {
    let output = run(Command::new(&programs().umlaut).arg("doctor"), b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for wanted in ["seccomp", "memory", "processors"] {
        says(&text, wanted);
    }
    assert!(output.status.success());
}

/// The processes below this one that aren't zombies, each with when it started, by which a number used again is told apart.
fn below(ancestor: u32) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Ok(pid), Some((_, rest))) = (entry.file_name().to_string_lossy().parse::<u32>(), stat.rsplit_once(')')) else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let (Some(state), Some(Ok(parent)), Some(start)) =
            (fields.first(), fields.get(1).map(|parent| parent.parse::<u32>()), fields.get(19))
        else {
            continue;
        };
        if *state != "Z" {
            all.push((pid, parent, (*start).to_owned()));
        }
    }
    let mut found = vec![(ancestor, String::new())];
    let mut at = 0;
    while let Some((parent, _)) = found.get(at).cloned() {
        found.extend(all.iter().filter(|process| process.1 == parent).map(|(pid, _, start)| (*pid, start.clone())));
        at += 1;
    }
    found.split_off(1)
}

/// Whether a process is still that one.
fn lives((pid, start): &(u32, String)) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    fields.get(19) == Some(&start.as_str()) && fields.first() != Some(&"Z")
}

#[test]
fn a_machine_that_is_killed_leaves_no_process_behind() {
    let rounds = if house::scale() == "full" { 200 } else { 5 };
    for round in 0..rounds {
        let mut child = Command::new(&programs().linux)
            .args([&format!("initrd={}", initrd().display()), "mem=64M", "quiet", "spin=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = [0; 8];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        std::thread::sleep(Duration::from_millis(20 + 10 * (round % 5)));
        let processes = below(child.id());
        assert!(processes.len() > 1, "the machine has no process for its guest");
        child.kill().unwrap();
        child.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while processes.iter().any(lives) {
            assert!(Instant::now() < until, "processes outlive their machine: {processes:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
