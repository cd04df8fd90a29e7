//! `uml_mkcow` and `uml_moo`: what they do, what they say, and that files go both ways between them and Debian's.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use block::{BlockDevice, Durability};
use common::{Scratch, debian, run};
use cow::device::Access;
use cow::{Device, Header, Version};
use tools::host_file::HostFile;

const MOO: &str = env!("CARGO_BIN_EXE_uml_moo");
const MKCOW: &str = env!("CARGO_BIN_EXE_uml_mkcow");

/// A backing file with data, holes and 100 sectors.
fn backing(scratch: &Scratch, size: u64) {
    let file = File::create(scratch.path("back")).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&[0x11; 1000], 700).unwrap();
    file.write_all_at(&[0x22; 100], 9000).unwrap();
}

/// Writes sectors through the device, as a machine would.
fn write_sectors(path: &Path, sectors: &[(u64, u8)]) {
    let file = HostFile(File::options().read(true).write(true).open(path).unwrap());
    let header = Header::read(&file).unwrap();
    let back = HostFile(File::open(tools::backing::path(&header.backing_path)).unwrap());
    let device = Device::new(file, &header, back, Access::ReadWrite).unwrap();
    for (sector, value) in sectors {
        device.write(*sector, &[*value; 512], Durability::Cached).unwrap();
    }
    device.flush().unwrap();
}

fn content(path: &Path) -> Vec<u8> {
    let file = HostFile(File::open(path).unwrap());
    let header = Header::read(&file).unwrap();
    let back = HostFile(File::open(tools::backing::path(&header.backing_path)).unwrap());
    let device = Device::new(file, &header, back, Access::ReadOnly).unwrap();
    let mut bytes = vec![0; device.sectors() as usize * 512];
    device.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_made_file_has_the_length_and_holes_of_the_reference_and_is_the_same_as_debians() {
    let scratch = Scratch::new();
    for (size, len) in [(1_000_001, 1_012_289), (1 << 20, 1_060_864)] {
        backing(&scratch, size);
        let made = run(MKCOW, &["-f", "c.cow", "back"], &scratch.0);
        assert_eq!((made.status, made.stdout.as_str(), made.stderr.as_str()), (0, "", ""));
        let metadata = fs::metadata(scratch.path("c.cow")).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (len, 0o644));
        assert!(metadata.blocks() * 512 <= 16384, "{} blocks are allocated", metadata.blocks());
        if let Some(theirs) = debian("uml_mkcow") {
            run(theirs, &["theirs.cow", "back"], &scratch.0);
            assert!(fs::read(scratch.path("theirs.cow")).unwrap() == fs::read(scratch.path("c.cow")).unwrap());
            fs::remove_file(scratch.path("theirs.cow")).unwrap();
        }
    }
}

#[test]
fn the_stored_path_is_absolute_with_its_directory_resolved() {
    let scratch = Scratch::new();
    backing(&scratch, 4096);
    fs::create_dir(scratch.path("dir")).unwrap();
    fs::rename(scratch.path("back"), scratch.path("dir/back")).unwrap();
    symlink("dir", scratch.path("link")).unwrap();
    assert_eq!(run(MKCOW, &["c.cow", "link/../link/back"], &scratch.0).status, 0);
    let header = Header::read(&HostFile(File::open(scratch.path("c.cow")).unwrap())).unwrap();
    assert_eq!(tools::backing::path(&header.backing_path), scratch.path("dir/back"));
}

#[test]
fn an_existing_file_is_refused_and_with_f_emptied() {
    let scratch = Scratch::new();
    backing(&scratch, 51_200);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    let fresh = fs::read(scratch.path("c.cow")).unwrap();
    write_sectors(&scratch.path("c.cow"), &[(3, 1), (99, 2)]);
    let refused = run(MKCOW, &["c.cow", "back"], &scratch.0);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.starts_with("open COW file: File exists\n"), "{}", refused.stderr);
    assert_eq!(run(MKCOW, &["-f", "c.cow", "back"], &scratch.0).status, 0);
    assert!(fs::read(scratch.path("c.cow")).unwrap() == fresh);
    let itself = run(MKCOW, &["-f", "back", "back"], &scratch.0);
    assert_eq!(itself.status, 1);
    assert_eq!(fs::metadata(scratch.path("back")).unwrap().len(), 51_200);
}

