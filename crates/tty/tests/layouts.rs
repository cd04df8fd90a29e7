//! The layouts of the ioctls, against what this host's kernel fills in.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, openpt, unlockpt};
use tty::ioctl::{FlowControl, Layout, Request, When, queue_from_argument};
use tty::{ControlChar, InputFlags, LocalFlags, Queue, Termios, WinSize, control};

/// The bytes that an ioctl fills in on this host, or gives back after taking `bytes`; `None` without ptys or perl.
fn on_host(master: &OwnedFd, calls: &[(u32, &[u8])]) -> Option<Vec<Vec<u8>>> {
    let calls: Vec<String> = calls
        .iter()
        .map(|(number, bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("$b = pack('H*', '{hex}') . (\"\\xee\" x (80 - {})); ioctl(STDIN, {number}, $b) or die $!; print unpack('H*', $b), \"\\n\";", bytes.len())
        })
        .collect();
    let output = Command::new("perl").args(["-e", &calls.join("\n")]).stdin(Stdio::from(master.try_clone().ok()?)).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).ok()?;
    let unhex = |line: &str| (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hex")).collect();
    Some(text.lines().map(unhex).collect())
}

fn master() -> Option<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).ok()?;
    unlockpt(&master).ok()?;
    Some(master)
}

const GET: [(Layout, u32); 3] = [(Layout::Termios, 0x5401), (Layout::Termios2, 0x802c_542a), (Layout::Termio, 0x5405)];
const SET: [(Layout, u32); 3] = [(Layout::Termios, 0x5402), (Layout::Termios2, 0x402c_542b), (Layout::Termio, 0x5406)];

#[test]
fn a_fresh_slave_has_the_settings_that_this_host_gives_in_each_layout() {
    let Some(master) = master() else { return };
    let calls: Vec<(u32, &[u8])> = GET.iter().map(|(_, number)| (*number, &[][..])).collect();
    let Some(linux) = on_host(&master, &calls) else { return };
    for ((layout, _), bytes) in GET.into_iter().zip(linux) {
        let length = layout.len_bytes();
        let ours = layout.encode(&Termios::pty_slave());
        // The last byte of termio is padding, which Linux leaves as it was.
        let used = if layout == Layout::Termio { 17 } else { length };
        assert_eq!(bytes[..used], ours[..used], "{layout:?}");
        assert_eq!(bytes[length], 0xee, "{layout:?} is {length} bytes long");
    }
}

#[test]
fn settings_go_through_each_layout_as_on_this_host() {
    let speeds = [
        (control::B38400, 38400, 38400),
        (0o15, 9600, 9600),
        (0o10002, 115_200, 115_200),
        (control::BOTHER, 12_345, 12_345),
        (0o15 | 0o13 << 16, 2400, 9600),
        (control::BOTHER | control::BOTHER << 16, 777, 888),
    ];
    for (control, input_speed, output_speed) in speeds {
        let mut wanted = Termios::pty_slave();
        wanted.input |= InputFlags::IUTF8 | InputFlags::IXANY;
        wanted.local.remove(LocalFlags::ECHO);
        wanted.control = control | control::CS8 | control::CREAD;
        (wanted.input_speed, wanted.output_speed) = (input_speed, output_speed);
        wanted.set_char(ControlChar::Eol2, 7);
        wanted.set_char(ControlChar::Intr, b'z');
        for (layout, number) in SET {
            let Some(master) = master() else { return };
            let bytes = layout.encode(&wanted);
            let Some(linux) = on_host(&master, &[(number, &bytes), (GET[0].1, &[]), (GET[1].1, &[])]) else { return };
            let mut ours = layout.decode(&bytes, &Termios::pty_slave()).expect("enough bytes");
            ours.force_pty_hardware();
            assert_eq!(linux[2][..44], Layout::Termios2.encode(&ours), "{control:o} set by {layout:?}, got as termios2");
            assert_eq!(linux[1][..36], Layout::Termios.encode(&ours), "{control:o} set by {layout:?}, got as termios");
        }
    }
}

#[test]
fn the_window_size_has_the_layout_of_this_host() {
    let Some(master) = master() else { return };
    let size = WinSize { rows: 0x0102, columns: 0x0304, x_pixels: 0x0506, y_pixels: 0x0708 };
    let Some(linux) = on_host(&master, &[(0x5414, &size.to_bytes()), (0x5413, &[])]) else { return };
    assert_eq!(linux[1][..8], size.to_bytes());
    assert_eq!(WinSize::from_bytes(&size.to_bytes()), size);
}

#[test]
fn too_few_bytes_are_no_settings() {
    for (layout, _) in GET {
        let bytes = layout.encode(&Termios::default());
        assert_eq!(bytes.len(), layout.len_bytes());
        assert_eq!(layout.decode(&bytes[..bytes.len() - 1], &Termios::default()), None);
    }
}

#[test]
fn numbers_become_requests() {
    let table = [
        (0x5401, Request::GetSettings(Layout::Termios)),
        (0x5402, Request::SetSettings(Layout::Termios, When::Now)),
        (0x5403, Request::SetSettings(Layout::Termios, When::Drain)),
        (0x5404, Request::SetSettings(Layout::Termios, When::Flush)),
        (0x5405, Request::GetSettings(Layout::Termio)),
        (0x5406, Request::SetSettings(Layout::Termio, When::Now)),
        (0x5407, Request::SetSettings(Layout::Termio, When::Drain)),
        (0x5408, Request::SetSettings(Layout::Termio, When::Flush)),
        (0x5409, Request::Drain),
        (0x540a, Request::FlowControl),
        (0x540b, Request::Flush),
        (0x540c, Request::SetExclusive),
        (0x540d, Request::ClearExclusive),
        (0x540e, Request::SetControlling),
        (0x540f, Request::GetForeground),
        (0x5410, Request::SetForeground),
        (0x5411, Request::CountOutput),
        (0x5412, Request::Inject),
        (0x5413, Request::GetWinSize),
        (0x5414, Request::SetWinSize),
        (0x541b, Request::CountInput),
        (0x5420, Request::SetPacketMode),
        (0x5422, Request::GiveUpControlling),
        (0x5423, Request::SetDiscipline),
        (0x5424, Request::GetDiscipline),
        (0x5425, Request::SendBreak),
        (0x5429, Request::GetSession),
        (0x5437, Request::HangUp),
        (0x5441, Request::OpenPtyPeer),
        (0x8004_5430, Request::GetPtyNumber),
        (0x4004_5431, Request::SetPtyLock),
        (0x4004_5436, Request::SignalForeground),
        (0x8004_5438, Request::GetPacketMode),
        (0x8004_5439, Request::GetPtyLock),
    ];
    for (number, request) in table {
        assert_eq!(Request::from_number(number), Some(request), "{number:#x}");
    }
    // What a virtual terminal would have: KDSIGACCEPT and VT_OPENQRY's neighbourhood (RUN-32). ENOTTY.
    for number in [0x4b4e, 0x4b50, 0x5600, 0x5603, 0] {
        assert_eq!(Request::from_number(number), None, "{number:#x}");
    }
}

#[test]
fn arguments_beyond_the_last_are_invalid() {
    assert_eq!([0, 1, 2].map(queue_from_argument), [Some(Queue::Input), Some(Queue::Output), Some(Queue::Both)]);
    assert_eq!(queue_from_argument(3), None);
    assert_eq!(FlowControl::from_argument(3), Some(FlowControl::SendStart));
    assert_eq!(FlowControl::from_argument(4), None);
}
