//! The host's tree as a machine's root, with a directory that plays the host.

mod trees;

use abi::Errno;
use fs::hostroot::{self, Plan};
use std::os::unix::fs::symlink;
use trees::*;
use vfs::OpenFlags;

/// A host with a user, their project, and things that are nobody's business.
fn host() -> TempDir {
    let host = TempDir::new();
    for dir in ["usr/bin", "etc", "home/alice/project/src", "home/alice/data", "home/alice/bound", "home/bob", "root", "run/user", "tmp"] {
        std::fs::create_dir_all(host.path(dir)).unwrap();
    }
    for dir in ["var/tmp", "var/lib", "dev", "proc/1", "sys/kernel", "srv/bound", "opt/elsewhere"] {
        std::fs::create_dir_all(host.path(dir)).unwrap();
    }
    for secret in ["home/alice/.ssh", "home/bob/f", "root/f", "run/user/f", "tmp/f", "var/tmp/f", "dev/f", "proc/1/environ", "sys/kernel/f"]
    {
        host.write(secret, "SECRET");
    }
    for (name, data) in [("usr/bin/tool", "tool"), ("etc/passwd", "users"), ("home/alice/project/src/main", "code")] {
        host.write(name, data);
    }
    host.write("home/alice/data/set", "data");
    host.write("home/alice/bound/f", "old");
    host.write("srv/bound/f", "old");
    symlink("usr/bin", host.path("bin")).unwrap();
    symlink("alice/data", host.path("home/shortcut")).unwrap();
    host
}

fn plan(directory: &str) -> Plan {
    Plan { directory: directory.as_bytes().to_vec(), changes_max_bytes: 16 << 20, ..Plan::default() }
}

fn mounted(host: &TempDir, plan: &Plan) -> Result<Machine, hostroot::PlanError> {
    let vfs = machine();
    let tree = host::files::open_tree(&host.0).unwrap();
    let root = hostroot::mount(vfs, &tree, plan)?;
    Ok(Machine::of(vfs, root.namespace, root.root, root.directory))
}

/// Every file that can be reached, but for what is below `skip`.
fn reachable(machine: &Machine, dir: &str, out: &mut Vec<String>) {
    for (name, kind, _) in machine.list(if dir.is_empty() { "/" } else { dir }).unwrap() {
        let path = format!("{dir}/{name}");
        match kind {
            Some(vfs::FileKind::Directory) => reachable(machine, &path, out),
            Some(vfs::FileKind::Regular) => out.push(path),
            _ => {}
        }
    }
}

#[test]
fn the_system_and_the_current_directory_are_there_and_nothing_private() {
    let host = host();
    let machine = mounted(&host, &plan("/home/alice/project")).unwrap();
    let mut files = Vec::new();
    reachable(&machine, "", &mut files);
    assert_eq!(files, ["/etc/passwd", "/home/alice/project/src/main", "/srv/bound/f", "/usr/bin/tool"]);
    // The working directory is the user's.
    assert_eq!(machine.read("src/main").unwrap(), b"code");
    assert_eq!(machine.read("/bin/tool").unwrap(), b"tool");
    for dir in ["/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"] {
        assert_eq!(machine.names(dir).unwrap(), Vec::<String>::new(), "{dir}");
    }
    for secret in ["/home/bob/f", "/home/alice/.ssh", "/root/f", "/proc/1/environ", "/home/alice/project/../.ssh", "../../bob/f"] {
        assert_eq!(machine.read(secret), Err(Errno::ENOENT), "{secret}");
    }
    assert_eq!(machine.names("/home").unwrap(), ["alice"]);
    assert_eq!(machine.names("/home/alice").unwrap(), ["project"]);
}

#[test]
fn everything_can_be_changed_and_the_host_stays_as_it_was() {
    let host = host();
    let machine = mounted(&host, &plan("/home/alice/project")).unwrap();
    for name in ["/usr/bin/tool", "/etc/passwd", "src/main", "/tmp/new", "/home/alice/.ssh", "/home/bob", "/root/x", "/new"] {
        machine.write(name, b"changed").unwrap();
        assert_eq!(machine.read(name).unwrap(), b"changed", "{name}");
    }
    assert_eq!(host.read("usr/bin/tool"), b"tool");
    assert_eq!(host.read("home/alice/.ssh"), b"SECRET");
    assert_eq!(host.read("home/alice/project/src/main"), b"code");
    assert!(!host.path("new").exists() && !host.path("tmp/new").exists());
}

#[test]
fn what_is_shared_is_shown_and_what_is_bound_is_written_through() {
    let host = host();
    let binds = [&b"/home/alice/bound"[..], b"/srv/bound"].map(<[u8]>::to_vec).to_vec();
    let plan = Plan { shares: vec![b"/home/shortcut".to_vec()], binds, ..plan("/") };
    let machine = mounted(&host, &plan).unwrap();
    // Under its own name, and under the link by which it was named.
    assert_eq!(machine.read("/home/alice/data/set").unwrap(), b"data");
    assert_eq!(machine.read("/home/shortcut/set").unwrap(), b"data");
    machine.write("/home/alice/data/set", b"mine").unwrap();
    assert_eq!(host.read("home/alice/data/set"), b"data");
    for bound in ["home/alice/bound", "srv/bound"] {
        machine.write(&format!("/{bound}/f"), b"new").unwrap();
        machine.write(&format!("/{bound}/g"), b"made").unwrap();
        assert_eq!((host.read(&format!("{bound}/f")), host.read(&format!("{bound}/g"))), (b"new".to_vec(), b"made".to_vec()));
        // Seen at once, unlike elsewhere.
        host.write(&format!("{bound}/f"), "by the host");
        assert_eq!(machine.read(&format!("/{bound}/f")).unwrap(), b"by the host");
    }
    assert_eq!(machine.names("/home/alice").unwrap(), ["bound", "data"]);
    assert_eq!(machine.read("/home/alice/.ssh"), Err(Errno::ENOENT));
}