#[test]
fn wrong_command_lines_end_with_the_usage_and_the_status_of_the_reference() {
    let scratch = Scratch::new();
    for arguments in [&[][..], &["c.cow"], &["a", "b", "c"], &["-z", "a", "b"]] {
        let ended = run(MKCOW, arguments, &scratch.0);
        assert_eq!(ended.status, 2, "{arguments:?}");
        assert!(ended.stderr.contains("uml_mkcow usage: \n\tuml_mkcow [-f] <COW file> <backing file>\n"), "{}", ended.stderr);
    }
    for arguments in [&[][..], &["a"], &["a", "b", "c"], &["-d"], &["-d", "a", "b"], &["-b"], &["-x", "a", "b"]] {
        let ended = run(MOO, arguments, &scratch.0);
        assert_eq!(ended.status, 1, "{arguments:?}");
        assert!(ended.stderr.contains("\tuml_moo [ -b <actual backing file> ] -d <COW file>\n"), "{}", ended.stderr);
    }
    let missing = run(MKCOW, &["c.cow", "nothing"], &scratch.0);
    assert_eq!(missing.status, 1);
    assert!(missing.stderr.contains("nothing") && missing.stderr.contains("No such file"), "{}", missing.stderr);
    assert!(!scratch.path("c.cow").exists());
}

#[test]
fn a_merge_into_a_new_file_is_the_device_and_sparse_and_the_same_as_debians() {
    let scratch = Scratch::new();
    backing(&scratch, 40 << 20);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    write_sectors(&scratch.path("c.cow"), &[(0, 5), (1, 0), (2, 7), (5000, 8), (81_919, 9)]);
    let merged = run(MOO, &["c.cow", "new"], &scratch.0);
    assert_eq!((merged.status, merged.stderr.as_str()), (0, ""));
    assert!(fs::read(scratch.path("new")).unwrap() == content(&scratch.path("c.cow")));
    let metadata = fs::metadata(scratch.path("new")).unwrap();
    assert!(metadata.blocks() * 512 <= 128 << 10, "{} blocks", metadata.blocks());
    assert_eq!(metadata.mode() & 0o777, 0o644);
    if let Some(theirs) = debian("uml_moo") {
        assert_eq!(run(theirs, &["c.cow", "theirs"], &scratch.0).status, 0);
        assert!(fs::read(scratch.path("new")).unwrap() == fs::read(scratch.path("theirs")).unwrap());
    }
}

#[test]
fn a_file_made_by_debian_is_merged_by_us() {
    let Some(theirs) = debian("uml_mkcow") else { return };
    let scratch = Scratch::new();
    backing(&scratch, 51_200);
    run(theirs, &["c.cow", "back"], &scratch.0);
    write_sectors(&scratch.path("c.cow"), &[(50, 3)]);
    let expected = content(&scratch.path("c.cow"));
    assert_eq!(run(MOO, &["c.cow", "new"], &scratch.0).status, 0);
    assert!(fs::read(scratch.path("new")).unwrap() == expected);
}

#[test]
fn a_merge_keeps_the_partial_last_sector() {
    let scratch = Scratch::new();
    backing(&scratch, 10_001);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    write_sectors(&scratch.path("c.cow"), &[(19, 6)]);
    assert_eq!(run(MOO, &["c.cow", "new"], &scratch.0).status, 0);
    let merged = fs::read(scratch.path("new")).unwrap();
    assert_eq!((merged.len(), &merged[19 * 512..]), (10_240, &[6; 512][..]));
}

