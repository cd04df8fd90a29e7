//! The model of our path operations is Linux: the same random calls run on the host's file system and on ours, and must answer alike.

mod common;

use abi::Errno;
use common::Machine;
use std::fs as host;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use vfs::{FileKind, LookupFlags, OpenFlags, OpenHow, PathAt, SliceSink, SliceSource};

fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 100,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

/// xorshift: the same sequence every time for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
    /// A path that never leads above its root, whatever links there are: links lead down only.
    fn path(&mut self) -> String {
        let mut parts = Vec::new();
        let mut depth = 0;
        for _ in 0..=self.next(3) {
            match self.next(12) {
                0 if depth > 0 => {
                    parts.push("..");
                    depth -= 1;
                }
                1 => parts.push("."),
                n => {
                    parts.push(["a", "b", "c", "d"][n as usize % 4]);
                    depth += 1;
                }
            }
        }
        let mut path = parts.join("/");
        if self.next(8) == 0 {
            path.push('/');
        }
        path
    }
    fn target(&mut self) -> String {
        let name = ["a", "b", "c", "d", "a/b", "b/c/", "c/./d"];
        name[self.next(name.len() as u64) as usize].to_owned()
    }
}

#[derive(Clone, Debug)]
enum Call {
    Mkdir(String),
    Rmdir(String),
    Unlink(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    Stat(String),
    Lstat(String),
    Readlink(String),
    Open(String, u32),
    Write(String, u64, usize),
    Read(String),
    Truncate(String, u64),
    Chmod(String, u32),
    List(String),
}

fn call(random: &mut Random) -> Call {
    let path = random.path();
    match random.next(18) {
        0..=2 => Call::Mkdir(path),
        3 => Call::Rmdir(path),
        4 => Call::Unlink(path),
        5 | 6 => Call::Rename(path, random.path()),
        7 => Call::Link(path, random.path()),
        8 => Call::Symlink(random.target(), path),
        9 => Call::Stat(path),
        10 => Call::Lstat(path),
        11 => Call::Readlink(path),
        12 => {
            let flags =
                [0, libc::O_CREAT, libc::O_CREAT | libc::O_EXCL, libc::O_NOFOLLOW, libc::O_DIRECTORY, libc::O_CREAT | libc::O_NOFOLLOW];
            let access = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR | libc::O_TRUNC];
            let flags = flags[random.next(6) as usize] | access[random.next(4) as usize];
            Call::Open(path, flags as u32)
        }
        13 => Call::Write(path, random.next(20_000), random.next(9000) as usize),
        14 => Call::Read(path),
        15 => Call::Truncate(path, random.next(30_000)),
        16 => Call::Chmod(path, random.next(0o1000) as u32 | 0o700),
        _ => Call::List(path),
    }
}

/// What a call answers, as far as the two sides have to agree.
type Answer = Result<String, Errno>;

fn data(offset: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((offset + i) * 7 % 253) as u8).collect()
}

fn told(kind: &str, size: u64, links: u64, mode: u32) -> String {
    // Directories' sizes and link counts are each file system's own affair.
    if kind == "dir" { format!("dir {mode:o}") } else { format!("{kind} {size} {links} {mode:o}") }
}

