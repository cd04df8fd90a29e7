use super::*;
use rustix::pipe::pipe;
use rustix::termios::{self, LocalModes};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn in_two_seconds() -> Option<u64> {
    Some(sync::monotonic_ns() + 2_000_000_000)
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn notify(&self, _: Events) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn read_pipe() -> (Channel, std::fs::File) {
    let (reader, writer) = pipe().unwrap();
    (Channel::new(Some(reader), None).unwrap(), writer.into())
}

#[test]
fn a_pipe_is_read_to_its_end_and_the_observer_hears_of_data() {
    let (channel, mut writer) = read_pipe();
    let count = Arc::new(Count::default());
    channel.observe(count.clone());
    let mut buffer = [0; 64];
    assert_eq!(channel.read(&mut buffer, Blocking::No), Err(Errno::EAGAIN));
    writer.write_all(b"hello").unwrap();
    soon("told", || count.0.load(Ordering::SeqCst) > 0);
    soon("data", || channel.read(&mut buffer, Blocking::No) == Ok(5));
    assert_eq!(&buffer[..5], b"hello");
    let told = count.0.load(Ordering::SeqCst);
    let _ = channel.read(&mut buffer, Blocking::No);
    drop(writer);
    soon("told of the end", || count.0.load(Ordering::SeqCst) > told);
    assert_eq!(channel.read(&mut buffer, Blocking::Yes), Ok(0));
    assert_eq!(channel.read(&mut buffer, Blocking::No), Ok(0));
    assert_eq!(channel.write(b"x", Blocking::No), Err(Errno::EBADF));
    assert_eq!(channel.window_size(), Err(Errno::ENOTTY));
}

#[test]
fn no_more_is_taken_from_a_pipe_than_was_asked_for() {
    let (reader, writer) = pipe().unwrap();
    let mut other: std::fs::File = reader.try_clone().unwrap().into();
    let mut writer: std::fs::File = writer.into();
    let channel = Channel::new(Some(reader), None).unwrap();
    channel.observe(Arc::new(Count::default()));
    let mut buffer = [0; 3];
    assert_eq!(channel.read(&mut buffer, Blocking::No), Err(Errno::EAGAIN));
    writer.write_all(b"abcdefgh").unwrap();
    assert_eq!(channel.read(&mut buffer, Blocking::Yes), Ok(3));
    assert_eq!(channel.read(&mut buffer[..2], Blocking::Yes), Ok(2));
    std::thread::sleep(Duration::from_millis(50));
    drop(channel);
    let mut rest = [0; 8];
    assert_eq!(other.read(&mut rest).unwrap(), 3);
    assert_eq!(&rest[..3], b"fgh");
}

#[test]
fn the_descriptors_of_the_user_stay_blocking() {
    let (reader, writer) = pipe().unwrap();
    let (kept_reader, kept_writer) = (reader.try_clone().unwrap(), writer.try_clone().unwrap());
    let channel = Channel::new(Some(reader), Some(writer)).unwrap();
    channel.observe(Arc::new(Count::default()));
    assert_eq!(channel.write(b"x", Blocking::No), Ok(1));
    assert_eq!(channel.read(&mut [0; 9], Blocking::Yes), Ok(1));
    for fd in [kept_reader, kept_writer] {
        assert!(!rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
    }
}

#[test]
fn a_reader_who_does_not_read_makes_eagain_and_one_who_left_epipe() {
    let (reader, writer) = pipe().unwrap();
    let channel = Channel::new(None, Some(writer)).unwrap();
    let count = Arc::new(Count::default());
    channel.observe(count.clone());
    let mut written = 0;
    let block = [7; 10_000];
    // The pipe's own room, the thread's hands, and the queue fill up.
    soon("full", || {
        match channel.write(&block, Blocking::No) {
            Ok(n) => written += n,
            Err(errno) => assert_eq!(errno, Errno::EAGAIN),
        }
        std::thread::sleep(Duration::from_millis(1));
        written > QUEUE_BYTES && channel.write(&block, Blocking::No) == Err(Errno::EAGAIN)
    });
    assert!(written <= 3 * QUEUE_BYTES);
    assert_eq!(channel.flush(Some(sync::monotonic_ns() + 20_000_000)), Err(Errno::ETIMEDOUT));
    assert_eq!(channel.write(&block, Blocking::No), Err(Errno::EAGAIN));
    let mut reader: std::fs::File = reader.into();
    let mut some = vec![0; QUEUE_BYTES];
    reader.read_exact(&mut some).unwrap();
    soon("told of room", || count.0.load(Ordering::SeqCst) > 0);
    assert!(channel.write(&block, Blocking::No).is_ok());
    drop(reader);
    soon("broken", || channel.write(b"x", Blocking::No) == Err(Errno::EPIPE));
    assert_eq!(channel.write(b"x", Blocking::Yes), Err(Errno::EPIPE));
    assert_eq!(channel.flush(in_two_seconds()), Err(Errno::EPIPE));
}

#[test]
fn two_channels_to_one_file_keep_the_order_of_writes() {
    let (reader, writer) = pipe().unwrap();
    let (out, err) = (writer.try_clone().unwrap(), writer);
    let (out, err) = (Channel::new(None, Some(out)).unwrap(), Channel::new(None, Some(err)).unwrap());
    let mut expected = String::new();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        text
    });
    for i in 0..2000 {
        let line = format!("line {i}\n");
        let channel = if i % 3 == 0 { &err } else { &out };
        assert_eq!(channel.write(line.as_bytes(), Blocking::Yes), Ok(line.len()));
        expected += &line;
    }
    out.flush(in_two_seconds()).unwrap();
    err.flush(in_two_seconds()).unwrap();
    drop((out, err));
    // The thread lets go of the descriptors with the last line.
    soon("read", || reading.is_finished());
    assert_eq!(reading.join().unwrap(), expected);
}

