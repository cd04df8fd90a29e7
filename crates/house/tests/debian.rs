//! Unmodified Debian 12, made by debootstrap and nothing else, boots from its disk with either init to a login; people log in, work, and halt;
//! e2fsck finds nothing wrong afterwards, but for orphans with systemd.
//!
//! It takes root (debootstrap does) and the packages of Debian; without either it says so and skips. Images are kept and used again.
#![forbid(unsafe_code)]

mod people;

use people::Desk;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program; what it said if it failed.
fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let end = text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("; ");
    Err(format!("{command:?}: {end}"))
}

/// Makes an image of Debian with these packages. The password of root is `root`.
fn make(path: &Path, packages: &str) -> Result<(), String> {
    let tree = path.with_extension("tree");
    let _ = std::fs::remove_dir_all(&tree);
    let include = format!("--include={packages}");
    done(Command::new("debootstrap").args(["--variant=minbase", &include, "bookworm"]).arg(&tree))?;
    let text = |name: &str, text: &str| std::fs::write(tree.join(name), text).map_err(|error| format!("{name}: {error}"));
    text("etc/fstab", "/dev/ubda / ext4 defaults 0 1\n")?;
    text("etc/hostname", "debian\n")?;
    done(Command::new("chroot").arg(&tree).args(["sh", "-c", "echo root:root | chpasswd"]))?;
    let unfinished = path.with_extension("new");
    std::fs::File::create(&unfinished).and_then(|file| file.set_len(1 << 30)).map_err(|error| error.to_string())?;
    done(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&unfinished))?;
    std::fs::remove_dir_all(&tree).map_err(|error| error.to_string())?;
    std::fs::rename(&unfinished, path).map_err(|error| error.to_string())
}

/// The image of this name, and a fresh COW file on it.
fn image(name: &str, packages: &str) -> Option<(PathBuf, PathBuf)> {
    for needed in ["debootstrap", "mke2fs", "e2fsck", "uml_moo"] {
        house::disk::program(needed).or_else(|| {
            println!("skipped: Debian needs {needed}");
            None
        })?;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: Debian is made by debootstrap, which needs root");
        return None;
    }
    let path = house::disk::place(&format!("{name}.img"));
    if !path.exists()
        && let Err(why) = make(&path, packages)
    {
        println!("skipped: Debian could not be made: {why}");
        return None;
    }
    let cow = path.with_extension("cow");
    let _ = std::fs::remove_file(&cow);
    Some((path, cow))
}

/// The last line that a command showed; what was typed ahead of the prompt is shown twice.
fn says(desk: &mut Desk, command: &str) -> String {
    desk.person.runs(command).lines().last().unwrap_or_default().trim().to_owned()
}

/// Boots it to a login on the terminal that is the machine's `line`, works there, ends it by `farewell`, and looks at the disk.
fn boots_and_halts(name: &str, packages: &str, line: &str, work: impl Fn(&mut Desk), farewell: &str, check: &str) {
    let Some((image, cow)) = image(name, packages) else { return };
    let disk = format!("ubd0={},{}", cow.display(), image.display());
    let mut desk = Desk::new();
    let linux = people::programs().linux.display().to_string();
    let channel = format!("{line}=fd:0,fd:1");
    let command = [&linux, &disk, "mem=256M", "rw", "con=null", &channel, "ssl=null"].map(str::to_owned);
    let mut machine = desk.start(&command);
    desk.person.logs_in("root");
    // What bash says around each line that is typed.
    desk.person.runs("bind 'set enable-bracketed-paste off'");
    assert!(desk.person.runs("uname -a").contains("Linux debian 6.12.0-umlaut"));
    assert!(desk.person.runs("mount").contains("/dev/ubda on / type ext4 (rw"));
    work(&mut desk);
    // A file that must be there afterwards, and one that must not.
    desk.person.runs("seq 100000 > /root/kept; cp -a /usr/share/doc /root/doc; rm -r /root/doc");
    desk.person.enters(farewell);
    assert!(machine.ends().success(), "{}", desk.person.seen());
    assert!(!desk.person.seen().contains("Kernel panic"), "{}", desk.person.seen());
    let whole = cow.with_extension("whole");
    let _ = std::fs::remove_file(&whole);
    done(Command::new("uml_moo").arg("-b").arg(&image).arg(&cow).arg(&whole)).unwrap();
    let checked = Command::new("e2fsck").arg(check).arg(&whole).output().unwrap();
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    let only_orphans = check == "-fp" && checked.status.code() == Some(1) && !text.contains("UNEXPECTED");
    assert!(checked.status.success() || only_orphans, "{text}");
    let kept = Command::new("debugfs").args(["-R", "cat /root/kept"]).arg(&whole).output().unwrap();
    assert_eq!(kept.stdout.iter().filter(|byte| **byte == b'\n').count(), 100_000);
    for file in [&cow, &whole] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn debian_with_sysvinit_boots_to_a_login_and_halts() {
    let packages = "sysvinit-core,sysv-rc,initscripts,udev,login,passwd,util-linux,procps";
    let work = |desk: &mut Desk| {
        assert_eq!(says(desk, "cat /proc/1/comm"), "init");
        assert_eq!(says(desk, "runlevel"), "N 2");
        assert!(desk.person.runs("ps ax").contains("udevd"));
    };
    boots_and_halts("debian-sysvinit", packages, "con1", work, "poweroff", "-fn");
}

#[test]
fn debian_with_systemd_boots_to_a_login_and_halts() {
    let packages = "systemd,systemd-sysv,udev,dbus,libpam-systemd,login,passwd,util-linux,procps";
    let work = |desk: &mut Desk| {
        assert_eq!(says(desk, "cat /proc/1/comm"), "systemd");
        desk.person.runs("export PAGER=cat TERM=dumb SYSTEMD_COLORS=0");
        let state = says(desk, "systemctl is-system-running --wait");
        assert_eq!(state, "running", "{}", desk.person.runs("systemctl --failed"));
        assert!(
            desk.person.runs("systemctl is-active systemd-logind systemd-journald systemd-udevd").lines().all(|l| l.trim() == "active")
        );
        assert!(says(desk, "journalctl -b --no-pager | tail -n +2 | wc -l").parse::<u32>().unwrap() > 20);
    };
    // Directories that systemd removes last may still be on the list of orphans, which is known: a mending check is to find nothing else.
    boots_and_halts("debian-systemd", packages, "con1", work, "systemctl poweroff", "-fp");
}
