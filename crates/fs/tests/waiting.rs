//! Pipes, FIFOs, epoll and the other files that are waited for.

mod common;

use abi::{Errno, SysError};
use common::{Machine, read_some, write};
use fs::epoll::{Epoll, EpollControl, EpollEvent, epoll};
use fs::eventfd::{EventFdMode, eventfd};
use fs::inotify::{Inotify, inotify};
use fs::timerfd::{TimerClock, TimerFd, TimerSpec, TimerStart, timerfd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync::Events;
use vfs::{OpenFile, OpenFlags, PathAt, PollItem, poll_files};

fn errno<T>(result: Result<T, SysError>) -> Errno {
    result.map(drop).unwrap_err().errno()
}
fn pipe(m: &Machine, flags: OpenFlags) -> (Arc<OpenFile>, Arc<OpenFile>) {
    m.caller().pipe(flags).unwrap()
}
const IN: u32 = Events::IN.bits();
const OUT: u32 = Events::OUT.bits();
const ET: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;

#[test]
fn a_pipe_holds_sixteen_pages_and_ends_with_its_writers() {
    let m = Machine::new();
    let (r, w) = pipe(&m, OpenFlags::NONBLOCK);
    assert_eq!(errno(read_some(&r, 1)), Errno::EAGAIN);
    assert_eq!(write(&w, &vec![7; 100_000]).unwrap(), 65536);
    assert_eq!(errno(write(&w, b"x")), Errno::EAGAIN);
    assert_eq!(read_some(&r, 4095).unwrap().len(), 4095);
    assert_eq!(errno(write(&w, &[8; 600])), Errno::EAGAIN, "no slot is free while a byte of it is left");
    assert_eq!(read_some(&r, 1).unwrap(), [7]);
    assert_eq!(write(&w, &[8; 600]).unwrap(), 600);
    drop(w);
    let rest = common::read_all(&r).unwrap();
    assert_eq!(rest.len(), 65536 - 4096 + 600);
    assert_eq!(read_some(&r, 1).unwrap(), []);
}

#[test]
fn small_writes_share_a_page_and_packets_do_not() {
    let m = Machine::new();
    let (r, w) = pipe(&m, OpenFlags::NONBLOCK);
    for i in 0..5000u32 {
        assert_eq!(write(&w, &i.to_ne_bytes()).unwrap(), 4);
    }
    let all = read_some(&r, 100_000).unwrap();
    assert!(all.chunks(4).enumerate().all(|(i, c)| c == (i as u32).to_ne_bytes()));
    let (r, w) = pipe(&m, OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    write(&w, b"one").unwrap();
    write(&w, b"two").unwrap();
    assert_eq!(read_some(&r, 2).unwrap(), b"on", "the rest of a packet is lost");
    assert_eq!(read_some(&r, 100).unwrap(), b"two");
}

#[test]
fn a_pipe_without_a_reader_breaks_and_wakes_its_writer() {
    let m = Machine::new();
    let (r, w) = pipe(&m, OpenFlags::empty());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&w, &vec![1; 200_000]));
        std::thread::sleep(Duration::from_millis(20));
        drop(r);
        assert_eq!(writer.join().unwrap().unwrap(), 65536);
    });
    assert_eq!(errno(write(&w, b"x")), Errno::EPIPE);
    assert_eq!(w.poll(None), Events::OUT & Events::empty() | Events::ERR);
}

#[test]
fn a_conversation_over_two_pipes_arrives_whole_and_in_order() {
    let m = Machine::new();
    let (r, w) = pipe(&m, OpenFlags::empty());
    let total: usize = 3_000_000;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            let mut step = 1;
            while sent < total {
                let len = step.min(total - sent);
                let data: Vec<u8> = (sent..sent + len).map(|i| (i % 251) as u8).collect();
                sent += write(&w, &data).unwrap();
                step = step * 7 % 9001 + 1;
            }
        });
        let mut got = 0;
        let mut step = 3;
        loop {
            let data = read_some(&r, step).unwrap();
            if data.is_empty() {
                break;
            }
            assert!(data.iter().enumerate().all(|(i, b)| *b == ((got + i) % 251) as u8));
            got += data.len();
            step = step * 5 % 12007 + 1;
        }
        assert_eq!(got, total);
    });
}

