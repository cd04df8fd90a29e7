//! What a guest makes stays inside the guest: very many objects of each kind end in an error or the guest's own OOM killer, the host's memory stays
//! under `mem=` and 32 MiB, the machine still answers; and no call of a guest reaches the host.
#![forbid(unsafe_code)]

use house::machine::{Line, Programs, Running, compile, output};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MEM_MIB: u64 = 64;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A directory to be a root, with the program that makes objects.
fn root(name: &str) -> PathBuf {
    let root = house::repository().join("target/guest-tests/bounds").join(name);
    for directory in ["proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    compile(&house::repository().join("tests/guest/runner/sweep.c"), &root.join("sweep"), &[], &[]).unwrap();
    root
}

fn run(root: &std::path::Path) -> Command {
    let mut command = Command::new(&programs().umlaut);
    command.args(["run", "--mem", &format!("{MEM_MIB}M"), "--workdir", "/", "--root"]).arg(root).args(["--", "/sweep"]);
    command
}

/// The process and all below it.
fn family(ancestor: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let (Ok(pid), Some(parent)) = (entry.file_name().to_string_lossy().parse::<u32>(), parent) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![ancestor];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Memory of the host that processes have, KiB, what they share counted once.
fn memory_kib(processes: &[u32]) -> u64 {
    let share = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().trim_end_matches(" kB").parse::<u64>().ok())
    };
    processes.iter().filter_map(share).sum()
}

/// What is swept at scale 1; at full scale everything is, a million of each.
const QUICK: [&str; 12] = [
    "pipes",
    "full_pipes",
    "unix_pairs",
    "timer_files",
    "epoll_items",
    "inotify_watches",
    "memory_files",
    "small_files",
    "record_locks",
    "queued_signals",
    "pages",
    "threads",
];

#[test]
fn very_many_objects_of_each_kind_stay_inside_the_guest() {
    let root = root("sweep");
    let full = house::scale() == "full";
    let source = std::fs::read_to_string(house::repository().join("tests/guest/runner/sweep.c")).unwrap();
    let kinds: Vec<&str> = source.split("KIND(").skip(2).filter_map(|rest| rest.split(')').next()).collect();
    assert!(kinds.len() > 40);
    let wanted = kinds.iter().filter(|kind| full || QUICK.contains(kind));
    let mut command = run(&root);
    command.arg(if full { "1000000" } else { "1000" }).args(wanted.clone());
    let mut running = Running::start(&mut command).unwrap();
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let id = running.id();
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                most.fetch_max(memory_kib(&family(id)), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let limit = Duration::from_secs(if full { 3600 } else { 120 });
        while let Line::Is(line) = running.line(limit) {
            let now = most.swap(0, Ordering::SeqCst);
            said.push((line, now));
        }
        ended.store(true, Ordering::SeqCst);
    });
    for kind in wanted {
        let told = said.iter().find(|(line, _)| line.starts_with(&format!("{kind} ")));
        let (line, _) = told.unwrap_or_else(|| panic!("{kind} said nothing: {said:#?}"));
        // EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC, EINVAL where the kind is not there, or the OOM killer.
        let well = ["errno 0", "errno 11", "errno 12", "errno 23", "errno 24", "errno 28", "errno 22", "died by signal 9"];
        assert!(well.iter().any(|end| line.ends_with(end)), "{line}");
    }
    assert!(said.iter().any(|(line, _)| line == "alive"), "{said:#?}");
    let over: Vec<_> = said.iter().filter(|(_, kib)| *kib > (MEM_MIB + 32) << 10).collect();
    assert!(over.is_empty(), "host memory, KiB, over {} MiB: {over:#?}", MEM_MIB + 32);
    assert!(running.end(Duration::from_secs(60)).is_some_and(|status| status.success()));
}

/// The lines of calls that the host ran: not those which end in the signal of a filter that trapped them.
fn calls_that_ran(log: &str) -> Vec<&str> {
    let mut calls = Vec::new();
    let mut last: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    for line in log.lines() {
        let Some((thread, what)) = line.split_once(' ') else { continue };
        let before = last.insert(thread, line);
        if what.trim_start().starts_with("--- SIGSYS") {
            last.remove(thread);
        } else {
            calls.extend(before);
        }
    }
    calls.extend(last.into_values());
    calls.retain(|line| line.contains('(') && !line.contains("--- SIG"));
    calls
}

#[test]
fn no_path_socket_or_program_of_a_guest_reaches_the_host() {
    let root = root("strace");
    let log = root.parent().unwrap().join("strace.log");
    // What an earlier run left; it may not be there.
    let _ = std::fs::remove_file(&log);
    let inner = run(&root);
    // By signals each call of a guest is trapped, which strace shows as what it is; a notified one looks like one that the host ran.
    let mut command = Command::new("strace");
    command.env("UMLAUT_HANDOVER", "trap");
    // With a filter of its own strace is asked only where ours allow a call, but for a thread's first.
    command.args(["-f", "--seccomp-bpf", "-s", "200", "-e", "trace=%file,%network,execve,execveat,mount", "-o"]).arg(&log);
    command.arg(inner.get_program()).args(inner.get_args());
    command.args([
        "40",
        "bound_names",
        "tcp_sockets",
        "udp_sockets",
        "small_files",
        "directories",
        "mounts",
        "links",
        "names_not_there",
        "processes",
    ]);
    let available = Command::new("strace").args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]).status();
    if !available.is_ok_and(|status| status.success()) {
        println!("skipped: strace can't trace here");
        return;
    }
    let said = output(&mut command, b"", Duration::from_secs(120));
    assert!(said.stdout.contains("bound_names made 40") && said.stdout.contains("alive"), "{said:?}");
    let log = std::fs::read_to_string(log).unwrap();
    let calls = calls_that_ran(&log);
    assert!(calls.len() > 20, "{} calls", calls.len());
    // The host's file system is asked for names in the root, one at a time; what lies in file systems of the guest has more of a path.
    for call in &calls {
        let of_guest = ["swept/", "AF_INET", "bind(", "connect(", "listen(", "mount(", "mkdir", "symlink", "\"..", "/.."];
        assert!(!of_guest.iter().any(|word| call.contains(word)), "{call}");
    }
    assert_eq!(calls.iter().filter(|call| call.contains(" execve")).count(), 1);
    // Of the root only itself is named by a path; all below it one name at a time.
    let below = format!("\"{}/", root.display());
    let named: Vec<_> = calls.iter().filter(|call| call.contains(&below)).collect();
    assert!(named.is_empty(), "{named:#?}");
}
