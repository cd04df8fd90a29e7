//! TCP between a guest and servers on this host's loopback, both ways, with the machine's own stack as the guest's.

mod common;

use abi::Errno;
use common::{Guest, PATIENCE, pattern};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

const LARGE: usize = 6 << 20;

fn server() -> (TcpListener, u16) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

/// Serves one connection in a thread.
fn serve<R: Send + 'static>(server: TcpListener, serve: impl FnOnce(TcpStream) -> R + Send + 'static) -> JoinHandle<R> {
    std::thread::spawn(move || {
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        serve(stream)
    })
}

fn gateway(port: u16) -> SocketAddr {
    SocketAddr::new("10.0.2.2".parse().unwrap(), port)
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 100_000];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            len => stream.write_all(&buffer[..len]).unwrap(),
        }
    }
}

#[test]
fn a_guest_talks_to_a_server_and_both_ends_come_to_an_end() {
    let (server, port) = server();
    let echoing = serve(server, echo);
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port}"));
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    guest.send(id, b"hello");
    assert_eq!(guest.receive(id, 5), b"hello");
    guest.stack.tcp_shutdown(id, false, true).unwrap();
    assert_eq!(guest.receive(id, 1), b"", "the server's end");
    echoing.join().unwrap();
    guest.until("the flow forgotten", |guest| (guest.engine.flows() == (0, 0)).then_some(()));
    guest.stack.tcp_close(id);
    assert_eq!(guest.engine.statistics().flows, 1);
}

#[test]
fn the_same_over_ipv6() {
    let Ok(server) = TcpListener::bind("[::1]:0") else {
        println!("skipped the_same_over_ipv6: this host has no ::1");
        return;
    };
    let port = server.local_addr().unwrap().port();
    let echoing = serve(server, echo);
    let mut guest = Guest::new(&format!("allow=[::1]:{port}"));
    let id = guest.connect(SocketAddr::new("fd75:6d6c:6175::2".parse().unwrap(), port));
    guest.connected(id).unwrap();
    let data = pattern(300_000, 4);
    guest.send(id, &data);
    guest.stack.tcp_shutdown(id, false, true).unwrap();
    assert!(guest.receive(id, data.len() + 1) == data);
    echoing.join().unwrap();
}

fn upload(options: &str, lose_every: u32, len: usize) {
    let (server, port) = server();
    let reading = serve(server, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"thanks").unwrap();
        all
    });
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port},{options}"));
    guest.lose_every = lose_every;
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    let data = pattern(len, 1);
    guest.send(id, &data);
    guest.stack.tcp_shutdown(id, false, true).unwrap();
    assert_eq!(guest.receive(id, 7), b"thanks");
    assert!(reading.join().unwrap() == data, "what arrived is what was sent");
}

fn download(options: &str, lose_every: u32, len: usize) {
    let (server, port) = server();
    let data = pattern(len, 2);
    let sent = data.clone();
    let writing = serve(server, move |mut stream| stream.write_all(&sent).unwrap());
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port},{options}"));
    guest.lose_every = lose_every;
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    assert!(guest.receive(id, len + 1) == data, "what arrived is what was sent");
    writing.join().unwrap();
}

#[test]
fn much_is_sent() {
    upload("", 0, LARGE);
    upload("mtu=1500", 0, LARGE);
}

#[test]
fn much_is_received() {
    download("", 0, LARGE);
    download("mtu=1500", 0, LARGE);
}

#[test]
fn what_the_guest_s_side_loses_is_sent_again() {
    upload("mtu=1500", 97, 1 << 20);
    download("mtu=1500", 97, 1 << 20);
    download("", 13, 1 << 20);
}

#[test]
fn a_reader_that_does_not_read_stops_the_sender_on_either_side() {
    let (server, port) = server();
    let data = pattern(24 << 20, 3);
    let sent = data.clone();
    let writing = serve(server, move |mut stream| {
        stream.write_all(&sent).unwrap();
        let mut back = Vec::new();
        std::thread::sleep(std::time::Duration::from_millis(300));
        stream.read_to_end(&mut back).unwrap();
        back
    });
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port}"));
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    let mut before = usize::MAX;
    guest.until("nothing more arrives", |guest| {
        let now = guest.stack.tcp(id).unwrap().readable();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let stands = now == before && now > 0;
        before = now;
        stands.then_some(())
    });
    assert!(before < 8 << 20, "the guest's window holds: {before}");
    assert!(guest.receive(id, data.len()) == data);
    // The server reads late: what it has no room for stays in the guest, but for one window.
    let back = pattern(24 << 20, 4);
    guest.send(id, &back);
    guest.stack.tcp_shutdown(id, false, true).unwrap();
    assert_eq!(guest.receive(id, 1), b"");
    assert!(writing.join().unwrap() == back);
}

