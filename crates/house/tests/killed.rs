//! Machines that are killed at any moment while they write: what was on the disk by fsync is there, and the file system is sound.
#![forbid(unsafe_code)]

use house::disk::{boot, host, make_image, place, write_script};
use house::machine::{Line, Programs, Running, compile};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A test's own directory with an image `back` and the program that writes records.
fn own(name: &str) -> Option<PathBuf> {
    house::disk::tree()?;
    let directory = place(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    make_image(&directory.join("back"), &["-t", "ext4", "-b", "1024"], 48).unwrap();
    let source = house::repository().join("tests/guest/runner/records.c");
    compile(&source, &directory.join("records"), &[], &[]).unwrap();
    Some(directory)
}

fn told(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix('=')).collect()
}

/// Kills a machine `rounds` times while it writes to `disk`; `image` says how to see the disk as one file after each round.
fn rounds(directory: &Path, linux: &Path, disk: &str, rounds: usize, image: impl Fn() -> PathBuf) {
    let mut announced: i64 = -1;
    for round in 0..rounds {
        write_script(&directory.join("script"), "cat /dev/ubdo > /tmp/r; chmod 755 /tmp/r; /tmp/r write /root").unwrap();
        let mut command = Command::new(linux);
        command.current_dir(directory).args(["mem=64M", "con0=fd:0,fd:1", "ubdpr=script", "ubdor=records", "rw", "quiet", disk]);
        let mut running = Running::start(&mut command).unwrap();
        // Killed after so many records: the moment falls anywhere in the next one, or the write-back beside it.
        let records = 1 + (round * 7) % 45;
        let mut seen = 0;
        while seen < records {
            match running.line(Duration::from_secs(60)) {
                Line::Is(line) => {
                    if let Some(number) = line.strip_prefix('=') {
                        announced = announced.max(number.parse().unwrap_or_else(|_| panic!("{line}")));
                        seen += 1;
                    }
                }
                other => panic!("round {round}: {other:?} after {seen} records"),
            }
        }
        std::thread::sleep(Duration::from_micros((round as u64 * 773) % 5000));
        running.kill();
        // What it said before it died counts too.
        while let Line::Is(line) = running.line(Duration::from_secs(5)) {
            if let Some(number) = line.strip_prefix('=').and_then(|text| text.parse().ok()) {
                announced = announced.max(number);
            }
        }
        let script = "cat /dev/ubdo > /tmp/r; chmod 755 /tmp/r; /tmp/r check /root; mount -o remount,ro /";
        let ended = boot(linux, directory, &["ubdor=records", "rw", disk], script).unwrap();
        let found = told(&ended.text).first().and_then(|text| text.strip_prefix("found ")).and_then(|text| text.parse::<i64>().ok());
        let found = found.unwrap_or_else(|| panic!("round {round}: {}", ended.text));
        assert!(found > announced, "round {round}: record {announced} was on the disk, now there are {found}");
        let (clean, text) = host("e2fsck", &["-fn", &image().to_string_lossy()]);
        assert!(clean, "round {round}: {text}\n{}", ended.text);
    }
}

fn count() -> usize {
    if house::scale() == "full" { 500 } else { 6 }
}

#[test]
fn a_disk_loses_nothing_that_was_synced_when_its_machine_is_killed() {
    let Some(directory) = own("killed") else { return };
    let linux = Programs::build().unwrap().linux;
    rounds(&directory, &linux, "ubda=back", count(), || directory.join("back"));
}

#[test]
fn a_cow_file_loses_nothing_that_was_synced_when_its_machine_is_killed() {
    let Some(directory) = own("killed-cow") else { return };
    let programs = Programs::build().unwrap();
    let (cow, merged) = (directory.join("cow"), directory.join("merged"));
    let merge = || {
        let _ = std::fs::remove_file(&merged);
        let output = Command::new(programs.linux.with_file_name("uml_moo")).arg(&cow).arg(&merged).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        merged.clone()
    };
    rounds(&directory, &programs.linux, "ubda=cow,back", count(), merge);
}
