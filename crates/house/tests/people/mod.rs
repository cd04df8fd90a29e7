//! People at terminals: what is shown is read all the time, what is typed is typed, and every wait has an end.
#![allow(dead_code, reason = "each test file uses a part")]

use house::machine::{Archive, Programs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The two programs, built once.
pub fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

#[derive(Default)]
struct Shown {
    text: Vec<u8>,
    ended: bool,
}

/// Somebody at one end of a stream.
pub struct Person {
    keyboard: File,
    eyes: Option<std::thread::JoinHandle<()>>,
    gone: Arc<AtomicBool>,
    screen: Arc<(Mutex<Shown>, Condvar)>,
    /// Where the part begins that no wait has passed yet.
    at: usize,
}

impl Person {
    /// At a stream that is read from and written to.
    pub fn at(stream: OwnedFd) -> Person {
        let keyboard = File::from(stream);
        let mut eyes = keyboard.try_clone().unwrap();
        let screen: Arc<(Mutex<Shown>, Condvar)> = Arc::default();
        let shown = screen.clone();
        let gone = Arc::new(AtomicBool::new(false));
        let left = gone.clone();
        let eyes = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                // Closing is a hangup only when the last copy is closed: this one must not outstay its person.
                let blink = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let ready = poll(&mut [PollFd::new(&eyes, PollFlags::IN)], Some(&blink));
                if left.load(Ordering::Relaxed) {
                    return;
                }
                if ready == Ok(0) {
                    continue;
                }
                let read = eyes.read(&mut bytes);
                let mut state = shown.0.lock().unwrap();
                match read {
                    Ok(n) if n > 0 => state.text.extend_from_slice(&bytes[..n]),
                    // A pty's end is an error.
                    _ => state.ended = true,
                }
                shown.1.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        Person { keyboard, eyes: Some(eyes), gone, screen, at: 0 }
    }

    /// Types, without a return key.
    pub fn types(&mut self, text: impl AsRef<[u8]>) {
        self.keyboard.write_all(text.as_ref()).unwrap();
    }

    /// Types a line.
    pub fn enters(&mut self, line: &str) {
        self.types(format!("{line}\r"));
    }

    fn wait(&mut self, what: &str, mut found: impl FnMut(&[u8]) -> Option<usize>) -> Result<String, String> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.screen.0.lock().unwrap();
        loop {
            let new = &state.text[self.at..];
            if let Some(end) = found(new) {
                let text = String::from_utf8_lossy(&new[..end]).into_owned();
                self.at += end;
                return Ok(text);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let how = if state.ended { "the end came before" } else { "nobody showed" };
                return Err(format!("{how} {what:?}; shown since:\n{}", String::from_utf8_lossy(new)));
            }
            state = self.screen.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until this is shown, and returns all up to its end.
    pub fn sees(&mut self, wanted: &str) -> String {
        let bytes = wanted.as_bytes();
        self.wait(wanted, |text| text.windows(bytes.len()).position(|w| w == bytes).map(|at| at + bytes.len())).unwrap()
    }

    /// Waits until this is shown again and again, so many bytes of it at least.
    pub fn sees_bytes(&mut self, count: usize) {
        self.wait("many bytes", |text| (text.len() >= count).then_some(text.len())).unwrap();
    }

    /// Waits until the other side closes.
    pub fn sees_the_end(&mut self) {
        let until = Instant::now() + PATIENCE;
        let mut state = self.screen.0.lock().unwrap();
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the stream stays open; shown: {}", String::from_utf8_lossy(&state.text[self.at..]));
            state = self.screen.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Runs a command at a shell's prompt and returns what it showed. The command is echoed; the marker is put together by the shell.
    pub fn runs(&mut self, command: &str) -> String {
        self.enters(&format!("{command}; echo d\"\"one-$?"));
        self.sees("d\"\"one-$?");
        let mut shown = self.sees("done-");
        shown.truncate(shown.len() - 5);
        // What is typed ahead of the prompt is shown twice: by the terminal, and by the shell's line editor.
        let output = shown.rsplit("d\"\"one-$?").next().unwrap_or_default();
        output.trim().to_owned()
    }

    /// Logs in at a getty.
    pub fn logs_in(&mut self, name: &str) {
        self.sees("login: ");
        self.enters(name);
        self.sees("assword: ");
        self.enters(name);
        self.sees(if name == "root" { "# " } else { "$ " });
    }

    /// All that was shown.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.screen.0.lock().unwrap().text).into_owned()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(eyes) = self.eyes.take() {
            let _ = eyes.join();
        }
    }
}

/// A terminal of the host: the end that a person sits at, and the end that programs have.
pub struct Desk {
    pub person: Person,
    master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens the end of a pty that is not ours, as no controlling terminal.
pub fn open_terminal(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

impl Desk {
    pub fn new() -> Desk {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = open_terminal(&path);
        let desk = Desk { person: Person::at(master.try_clone().unwrap()), master, slave };
        // Wide enough that no line of a test is broken by a shell's line editor.
        desk.resize(24, 200);
        desk
    }
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }
    /// Starts a program with this as its controlling terminal.
    pub fn start(&self, command: &[String]) -> Running {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait"]).args(command).stdin(end()).stdout(end()).stderr(end());
        Running(setsid.spawn().unwrap())
    }
}

/// Makes a terminal's end raw, as a terminal program does.
pub fn make_raw(terminal: impl AsFd) {
    let mut settings = tcgetattr(&terminal).unwrap();
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings).unwrap();
}

/// A program that ends with the test.
pub struct Running(pub Child);

impl Running {
    pub fn ends(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An initramfs of busybox with an init that has gettys on tty0 to tty3, ttyS0 and ttyS1, of which those with no channel give up.
/// None where there is no busybox.
pub fn busybox_machine() -> Option<&'static PathBuf> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok())?;
        let mut archive = Archive::default();
        for dir in ["bin", "sbin", "dev", "proc", "sys", "etc", "root", "tmp"] {
            archive.directory(dir);
        }
        archive.file("bin/busybox", &busybox);
        for applet in
            "sh init getty login ls cat echo mount stty ps tty sleep kill reboot halt poweroff id dmesg head dd true rm tail grep setsid wc su sync hexdump timeout printf cut date"
                .split(' ')
        {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        archive.link("init", "bin/busybox");
        let mut inittab = "::sysinit:/bin/mount -t proc proc /proc\n::ctrlaltdel:/bin/reboot\n".to_owned();
        for tty in ["tty0", "tty1", "tty2", "ttyS0", "ttyS1"] {
            inittab += &format!("{tty}::respawn:/bin/getty 38400 {tty} vt100\n");
        }
        archive.text("etc/inittab", &inittab);
        // The passwords are the names.
        archive.text(
            "etc/passwd",
            "root:$1$jAriGaMt$1lGO00ZXXneRRmfEv.N5S0:0:0:root:/root:/bin/sh\n\
             user:$1$PfYBB.3I$zTLqn3tCMfMpqgLTc9hAH1:1000:1000:user:/tmp:/bin/sh\n",
        );
        archive.text("etc/group", "root:x:0:\ntty:x:5:\nuser:x:1000:\n");
        let place = house::repository().join("target/guest-tests");
        std::fs::create_dir_all(&place).unwrap();
        let path = place.join(format!("consoles-{}.cpio", std::process::id()));
        std::fs::write(&path, archive.finish()).unwrap();
        Some(path)
    })
    .as_ref()
}

/// The command that boots it with these options.
pub fn linux(options: &[&str]) -> Option<Vec<String>> {
    let Some(archive) = busybox_machine() else {
        println!("skipped: no busybox here");
        return None;
    };
    let mut command =
        vec![programs().linux.display().to_string(), format!("initrd={}", archive.display()), "rdinit=/init".into(), "mem=64M".into()];
    command.extend(options.iter().map(|option| (*option).to_owned()));
    Some(command)
}

/// A program of the host along PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: no {name} here");
    }
    found
}
