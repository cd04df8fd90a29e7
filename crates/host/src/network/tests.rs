use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

struct Told(Mutex<Sender<()>>);

impl Observer for Told {
    fn notify(&self, _events: Events) {
        let _ = self.0.lock().unwrap().send(());
    }
}

/// Waits until a socket is ready for something.
fn wait_for(network: &Network, token: u64, wanted: SocketReady) {
    let start = Instant::now();
    let mut ready = Vec::new();
    while start.elapsed() < Duration::from_secs(20) {
        network.take_ready(&mut ready);
        if ready.drain(..).any(|(of, what)| of == token && what.intersects(wanted)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("socket {token} never became ready for {wanted:?}");
}

fn pair(network: &Network) -> (Box<dyn HostStream>, std::net::TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = network.connect(server.local_addr().unwrap(), 4).unwrap();
    let (peer, _) = server.accept().unwrap();
    wait_for(network, 4, SocketReady::WRITE);
    stream.connected().unwrap();
    (stream, peer)
}

fn peek_all(stream: &mut dyn HostStream, skip: usize) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = stream.peek(skip, &mut buffer).unwrap();
    buffer[..len].to_vec()
}

fn peeking(network: &Network) {
    let (mut stream, mut peer) = pair(network);
    assert!(stream.is_local());
    assert_eq!(stream.peek(0, &mut [0; 4]), Err(Errno::EAGAIN));
    peer.write_all(b"hello, world").unwrap();
    wait_for(network, 4, SocketReady::READ);
    assert_eq!(peek_all(&mut *stream, 0), b"hello, world");
    assert_eq!(peek_all(&mut *stream, 7), b"world");
    assert_eq!(stream.peek(12, &mut [0; 4]), Err(Errno::EAGAIN));
    stream.consume(5).unwrap();
    assert_eq!(peek_all(&mut *stream, 0), b", world");
    assert_eq!(peek_all(&mut *stream, 2), b"world");
    peer.write_all(b"!").unwrap();
    wait_for(network, 4, SocketReady::READ);
    assert_eq!(peek_all(&mut *stream, 7), b"!");
    drop(peer);
    wait_for(network, 4, SocketReady::HANGUP);
    assert_eq!(peek_all(&mut *stream, 7), b"!");
    assert_eq!(stream.peek(8, &mut [0; 4]), Ok(0), "the end, behind what is still there");
    stream.consume(8).unwrap();
    assert_eq!(stream.peek(0, &mut [0; 4]), Ok(0));
}

#[test]
fn what_is_peeked_at_stays_until_it_is_consumed() {
    peeking(&Network::new().unwrap());
}

#[test]
fn so_it_does_where_sockets_remember_no_offset() {
    let network = Network::new().unwrap();
    network.shared.peek_offset.store(2, std::sync::atomic::Ordering::Relaxed);
    peeking(&network);
}

#[test]
fn what_the_peer_acknowledged_is_known_and_a_reset_reaches_it() {
    let network = Network::new().unwrap();
    let (mut stream, mut peer) = pair(&network);
    assert_eq!(stream.send(b"abc"), Ok(3));
    let mut got = [0; 3];
    peer.read_exact(&mut got).unwrap();
    let start = Instant::now();
    while stream.unacknowledged() != Ok(0) {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    stream.reset();
    assert_eq!(peer.read(&mut got).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_refused_connection_and_an_accepted_one() {
    let network = Network::new().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    match network.connect(free, 8) {
        Err(errno) => assert_eq!(errno, Errno::ECONNREFUSED),
        Ok(stream) => {
            wait_for(&network, 8, SocketReady::HANGUP);
            assert_eq!(stream.connected(), Err(Errno::ECONNREFUSED));
        }
    }
    let listener = network.listen("127.0.0.1:0".parse().unwrap(), 12).unwrap();
    assert!(listener.accept(16).is_err());
    let mut peer = std::net::TcpStream::connect(listener.address()).unwrap();
    wait_for(&network, 12, SocketReady::READ);
    let (mut stream, from) = listener.accept(16).unwrap();
    assert_eq!(from, peer.local_addr().unwrap());
    assert_eq!(stream.send(b"x"), Ok(1));
    assert_eq!(peer.read(&mut [0; 4]).unwrap(), 1);
    assert!(network.listen(listener.address(), 20).is_err_and(|errno| errno == Errno::EADDRINUSE));
}

#[test]
fn datagrams_come_and_go() {
    let network = Network::new().unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = network.connect_datagram(peer.local_addr().unwrap(), 4).unwrap();
    assert!(socket.is_local());
    socket.send(b"ping", None).unwrap();
    let mut buffer = [0; 16];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"ping"[..], socket.address()));
    peer.send_to(b"pong", from).unwrap();
    wait_for(&network, 4, SocketReady::READ);
    assert_eq!(socket.receive(&mut buffer), Ok((4, peer.local_addr().unwrap())));
    drop(peer);
    socket.send(b"ping", None).unwrap();
    wait_for(&network, 4, SocketReady::HANGUP);
    assert_eq!(socket.receive(&mut buffer), Err(Errno::ECONNREFUSED));
}

#[test]
fn the_host_knows_its_own_addresses() {
    let network = Network::new().unwrap();
    assert_eq!(network.reach(Ipv4Addr::LOCALHOST.into()), Reach::Local);
    assert_eq!(network.reach("127.9.9.9".parse().unwrap()), Reach::Local);
    assert_eq!(network.reach("224.0.0.1".parse().unwrap()), Reach::Group);
    assert_ne!(network.reach("192.0.2.77".parse().unwrap()), Reach::Local);
    let mut without = Routes::new();
    without.ask(Ipv4Addr::LOCALHOST.into()).expect("this host tells its routes");
    assert_eq!(route::try_socket(Ipv4Addr::LOCALHOST.into()), Reach::Local);
    // The address that the host speaks with is its own.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("192.0.2.77:9").is_ok() {
        let own = probe.local_addr().unwrap().ip();
        assert_eq!(network.reach(own), Reach::Local);
        assert_eq!(route::try_socket(own), Reach::Local);
    }
}

#[test]
fn the_observer_is_told_once_for_each_time_it_is_armed() {
    let network = Network::new().unwrap();
    let (sender, told) = channel();
    network.observe(Arc::new(Told(Mutex::new(sender))));
    let socket = network.bind_datagram("127.0.0.1:0".parse().unwrap(), 4).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    network.take_ready(&mut Vec::new());
    network.arm();
    peer.send_to(b"x", socket.address()).unwrap();
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    // What is there already is told of at once.
    network.arm();
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    network.take_ready(&mut Vec::new());
    assert!(told.try_recv().is_err());
}