fn on_host(root: &std::path::Path, call: &Call) -> Answer {
    // Not joined as components: trailing slashes and dots must stay.
    let at = |path: &str| PathBuf::from(format!("{}/{path}", root.display()));
    let stat = |m: host::Metadata| {
        let t = m.file_type();
        let kind = if t.is_dir() {
            "dir"
        } else if t.is_symlink() {
            "link"
        } else if t.is_fifo() {
            "fifo"
        } else {
            "file"
        };
        told(kind, m.len(), m.nlink(), m.mode() & 0o7777)
    };
    let unit = |()| String::new();
    let result: std::io::Result<String> = match call {
        Call::Mkdir(p) => host::create_dir(at(p)).map(unit),
        Call::Rmdir(p) => host::remove_dir(at(p)).map(unit),
        Call::Unlink(p) => host::remove_file(at(p)).map(unit),
        Call::Rename(a, b) => host::rename(at(a), at(b)).map(unit),
        Call::Link(a, b) => host::hard_link(at(a), at(b)).map(unit),
        Call::Symlink(t, p) => symlink(t, at(p)).map(unit),
        Call::Stat(p) => host::metadata(at(p)).map(stat),
        Call::Lstat(p) => host::symlink_metadata(at(p)).map(stat),
        Call::Readlink(p) => host::read_link(at(p)).map(|t| t.display().to_string()),
        Call::Open(p, flags) => {
            let access = *flags as i32 & libc::O_ACCMODE;
            let mut options = host::OpenOptions::new();
            options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY).mode(0o644);
            // `create` of the standard library refuses some combinations; the flags go in as they are.
            options.custom_flags(*flags as i32 & !libc::O_ACCMODE);
            options.open(at(p)).map(|_| String::new())
        }
        Call::Write(p, offset, len) => {
            use std::os::unix::fs::FileExt;
            host::OpenOptions::new().write(true).open(at(p)).and_then(|f| f.write_at(&data(*offset, *len), *offset)).map(|n| n.to_string())
        }
        Call::Read(p) => host::read(at(p)).map(|d| format!("{:?}", digest(&d))),
        Call::Truncate(p, size) => host::OpenOptions::new().write(true).open(at(p)).and_then(|f| f.set_len(*size)).map(unit),
        Call::Chmod(p, mode) => host::set_permissions(at(p), host::Permissions::from_mode(*mode)).map(unit),
        Call::List(p) => host::read_dir(at(p)).map(|entries| {
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        }),
    };
    result.map_err(|e| Errno::from_raw(e.raw_os_error().expect("an error of the system")).unwrap())
}

fn digest(data: &[u8]) -> (usize, u64) {
    (data.len(), data.iter().fold(1, |h: u64, b| h.wrapping_mul(1_099_511_628_211) ^ u64::from(*b)))
}