#[test]
fn an_interrupted_read_asks_to_be_restarted() {
    let m = Machine::new();
    let (r, _w) = pipe(&m, OpenFlags::empty());
    std::thread::scope(|scope| {
        let (tx, rx) = std::sync::mpsc::channel();
        let reader = scope.spawn(move || {
            tx.send(sync::current()).unwrap();
            read_some(&r, 1)
        });
        let fiber = rx.recv().unwrap();
        std::thread::sleep(Duration::from_millis(10));
        fiber.set_interrupted(true);
        assert!(matches!(reader.join().unwrap(), Err(SysError::Restart(_))));
    });
}

#[test]
fn a_fifo_waits_for_its_other_end() {
    let m = Machine::new();
    m.caller().mknod(PathAt::cwd(b"/f"), vfs::FileKind::Fifo, 0o644, vfs::DeviceNumber::NONE).unwrap();
    assert_eq!(errno(m.open("/f", OpenFlags::WRONLY | OpenFlags::NONBLOCK)), Errno::ENXIO);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| m.open("/f", OpenFlags::empty()).and_then(|f| common::read_all(&f)));
        std::thread::sleep(Duration::from_millis(10));
        let w = m.open("/f", OpenFlags::WRONLY).unwrap();
        write(&w, b"hello").unwrap();
        drop(w);
        assert_eq!(reader.join().unwrap().unwrap(), b"hello");
    });
    let reader = m.open("/f", OpenFlags::NONBLOCK).unwrap();
    assert_eq!(reader.poll(None), Events::empty(), "nobody has hung up on this reader yet");
    drop(m.open("/f", OpenFlags::WRONLY).unwrap());
    assert_eq!(reader.poll(None), Events::HUP);
    let second = m.open("/f", OpenFlags::NONBLOCK).unwrap();
    assert_eq!(second.poll(None), Events::empty());
    drop((reader, second));
    let both = m.open("/f", OpenFlags::RDWR).unwrap();
    write(&both, b"x").unwrap();
    assert_eq!(read_some(&both, 5).unwrap(), b"x");
}

#[test]
fn an_eventfd_counts_and_a_semaphore_gives_ones() {
    let m = Machine::new();
    let e = eventfd(&m.caller(), 3, EventFdMode::Counter, OpenFlags::NONBLOCK).unwrap();
    write(&e, &5u64.to_ne_bytes()).unwrap();
    assert_eq!(read_some(&e, 8).unwrap(), 8u64.to_ne_bytes());
    assert_eq!(errno(read_some(&e, 8)), Errno::EAGAIN);
    assert_eq!(errno(read_some(&e, 7)), Errno::EINVAL);
    write(&e, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(errno(write(&e, &1u64.to_ne_bytes())), Errno::EAGAIN);
    assert_eq!(e.poll(None), Events::IN);
    let s = eventfd(&m.caller(), 2, EventFdMode::Semaphore, OpenFlags::NONBLOCK).unwrap();
    assert_eq!(read_some(&s, 8).unwrap(), 1u64.to_ne_bytes());
    assert_eq!(read_some(&s, 8).unwrap(), 1u64.to_ne_bytes());
    assert_eq!(errno(read_some(&s, 8)), Errno::EAGAIN);
    assert_eq!(errno(s.seek(0, vfs::Whence::Set)), Errno::ESPIPE);
}

#[test]
fn poll_waits_for_any_of_its_files() {
    let m = Machine::new();
    let (r1, _w1) = pipe(&m, OpenFlags::empty());
    let (r2, w2) = pipe(&m, OpenFlags::empty());
    let mut items = [PollItem::new(Some(r1), Events::IN), PollItem::new(Some(r2), Events::IN)];
    let soon = Instant::now();
    assert_eq!(poll_files(&mut items, Some(sync::monotonic_ns() + 20_000_000)).unwrap(), 0);
    assert!(soon.elapsed() >= Duration::from_millis(19));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(10));
            write(&w2, b"x").unwrap();
        });
        assert_eq!(poll_files(&mut items, None).unwrap(), 1);
    });
    assert_eq!((items[0].ready, items[1].ready), (Events::empty(), Events::IN));
    let mut gone = [PollItem::new(None, Events::IN)];
    assert_eq!(poll_files(&mut gone, None).unwrap(), 1);
    assert_eq!(gone[0].ready, Events::NVAL);
}