#[test]
fn much_data_passes_through_both_ways_unchanged() {
    let (reader, writer) = pipe().unwrap();
    let (from, to) = (Channel::new(Some(reader), None).unwrap(), Channel::new(None, Some(writer)).unwrap());
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let sent = data.clone();
    let sender = std::thread::spawn(move || {
        assert_eq!(to.write(&sent, Blocking::Yes), Ok(sent.len()));
        to.flush(None).unwrap();
    });
    let (mut got, mut buffer) = (Vec::new(), vec![0; 30_000]);
    while got.len() < data.len() {
        let n = from.read(&mut buffer, Blocking::Yes).unwrap();
        got.extend_from_slice(&buffer[..n]);
    }
    sender.join().unwrap();
    assert!(got == data);
}

/// A pty, its other end open.
fn pty() -> (Channel, std::fs::File) {
    let (channel, path) = Channel::open_pty(Way::Both).unwrap();
    let path = std::path::PathBuf::from(String::from_utf8(path).unwrap());
    let other = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (channel, other.into())
}

#[test]
fn a_pty_keeps_what_is_written_until_somebody_comes_and_ends_when_he_leaves() {
    let (channel, path) = Channel::open_pty(Way::Both).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(channel.read(&mut buffer, Blocking::No), Err(Errno::EAGAIN));
    assert_eq!(channel.write(b"login: ", Blocking::Yes), Ok(7));
    let path = std::path::PathBuf::from(String::from_utf8(path).unwrap());
    let mut other: std::fs::File = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap().into();
    other.write_all(b"typed").unwrap();
    assert_eq!(channel.read(&mut buffer, Blocking::Yes), Ok(5));
    assert_eq!(other.read(&mut buffer).unwrap(), 7);
    drop(other);
    assert_eq!(channel.read(&mut buffer, Blocking::Yes), Ok(0));
}

#[test]
fn a_channel_that_is_given_up_holds_nobody() {
    let (channel, _path) = Channel::open_pty(Way::Both).unwrap();
    let block = [b'x'; 10_000];
    // Nobody reads: the host's buffer, the thread's hands and the queue fill up.
    soon("full", || {
        std::thread::sleep(Duration::from_millis(1));
        channel.write(&block, Blocking::No) == Err(Errno::EAGAIN)
    });
    channel.close();
    assert_eq!(channel.write(b"x", Blocking::Yes), Err(Errno::EIO));
    assert_eq!(channel.read(&mut [0; 8], Blocking::Yes), Ok(0));
}

