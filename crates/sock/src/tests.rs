//! Conversations through the public face of sockets: loopback, rtnetlink, abstract names.

use crate::{Call, Control, How, Identity, MessageFlags, ReceiveRequest, SendRequest, Socket, Sockets, Ucred, World};
use abi::raw::net as raw;
use abi::{Errno, SysError, SysResult};
use ram::Ram;
use std::sync::{Arc, Weak};
use sync::Events;
use vfs::{Caller, Credentials, FileOps, FsContext, MountNamespace, OpenFile, OpenFlags, SliceSink, SliceSource, Vfs};

struct User(u32);

impl World for User {
    fn identity(&self) -> Identity {
        let all = if self.0 == 0 { vfs::CapabilitySet::FULL } else { vfs::CapabilitySet::EMPTY };
        let credentials = Arc::new(Credentials::user(self.0, self.0, all));
        Identity { pid: 42, credentials, nofile: 64, process: Weak::<()>::new() }
    }
    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
    fn realtime_offset_ns(&self) -> u64 {
        0
    }
}

struct Machine {
    sockets: &'static Sockets,
    vfs: &'static Vfs,
    credentials: Arc<Credentials>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
}

fn machine(uid: u32) -> Machine {
    let vfs = Vfs::new(Ram::for_tests(64 << 20));
    let root = vfs.anon_inode_path("anon_inode:[root]").unwrap();
    let sockets = Sockets::of(vfs, || Box::new(User(uid)));
    let namespace = MountNamespace::new(root.mount.clone());
    Machine { sockets, vfs, credentials: Arc::new(Credentials::root()), fs: FsContext::new(root), namespace }
}

/// A socket and its file, which never waits.
struct End<'a> {
    machine: &'a Machine,
    file: Arc<OpenFile>,
}

impl Machine {
    fn caller(&self) -> Caller<'_> {
        Caller { vfs: self.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX }
    }
    fn open(&self, socket: Arc<Socket>) -> End<'_> {
        End { machine: self, file: Sockets::open(&self.caller(), socket, OpenFlags::NONBLOCK).unwrap() }
    }
    fn socket(&self, domain: u32, kind: u32) -> End<'_> {
        self.open(self.sockets.create(domain as i32, kind, 0).unwrap())
    }
    /// Brings `lo` up, as `ip link set lo up` does.
    fn loopback_up(&self) {
        let netlink = self.socket(raw::AF_NETLINK, raw::SOCK_RAW);
        let mut link = vec![0; 16];
        link[4] = 1;
        link[8] = 1;
        link[12] = 1;
        assert_eq!(error(&netlink.ask(16, 5, &link)), 0);
    }
}

impl End<'_> {
    fn socket(&self) -> &Socket {
        Socket::from_file(&self.file).unwrap()
    }
    fn call(&self) -> Call<'_> {
        Call { caller: self.machine.caller(), file: &self.file }
    }
    fn bind(&self, address: &[u8]) -> SysResult<()> {
        self.socket().bind(&self.call(), address)
    }
    fn connect(&self, address: &[u8]) -> SysResult<()> {
        self.socket().connect(&self.call(), address)
    }
    fn accept(&self) -> SysResult<Arc<Socket>> {
        self.socket().accept(&self.file)
    }
    fn send(&self, data: &[u8]) -> SysResult<usize> {
        self.socket().send(&self.call(), SendRequest::default(), &mut SliceSource::new(data))
    }
    fn send_to(&self, data: &[u8], to: &[u8]) -> SysResult<usize> {
        self.socket().send(&self.call(), SendRequest { to: Some(to), ..SendRequest::default() }, &mut SliceSource::new(data))
    }
    fn receive(&self, room: usize) -> SysResult<(Vec<u8>, crate::Received)> {
        let mut buffer = vec![0; room];
        let request = ReceiveRequest { flags: MessageFlags::empty(), wants_address: true };
        let received = self.socket().receive(&self.file, request, &mut SliceSink::new(&mut buffer))?;
        buffer.truncate(received.len);
        Ok((buffer, received))
    }
    fn data(&self, room: usize) -> SysResult<Vec<u8>> {
        self.receive(room).map(|(data, _)| data)
    }
    /// Sends a netlink request and gives the first datagram of the answer.
    fn ask(&self, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let len = 16 + payload.len() as u32;
        let request = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[9, 0, 0, 0, 0, 0, 0, 0], payload].concat();
        assert_eq!(self.send(&request), Ok(request.len()));
        self.data(8192).unwrap()
    }
}

fn word(bytes: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}
/// What an NLMSG_ERROR says.
fn error(answer: &[u8]) -> i32 {
    assert_eq!(answer[4], 2);
    word(answer, 16)
}
fn v4(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}
const EAGAIN: SysError = SysError::Errno(Errno::EAGAIN);

#[test]
fn a_datagram_goes_to_a_port_of_this_machine_and_none_before_lo_is_up() {
    let machine = machine(0);
    let (a, b) = (machine.socket(raw::AF_INET, raw::SOCK_DGRAM), machine.socket(raw::AF_INET, raw::SOCK_DGRAM));
    assert_eq!(a.send_to(b"x", &v4(5000)), Err(Errno::ENETUNREACH.into()));
    machine.loopback_up();
    b.bind(&v4(5000)).unwrap();
    assert_eq!(b.data(9), Err(EAGAIN));
    assert_eq!(a.send_to(b"hello", &v4(5000)), Ok(5));
    assert!(b.socket().poll(&b.file, None).contains(Events::IN));
    let (data, received) = b.receive(3).unwrap();
    assert_eq!((&data[..], received.flags), (&b"hel"[..], MessageFlags::TRUNC));
    assert_eq!(b.send_to(b"back", &received.from.unwrap()), Ok(4));
    assert_eq!(a.data(9).unwrap(), b"back");
}

