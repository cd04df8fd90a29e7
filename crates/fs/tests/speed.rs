//! What our own code costs. Run with `cargo test --release -p fs --test speed -- --ignored --nocapture`; prints, judges nothing.

mod common;

use common::Machine;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use vfs::{LookupFlags, OpenFlags, OpenHow, PathAt, SliceSink, SliceSource};

fn time(what: &str, rounds: u32, mut act: impl FnMut()) {
    for _ in 0..rounds / 10 {
        act();
    }
    let begin = Instant::now();
    for _ in 0..rounds {
        act();
    }
    println!("{what:32} {:8.1} ns", begin.elapsed().as_nanos() as f64 / f64::from(rounds));
}

#[test]
#[ignore = "a measurement"]
fn hot_paths_print_their_cost() {
    let m = Machine::new();
    fs::devices::register(m.vfs, Arc::new(|buffer: &mut [u8]| buffer.fill(7))).unwrap();
    m.vfs.register_type(fs::devtmpfs::Devtmpfs::new(m.vfs).unwrap());
    m.mkdir("/dev").unwrap();
    m.mount("devtmpfs", "/dev", vfs::MountFlags::empty(), "").unwrap();
    m.mkdir("/usr").unwrap();
    m.mkdir("/usr/lib").unwrap();
    m.write("/usr/lib/libc.so", &[1; 65536]).unwrap();
    let caller = m.caller();
    let path = PathAt::cwd(b"/usr/lib/libc.so");
    time("stat /usr/lib/libc.so", 200_000, || {
        black_box(caller.stat(path, LookupFlags::FOLLOW).unwrap());
    });
    time("open+close /usr/lib/libc.so", 200_000, || {
        black_box(caller.open(path, OpenHow::new(OpenFlags::empty(), 0)).unwrap());
    });
    time("stat absent", 200_000, || {
        black_box(caller.stat(PathAt::cwd(b"/usr/lib/absent"), LookupFlags::FOLLOW).unwrap_err());
    });
    let mut buffer = vec![0; 4096];
    let zero = m.open("/dev/zero", OpenFlags::empty()).unwrap();
    for len in [1, 512, 4096] {
        time(&format!("read /dev/zero {len}"), 200_000, || {
            zero.read(&mut SliceSink::new(&mut buffer[..len])).unwrap();
        });
    }
    let file = m.open("/usr/lib/libc.so", OpenFlags::RDWR).unwrap();
    for len in [1, 512, 4096] {
        time(&format!("pread tmpfs {len}"), 200_000, || {
            file.read_at(0, &mut SliceSink::new(&mut buffer[..len])).unwrap();
        });
        time(&format!("pwrite tmpfs {len}"), 200_000, || {
            file.write_at(0, &mut SliceSource::new(&buffer[..len])).unwrap();
        });
    }
    let (r, w) = caller.pipe(OpenFlags::empty()).unwrap();
    for len in [1, 512, 4096] {
        time(&format!("pipe write+read {len}"), 200_000, || {
            w.write(&mut SliceSource::new(&buffer[..len])).unwrap();
            r.read(&mut SliceSink::new(&mut buffer[..len])).unwrap();
        });
    }
    time("creat+unlink", 100_000, || {
        drop(caller.open(PathAt::cwd(b"/usr/x"), OpenHow::new(OpenFlags::CREAT, 0o644)).unwrap());
        caller.unlink(PathAt::cwd(b"/usr/x")).unwrap();
    });
    time("pipe()", 50_000, || {
        black_box(caller.pipe(OpenFlags::empty()).unwrap());
    });
}