struct Watcher {
    m: Machine,
    file: Arc<OpenFile>,
}

impl Watcher {
    fn new() -> Watcher {
        let m = Machine::new();
        let file = epoll(&m.caller()).unwrap();
        Watcher { m, file }
    }
    fn ops(&self) -> &Epoll {
        self.file.ops().downcast::<Epoll>().unwrap()
    }
    fn add(&self, fd: i32, file: &Arc<OpenFile>, events: u32) -> Result<(), Errno> {
        self.ops().control(fd, file, EpollControl::Add(EpollEvent { events, data: fd as u64 }))
    }
    fn modify(&self, fd: i32, file: &Arc<OpenFile>, events: u32) -> Result<(), Errno> {
        self.ops().control(fd, file, EpollControl::Modify(EpollEvent { events, data: fd as u64 }))
    }
    fn now(&self) -> Vec<(u64, u32)> {
        self.ops().wait(10, Some(0)).unwrap().iter().map(|e| (e.data, e.events)).collect()
    }
}

#[test]
fn level_triggered_events_repeat_until_the_cause_is_gone() {
    let e = Watcher::new();
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    e.add(3, &r, IN).unwrap();
    assert_eq!(e.add(3, &r, IN).unwrap_err(), Errno::EEXIST);
    assert_eq!(e.now(), []);
    write(&w, b"ab").unwrap();
    assert_eq!(e.now(), [(3, IN)]);
    assert_eq!(e.now(), [(3, IN)]);
    read_some(&r, 2).unwrap();
    assert_eq!(e.now(), []);
    drop(w);
    assert_eq!(e.now(), [(3, Events::HUP.bits())]);
    e.ops().control(3, &r, EpollControl::Delete).unwrap();
    assert_eq!(e.now(), []);
    assert_eq!(e.ops().control(3, &r, EpollControl::Delete).unwrap_err(), Errno::ENOENT);
}

#[test]
fn edge_triggered_events_come_once_per_write() {
    let e = Watcher::new();
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    write(&w, b"ab").unwrap();
    e.add(3, &r, IN | ET).unwrap();
    e.add(4, &w, OUT | ET).unwrap();
    assert_eq!(e.now(), [(3, IN), (4, OUT)]);
    assert_eq!(e.now(), []);
    read_some(&r, 1).unwrap();
    assert_eq!(e.now(), []);
    write(&w, b"c").unwrap();
    assert_eq!(e.now(), [(3, IN)]);
    assert_eq!(e.now(), []);
    e.modify(3, &r, IN | ET).unwrap();
    assert_eq!(e.now(), [(3, IN)], "epoll_ctl looks anew");
}

#[test]
fn a_oneshot_event_comes_once_until_rearmed() {
    let e = Watcher::new();
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    e.add(3, &r, IN | ONESHOT).unwrap();
    write(&w, b"a").unwrap();
    assert_eq!(e.now(), [(3, IN)]);
    write(&w, b"b").unwrap();
    assert_eq!(e.now(), []);
    drop(w);
    assert_eq!(e.now(), []);
    e.modify(3, &r, IN | ONESHOT).unwrap();
    assert_eq!(e.now(), [(3, IN | Events::HUP.bits())]);
}