#[test]
fn a_port_where_nobody_listens_refuses_and_so_does_one_that_is_forbidden() {
    let (listening, forbidden) = server();
    listening.set_nonblocking(true).unwrap();
    let (closed, free) = server();
    drop(closed);
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{free}"));
    for port in [free, forbidden] {
        let id = guest.connect(gateway(port));
        assert_eq!(guest.connected(id), Err(Errno::ECONNREFUSED));
        guest.stack.tcp_close(id);
    }
    assert_eq!(listening.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the host saw nothing");
    assert_eq!(guest.engine.statistics().denied, 1);
    assert_eq!(guest.engine.flows(), (0, 0));
}

#[test]
fn a_reset_by_the_guest_reaches_the_server() {
    let (server, port) = server();
    let reading = serve(server, |mut stream| {
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 2);
        stream.read(&mut [0; 10]).map_err(|error| error.kind())
    });
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port}"));
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    guest.send(id, b"hi");
    guest.stack.tcp_mut(id).unwrap().options.linger_s = Some(0);
    guest.until("the data arrived", |guest| (guest.stack.tcp(id).unwrap().unacknowledged() == 0).then_some(()));
    guest.stack.tcp_close(id);
    guest.until("the flow forgotten", |guest| (guest.engine.flows() == (0, 0)).then_some(()));
    assert_eq!(reading.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_by_the_server_reaches_the_guest() {
    let (server, port) = server();
    let resetting = serve(server, |stream| {
        // Unread data make the host send a reset.
        while stream.peek(&mut [0; 4]).unwrap() == 0 {}
        drop(stream);
    });
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port}"));
    let id = guest.connect(gateway(port));
    guest.connected(id).unwrap();
    guest.send(id, b"data that nobody reads");
    resetting.join().unwrap();
    let errno = guest.until("the reset", |guest| guest.stack.tcp_mut(id)?.take_error());
    assert_eq!(errno, Errno::ECONNRESET);
    assert_eq!(guest.engine.flows(), (0, 0));
}

#[test]
fn a_published_port_leads_into_the_guest() {
    let mut guest = Guest::new("publish=127.0.0.1:0:80");
    let at = guest.engine.publish().unwrap();
    let listener = guest.listen("0.0.0.0:80");
    let client = std::thread::spawn({
        let at = at[0];
        move || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        }
    });
    let id = guest.accept(listener);
    assert_eq!(guest.stack.tcp(id).unwrap().remote().unwrap().address, "10.0.2.2".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(guest.receive(id, 6), b"GET /");
    guest.send(id, b"200 OK");
    guest.stack.tcp_close(id);
    guest.until("the flow forgotten", |guest| (guest.engine.flows() == (0, 0)).then_some(()));
    assert_eq!(client.join().unwrap(), "200 OK");
}

#[test]
fn a_published_port_where_the_guest_does_not_listen_resets() {
    let mut guest = Guest::new("publish=127.0.0.1:0:80");
    let at = guest.engine.publish().unwrap()[0];
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.read(&mut [0; 4]).map_err(|error| error.kind())
    });
    guest.until("the connection refused", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(guest.engine.flows(), (0, 0));
}

#[test]
fn a_port_that_is_taken_can_not_be_published() {
    let (_server, port) = server();
    let mut guest = Guest::new(&format!("publish=127.0.0.1:{port}:80"));
    assert_eq!(guest.engine.publish(), Err((SocketAddr::new("127.0.0.1".parse().unwrap(), port), Errno::EADDRINUSE)));
}

#[test]
fn many_connections_at_once_and_no_more_than_there_may_be() {
    let (server, port) = server();
    let echoing = std::thread::spawn(move || {
        let threads: Vec<_> = (0..40)
            .map(|_| {
                let (stream, _) = server.accept().unwrap();
                std::thread::spawn(move || echo(stream))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let mut config = common::config(&format!("allow=127.0.0.1:{port}"));
    config.flows_max = 40;
    let mut guest = Guest::before(config, std::sync::Arc::new(host::network::Network::new().unwrap()));
    let ids: Vec<_> = (0..40).map(|_| guest.connect(gateway(port))).collect();
    for id in &ids {
        guest.connected(*id).unwrap();
    }
    let one_more = guest.connect(gateway(port));
    assert_eq!(guest.connected(one_more), Err(Errno::ECONNREFUSED));
    for (n, id) in ids.iter().enumerate() {
        guest.send(*id, format!("connection {n}").as_bytes());
    }
    for (n, id) in ids.iter().enumerate() {
        let wanted = format!("connection {n}");
        assert_eq!(guest.receive(*id, wanted.len()), wanted.as_bytes());
        guest.stack.tcp_close(*id);
    }
    guest.until("all forgotten", |guest| (guest.engine.flows() == (0, 0)).then_some(()));
    echoing.join().unwrap();
}
