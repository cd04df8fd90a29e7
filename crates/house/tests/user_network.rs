//! The world without privileges: machines with `eth0=user` and `umlaut run --net`, in front of servers on this host's loopback.
#![forbid(unsafe_code)]

use house::machine::{Archive, Line, Programs, Running};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
/// What crosses the network in one direction.
const BULK_BYTES: usize = 16 << 20;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A machine that runs a script of busybox's shell.
fn run(options: &[&str], script: &str) -> Running {
    let mut command = Command::new(&programs().umlaut);
    command.args(["run", "--mem", "192M", "--cpus", "1", "--workdir", "/tmp"]).args(options);
    command.args(["--", "busybox", "sh", "-c", script]);
    Running::start(&mut command).unwrap()
}

/// The output up to a line, or to its end.
fn until(machine: &mut Running, wanted: &str) -> String {
    let mut seen = String::new();
    loop {
        match machine.line(LIMIT) {
            Line::Is(line) => {
                seen += &format!("{line}\n");
                if !wanted.is_empty() && line == wanted {
                    return seen;
                }
            }
            Line::Ended if wanted.is_empty() => return seen,
            other => panic!("waited for {wanted:?}: {other:?}\n{seen}"),
        }
    }
}

/// Everything that a machine says.
fn said(options: &[&str], script: &str) -> String {
    until(&mut run(options, script), "")
}

fn listen() -> (TcpListener, u16) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

/// Serves one connection in a thread.
fn serve<R: Send + 'static>(server: TcpListener, serve: impl FnOnce(TcpStream) -> R + Send + 'static) -> JoinHandle<R> {
    std::thread::spawn(move || {
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        serve(stream)
    })
}

/// `yes frames | head -c BULK_BYTES`.
fn bulk() -> Vec<u8> {
    b"frames\n".iter().copied().cycle().take(BULK_BYTES).collect()
}