#[test]
fn epolls_nest_but_neither_in_circles_nor_deeply() {
    let e = Watcher::new();
    let regular = e.m.open("/f", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    assert_eq!(e.add(9, &regular, IN).unwrap_err(), Errno::EPERM);
    let mut chain = vec![e.file.clone()];
    let add = |outer: &Arc<OpenFile>, inner: &Arc<OpenFile>| {
        let event = EpollEvent { events: IN, data: 0 };
        outer.ops().downcast::<Epoll>().unwrap().control(5, inner, EpollControl::Add(event))
    };
    assert_eq!(add(&e.file, &e.file).unwrap_err(), Errno::EINVAL);
    for i in 1..=5 {
        let inner = epoll(&e.m.caller()).unwrap();
        let result = add(&chain[i - 1], &inner);
        assert_eq!(result.is_ok(), i < 5 + 1, "{i}");
        chain.push(inner);
    }
    assert_eq!(add(&chain[5], &epoll(&e.m.caller()).unwrap()).unwrap_err(), Errno::ELOOP);
    assert_eq!(add(&chain[3], &chain[0]).unwrap_err(), Errno::ELOOP);
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    chain[4].ops().downcast::<Epoll>().unwrap().control(7, &r, EpollControl::Add(EpollEvent { events: IN, data: 1 })).unwrap();
    assert_eq!(e.now(), []);
    write(&w, b"x").unwrap();
    assert_eq!(e.now(), [(0, IN)]);
}

#[test]
fn a_closed_file_leaves_its_epoll() {
    let e = Watcher::new();
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    e.add(3, &r, IN).unwrap();
    write(&w, b"x").unwrap();
    drop(r);
    assert_eq!(e.now(), []);
    let (r, w) = pipe(&e.m, OpenFlags::empty());
    e.add(3, &r, IN).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(10));
            write(&w, b"x").unwrap();
        });
        assert_eq!(e.ops().wait(10, None).unwrap().len(), 1);
    });
}

#[test]
fn a_timer_expires_on_time_and_counts_what_was_missed() {
    let m = Machine::new();
    let t = timerfd(&m.caller(), TimerClock::Monotonic, OpenFlags::empty()).unwrap();
    let ops = t.ops().downcast::<TimerFd>().unwrap();
    ops.set(TimerStart::Relative, TimerSpec { value_ns: 10_000_000, interval_ns: 5_000_000 });
    let begin = Instant::now();
    assert_eq!(read_some(&t, 8).unwrap(), 1u64.to_ne_bytes());
    assert!(begin.elapsed() >= Duration::from_millis(9));
    std::thread::sleep(Duration::from_millis(30));
    let missed = u64::from_ne_bytes(read_some(&t, 8).unwrap().try_into().unwrap());
    assert!((4..20).contains(&missed), "{missed}");
    let old = ops.set(TimerStart::Relative, TimerSpec::default());
    assert_eq!(old.interval_ns, 5_000_000);
    assert_eq!(ops.get(), TimerSpec::default());
}

#[test]
fn inotify_tells_what_happens_in_a_directory_and_to_a_file() {
    let m = Machine::new();
    m.mkdir("/d").unwrap();
    m.write("/d/f", b"").unwrap();
    let file = inotify(&m.caller(), OpenFlags::NONBLOCK).unwrap();
    let ops = file.ops().downcast::<Inotify>().unwrap();
    let d = ops.add_watch(&m.caller(), PathAt::cwd(b"/d"), 0xfff & !0x1).unwrap();
    let f = ops.add_watch(&m.caller(), PathAt::cwd(b"/d/f"), 0x400 | 0x4).unwrap();
    m.write("/d/f", b"x").unwrap();
    m.rename("/d/f", "/d/g").unwrap();
    m.unlink("/d/g").unwrap();
    let bytes = read_some(&file, 4096).unwrap();
    let mut events = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
        let len = word(12) as usize;
        let name: String = rest[16..16 + len].iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
        events.push((word(0) as i32, word(4), name));
        rest = &rest[16 + len..];
    }
    let want = |wd: i32, mask: u32, name: &str| (wd, mask, name.to_owned());
    let expected = [
        want(d, 0x20, "f"),
        want(d, 0x2, "f"),
        want(d, 0x8, "f"),
        want(d, 0x40, "f"),
        want(d, 0x80, "g"),
        want(f, 0x4, ""),
        want(f, 0x400, ""),
        want(f, 0x8000, ""),
        want(d, 0x200, "g"),
    ];
    assert_eq!(events, expected);
    assert_eq!(ops.remove_watch(f).unwrap_err(), Errno::EINVAL);
    ops.remove_watch(d).unwrap();
}