#[test]
fn a_terminal_turns_raw_and_back_and_tells_its_size() {
    let (_channel, other) = pty();
    let terminal = Channel::both(other.try_clone().unwrap().into()).unwrap();
    assert!(terminal.is_terminal());
    let mut size = termios::tcgetwinsize(&other).unwrap();
    size.ws_row = 33;
    size.ws_col = 99;
    termios::tcsetwinsize(&other, size).unwrap();
    let size = terminal.window_size().unwrap();
    assert_eq!((size.rows, size.columns), (33, 99));
    let count = Arc::new(Count::default());
    terminal.observe(count.clone());
    // SAFETY: a signal whose handler is installed.
    unsafe { libc::raise(libc::SIGWINCH) };
    soon("told of the size", || count.0.load(Ordering::SeqCst) > 0);
    let canonical = || termios::tcgetattr(&other).unwrap().local_modes.contains(LocalModes::ICANON);
    // The pty's maker has made it raw; a user's terminal is not.
    let mut mode = termios::tcgetattr(&other).unwrap();
    mode.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
    termios::tcsetattr(&other, termios::OptionalActions::Now, &mode).unwrap();
    terminal.set_mode(TerminalMode::Raw).unwrap();
    assert!(!canonical());
    terminal.set_mode(TerminalMode::Raw).unwrap();
    terminal.set_mode(TerminalMode::Restored).unwrap();
    assert!(canonical());
    terminal.set_mode(TerminalMode::Raw).unwrap();
    restore_terminals();
    assert!(canonical());
}

const CHILD: &str = "UMLAUT_TEST_TERMINAL";

/// The process whose end is watched: makes the terminal raw, says so, and ends as told.
fn be_child(path: &str, how: &str) {
    let channel = Channel::open_terminal(Path::new(path), Way::Both).unwrap();
    channel.set_mode(TerminalMode::Raw).unwrap();
    channel.write(b"R", Blocking::Yes).unwrap();
    channel.flush(None).unwrap();
    match how {
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        "panic" => panic!("on purpose"),
        _ => std::thread::sleep(Duration::from_secs(20)),
    }
}

#[test]
fn a_terminal_is_put_back_however_the_process_ends() {
    if let Ok(child) = std::env::var(CHILD) {
        let (path, how) = child.split_once(' ').unwrap();
        return be_child(path, how);
    }
    let signals = [("term", libc::SIGTERM), ("int", libc::SIGINT), ("hup", libc::SIGHUP), ("quit", libc::SIGQUIT)];
    for how in ["exit", "abort", "panic", "term", "int", "hup", "quit"] {
        let (channel, path) = Channel::open_pty(Way::Both).unwrap();
        let path = String::from_utf8(path).unwrap();
        let other = rustix::fs::open(&*path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut mode = termios::tcgetattr(&other).unwrap();
        mode.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
        mode.output_modes |= termios::OutputModes::OPOST;
        termios::tcsetattr(&other, termios::OptionalActions::Now, &mode).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "channel::tests::a_terminal_is_put_back_however_the_process_ends"])
            .env(CHILD, format!("{path} {how}"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = [0; 1];
        assert_eq!(channel.read(&mut ready, Blocking::Yes), Ok(1));
        if let Some((_, signal)) = signals.iter().find(|(name, _)| *name == how) {
            assert!(!termios::tcgetattr(&other).unwrap().local_modes.contains(LocalModes::ICANON), "{how}: raw meanwhile");
            // SAFETY: our own child, which nobody has waited for.
            unsafe { libc::kill(child.id() as i32, *signal) };
            let status = child.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(*signal), "{how}");
        } else {
            child.wait().unwrap();
        }
        let after = termios::tcgetattr(&other).unwrap();
        assert!(after.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO), "{how}: {after:?}");
        assert!(after.output_modes.contains(termios::OutputModes::OPOST), "{how}");
    }
}
