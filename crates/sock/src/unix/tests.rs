//! Local sockets without files: what queues, counts and rings of descriptors do.

use crate::message::{Identity, MessageFlags, ReceiveRequest, SendRequest};
use crate::options::Options;
use crate::patience::Patience;
use crate::protocol::{How, Protocol};
use crate::socket::Kind;
use crate::sockets::{Sockets, World};
use crate::unix::socket::UnixSocket;
use abi::{Errno, SysError};
use ram::Ram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::Events;
use vfs::{Credentials, OpenFile, OpenFlags, SliceSink, SliceSource, Vfs};

struct Machine {
    vfs: &'static Vfs,
    sockets: &'static Sockets,
    ram: &'static Ram,
}

struct Root;

impl World for Root {
    fn identity(&self) -> Identity {
        Identity { pid: 7, credentials: Arc::new(Credentials::root()), nofile: 1024, process: std::sync::Weak::<()>::new() }
    }
    fn random(&self, _: &mut [u8]) {}
    fn realtime_offset_ns(&self) -> u64 {
        0
    }
}

fn machine() -> Machine {
    let ram = Ram::for_tests(32 << 20);
    let vfs = Vfs::new(ram);
    Machine { vfs, sockets: Sockets::of(vfs, || Box::new(Root)), ram }
}

impl Machine {
    fn pair(&self, kind: Kind) -> (Arc<UnixSocket>, Arc<UnixSocket>) {
        let make = || UnixSocket::new(self.sockets, kind, Arc::new(Options::default())).unwrap();
        let (a, b) = (make(), make());
        UnixSocket::join(&a, &b);
        (a, b)
    }
    /// A file without a place in the tree.
    fn file(&self, socket: &Arc<UnixSocket>) -> Arc<OpenFile> {
        let path = self.vfs.anon_inode_path("anon_inode:[test]").unwrap();
        let ops = crate::unix::wrap(socket.clone());
        Arc::new(OpenFile::new(ops, path, OpenFlags::RDWR, Arc::new(Credentials::root()), None))
    }
}

fn send(socket: &UnixSocket, data: &[u8]) -> Result<usize, SysError> {
    socket.send(None, Patience::None, SendRequest::default(), &mut SliceSource::new(data))
}
fn send_file(socket: &UnixSocket, file: &Arc<OpenFile>) {
    let request = SendRequest { rights: vec![file.clone()], ..SendRequest::default() };
    assert_eq!(socket.send(None, Patience::None, request, &mut SliceSource::new(b"x")), Ok(1));
}
fn receive_with(socket: &UnixSocket, room: usize, flags: MessageFlags) -> Result<Vec<u8>, SysError> {
    let mut buffer = vec![0; room];
    let request = ReceiveRequest { flags, wants_address: false };
    let received = socket.receive(Patience::None, request, &mut SliceSink::new(&mut buffer))?;
    buffer.truncate(received.len);
    Ok(buffer)
}
fn receive(socket: &UnixSocket, room: usize) -> Result<Vec<u8>, SysError> {
    receive_with(socket, room, MessageFlags::empty())
}
const EAGAIN: SysError = SysError::Errno(Errno::EAGAIN);
const EPIPE: SysError = SysError::Errno(Errno::EPIPE);

#[test]
fn a_stream_glues_what_was_sent_and_a_packet_socket_does_not() {
    let machine = machine();
    let (a, b) = machine.pair(Kind::Stream);
    for part in [&b"one"[..], b"two", &[b'3'; 3000]] {
        assert_eq!(send(&a, part), Ok(part.len()));
    }
    assert_eq!(receive(&b, 4).unwrap(), b"onet");
    assert_eq!(receive(&b, 9000).unwrap().len(), 3002);
    assert_eq!(receive(&b, 1), Err(EAGAIN));

    for kind in [Kind::SeqPacket, Kind::Datagram] {
        let (a, b) = machine.pair(kind);
        for part in [&b"one"[..], b"", &[b'3'; 9000]] {
            assert_eq!(send(&a, part), Ok(part.len()));
        }
        assert_eq!(receive_with(&b, 2, MessageFlags::PEEK).unwrap(), b"on");
        assert_eq!(receive(&b, 100).unwrap(), b"one");
        assert_eq!(receive(&b, 100).unwrap(), b"");
        assert_eq!(receive(&b, 10_000).unwrap(), [b'3'; 9000]);
        assert_eq!(receive(&b, 1), Err(EAGAIN));
    }
}

#[test]
fn what_is_read_or_dropped_is_no_longer_counted_as_sent() {
    let machine = machine();
    for kind in [Kind::Stream, Kind::SeqPacket, Kind::Datagram] {
        let (a, b) = machine.pair(kind);
        let mut sent = 0;
        while let Ok(n) = send(&a, &[0; 5000]) {
            sent += n;
        }
        assert!((100_000..=250_000).contains(&sent), "{kind:?} took {sent}");
        assert!(!a.poll(None).contains(Events::OUT) && !a.endpoint().has_room());
        while receive(&b, 4096).is_ok() {}
        assert_eq!(a.endpoint().sent(), 0, "{kind:?}");
        assert!(a.poll(None).contains(Events::OUT));
        send(&a, b"again").unwrap();
        b.release();
        assert_eq!(a.endpoint().sent(), 0, "{kind:?}");
    }
}

