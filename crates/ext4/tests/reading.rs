//! Images that mke2fs filled are read back as they were filled.
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use block::{BlockDevice, RamDisk};
use common::*;
use ext4::{Error, FileType, Filesystem, Options, ROOT_INODE};

/// A tree with what readers trip over.
fn fill(root: &Path) {
    let mut random = Random::new(7);
    std::fs::write(root.join("empty"), b"").unwrap();
    std::fs::write(root.join("small"), b"hello\n").unwrap();
    let big: Vec<u8> = (0..700_000).map(|_| random.next() as u8).collect();
    std::fs::write(root.join("big"), &big).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1_234_567).unwrap();
    symlink("short/target", root.join("fast")).unwrap();
    symlink("long/".repeat(40), root.join("slow")).unwrap();
    std::fs::create_dir_all(root.join("a/b/c/d")).unwrap();
    std::fs::write(root.join("a/b/c/d/deep"), b"deep").unwrap();
    std::fs::create_dir(root.join("many")).unwrap();
    for i in 0..600 {
        std::fs::write(root.join(format!("many/a file with a rather long name, number {i}")), i.to_string()).unwrap();
    }
    std::fs::hard_link(root.join("small"), root.join("a/link")).unwrap();
}

fn compare(fs: &Filesystem, ino: u32, host: &Path) -> usize {
    let mut there: BTreeMap<String, std::path::PathBuf> =
        std::fs::read_dir(host).unwrap().map(|e| e.unwrap()).map(|e| (e.file_name().into_string().unwrap(), e.path())).collect();
    let mut count = 0;
    for name in names(fs, ino) {
        if name == "lost+found" {
            continue;
        }
        let path = there.remove(&name).unwrap_or_else(|| panic!("{name} is too much"));
        let child = fs.lookup(ino, name.as_bytes()).unwrap();
        let (attributes, metadata) = (fs.attributes(child).unwrap(), path.symlink_metadata().unwrap());
        assert_eq!(
            (u32::from(attributes.mode), attributes.size),
            (metadata.mode(), if metadata.is_dir() { attributes.size } else { metadata.size() }),
            "{name}"
        );
        match attributes.file_type() {
            FileType::Directory => count += compare(fs, child, &path),
            FileType::Symlink => {
                assert_eq!(fs.read_link(child).unwrap(), std::fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes())
            }
            FileType::Regular => {
                assert_eq!(attributes.modified.seconds, metadata.mtime());
                assert!(read_all(fs, child) == std::fs::read(&path).unwrap(), "{name} differs");
            }
            other => panic!("{name}: {other:?}"),
        }
        count += 1;
    }
    assert!(there.is_empty(), "missing: {there:?}");
    count
}

#[test]
fn every_kind_of_image_reads_back_what_mke2fs_put_there() {
    if !have_tools() {
        return;
    }
    let tree = Scratch::new();
    fill(&tree.0);
    let more = [
        ("inline data", "-b 4096 -I 256 -O inline_data,extent,metadata_csum,64bit,dir_index,filetype"),
        ("bigalloc", "-b 1024 -C 16384 -O bigalloc,extent,filetype,dir_index,metadata_csum,64bit"),
        ("64 KiB blocks", "-b 65536 -O extent,filetype,dir_index,metadata_csum,64bit"),
    ];
    for (kind, args) in KINDS.iter().chain(&more) {
        let image = make_image(args, if args.contains("65536") { 80 << 10 } else { 32 << 10 }, Some(&tree.0));
        // debugfs indexes no directory; e2fsck -D does.
        let scratch = Scratch::new();
        let path = scratch.path("image");
        std::fs::write(&path, &image).unwrap();
        run("e2fsck", &["-fyD", path.to_str().unwrap()]);
        for image in [image, std::fs::read(&path).unwrap()] {
            let device = std::sync::Arc::new(RamDisk::from_image(image).read_only());
            let fs = Filesystem::mount(device, Options { read_only: true, ..options() }).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!(compare(&fs, ROOT_INODE, &tree.0), 613, "{kind}");
            assert_eq!(fs.take_events(), [], "{kind}");
        }
    }
}

#[test]
fn extended_attributes_and_acls_of_debugfs_are_found() {
    if !have_tools() {
        return;
    }
    let image = make_image(KINDS[3].1, 16384, None);
    let long = "v".repeat(2000);
    let scratch = Scratch::new();
    std::fs::write(scratch.path("long"), &long).unwrap();
    let from = format!("ea_set -f {} lost+found user.long", scratch.path("long").display());
    let (image, _) = debugfs(&image, &["ea_set lost+found user.short value", &from, "ea_set lost+found security.label x"]);
    assert_clean(&image, "debugfs");
    let fs = mount(&disk(image));
    let ino = walk(&fs, "lost+found");
    assert_eq!(fs.get_attribute(ino, b"user.short").unwrap(), b"value");
    assert_eq!(fs.get_attribute(ino, b"user.long").unwrap(), long.as_bytes());
    assert_eq!(fs.get_attribute(ino, b"user.none"), Err(Error::NoAttribute));
    let mut list = fs.list_attributes(ino).unwrap();
    list.sort();
    assert_eq!(list, [b"security.label".to_vec(), b"user.long".to_vec(), b"user.short".to_vec()]);
}

#[test]
fn features_that_forbid_writing_are_refused_by_name_and_read() {
    if !have_tools() {
        return;
    }
    let cases = [
        ("quota", "-O quota"),
        ("encrypt", "-O encrypt"),
        ("verity", "-O verity,extent"),
        ("casefold", "-O casefold"),
        ("inline_data", "-O inline_data"),
        ("bigalloc", "-O bigalloc,extent"),
        ("mmp", "-O mmp"),
        ("ea_inode", "-O ea_inode"),
    ];
    for (feature, args) in cases {
        let image = make_image(&format!("-t ext4 -b 4096 {args}"), 16384, None);
        let device = disk(image);
        let refused = Filesystem::mount(device.clone(), options()).err();
        assert_eq!(refused, Some(Error::ReadOnlyFeature(feature)));
        let fs = Filesystem::mount(device as std::sync::Arc<dyn BlockDevice>, Options { read_only: true, ..options() }).unwrap();
        assert_eq!(names(&fs, ROOT_INODE), ["lost+found"]);
    }
}

#[test]
fn what_is_not_a_file_system_is_said_to_be_none() {
    for len in [0, 512, 2048, 1 << 20] {
        assert!(matches!(Filesystem::mount(disk(vec![0; len]), options()), Err(Error::NotExt(_))));
    }
}