#[test]
fn taking_mounts_away_shows_nothing_more() {
    let host = host();
    let plan = Plan { binds: vec![b"/home/alice/bound".to_vec()], ..plan("/etc") };
    let machine = mounted(&host, &plan).unwrap();
    machine.unmount("/home/alice/bound").unwrap();
    assert_eq!(machine.names("/home/alice/bound").unwrap(), Vec::<String>::new());
    assert_eq!(machine.names("/home/alice").unwrap(), ["bound"]);
    assert!(machine.unmount("/home").is_err());
}

#[test]
fn a_home_directory_elsewhere_and_behind_links_is_hidden_under_its_real_name() {
    let host = host();
    std::fs::rename(host.path("home"), host.path("var/home")).unwrap();
    symlink("var/home", host.path("home")).unwrap();
    host.write("opt/elsewhere/f", "SECRET");
    let plan = Plan { hidden: vec![b"/opt/elsewhere".to_vec()], ..plan("/home/alice/project") };
    let machine = mounted(&host, &plan).unwrap();
    let mut files = Vec::new();
    reachable(&machine, "", &mut files);
    assert_eq!(files, ["/etc/passwd", "/srv/bound/f", "/usr/bin/tool", "/var/home/alice/project/src/main"]);
    assert_eq!(machine.read("/home/alice/project/src/main").unwrap(), b"code");
    assert_eq!(machine.read("/home/alice/.ssh"), Err(Errno::ENOENT));
}

#[test]
fn what_cannot_be_granted_is_named() {
    let host = host();
    let refused = |plan: Plan| mounted(&host, &plan).err().map(|e| (String::from_utf8(e.path).unwrap(), e.errno));
    assert_eq!(refused(plan("/missing")), Some(("/missing".into(), Errno::ENOENT)));
    assert_eq!(refused(plan("/etc/passwd")), Some(("/etc/passwd".into(), Errno::ENOTDIR)));
    let binds = vec![b"/etc/passwd".to_vec()];
    assert_eq!(refused(Plan { binds, ..plan("/") }), Some(("/etc/passwd".into(), Errno::ENOTDIR)));
    symlink("loop", host.path("loop")).unwrap();
    let shares = vec![b"/loop".to_vec()];
    assert_eq!(refused(Plan { shares, ..plan("/") }), Some(("/loop".into(), Errno::ELOOP)));
}

#[test]
fn the_real_host_starts_and_answers_from_memory_once_warm() {
    let vfs = machine();
    let tree = host::files::open_tree(std::path::Path::new("/")).unwrap();
    let root = hostroot::mount(vfs, &tree, &plan("/")).unwrap();
    let machine = Machine::of(vfs, root.namespace, root.root, root.directory);
    let start = std::time::Instant::now();
    let cold = machine.read("/etc/passwd").unwrap();
    let cold_us = start.elapsed().as_micros();
    let start = std::time::Instant::now();
    let rounds = 2000u32;
    for _ in 0..rounds {
        machine.stat("/etc/passwd").unwrap();
    }
    let stat_ns = start.elapsed().as_nanos() / u128::from(rounds);
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let file = machine.open("/etc/passwd", OpenFlags::empty()).unwrap();
        let mut buffer = [0; 4096];
        file.read_at(0, &mut vfs::SliceSink::new(&mut buffer)).unwrap();
    }
    let read_ns = start.elapsed().as_nanos() / u128::from(rounds);
    println!("cold read {cold_us} us, warm stat {stat_ns} ns, warm open+read+close {read_ns} ns");
    assert_eq!(machine.read("/etc/passwd").unwrap(), cold);
    assert_eq!(cold, std::fs::read("/etc/passwd").unwrap());
}

#[test]
fn a_walk_over_the_hosts_own_programs_needs_few_descriptors_and_little_memory() {
    let vfs = machine();
    let tree = host::files::open_tree(std::path::Path::new("/")).unwrap();
    let root = hostroot::mount(vfs, &tree, &plan("/")).unwrap();
    let machine = Machine::of(vfs, root.namespace, root.root, root.directory);
    let (mut left, mut files, mut bytes, mut most) = (vec!["/usr/lib".to_string(), "/usr/bin".to_string()], 0, 0, 0);
    let enough = 20_000 * scale();
    let start = std::time::Instant::now();
    while let Some(dir) = left.pop() {
        let Ok(entries) = machine.list(&dir) else { continue };
        for (name, kind, _) in entries {
            let path = format!("{dir}/{name}");
            match kind {
                Some(vfs::FileKind::Directory) => left.push(path),
                Some(vfs::FileKind::Regular) => {
                    files += 1;
                    let size = machine.stat(&path).unwrap().size_bytes;
                    if bytes < 200_000_000 && size < 10_000_000 {
                        bytes += machine.read(&path).map_or(0, |data| data.len());
                    }
                }
                _ => {}
            }
        }
        if files > enough {
            break;
        }
        most = most.max(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count));
    }
    println!("{files} files, {bytes} bytes, {most} descriptors at most, {} ms", start.elapsed().as_millis());
    assert!(most < 4096 + 200);
}