#[test]
fn a_connection_is_made_used_and_ended() {
    let machine = machine(0);
    machine.loopback_up();
    let (listener, client) = (machine.socket(raw::AF_INET, raw::SOCK_STREAM), machine.socket(raw::AF_INET, raw::SOCK_STREAM));
    assert_eq!(client.connect(&v4(5001)), Err(Errno::EINPROGRESS.into()));
    assert_eq!(client.socket().option(1, raw::SO_ERROR as i32).unwrap(), Errno::ECONNREFUSED.raw().to_ne_bytes());
    listener.bind(&v4(5001)).unwrap();
    listener.socket().listen(1).unwrap();
    assert!(matches!(listener.accept(), Err(EAGAIN)));
    let client = machine.socket(raw::AF_INET, raw::SOCK_STREAM);
    assert_eq!(client.connect(&v4(5001)), Err(Errno::EINPROGRESS.into()));
    let server = machine.open(listener.accept().unwrap());
    assert_eq!(server.socket().peer_name(), client.socket().name());
    assert_eq!(client.send(b"request"), Ok(7));
    assert_eq!(server.data(99).unwrap(), b"request");
    assert_eq!(server.send(&[7; 100_000]).map(|n| n > 1000), Ok(true));
    client.socket().shutdown(How::Send).unwrap();
    assert_eq!(server.data(9).unwrap(), b"");
    assert_eq!(client.send(b"x"), Err(Errno::EPIPE.into()));
    drop(server);
    let mut total = 0;
    while let Ok(part) = client.data(60_000) {
        if part.is_empty() {
            break;
        }
        total += part.len();
    }
    assert!(total > 1000);
}

#[test]
fn rtnetlink_tells_links_and_addresses_and_refuses_what_it_does_not_know() {
    let machine = machine(0);
    let netlink = machine.socket(raw::AF_NETLINK, raw::SOCK_RAW);
    let links = netlink.ask(18, 0x301, &[0; 16]);
    assert_eq!((links[4], word(&links, 20), links[24] & 1), (16, 1, 0), "lo, which is down");
    machine.loopback_up();
    let addresses = netlink.ask(22, 0x301, &[0; 16]);
    assert_eq!((addresses[4], addresses[16], addresses[17]), (20, 2, 8));
    assert_eq!(error(&netlink.ask(77, 1, &[])), -Errno::EOPNOTSUPP.raw());
    assert_eq!(error(&netlink.ask(18, 1, &[1, 2])), -Errno::EINVAL.raw());
    assert_eq!(netlink.send_to(&[0; 20], &[16, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::ECONNREFUSED.into()));
    let nobody = self::machine(1000);
    let netlink = nobody.socket(raw::AF_NETLINK, raw::SOCK_RAW);
    assert_eq!(error(&netlink.ask(16, 5, &[0; 16])), -Errno::EPERM.raw());
}

#[test]
fn whatever_is_sent_to_rtnetlink_it_answers_or_not_but_never_fails() {
    let machine = machine(0);
    let netlink = machine.socket(raw::AF_NETLINK, raw::SOCK_RAW);
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as u32
    };
    for _ in 0..5000 {
        let len = random() % 80;
        let mut message: Vec<u8> = (0..len).map(|_| random() as u8 % 24).collect();
        if len >= 16 {
            message[..4].copy_from_slice(&len.to_ne_bytes());
            message[4..6].copy_from_slice(&(16 + (random() % 30) as u16).to_ne_bytes());
            message[6..8].copy_from_slice(&(1 + (random() as u16 & 0x304)).to_ne_bytes());
        }
        assert_eq!(netlink.send(&message), Ok(message.len()));
        while netlink.data(8192).is_ok() {}
    }
}

#[test]
fn an_abstract_name_is_connected_to_and_credentials_come_with_what_was_sent_early() {
    let machine = machine(5);
    let (listener, client) = (machine.socket(raw::AF_UNIX, raw::SOCK_STREAM), machine.socket(raw::AF_UNIX, raw::SOCK_STREAM));
    let name = b"\x01\0\0name";
    assert_eq!(client.connect(name), Err(Errno::ECONNREFUSED.into()));
    listener.bind(name).unwrap();
    assert_eq!(client.connect(name), Err(Errno::ECONNREFUSED.into()));
    listener.socket().listen(0).unwrap();
    assert_eq!(listener.connect(name), Err(Errno::EINVAL.into()), "a listener connects to nobody, itself included");
    client.connect(name).unwrap();
    client.send(b"early").unwrap();
    let server = machine.open(listener.accept().unwrap());
    server.socket().set_option(1, raw::SO_PASSCRED as i32, &1i32.to_ne_bytes(), false).unwrap();
    let (data, received) = server.receive(9).unwrap();
    assert_eq!(data, b"early");
    let expected = Ucred { pid: 42, uid: 5, gid: 5 };
    assert!(matches!(received.control[..], [Control::Credentials(who)] if who == expected));
    assert_eq!(server.socket().name().unwrap(), name);
    assert!(machine.sockets.unix_table().contains("@name"));
}
