//! Disk images for machines: made with mke2fs from a small tree with busybox in it, booted with a script that the first process runs.
//!
//! The script lies on a disk of its own, `/dev/ubdp`, so that the same image serves every test.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What the first process does: mounts what programs expect, runs the script, and ends the machine.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
sh /dev/ubdp
poweroff -f
";

/// A program of the host, also where ordinary users don't look.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin:/bin";
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// The tree of which images are made; `None` and one line when the host has no busybox or mke2fs.
pub fn tree() -> Option<&'static Path> {
    static TREE: OnceLock<Option<PathBuf>> = OnceLock::new();
    TREE.get_or_init(|| {
        let (Some(busybox), Some(_)) = (program("busybox"), program("mke2fs")) else {
            println!("skipped: disks need busybox-static and e2fsprogs");
            return None;
        };
        let tree = place("tree");
        // Made anew each time: an older one may have come from another version.
        let _ = std::fs::remove_dir_all(&tree);
        for directory in ["bin", "sbin", "dev", "proc", "sys", "tmp", "mnt", "etc", "root"] {
            std::fs::create_dir_all(tree.join(directory)).ok()?;
        }
        std::fs::copy(&busybox, tree.join("bin/busybox")).ok()?;
        let applets = Command::new(&busybox).arg("--list").output().ok()?;
        for applet in String::from_utf8_lossy(&applets.stdout).split_whitespace().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).ok()?;
        }
        std::fs::write(tree.join("sbin/init"), INIT).ok()?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(tree.join("sbin/init"), std::fs::Permissions::from_mode(0o755)).ok()?;
        Some(tree)
    })
    .as_deref()
}

/// A path among the tests' own files.
#[must_use]
pub fn place(name: &str) -> PathBuf {
    let place = crate::repository().join("target/guest-tests/disks");
    // What can't be made shows when it is used.
    let _ = std::fs::create_dir_all(&place);
    place.join(name)
}

/// Runs a program of the host to its end: whether it succeeded, and what it printed.
pub fn host(name: &str, arguments: &[&str]) -> (bool, String) {
    let Some(path) = program(name) else { return (false, format!("{name} is not on this host")) };
    match Command::new(path).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        }
        Err(error) => (false, error.to_string()),
    }
}

/// Makes an image of the tree: `options` are mke2fs's, `-t ext4 -b 1024`.
///
/// # Errors
/// What mke2fs said.
pub fn make_image(path: &Path, options: &[&str], mib: u32) -> Result<(), String> {
    let tree = tree().ok_or("no tree")?;
    let _ = std::fs::remove_file(path);
    let size = format!("{mib}M");
    let (tree, path) = (tree.to_string_lossy(), path.to_string_lossy());
    let arguments = [options, &["-q", "-F", "-E", "root_owner=0:0", "-d", &tree, &path, &size]].concat();
    match host("mke2fs", &arguments) {
        (true, _) => Ok(()),
        (false, text) => Err(text),
    }
}

/// What a machine said, and how it ended.
pub struct Ended {
    pub text: String,
    /// The exit status as a shell has it; `None`: it took too long and was killed.
    pub status: Option<i32>,
}

/// Writes a script as a disk: padded with line ends to whole sectors.
///
/// # Errors
/// What writing it answers.
pub fn write_script(path: &Path, script: &str) -> std::io::Result<()> {
    let mut bytes = script.as_bytes().to_vec();
    bytes.push(b'\n');
    bytes.resize(bytes.len().next_multiple_of(512), b'\n');
    std::fs::write(path, bytes)
}

/// Boots in `directory` with these arguments and the script on `/dev/ubdp`.
///
/// # Errors
/// What starting it answers.
pub fn boot(linux: &Path, directory: &Path, arguments: &[&str], script: &str) -> std::io::Result<Ended> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let name = format!("script{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    write_script(&directory.join(&name), script)?;
    let mut command = Command::new(linux);
    command.current_dir(directory).args(["mem=64M", "con0=fd:0,fd:1", &format!("ubdpr={name}")]).args(arguments);
    run(&mut command, Duration::from_secs(120))
}

/// Runs a machine to its end.
///
/// # Errors
/// What starting it answers.
pub fn run(command: &mut Command, limit: Duration) -> std::io::Result<Ended> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let gather = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is what there is.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = gather(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = gather(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            use std::os::unix::process::ExitStatusExt;
            break status.code().or(status.signal().map(|signal| 128 + signal));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut bytes = stdout.join().unwrap_or_default();
    bytes.extend(stderr.join().unwrap_or_default());
    Ok(Ended { text: String::from_utf8_lossy(&bytes).replace('\r', ""), status })
}
