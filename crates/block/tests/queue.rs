//! The queue: merging, order, depth, failures, and many tasks against a model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use abi::Errno;
use block::queue::{Limits, Queue, Request};
use block::{BlockDevice, Durability, FaultyDisk, RamDisk};

/// Notes each call that reaches the device.
struct Calls {
    disk: RamDisk,
    log: Mutex<Vec<String>>,
}

impl Calls {
    fn new() -> Arc<Calls> {
        Arc::new(Calls { disk: RamDisk::new(1000), log: Mutex::default() })
    }
    fn note(&self, what: &str, sector: u64, sectors: u64) {
        self.log.lock().unwrap().push(format!("{what} {sector}+{sectors}"));
    }
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl BlockDevice for Calls {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.note("read", sector, buffer.len() as u64 / 512);
        self.disk.read(sector, buffer)
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.note(if durability == Durability::Cached { "write" } else { "force" }, sector, data.len() as u64 / 512);
        self.disk.write(sector, data, durability)
    }
    fn flush(&self) -> Result<(), Errno> {
        self.note("flush", 0, 0);
        Ok(())
    }
}

fn write(sector: u64, sectors: usize, value: u8) -> Request {
    Request::Write { sector, data: vec![value; sectors * 512], durability: Durability::Cached }
}

fn drain(queue: &Queue) {
    while queue.serve_one() {}
}

#[test]
fn neighbours_that_wait_together_are_one_call_and_each_gets_its_answer() {
    let device = Calls::new();
    let queue = Queue::new(device.clone(), Limits::default());
    let writes = [write(10, 2, 1), write(50, 1, 9), write(12, 3, 2), write(15, 1, 3)].map(|request| queue.submit(request).unwrap());
    drain(&queue);
    assert_eq!(device.taken(), ["write 10+6", "write 50+1"]);
    assert!(writes.iter().all(|write| write.wait() == Ok(vec![])));
    let reads = [(10, 2), (12, 3), (15, 1)].map(|(sector, sectors)| queue.submit(Request::Read { sector, sectors }).unwrap());
    drain(&queue);
    assert_eq!(device.taken(), ["read 10+6"]);
    assert_eq!(reads.map(|read| read.wait().unwrap()), [vec![1; 1024], vec![2; 1536], vec![3; 512]]);
    let statistics = queue.statistics();
    assert_eq!((statistics.writes.requests, statistics.writes.merged, statistics.writes.sectors), (4, 2, 7));
    assert_eq!((statistics.reads.requests, statistics.reads.merged, statistics.reads.sectors, statistics.in_flight), (3, 2, 6, 0));
}

#[test]
fn merging_stops_at_the_limit_and_never_mixes_durabilities() {
    let device = Calls::new();
    let queue = Queue::new(device.clone(), Limits { merged_bytes: 2048, ..Limits::default() });
    (0..6).for_each(|at| drop(queue.submit(write(at * 2, 2, 1)).unwrap()));
    let forced = Request::Write { sector: 12, data: vec![0; 512], durability: Durability::ForceUnitAccess };
    queue.submit(forced).unwrap();
    queue.submit(write(13, 1, 1)).unwrap();
    drain(&queue);
    assert_eq!(device.taken(), ["write 0+4", "write 4+4", "write 8+4", "force 12+1", "write 13+1"]);
}

#[test]
fn overlapping_requests_keep_their_order() {
    let device = Calls::new();
    let queue = Queue::new(device.clone(), Limits::default());
    queue.submit(write(10, 4, 1)).unwrap();
    let between = queue.submit(Request::Read { sector: 13, sectors: 3 }).unwrap();
    queue.submit(write(12, 2, 2)).unwrap();
    let after = queue.submit(Request::Read { sector: 12, sectors: 3 }).unwrap();
    queue.submit(write(14, 1, 3)).unwrap();
    drain(&queue);
    assert_eq!(between.wait().unwrap(), [vec![1; 512], vec![0; 1024]].concat());
    assert_eq!(after.wait().unwrap(), [vec![2; 1024], vec![0; 512]].concat());
}

#[test]
fn a_bad_sector_fails_only_the_request_it_belongs_to() {
    let disk = Arc::new(FaultyDisk::new(100));
    disk.fail_writes(11..12);
    disk.fail_reads(11..12);
    let queue = Queue::new(disk, Limits::default());
    let writes = [write(10, 1, 1), write(11, 1, 1), write(12, 1, 1)].map(|request| queue.submit(request).unwrap());
    let reads = [10, 11, 12].map(|sector| queue.submit(Request::Read { sector, sectors: 1 }).unwrap());
    drain(&queue);
    assert_eq!(writes.map(|write| write.wait().err()), [None, Some(Errno::EIO), None]);
    assert_eq!(reads.map(|read| read.wait().err()), [None, Some(Errno::EIO), None]);
}

#[test]
fn requests_past_the_end_and_after_closing_are_refused_and_aborted_ones_answered() {
    let queue = Queue::new(Arc::new(RamDisk::new(100)), Limits::default());
    for request in [Request::Read { sector: 99, sectors: 2 }, Request::Discard { sector: u64::MAX, sectors: u64::MAX }, write(100, 1, 0)] {
        assert_eq!(queue.submit(request).err(), Some(Errno::EIO));
    }
    let waiting = queue.submit(write(0, 1, 0)).unwrap();
    queue.abort();
    assert_eq!(waiting.wait(), Err(Errno::EIO));
    assert_eq!(queue.submit(Request::Flush).err(), Some(Errno::ENODEV));
    queue.serve();
}

#[test]
fn a_full_queue_makes_submitters_sleep_until_there_is_room() {
    let queue = Queue::new(Arc::new(RamDisk::new(100)), Limits { depth: 2, ..Limits::default() });
    let submitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for sector in 0..10 {
                queue.submit(write(sector, 1, 1)).unwrap();
                submitted.fetch_add(1, Ordering::SeqCst);
            }
        });
        while submitted.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!((submitted.load(Ordering::SeqCst), queue.statistics().in_flight), (2, 2));
        while submitted.load(Ordering::SeqCst) < 10 || queue.serve_one() {
            queue.serve_one();
        }
    });
    assert_eq!(queue.statistics().in_flight, 0);
}

#[test]
fn many_tasks_and_helpers_see_their_own_writes() {
    let disk = Arc::new(RamDisk::new(800));
    let queue = Arc::new(Queue::new(disk.clone(), Limits { depth: 8, merged_bytes: 8192 }));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| queue.serve());
        }
        let tasks: Vec<_> = (0..8u64)
            .map(|task| {
                let queue = queue.clone();
                scope.spawn(move || {
                    let mut expected = vec![0; 100 * 512];
                    for round in 0..200u64 {
                        let at = round * 37 % 100;
                        let count = (1 + round % 5).min(100 - at);
                        let range = at as usize * 512..(at + count) as usize * 512;
                        expected[range.clone()].fill(round as u8);
                        queue.write(task * 100 + at, &expected[range], Durability::Cached).unwrap();
                        if round % 16 == 0 {
                            queue.flush().unwrap();
                            let mut all = vec![0; 100 * 512];
                            queue.read(task * 100, &mut all).unwrap();
                            assert!(all == expected, "task {task} round {round}");
                        }
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        queue.close();
    });
    assert_eq!(queue.statistics().writes.requests, 1600);
}