#[test]
fn b_and_d_come_in_either_order_and_in_place_changes_the_backing_file_only_where_needed() {
    for arguments in [&["-b", "moved", "-d", "c.cow"][..], &["-d", "-b", "moved", "c.cow"], &["c.cow", "-d", "-bmoved"]] {
        let scratch = Scratch::new();
        backing(&scratch, 20 << 20);
        run(MKCOW, &["c.cow", "back"], &scratch.0);
        write_sectors(&scratch.path("c.cow"), &[(4, 1), (30_000, 0), (40_959, 0xee)]);
        let expected = content(&scratch.path("c.cow"));
        fs::rename(scratch.path("back"), scratch.path("moved")).unwrap();
        let lost = run(MOO, &["c.cow", "new"], &scratch.0);
        assert!(lost.status == 1 && lost.stderr.contains("-b"), "{}", lost.stderr);
        let merged = run(MOO, arguments, &scratch.0);
        assert_eq!((merged.status, merged.stderr.as_str()), (0, ""));
        assert!(fs::read(scratch.path("moved")).unwrap() == expected);
        assert!(fs::metadata(scratch.path("moved")).unwrap().blocks() * 512 <= 64 << 10);
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused_with_both_numbers_and_the_remedy() {
    let scratch = Scratch::new();
    backing(&scratch, 51_200);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    let back = File::options().write(true).open(scratch.path("back")).unwrap();
    let made = back.metadata().unwrap().mtime();
    back.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_130_814_229)).unwrap();
    let path = scratch.path("back").display().to_string();
    for arguments in [&["c.cow", "new"][..], &["-d", "c.cow"]] {
        let refused = run(MOO, arguments, &scratch.0);
        assert_eq!(refused.status, 1);
        let first = format!("mtime mismatch ({made} vs 1130814229) of COW header vs backing file \"{path}\"\n");
        assert!(refused.stderr.starts_with(&first) && refused.stderr.contains("touch --date"), "{}", refused.stderr);
    }
    back.set_len(51_201).unwrap();
    let refused = run(MOO, &["c.cow", "new"], &scratch.0);
    assert!(refused.stderr.starts_with(&format!("Size mismatch (51200 vs 51201) of COW header vs backing file \"{path}\"\n")));
    let swapped = run(MOO, &["back", "new"], &scratch.0);
    assert!(swapped.status == 1 && swapped.stderr.starts_with("Reading COW header failed\n"), "{}", swapped.stderr);
    assert!(!scratch.path("new").exists());
}

#[test]
fn a_merge_onto_one_of_its_own_files_is_refused() {
    let scratch = Scratch::new();
    backing(&scratch, 51_200);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    let before = (fs::read(scratch.path("back")).unwrap(), fs::read(scratch.path("c.cow")).unwrap());
    for output in ["back", "c.cow"] {
        let refused = run(MOO, &["c.cow", output], &scratch.0);
        assert!(refused.status == 1 && refused.stderr.contains("itself"), "{}", refused.stderr);
    }
    assert!(before == (fs::read(scratch.path("back")).unwrap(), fs::read(scratch.path("c.cow")).unwrap()));
}

#[test]
fn a_disk_in_use_is_not_merged_in_place() {
    let scratch = Scratch::new();
    backing(&scratch, 51_200);
    run(MKCOW, &["c.cow", "back"], &scratch.0);
    let machine = File::options().read(true).write(true).open(scratch.path("c.cow")).unwrap();
    assert_eq!(tools::backing::lock(&machine, true), Ok(()));
    let refused = run(MOO, &["-d", "c.cow"], &scratch.0);
    let holder = format!("in use by process {}", std::process::id());
    assert!(refused.status == 1 && refused.stderr.contains(&holder), "{}", refused.stderr);
    assert_eq!(run(MKCOW, &["-f", "c.cow", "back"], &scratch.0).status, 1);
    let warned = run(MOO, &["c.cow", "new"], &scratch.0);
    assert!(warned.status == 0 && warned.stderr.contains(&holder), "{}", warned.stderr);
}

#[test]
fn files_of_old_versions_are_merged_and_as_debian_merges_them() {
    for version in [Version::V1Little, Version::V1Big, Version::V2, Version::V3Broken] {
        let scratch = Scratch::new();
        backing(&scratch, 4 << 20);
        let path = scratch.path("back");
        let mtime = fs::metadata(&path).unwrap().mtime() as u32;
        let alignment = if version.number() == 3 { 4096 } else { 512 };
        let header = Header { version, alignment, ..Header::new(path.into_os_string().into_encoded_bytes(), 4 << 20, mtime) };
        let file = File::options().read(true).write(true).create_new(true).open(scratch.path("c.cow")).unwrap();
        header.create(&HostFile(file)).unwrap();
        write_sectors(&scratch.path("c.cow"), &[(0, 1), (1000, 2), (8191, 3)]);
        assert_eq!(run(MOO, &["c.cow", "new"], &scratch.0).status, 0);
        let merged = fs::read(scratch.path("new")).unwrap();
        assert!(merged == content(&scratch.path("c.cow")) && merged[1000 * 512] == 2, "{version:?}");
        // Debian's reads only its own byte order.
        let Some(theirs) = debian("uml_moo").filter(|_| version != Version::V1Big) else { continue };
        let ended = run(theirs, &["c.cow", "theirs"], &scratch.0);
        println!("{version:?}: {ended:?}");
        assert!(fs::read(scratch.path("theirs")).is_ok_and(|theirs| theirs == merged), "{version:?}");
    }
}
