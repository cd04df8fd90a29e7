//! A console, as a shell and its user see it.
#![forbid(unsafe_code)]

use abi::{SigSet, Signal};
use tty::{ControlChar, Flow, LineDiscipline, LocalFlags, Queue, Read, ReadCall};

fn read(ld: &mut LineDiscipline, len: usize) -> Result<Vec<u8>, Read> {
    let mut buf = vec![0; len];
    match ld.read(&mut ReadCall::new(), &mut buf, 0, true) {
        Read::Done(count) => {
            buf.truncate(count);
            Ok(buf)
        }
        other => Err(other),
    }
}

fn typed(ld: &mut LineDiscipline, bytes: &[u8]) -> tty::Effects {
    let (taken, effects) = ld.receive(bytes);
    assert_eq!(taken, bytes.len());
    effects
}

#[test]
fn a_line_is_echoed_edited_and_read_whole() {
    let mut ld = LineDiscipline::console();
    let effects = typed(&mut ld, b"lx\x7fs");
    assert!(effects.output && !effects.readable);
    assert_eq!(ld.take_output(100), b"lx\x08 \x08s");
    assert_eq!(read(&mut ld, 100), Err(Read::WouldBlock));
    assert!(typed(&mut ld, b"\r").readable);
    assert_eq!(ld.take_output(100), b"\r\n");
    assert_eq!(read(&mut ld, 100), Ok(b"ls\n".to_vec()));
}

#[test]
fn control_c_interrupts_and_throws_away_what_was_typed() {
    let mut ld = LineDiscipline::console();
    let _ = typed(&mut ld, b"make wo");
    ld.consume_output(100);
    let effects = typed(&mut ld, b"\x03");
    assert_eq!(effects.signals, SigSet::of(Signal::SIGINT));
    assert_eq!(ld.take_output(100), b"^C");
    let _ = typed(&mut ld, b"\n");
    assert_eq!(read(&mut ld, 100), Ok(b"\n".to_vec()));
}

#[test]
fn control_d_at_the_start_of_a_line_reads_as_the_end_of_file() {
    let mut ld = LineDiscipline::console();
    let _ = typed(&mut ld, b"a\x04\x04");
    assert_eq!(read(&mut ld, 100), Ok(b"a".to_vec()));
    assert_eq!(read(&mut ld, 100), Ok(Vec::new()));
    assert_eq!(read(&mut ld, 100), Err(Read::WouldBlock));
}

#[test]
fn control_s_holds_the_line_until_control_q() {
    let mut ld = LineDiscipline::console();
    assert_eq!(typed(&mut ld, b"\x13").flow, Some(Flow::Stopped));
    let (taken, _) = ld.write(b"hello");
    assert_eq!(taken, 5);
    assert!(ld.take_output(100).is_empty());
    let effects = typed(&mut ld, b"\x11");
    assert!(effects.output);
    assert_eq!(ld.take_output(100), b"hello");
}

#[test]
fn writers_feel_a_full_queue() {
    let mut ld = LineDiscipline::console();
    let (taken, _) = ld.write(&[b'x'; 5000]);
    assert_eq!(taken, 4096);
    assert!(!ld.poll().writable);
    assert_eq!(ld.write(b"y").0, 0);
    assert_eq!(ld.take_output(8).len(), 8);
    assert_eq!(ld.write(b"\n\n\n\n\n").0, 4);
}

#[test]
fn raw_reads_wait_for_vmin_bytes_and_no_longer_than_vtime_between_them() {
    let mut ld = LineDiscipline::console();
    let mut raw = ld.termios().clone();
    raw.local.remove(LocalFlags::ICANON | LocalFlags::ECHO);
    raw.set_char(ControlChar::Min, 3);
    raw.set_char(ControlChar::Time, 2);
    let _ = ld.set_termios(raw);
    let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
    assert_eq!(ld.read(&mut call, &mut buf, 0, false), Read::Wait { deadline_ns: None });
    let _ = typed(&mut ld, b"a");
    assert_eq!(ld.read(&mut call, &mut buf, 1_000, false), Read::Wait { deadline_ns: Some(200_001_000) });
    let _ = typed(&mut ld, b"b");
    assert_eq!(ld.read(&mut call, &mut buf, 100_000_000, false), Read::Wait { deadline_ns: Some(300_000_000) });
    assert_eq!(ld.read(&mut call, &mut buf, 300_000_000, false), Read::Done(2));
    assert_eq!(&buf[..2], b"ab");
}

#[test]
fn a_read_with_vtime_alone_ends_when_it_is_over() {
    let mut ld = LineDiscipline::console();
    let mut raw = ld.termios().clone();
    raw.local.remove(LocalFlags::ICANON);
    raw.set_char(ControlChar::Min, 0);
    raw.set_char(ControlChar::Time, 5);
    let _ = ld.set_termios(raw);
    let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
    assert_eq!(ld.read(&mut call, &mut buf, 0, false), Read::Wait { deadline_ns: Some(500_000_000) });
    assert_eq!(ld.read(&mut call, &mut buf, 500_000_000, false), Read::Done(0));
}

#[test]
fn flushing_input_leaves_nothing_to_read() {
    let mut ld = LineDiscipline::console();
    let _ = typed(&mut ld, b"one\ntwo");
    let _ = ld.flush(Queue::Input);
    assert_eq!(ld.readable_bytes(), 0);
    let _ = typed(&mut ld, b"\n");
    assert_eq!(read(&mut ld, 100), Ok(b"\n".to_vec()));
}
