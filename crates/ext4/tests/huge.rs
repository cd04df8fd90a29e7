//! More than 2^32 blocks. It takes half a gigabyte of disk and minutes, so it runs at full scale only.
mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use abi::Errno;
use block::{BlockDevice, Durability, SECTOR_SIZE};
use common::*;
use ext4::{Claim, Filesystem, ROOT_INODE};

struct SparseFile(File);

impl BlockDevice for SparseFile {
    fn sectors(&self) -> u64 {
        self.0.metadata().unwrap().len() / SECTOR_SIZE as u64
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read_exact_at(buffer, sector * SECTOR_SIZE as u64).map_err(|_| Errno::EIO)
    }

    fn write(&self, sector: u64, data: &[u8], _: Durability) -> Result<(), Errno> {
        self.0.write_all_at(data, sector * SECTOR_SIZE as u64).map_err(|_| Errno::EIO)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn blocks_past_32_bits_are_allocated_mapped_and_read_by_debugfs() {
    if !have_tools() || scale() < 50 {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.path("image");
    File::create(&path).unwrap().set_len(5 << 40).unwrap();
    let args = "-q -F -b 1024 -G 4096 -i 4194304 -J size=16 -E lazy_itable_init=1,nodiscard,lazy_journal_init=1 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
    let mut words: Vec<&str> = args.split(' ').collect();
    words.push(path.to_str().unwrap());
    assert!(run("mke2fs", &words).status.success());
    let file_device = File::options().read(true).write(true).open(&path).unwrap();
    let fs = Filesystem::mount(Arc::new(SparseFile(file_device)), options()).unwrap();
    let mut high = None;
    for i in 0..40 {
        let dir = fs.create(ROOT_INODE, format!("d{i}").as_bytes(), &directory()).unwrap().ino;
        let ino = fs.create(dir, b"f", &file(0o644)).unwrap().ino;
        fs.write(ino, 0, &[i as u8 + 1; 300_000], NOW, Claim::Ordinary).unwrap();
        if fs.map_blocks(ino, 0, 1).unwrap().physical > u64::from(u32::MAX) {
            high = Some(i);
        }
    }
    let high = high.expect("top-level directories are spread over the disk");
    let ino = walk(&fs, &format!("d{high}/f"));
    assert!(read_all(&fs, ino).iter().all(|&b| b == high as u8 + 1));
    fs.unmount().unwrap();
    assert_eq!(fs.take_events(), []);
    let out = scratch.path("out");
    run("debugfs", &["-R", &format!("dump /d{high}/f {}", out.display()), path.to_str().unwrap()]);
    let dumped = std::fs::read(out).unwrap();
    assert!(dumped.len() == 300_000 && dumped.iter().all(|&b| b == high as u8 + 1));
}
