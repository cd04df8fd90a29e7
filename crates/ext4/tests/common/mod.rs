//! Images made and judged by e2fsprogs.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block::{BlockDevice, RamDisk};
use ext4::{Filesystem, NewInode, Options, ROOT_INODE, Timestamp};

pub const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };

/// Whether e2fsprogs is there; says so loudly where not.
pub fn have_tools() -> bool {
    let have = ["mke2fs", "e2fsck", "debugfs", "dumpe2fs"].iter().all(|tool| Command::new(tool_path(tool)).arg("-V").output().is_ok());
    if !have {
        eprintln!("SKIPPED: mke2fs, e2fsck, debugfs or dumpe2fs is missing (install e2fsprogs)");
    }
    have
}

fn tool_path(tool: &str) -> PathBuf {
    ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(tool))
}

/// A directory of this test's own, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("ext4-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool_path(tool)).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An image of `kib` KiB made by mke2fs with these words, filled from `root` if given.
pub fn make_image(args: &str, kib: u32, root: Option<&Path>) -> Vec<u8> {
    let scratch = Scratch::new();
    let image = scratch.path("image");
    std::fs::File::create(&image).unwrap().set_len(u64::from(kib) * 1024).unwrap();
    let mut words: Vec<&str> = vec!["-q", "-F"];
    words.extend(args.split_whitespace());
    if let Some(root) = root {
        words.extend(["-d", root.to_str().unwrap()]);
    }
    words.push(image.to_str().unwrap());
    let output = run("mke2fs", &words);
    assert!(output.status.success(), "mke2fs {words:?}: {}", text(&output));
    std::fs::read(&image).unwrap()
}

/// Lets debugfs run these commands on an image, for writing.
pub fn debugfs(image: &[u8], commands: &[&str]) -> (Vec<u8>, String) {
    let scratch = Scratch::new();
    let (path, script) = (scratch.path("image"), scratch.path("script"));
    std::fs::write(&path, image).unwrap();
    std::fs::write(&script, commands.join("\n") + "\n").unwrap();
    let output = run("debugfs", &["-w", "-f", script.to_str().unwrap(), path.to_str().unwrap()]);
    (std::fs::read(&path).unwrap(), text(&output))
}

/// What e2fsck says of an image, when that is not "clean".
pub fn check(image: &[u8]) -> Result<(), String> {
    let scratch = Scratch::new();
    let path = scratch.path("image");
    std::fs::write(&path, image).unwrap();
    let output = run("e2fsck", &["-fn", path.to_str().unwrap()]);
    if output.status.code() == Some(0) { Ok(()) } else { Err(text(&output)) }
}

/// Lets e2fsck replay and repair; its exit code (0 clean, 1 repaired) and the image.
pub fn repair(image: &[u8]) -> (i32, Vec<u8>, String) {
    let scratch = Scratch::new();
    let path = scratch.path("image");
    std::fs::write(&path, image).unwrap();
    let output = run("e2fsck", &["-fy", path.to_str().unwrap()]);
    (output.status.code().unwrap_or(-1), std::fs::read(&path).unwrap(), text(&output))
}

#[track_caller]
pub fn assert_clean(image: &[u8], what: &str) {
    if let Err(said) = check(image) {
        panic!("{what}: e2fsck -fn is not content:\n{said}");
    }
}

pub fn options() -> Options {
    Options { now: NOW, ..Options::default() }
}

pub fn mount(disk: &Arc<RamDisk>) -> Arc<Filesystem> {
    Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap()
}

pub fn disk(image: Vec<u8>) -> Arc<RamDisk> {
    Arc::new(RamDisk::from_image(image))
}

/// Walks a path without symlinks.
pub fn walk(fs: &Filesystem, path: &str) -> u32 {
    path.split('/')
        .filter(|part| !part.is_empty())
        .fold(ROOT_INODE, |dir, part| fs.lookup(dir, part.as_bytes()).unwrap_or_else(|e| panic!("{path}: {part}: {e}")))
}

pub fn read_all(fs: &Filesystem, ino: u32) -> Vec<u8> {
    let mut bytes = vec![0xaa; fs.attributes(ino).unwrap().size as usize];
    let count = fs.read(ino, 0, &mut bytes).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

pub fn names(fs: &Filesystem, dir: u32) -> Vec<String> {
    let (mut cursor, mut list) = (0, Vec::new());
    loop {
        let batch = fs.read_dir(dir, cursor).unwrap();
        let Some(last) = batch.last() else { break };
        cursor = last.next;
        list.extend(batch.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).filter(|n| n != "." && n != ".."));
    }
    list.sort();
    list
}

pub fn file(mode: u16) -> NewInode<'static> {
    NewInode { mode: 0o100_000 | mode, uid: 1000, gid: 1000, now: NOW, ..NewInode::default() }
}

pub fn directory() -> NewInode<'static> {
    NewInode { mode: 0o040_755, uid: 1000, gid: 1000, now: NOW, ..NewInode::default() }
}

/// How many times a test's work is multiplied.
pub fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 50,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

/// A small generator of numbers that only depend on the seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// The kinds of image that every behaviour is tried on: a name and the words for mke2fs.
pub const KINDS: [(&str, &str); 9] = [
    ("ext2, 1 KiB blocks", "-t ext2 -b 1024 -I 128 -O none,sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr"),
    ("ext2 of revision 1 without anything", "-b 1024 -I 128 -O none"),
    ("ext3, 1 KiB blocks", "-b 1024 -J size=1 -O none,has_journal,sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr"),
    (
        "ext4 by default",
        "-b 4096 -I 256 -J size=4 -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
    ),
    (
        "ext4, 1 KiB blocks, orphan file",
        "-b 1024 -I 256 -J size=2 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed,orphan_file",
    ),
    (
        "ext4, 2 KiB blocks, uninit_bg",
        "-b 2048 -g 4096 -I 256 -J size=4 -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,uninit_bg,dir_nlink,extra_isize",
    ),
    (
        "ext4 without a journal, meta_bg, sparse_super2",
        "-b 1024 -I 256 -O none,ext_attr,dir_index,filetype,extent,64bit,meta_bg,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,large_dir",
    ),
    (
        "ext4 of 32-bit descriptors and checksums",
        "-b 4096 -g 1024 -I 256 -J size=4 -O none,has_journal,ext_attr,dir_index,filetype,extent,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
    ),
    (
        "ext4 of 8 KiB blocks",
        "-b 8192 -I 512 -J size=8 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,fast_commit",
    ),
];