#[test]
fn each_direction_is_shut_for_both_sides() {
    let machine = machine();
    let (a, b) = machine.pair(Kind::Stream);
    send(&a, b"last").unwrap();
    a.shutdown(How::Send).unwrap();
    assert_eq!(send(&a, b"x"), Err(EPIPE));
    assert_eq!(b.poll(None) & (Events::RDHUP | Events::HUP), Events::RDHUP);
    assert_eq!(receive(&b, 9).unwrap(), b"last");
    assert_eq!(receive(&b, 9).unwrap(), b"");
    b.shutdown(How::Send).unwrap();
    assert!(a.poll(None).contains(Events::HUP | Events::RDHUP | Events::IN));

    let (a, b) = machine.pair(Kind::SeqPacket);
    b.shutdown(How::Receive).unwrap();
    assert_eq!(send(&a, b"x"), Err(EPIPE));
    assert_eq!(receive(&b, 1).unwrap(), b"");
}

#[test]
fn everything_that_a_pair_held_is_given_back() {
    let machine = machine();
    // The name of the test's files stays.
    drop(machine.file(&machine.pair(Kind::Stream).0));
    let before = machine.ram.stats();
    for kind in [Kind::Stream, Kind::SeqPacket, Kind::Datagram] {
        let (a, b) = machine.pair(kind);
        for len in [1, 600, 70_000] {
            send(&a, &vec![1; len]).unwrap();
            send(&b, &vec![1; len]).unwrap();
        }
        send_file(&a, &machine.file(&b));
        assert!(machine.ram.stats().charged_bytes > before.charged_bytes + 4096);
        drop((a, b));
    }
    let after = machine.ram.stats();
    assert_eq!((after.charged_bytes, after.free), (before.charged_bytes, before.free));
}

/// How many sockets of the machine exist.
fn living(machine: &Machine) -> usize {
    machine.sockets.unix_table().lines().count() - 1
}

#[test]
fn descriptors_that_only_wait_for_each_other_are_found_and_closed() {
    let machine = machine();
    let (a, b) = machine.pair(Kind::Stream);
    let (c, d) = machine.pair(Kind::Datagram);
    let files: Vec<_> = [&a, &b, &c, &d].map(|socket| machine.file(socket)).into();
    // a waits in its own queue, and holds c, which holds a.
    send_file(&b, &files[0]);
    send_file(&b, &files[2]);
    send_file(&d, &files[0]);
    drop((a, b, c, d));
    assert_eq!(living(&machine), 4);
    let mut files = files.into_iter();
    let (a, b) = (files.next(), files.next());
    drop(a);
    drop(b);
    assert_eq!(living(&machine), 3, "c has a descriptor and holds a, which nobody may close");
    drop(files.next());
    drop(files.next());
    assert_eq!(living(&machine), 0);
    assert_eq!(machine.sockets.flight.lock().files_in_flight(), 0);
}

#[test]
fn a_socket_in_flight_that_can_be_reached_is_left_alone() {
    let machine = machine();
    let (a, b) = machine.pair(Kind::Stream);
    let (c, d) = machine.pair(Kind::Stream);
    let (outer, inner) = (machine.file(&a), machine.file(&c));
    send_file(&b, &inner);
    send(&d, b"kept").unwrap();
    drop(inner);
    // A socket that goes makes others be looked at.
    drop(machine.pair(Kind::Stream));
    assert_eq!(receive(&c, 9).unwrap(), b"kept");
    assert_eq!(machine.sockets.flight.lock().files_in_flight(), 1);
    drop(outer);
    assert_eq!(machine.sockets.flight.lock().files_in_flight(), 0);
}

#[test]
fn a_long_chain_of_descriptors_in_flight_closes_without_deep_recursion() {
    let machine = machine();
    let mut last = machine.pair(Kind::Stream);
    for _ in 0..3000 {
        let next = machine.pair(Kind::Stream);
        let file = machine.file(&last.0);
        send_file(&next.1, &file);
        last = next;
    }
    drop(last);
    machine.sockets.flight.collect();
    assert_eq!(living(&machine), 0);
}

#[test]
fn a_peek_offset_goes_on_where_the_last_peek_ended() {
    let machine = machine();
    for kind in [Kind::Stream, Kind::Datagram] {
        let (a, b) = machine.pair(kind);
        b.endpoint().options.peek_offset.store(0, Ordering::Relaxed);
        send(&a, b"abcdef").unwrap();
        assert_eq!(receive_with(&b, 4, MessageFlags::PEEK).unwrap(), b"abcd");
        assert_eq!(receive_with(&b, 4, MessageFlags::PEEK).unwrap(), b"ef");
        assert_eq!(receive_with(&b, 4, MessageFlags::PEEK), Err(EAGAIN));
        assert_eq!(receive(&b, 9).unwrap(), b"abcdef");
        send(&a, b"gh").unwrap();
        assert_eq!(receive_with(&b, 4, MessageFlags::PEEK).unwrap(), b"gh");
    }
}
