//! Machines on copy-on-write disks, several on one backing file, and what the tools make of what they leave.
#![forbid(unsafe_code)]

use house::disk::{Ended, boot, host, make_image, place, write_script};
use house::machine::{Line, Programs, Running};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A test's own directory with an ext4 image `back` in it; `None` when there is nothing to make images with.
fn own(name: &str) -> Option<PathBuf> {
    house::disk::tree()?;
    let directory = place(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    make_image(&directory.join("back"), &["-t", "ext4", "-b", "1024"], 24).unwrap();
    Some(directory)
}

fn run(directory: &Path, arguments: &[&str], script: &str) -> Ended {
    boot(&programs().linux, directory, arguments, script).unwrap()
}

fn says(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "not said: {wanted:?}\nwhat was said:\n{text}");
}

/// Lines that a script printed as `=what`.
fn told(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix('=')).collect()
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

const WRITE: &str =
    "echo changed > /file; dd if=/dev/zero of=/zeroes bs=1k count=300 2>/dev/null; rm /bin/vi; sync; mount -o remount,ro /; echo =$?";

#[test]
fn a_cow_file_is_made_at_first_use_and_takes_every_change() {
    let Some(directory) = own("cow-first") else { return };
    let (back, cow) = (directory.join("back"), directory.join("cow"));
    let before = hash(&back);
    let ended = run(&directory, &["ubda=cow,back", "rw"], WRITE);
    says(&ended.text, "Creating \"cow\" as COW file for \"back\"\n");
    assert_eq!((told(&ended.text), ended.status), (vec!["0"], Some(0)), "{}", ended.text);
    assert_eq!(hash(&back), before, "the backing file has changed");
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(&cow).unwrap();
    assert!(meta.len() > 24 << 20 && meta.blocks() * 512 < 4 << 20, "{} bytes, {} blocks", meta.len(), meta.blocks());
    let header = std::fs::read(&cow).unwrap();
    let path = std::fs::canonicalize(&back).unwrap();
    assert_eq!(&header[..8], b"OOOM\0\0\0\x03");
    assert_eq!(&header[12..20], (24u64 << 20).to_be_bytes());
    assert!(header[32..].starts_with(path.to_string_lossy().as_bytes()));

    // The COW file alone, and named as a plain image.
    for disk in ["ubda=cow,back", "ubda=cow", "ubd0=cow"] {
        let ended = run(&directory, &[disk], "echo =$(cat /file) $(ls /bin/vi 2>/dev/null) $(wc -c < /zeroes)");
        assert_eq!(told(&ended.text), ["changed 307200"], "{disk}: {}", ended.text);
        assert!(!ended.text.contains("Creating"), "{}", ended.text);
    }
    // As plain data it is larger, and no file system.
    let ended = run(&directory, &["ubda=back", "ubdbrd=cow"], "echo =$(dd if=/dev/ubdb bs=4 count=1 2>/dev/null)");
    assert_eq!(told(&ended.text), ["OOOM"], "{}", ended.text);

    // Both tools merge it into what the device is.
    let ended = run(&directory, &["ubdar=back", "ubdbr=cow"], "echo =$(md5sum < /dev/ubdb)");
    let merged: Vec<String> = ["ours", "debians"]
        .iter()
        .filter_map(|whose| {
            let tool = if *whose == "ours" { programs().linux.with_file_name("uml_moo") } else { house::disk::program("uml_moo")? };
            let new = directory.join(whose);
            let output = Command::new(tool).arg(&cow).arg(&new).output().unwrap();
            assert!(output.status.success(), "{whose}: {}", String::from_utf8_lossy(&output.stderr));
            let (clean, text) = host("e2fsck", &["-fn", &new.to_string_lossy()]);
            assert!(clean, "{whose}: {text}");
            Some(host("md5sum", &[&new.to_string_lossy()]).1)
        })
        .collect();
    assert!(!merged.is_empty());
    for sum in merged {
        assert_eq!(told(&ended.text).first().map(|sum| sum.split(' ').next()), Some(sum.split(' ').next()), "{}", ended.text);
    }
    // Without the COW file everything is as it was.
    std::fs::remove_file(&cow).unwrap();
    let ended = run(&directory, &["ubda=cow,back"], "echo =$(ls /file 2>/dev/null)$(ls /bin/vi)");
    assert_eq!(told(&ended.text), ["/bin/vi"], "{}", ended.text);
}

#[test]
fn a_backing_file_that_has_changed_is_refused_with_both_numbers() {
    let Some(directory) = own("cow-mismatch") else { return };
    let back = directory.join("back").to_string_lossy().into_owned();
    let touch = |date: &str| assert!(host("touch", &["-d", date, &back]).0);
    touch("@1577836800");
    assert_eq!(run(&directory, &["ubda=cow,back", "rw"], WRITE).status, Some(0));
    touch("@1577836900");
    let ended = run(&directory, &["ubda=cow,back"], "");
    for wanted in [
        "mtime mismatch (1577836800 vs 1577836900) of COW header vs backing file\n",
        "Failed to open 'cow', errno = 22\n",
        "ubda: Can't open \"cow\": errno = 22\n",
        "VFS: Cannot open root device \"98:0\" or unknown-block(98,0): error -22\n",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(98,0)\n",
    ] {
        says(&ended.text, wanted);
    }
    assert_eq!(ended.status, Some(134));
    // Restored by hand with the number from the message.
    touch("@1577836800");
    let ended = run(&directory, &["ubda=cow"], "echo =$(cat /file)");
    assert_eq!(told(&ended.text), ["changed"], "{}", ended.text);
    let file = std::fs::OpenOptions::new().write(true).open(&back).unwrap();
    file.set_len((24 << 20) + 512).unwrap();
    drop(file);
    touch("@1577836800");
    let ended = run(&directory, &["ubda=cow,back"], "");
    says(&ended.text, "Size mismatch (25165824 vs 25166336) of COW header vs backing file\n");
    let ended = run(&directory, &["ubda=back,cow", "root=/dev/ubda"], "");
    says(&ended.text, "Failed to read COW header from COW file \"back\", errno = 22\n");
}