fn on_ours(m: &Machine, call: &Call) -> Answer {
    let at = |path: &str| format!("/{path}");
    let stat = |m: vfs::Metadata| {
        let kind = match m.kind {
            FileKind::Directory => "dir",
            FileKind::Symlink => "link",
            FileKind::Fifo => "fifo",
            _ => "file",
        };
        told(kind, m.size_bytes, u64::from(m.links), m.mode)
    };
    let unit = |()| String::new();
    let caller = m.caller();
    match call {
        Call::Mkdir(p) => caller.mkdir(PathAt::cwd(at(p).as_bytes()), 0o777).map(|_| String::new()).map_err(|e| e.errno()),
        Call::Rmdir(p) => m.rmdir(&at(p)).map(unit),
        Call::Unlink(p) => m.unlink(&at(p)).map(unit),
        Call::Rename(a, b) => m.rename(&at(a), &at(b)).map(unit),
        Call::Link(a, b) => m.link(&at(a), &at(b)).map(unit),
        Call::Symlink(t, p) => m.symlink(t, &at(p)).map(unit),
        Call::Stat(p) => m.stat(&at(p)).map(stat),
        Call::Lstat(p) => m.lstat(&at(p)).map(stat),
        Call::Readlink(p) => {
            let text = caller.readlink(PathAt::cwd(at(p).as_bytes())).map_err(|e| e.errno())?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Call::Open(p, flags) => {
            let how = OpenHow::new(OpenFlags::from_bits_retain(*flags), 0o644);
            caller.open(PathAt::cwd(at(p).as_bytes()), how).map(|_| String::new()).map_err(|e| e.errno())
        }
        Call::Write(p, offset, len) => {
            let file = m.open(&at(p), OpenFlags::WRONLY).map_err(|e| e.errno())?;
            let n = file.write_at(*offset, &mut SliceSource::new(&data(*offset, *len))).map_err(|e| e.errno())?;
            Ok(n.to_string())
        }
        Call::Read(p) => {
            let file = m.open(&at(p), OpenFlags::empty()).map_err(|e| e.errno())?;
            let mut buffer = vec![0; 1 << 17];
            let n = file.read_at(0, &mut SliceSink::new(&mut buffer)).map_err(|e| e.errno())?;
            Ok(format!("{:?}", digest(&buffer[..n])))
        }
        Call::Truncate(p, size) => {
            let file = m.open(&at(p), OpenFlags::WRONLY).map_err(|e| e.errno())?;
            caller.truncate_open(file.path(), *size).map(unit)
        }
        Call::Chmod(p, mode) => {
            let path = caller.lookup(PathAt::cwd(at(p).as_bytes()), LookupFlags::FOLLOW).map_err(|e| e.errno())?;
            caller.chmod(&path, *mode).map(unit)
        }
        Call::List(p) => m.names(&at(p)).map(|mut names| {
            names.retain(|name| name != "." && name != "..");
            names.sort();
            names.join(" ")
        }),
    }
}

#[test]
fn random_calls_answer_as_on_linux() {
    let base = if std::path::Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    for seed in 1..=8 * scale() {
        let root = base.join(format!("umlaut-model-{}-{seed}", std::process::id()));
        host::create_dir(&root).unwrap();
        let m = Machine::new();
        let umask = host::metadata(&root).unwrap().mode() & 0o777;
        m.fs.set_umask(0o777 & !umask);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut history = Vec::new();
        for _ in 0..1500 {
            let call = call(&mut random);
            let (theirs, ours) = (on_host(&root, &call), on_ours(&m, &call));
            history.push(format!("{call:?} -> {theirs:?}"));
            let recent = history.len().saturating_sub(12);
            assert_eq!(ours, theirs, "seed {seed}, call {}: {call:?}\n{}", history.len(), history[recent..].join("\n"));
        }
        host::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn concurrent_renames_lose_and_double_nothing() {
    let m = Machine::new();
    for dir in 0..4 {
        m.mkdir(&format!("/d{dir}")).unwrap();
        for file in 0..8 {
            m.mkdir(&format!("/d{dir}/n{dir}{file}")).unwrap();
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let m = m.user(0, 0);
            let m = Machine { credentials: std::sync::Arc::new(vfs::Credentials::root()), ..m };
            scope.spawn(move || {
                let mut random = Random(thread * 77 + 5);
                for _ in 0..3000 * scale() {
                    let name = format!("n{}{}", random.next(4), random.next(8));
                    let (from, to) = (random.next(4), random.next(4));
                    let into = if random.next(3) == 0 { format!("/n{}{}", random.next(4), random.next(8)) } else { String::new() };
                    match m.rename(&format!("/d{from}/{name}"), &format!("/d{to}{into}/{name}")) {
                        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTEMPTY) => {}
                        Err(errno) => panic!("{errno:?}"),
                    }
                }
            });
        }
    });
    // Every directory is still there, once, and `..` leads to where it is.
    let (mut seen, mut stack) = (Vec::new(), vec!["/".to_owned()]);
    while let Some(dir) = stack.pop() {
        let ino = m.stat(&dir).unwrap().ino;
        for name in m.names(&dir).unwrap().into_iter().filter(|n| n != "." && n != "..") {
            let path = format!("{}/{name}", dir.trim_end_matches('/'));
            assert_eq!(m.stat(&format!("{path}/..")).unwrap().ino, ino);
            seen.push(name);
            stack.push(path);
        }
    }
    seen.sort();
    assert_eq!(seen.len(), 4 + 32);
    seen.dedup();
    assert_eq!(seen.len(), 4 + 32);
}

#[test]
fn names_stay_true_while_many_make_and_remove_them_and_the_cache_forgets() {
    let m = Machine::new();
    m.mkdir("/d").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|thread| {
                let m = Machine { credentials: m.credentials.clone(), ..m.user(0, 0) };
                scope.spawn(move || {
                    let mut random = Random(thread * 31 + 7);
                    for _ in 0..4000 * scale() {
                        let name = format!("/d/{}", random.next(6));
                        let answer = match random.next(6) {
                            0 => m.write(&name, b"x"),
                            1 => m.unlink(&name),
                            2 => m.rename(&name, &format!("/d/{}", random.next(6))),
                            3 => m.link(&name, &format!("/d/{}", random.next(6))),
                            4 => m.stat(&name).map(drop),
                            _ => m.read(&name).map(drop),
                        };
                        assert!(matches!(answer, Ok(()) | Err(Errno::ENOENT | Errno::EEXIST)), "{answer:?}");
                    }
                })
            })
            .collect();
        let evictor = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                m.vfs.dentries().evict(100);
            }
        });
        workers.into_iter().for_each(|w| w.join().unwrap());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        evictor.join().unwrap();
    });
    let names = m.names("/d").unwrap();
    for i in 0..6 {
        let listed = names.iter().any(|n| *n == i.to_string());
        assert_eq!(m.stat(&format!("/d/{i}")).is_ok(), listed, "{i}");
    }
    for name in names.iter().filter(|n| *n != "." && *n != "..") {
        m.unlink(&format!("/d/{name}")).unwrap();
    }
    m.rmdir("/d").unwrap();
    while m.vfs.dentries().evict(usize::MAX) > 0 {}
    assert_eq!(m.vfs.dentries().len(), 1, "only the root is left");
}
