//! The world without privileges: machines with `eth0=user` and `umlaut run --net`, in front of servers on this host's loopback.
#![forbid(unsafe_code)]

use house::machine::{Line, Programs, Running};
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