#[test]
fn a_backing_file_that_has_moved_is_named_once() {
    let Some(directory) = own("cow-moved") else { return };
    assert_eq!(run(&directory, &["ubda=cow,back", "rw"], WRITE).status, Some(0));
    std::fs::create_dir(directory.join("new")).unwrap();
    std::fs::rename(directory.join("back"), directory.join("new/place")).unwrap();
    let ended = run(&directory, &["ubda=cow", "root=/dev/ubda"], "");
    assert_eq!(ended.status, Some(134), "{}", ended.text);
    let ended = run(&directory, &["ubda=cow,new/place"], "echo =$(cat /file)");
    let stored = std::fs::canonicalize(&directory).unwrap().join("back");
    says(
        &ended.text,
        &format!("Backing file mismatch - \"new/place\" requested, \"{}\" specified in COW header of \"cow\"\n", stored.display()),
    );
    says(&ended.text, "Switching backing file to 'new/place'\n");
    assert_eq!(told(&ended.text), ["changed"]);
    let ended = run(&directory, &["ubda=cow"], "echo =$(cat /file)");
    assert_eq!(told(&ended.text), ["changed"], "{}", ended.text);
    assert!(!ended.text.contains("mismatch"), "{}", ended.text);
}

/// Starts a machine and waits until its script says that it is ready.
fn start(directory: &Path, name: &str, arguments: &[&str], script: &str) -> Running {
    write_script(&directory.join(name), script).unwrap();
    let mut command = Command::new(&programs().linux);
    command.current_dir(directory).args(["mem=64M", "con0=fd:0,fd:1", &format!("ubdpr={name}")]).args(arguments);
    let mut running = Running::start(&mut command).unwrap();
    wait_for(&mut running, "=ready");
    running
}

fn wait_for(running: &mut Running, wanted: &str) {
    let mut before = String::new();
    loop {
        match running.line(Duration::from_secs(60)) {
            Line::Is(line) if line.starts_with(wanted) => return,
            Line::Is(line) => before += &(line + "\n"),
            other => panic!("{other:?} instead of {wanted}; before:\n{before}"),
        }
    }
}

#[test]
fn machines_share_a_backing_file_and_nothing_else() {
    let Some(directory) = own("cow-shared") else { return };
    let before = hash(&directory.join("back"));
    // Each stays until it is killed, with its change on its disk.
    let script = |word: &str| format!("echo {word} > /file; sync; echo =ready; sleep 1000");
    let mut first = start(&directory, "first", &["ubda=cow1,back", "rw"], &script("one"));
    let mut second = start(&directory, "second", &["ubda=cow2,back", "rw"], &script("two"));

    // A third one can have neither COW file, nor write the backing file; reading it, it may.
    let ended = run(&directory, &["ubda=cow1,back", "rw"], "");
    for wanted in
        ["F_SETLK failed, file already locked by pid ", "Failed to lock 'cow1', err = 11\n", "Failed to open 'cow1', errno = 11\n"]
    {
        says(&ended.text, wanted);
    }
    says(&ended.text, "ubda: Can't open \"cow1\": errno = 11\n");
    says(&ended.text, "VFS: Cannot open root device \"98:0\" or unknown-block(98,0): error -11\n");
    says(&ended.text, "6200           24576 ubda \n driver: uml-blkdev\n");
    assert_eq!(ended.status, Some(134));
    let ended = run(&directory, &["ubda=back", "rw"], "");
    says(&ended.text, "Failed to lock 'back', err = 11\n");
    let ended = run(&directory, &["ubdar=back"], "echo =$(ls /file 2>/dev/null)");
    assert_eq!(told(&ended.text), [""], "{}", ended.text);
    // Shared by flag: no lock is asked for.
    let ended = run(&directory, &["ubdarc=cow1,back"], "echo =$(cat /file)");
    says(&ended.text, "Not locking \"cow1\" on the host\n");

    first.kill();
    second.kill();
    for (cow, word) in [("cow1", "one"), ("cow2", "two")] {
        let ended = run(&directory, &[&format!("ubda={cow}")], "echo =$(cat /file)");
        assert_eq!(told(&ended.text), [word], "{}", ended.text);
    }
    assert_eq!(hash(&directory.join("back")), before);
}

#[test]
fn a_disk_is_locked_only_while_it_is_used() {
    let Some(directory) = own("cow-lazy") else { return };
    std::fs::copy(directory.join("back"), directory.join("data")).unwrap();
    let script = "mount -t ext4 /dev/ubdb /mnt; echo here > /mnt/file; umount /mnt; echo =ready; sleep 1000";
    let mut first = start(&directory, "first", &["ubda=cow,back", "ubdb=data"], script);
    // The other machine has the disk although the first one knows it too.
    let ended = run(&directory, &["ubda=cow2,back", "ubdb=data"], "mount -t ext4 /dev/ubdb /mnt; echo =$(cat /mnt/file)");
    assert_eq!(told(&ended.text), ["here"], "{}", ended.text);
    first.kill();
}