#[test]
fn bulk_data_goes_from_a_machine_to_the_host_and_back() {
    let (server, port) = listen();
    let reading = serve(server, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let (server, back_port) = listen();
    let writing = serve(server, |mut stream| stream.write_all(&bulk()).unwrap());
    let allow = [format!("127.0.0.1:{port}"), format!("127.0.0.1:{back_port}")];
    let text = said(
        &["--allow", &allow[0], "--allow", &allow[1]],
        &format!(
            "yes frames | head -c {BULK_BYTES} | nc 10.0.2.2 {port}; nc 10.0.2.2 {back_port} </dev/null | sha256sum; \
             yes frames | head -c {BULK_BYTES} | sha256sum"
        ),
    );
    assert!(reading.join().unwrap() == bulk());
    writing.join().unwrap();
    let sums: Vec<&str> = text.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{text}");
}

#[test]
fn the_host_itself_is_out_of_reach_but_for_what_was_allowed() {
    let (server, port) = listen();
    server.set_nonblocking(true).unwrap();
    // The address that the host speaks with, where it has one.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map_or_else(|_| "127.0.0.1".into(), |at| at.ip().to_string());
    let text = said(
        &["--net"],
        &format!(
            "for to in 10.0.2.2 10.0.2.3 169.254.169.254 {own} ::ffff:127.0.0.1 fd75:6d6c:6175::2; do \
             nc $to {port} </dev/null 2>&1; done; cat /etc/resolv.conf; ping -c 1 -q 10.0.2.2"
        ),
    );
    assert_eq!(text.matches("Connection refused").count() + text.matches("unreachable").count(), 6, "{text}");
    assert!(text.starts_with("nc: can't connect to remote host (10.0.2.2): Connection refused\n"), "{text}");
    assert!(text.contains("nameserver 10.0.2.3\n"), "{text}");
    assert!(text.contains("1 packets received"), "{text}");
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_published_port_leads_into_the_machine() {
    let port = listen().1;
    let publish = format!("{port}:80");
    let mut machine =
        run(&["--publish", &publish], "mkfifo /tmp/open; echo ready; nc -l -p 80 -e sh -c 'read line; echo \"machine: $line\"'");
    until(&mut machine, "ready");
    // The machine may need a moment to listen after it said so; until then it resets.
    let start = Instant::now();
    let answer = loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = String::new();
        if stream.write_all(b"hello\n").is_ok()
            && stream.shutdown(Shutdown::Write).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && !answer.is_empty()
        {
            break answer;
        }
        assert!(start.elapsed() < LIMIT, "it never answered");
    };
    assert_eq!(answer, "machine: hello\n");
}

#[test]
fn a_port_that_is_taken_keeps_a_command_from_starting() {
    let (_server, port) = listen();
    let mut command = Command::new(&programs().umlaut);
    let output = command.args(["run", "--publish", &format!("127.0.0.1:{port}:80"), "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("127.0.0.1:{port} can't be published")), "{text}");
}
/// Answers every question with 192.0.2.99, as long as the test runs.
fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..len].to_vec();
            // A response without error; to a question of type A one record that points at the question's name.
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            let name_end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap_or(0);
            answer.truncate(name_end + 5);
            answer[6..12].fill(0);
            if answer[name_end + 1..name_end + 3] == [0, 1] {
                answer[7] = 1;
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

const INIT: &str = "#!/bin/sh
/bin/busybox mkdir -p /proc /sys /tmp /etc
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
ip link set lo up
udhcpc -q -n -f -i eth0 -s /lease
cat /etc/resolv.conf
ip -4 -o addr show dev eth0
ip route
nslookup -type=a host.example
for n in 1 2 3 4 5 6 7 8 9 10; do ip -6 route | grep -q '^default' && break; sleep 1; done
ip -6 -o addr show dev eth0 scope global
nc -w 60 10.0.2.2 $port </dev/null
poweroff -f
";

const LEASE: &str = "#!/bin/sh
case $1 in
deconfig) ip link set eth0 up ;;
bound) ip addr add $ip/$mask dev eth0; ip link set eth0 mtu $mtu; ip route add default via $router; echo nameserver $dns >/etc/resolv.conf ;;
esac
";

#[test]
fn an_init_gets_a_lease_a_name_server_and_an_ipv6_address() {
    let Ok(busybox) = std::fs::read("/bin/busybox") else {
        println!("skipped an_init_gets_a_lease_a_name_server_and_an_ipv6_address: busybox is not installed");
        return;
    };
    let (server, port) = listen();
    let greeting = serve(server, |mut stream| stream.write_all(b"hello from the host\n").unwrap());
    let mut archive = Archive::default();
    for directory in ["bin", "dev"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &busybox);
    archive.file("bin/sh", &busybox);
    archive.file("init", INIT.as_bytes());
    archive.file("lease", LEASE.as_bytes());
    let place = house::repository().join("target/guest-tests");
    std::fs::create_dir_all(&place).unwrap();
    let path = place.join("user-network.cpio");
    std::fs::write(&path, archive.finish()).unwrap();
    let mut command = Command::new(&programs().linux);
    command.args(["mem=128M", "quiet", &format!("initrd={}", path.display()), &format!("port={port}")]);
    command.arg(format!("eth0=user,fe:fd:0:0:0:7,mtu=9000,dns=127.0.0.1:{},allow=127.0.0.1:{port}", name_server()));
    let text = until(&mut Running::start(&mut command).unwrap(), "");
    for wanted in [
        "lease of 10.0.2.15 obtained",
        "nameserver 10.0.2.3",
        "inet 10.0.2.15/24",
        "default via 10.0.2.2 dev eth0",
        "Address: 192.0.2.99",
        "fd75:6d6c:6175:0:fcfd:ff:fe00:7/64",
        "hello from the host",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in\n{text}");
    }
    greeting.join().unwrap();
}
