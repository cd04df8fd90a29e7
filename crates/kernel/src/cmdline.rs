//! The command line of `linux`: UML's own options and the generic kernel's, kernel-parameters.rst and the feature table's rows OPT and RUN.
//!
//! What is known is taken in; what is known to the reference and not here yet is said in one honest line and boot goes on; anything else goes to
//! init, `name=value` as its environment and words as its arguments, as every Linux does.

use crate::disks::root::Patience;
use std::fmt;

/// Bytes of RAM without `mem=`.
pub const DEFAULT_MEM: u64 = 64 << 20;
/// The least RAM with which the machine starts: the tables, one process and its files.
pub const LEAST_MEM: u64 = 8 << 20;
/// Longest command line, bytes (`COMMAND_LINE_SIZE` of UML).
pub const LINE_MAX: usize = 4096;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// As it was given, less what only the start consumes: `/proc/cmdline`.
    pub text: String,
    pub mem_bytes: u64,
    /// Virtual CPUs; `None`: as many as the host gives us.
    pub ncpus: Option<usize>,
    pub root: Option<String>,
    pub root_fstype: Option<String>,
    pub root_flags: Option<String>,
    /// `rootdelay=`, `rootwait`.
    pub root_patience: Patience,
    pub read_only: bool,
    pub initrd: Option<String>,
    pub init: Option<String>,
    pub rdinit: Option<String>,
    /// Directory that hostfs mounts are confined to.
    pub hostfs: Option<String>,
    pub umid: Option<String>,
    pub uml_dir: Option<String>,
    /// `mconsole=notify:PATH`.
    pub notify: Option<String>,
    /// Console channels as given: `("con", "0", "fd:0,fd:1")`.
    pub consoles: Vec<(String, String, String)>,
    /// Where kernel messages go, in order (`console=`).
    pub kernel_consoles: Vec<String>,
    /// Kernel messages also go to standard error until the consoles are there (`stderr=1`, `earlyprintk`).
    pub early_messages: bool,
    /// `xterm=EMULATOR,TITLE_SWITCH,EXEC_SWITCH`.
    pub xterm: Option<String>,
    /// Serial lines leave the host's terminals as they are (`ssl-non-raw`).
    pub serial_cooked: bool,
    /// Disks as given: `("a", "r", "file")`.
    pub disks: Vec<(String, String, String)>,
    /// Network interfaces as given: `eth0=mcast`.
    pub interfaces: Vec<String>,
    /// `ubd=sync`: every write is on the host's disk before it completes.
    pub disks_synchronous: bool,
    pub console_loglevel: u8,
    pub panic_timeout_s: i64,
    pub no_reboot: bool,
    pub init_args: Vec<String>,
    pub init_env: Vec<String>,
    /// Lines to print at boot: what was accepted and does nothing here.
    pub remarks: Vec<String>,
}

/// The command line ends the program before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `--help`, `--version`: this text on standard output, status 0.
    Answer(String),
    /// A mistake: this sentence on standard error, status 1.
    Mistake(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Answer(text) | Stop::Mistake(text) => f.write_str(text),
        }
    }
}

impl Default for CommandLine {
    fn default() -> Self {
        CommandLine {
            text: String::new(),
            mem_bytes: DEFAULT_MEM,
            ncpus: None,
            root: None,
            root_fstype: None,
            root_flags: None,
            root_patience: Patience::default(),
            read_only: true,
            initrd: None,
            init: None,
            rdinit: None,
            hostfs: None,
            umid: None,
            uml_dir: None,
            notify: None,
            consoles: Vec::new(),
            kernel_consoles: Vec::new(),
            early_messages: false,
            xterm: None,
            serial_cooked: false,
            disks: Vec::new(),
            interfaces: Vec::new(),
            disks_synchronous: false,
            console_loglevel: 7,
            panic_timeout_s: 0,
            no_reboot: false,
            init_args: Vec::new(),
            init_env: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

/// Options of the reference that we do not have yet, by name; those that end in `*` stand for all that begin so.
const NOT_YET: &[&str] = &[
    "dtb",
    "iomem",
    "mixer",
    "dsp",
    "time-travel",
    "time-travel-start",
    "virtio_uml.device",
    "vfio_uml.device",
    "fakehd",
    "fake_ide",
    "udb",
    "uml_dir_symlink",
    "tty_log_fd",
    "tty_log_dir",
    "gdb-pid",
    "jail",
    "honeypot",
    "split_debug",
    "resume",
    "noresume",
    "kgdboc",
    "kgdb_con",
];

/// Network interfaces, which read their own settings.
const INTERFACES: &[&str] = &["eth*", "vec*"];

/// Options that ask for what is always so here, or for a mechanism that we do not use.
const NO_MATTER: &[&str] = &[
    "noprocmm",
    "noptracefaultinfo",
    "nosysemu",
    "skas0",
    "debugtrace",
    "nohz",
    "nolapic",
    "noapic",
    "acpi",
    "apm",
    "pci",
    "vga",
    "splash",
    "selinux",
    "apparmor",
    "audit",
    "nosmp",
    "nokaslr",
    "elevator",
    "clocksource",
    "ipv6.disable",
    "net.ifnames",
    "biosdevname",
    "rcu_nocbs",
    "transparent_hugepage",
    "mitigations",
    "no_console_suspend",
    "printk.time",
    "ignore_loglevel",
    "resume_offset",
    "fsck.mode",
    "fsck.repair",
    "cgroup_enable",
    "cgroup_disable",
    "swapaccount",
    "random.trust_cpu",
];

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|known| match known.strip_suffix('*') {
        Some(stem) => name.strip_prefix(stem).is_some_and(|rest| rest.chars().next().is_some_and(|c| c.is_ascii_digit())),
        None => *known == name,
    })
}

/// A size with UML's suffixes: bytes, or K, M, G in either case.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (text.get(..text.len() - 1)?, 10),
        'm' => (text.get(..text.len() - 1)?, 20),
        'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    let value: u64 = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

impl CommandLine {
    /// Takes the arguments of `linux`, the program's name left out.
    pub fn parse(arguments: &[String]) -> Result<CommandLine, Stop> {
        let mut line = CommandLine::default();
        let total: usize = arguments.iter().map(|a| a.len() + 1).sum();
        if total > LINE_MAX {
            return Err(Stop::Mistake("add_arg: Too many command line arguments!".into()));
        }
        let mut kept: Vec<&str> = Vec::new();
        let mut to_init = false;
        for argument in arguments {
            if to_init {
                line.init_args.push(argument.clone());
                kept.push(argument);
            } else if argument == "--" {
                to_init = true;
                kept.push(argument);
            } else if line.option(argument)? {
                kept.push(argument);
            }
        }
        line.text = kept.join(" ");
        Ok(line)
    }

    /// Takes one argument. Whether it stays on `/proc/cmdline`.
    fn option(&mut self, argument: &str) -> Result<bool, Stop> {
        match argument {
            "--version" => return Err(Stop::Answer(format!("{}\n", crate::RELEASE))),
            "--help" => return Err(Stop::Answer(help())),
            "--showconfig" => return Err(Stop::Answer(crate::configuration())),
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "quiet" => self.console_loglevel = 4,
            "debug" => {
                self.console_loglevel = 10;
                self.remarks.push("'debug' is not necessary to gdb UML in skas mode - run\n'gdb linux'".into());
            }
            "rootwait" => self.root_patience.wait_s = u64::MAX,
            "noreboot" => self.no_reboot = true,
            "ssl-non-raw" => self.serial_cooked = true,
            "earlyprintk" => self.early_messages = true,
            _ if listed(INTERFACES, argument) => self.interfaces.push(argument.to_owned()),
            _ => match argument.split_once('=') {
                Some((name, value)) => return self.assignment(argument, name, value),
                None if listed(NO_MATTER, argument) => {}
                None if listed(NOT_YET, argument) => self.remarks.push(format!("{argument}: not supported yet")),
                None => self.init_args.push(argument.to_owned()),
            },
        }
        Ok(true)
    }

    fn assignment(&mut self, argument: &str, name: &str, value: &str) -> Result<bool, Stop> {
        let own = || Some(value.to_owned());
        match name {
            "mem" => {
                self.mem_bytes = parse_size(value)
                    .ok_or_else(|| Stop::Mistake(format!("mem={value}: not a size. Give bytes, or a number with K, M or G: mem=256M")))?;
                if self.mem_bytes < LEAST_MEM {
                    let text = format!("Too few physical memory! Needed={LEAST_MEM}, given={}", self.mem_bytes);
                    return Err(Stop::Mistake(text));
                }
                self.mem_bytes &= !(abi::PAGE_SIZE as u64 - 1);
            }
            "ncpus" => {
                let count: usize = value
                    .parse()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| Stop::Mistake(format!("ncpus={value}: not a number of processors. Give 1 or more: ncpus=2")))?;
                self.ncpus = Some(count.min(crate::MAX_CPUS));
                return Ok(false);
            }
            "root" => self.root = own(),
            "rootfstype" => self.root_fstype = own(),
            "rootflags" => self.root_flags = own(),
            "rootwait" => self.root_patience.wait_s = value.parse().unwrap_or(u64::MAX),
            "rootdelay" => self.root_patience.delay_s = value.parse().unwrap_or(0),
            "initrd" => self.initrd = own(),
            "init" => self.init = own(),
            "rdinit" => self.rdinit = own(),
            "hostfs" => self.hostfs = own(),
            "umid" => {
                match &self.umid {
                    Some(_) => self.remarks.push("umid already set".into()),
                    None => self.umid = own(),
                }
                return Ok(false);
            }
            "uml_dir" if value.is_empty() => self.remarks.push("uml_dir can't be an empty string".into()),
            "uml_dir" => self.uml_dir = own(),
            "mconsole" => match value.strip_prefix("notify:") {
                Some(path) => self.notify = Some(path.to_owned()),
                None => self.remarks.push(format!("mconsole_setup : Unknown option - '{value}'")),
            },
            "panic" => self.panic_timeout_s = value.parse().unwrap_or(0),
            "loglevel" => self.console_loglevel = value.parse().unwrap_or(7).min(15),
            "console" => self.kernel_consoles.push(value.to_owned()),
            "earlyprintk" => self.early_messages = true,
            "stderr" => self.early_messages = value != "0",
            "xterm" => {
                self.xterm = own();
                return Ok(false);
            }
            "seccomp" => return self.seccomp(value),
            "mode" => {
                self.remarks.push(format!("'mode={value}' ignored: guest code always runs in separate address spaces, under seccomp"))
            }
            "debug" => self.remarks.push(format!("'debug={value}' ignored: attach gdb to the main process")),
            _ => return Ok(self.named(argument, name, value)),
        }
        Ok(true)
    }

    fn seccomp(&mut self, value: &str) -> Result<bool, Stop> {
        match value {
            "on" | "auto" => {}
            "off" => self.remarks.push("seccomp=off: there is no other way to run guest code here; going on with seccomp".into()),
            other => return Err(Stop::Mistake(format!("Invalid seccomp option '{other}', expected on/auto/off"))),
        }
        Ok(false)
    }

    /// Options whose names carry a number or flags, and the rest.
    fn named(&mut self, argument: &str, name: &str, value: &str) -> bool {
        for family in ["con", "ssl"] {
            if let Some(number) = name.strip_prefix(family)
                && number.chars().next().is_none_or(|c| c.is_ascii_digit())
            {
                self.consoles.push((family.into(), number.into(), value.into()));
                return true;
            }
        }
        if name == "ubd" {
            match value {
                "sync" => {
                    self.disks_synchronous = true;
                    self.remarks.push("ubd: Synchronous mode".into());
                }
                _ => self.remarks.push("fake major not supported any more".into()),
            }
            return true;
        }
        if let Some(rest) = name.strip_prefix("ubd")
            && let Some((unit, flags)) = split_disk(rest)
        {
            self.disks.push((unit.into(), flags.into(), value.into()));
            return true;
        }
        if listed(NO_MATTER, name) {
            return true;
        }
        if listed(NOT_YET, name) {
            self.remarks.push(format!("{name}: not supported yet"));
            return true;
        }
        self.init_env.push(argument.to_owned());
        true
    }
}

/// `a`, `0`, `12` or `b`, with the flags behind: `0rd` is unit 0 with flags r and d.
fn split_disk(rest: &str) -> Option<(&str, &str)> {
    let first = rest.chars().next()?;
    let unit_len = if first.is_ascii_digit() { rest.chars().take_while(char::is_ascii_digit).count() } else { 1 };
    let (unit, flags) = rest.split_at_checked(unit_len)?;
    (first.is_ascii_alphanumeric() && flags.chars().all(|c| "rsdct".contains(c))).then_some((unit, flags))
}

/// `--help`.
fn help() -> String {
    let mut text = format!("User Mode Linux, Umlaut {}\n\n", crate::RELEASE);
    let options = [
        ("mem=SIZE", "physical memory: bytes, or a number with K, M or G. Default 64M. It costs what is touched."),
        ("ncpus=N", "virtual processors. Default: as many as the host gives this process."),
        ("root=DEVICE", "the root file system's device."),
        ("rootfstype=TYPE", "its type; hostfs boots from a directory of the host."),
        ("rootflags=OPTIONS", "its options; for hostfs the directory."),
        ("initrd=FILE", "an initramfs archive (cpio; plain, gzip or zstd)."),
        ("init=PROGRAM, rdinit=PROGRAM", "what to run first, on the root and in the initramfs."),
        ("ro, rw", "mount the root read-only (default) or read-write."),
        ("hostfs=DIR", "the only directory of the host that hostfs mounts can show."),
        ("umid=NAME", "the machine's name on the host. Default: one made at random."),
        ("uml_dir=DIR", "where machines have their directories. Default: ~/.uml."),
        ("mconsole=notify:SOCKET", "tell this socket of the start, of panics and of what is written to /proc/mconsole."),
        (
            "conN=CHANNEL, con=CHANNEL",
            "where console N is, and where all others are: null, none, fd:N, pty, pts, tty:PATH, port:N or xterm; IN,OUT for two.",
        ),
        ("sslN=CHANNEL, ssl=CHANNEL", "the same for serial lines."),
        ("ssl-non-raw", "leave the terminals of serial lines in their line mode."),
        (
            "xterm=PROGRAM,TITLE,EXEC",
            "the terminal emulator of xterm channels, its switches for the title and for the command. Default: xterm,-T,-e.",
        ),
        (
            "console=DEVICE",
            "where kernel messages go and what /dev/console is: tty0 (default), ttyS0 and so on; may be given several times.",
        ),
        ("stderr=1, earlyprintk", "show kernel messages on standard error until the console is there."),
        ("quiet, loglevel=N, debug", "how much of the kernel's log is shown."),
        ("panic=SECONDS", "after a panic, restart in so many seconds; 0: end."),
        ("noreboot", "end instead of restarting."),
        ("seccomp=on|auto|off", "accepted; guest code always runs under seccomp."),
        ("--help, --version, --showconfig", "say so and end."),
    ];
    for (option, what) in options {
        text.push_str(&format!("{option}\n    {what}\n\n"));
    }
    text.push_str("Other words go to init as arguments, other NAME=VALUE into its environment; everything after -- goes to init.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, Stop> {
        CommandLine::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn sizes_take_umls_suffixes() {
        for (text, want) in [
            ("64M", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("4096", Some(4096)),
            ("0x10k", Some(16384)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("99999999999G", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_goes_to_init() {
        let line = parse("mem=128M single FOO=bar rootfstype=hostfs -- -x mem=1").unwrap();
        assert_eq!(line.mem_bytes, 128 << 20);
        assert_eq!(line.init_args, ["single", "-x", "mem=1"]);
        assert_eq!(line.init_env, ["FOO=bar"]);
        assert_eq!(line.root_fstype.as_deref(), Some("hostfs"));
    }

    #[test]
    fn disks_and_consoles_keep_unit_and_flags() {
        let line = parse("ubd0rd=x ubda=cow,back con0=fd:0,fd:1 con=null ssl3=pts ubd12s=y eth0=mcast eth1 ether=x").unwrap();
        assert_eq!((line.interfaces, line.init_env), (vec!["eth0=mcast".into(), "eth1".into()], vec!["ether=x".into()]));
        let disks: Vec<_> = line.disks.iter().map(|(u, f, v)| (u.as_str(), f.as_str(), v.as_str())).collect();
        assert_eq!(disks, [("0", "rd", "x"), ("a", "", "cow,back"), ("12", "s", "y")]);
        assert_eq!(line.consoles.len(), 3);
    }

    #[test]
    fn mistakes_are_one_clear_sentence() {
        for (text, part) in [
            ("mem=lots", "not a size"),
            ("mem=1k", "Too few physical memory! Needed="),
            ("ncpus=0", "number of processors"),
            ("seccomp=maybe", "expected on/auto/off"),
        ] {
            match parse(text) {
                Err(Stop::Mistake(sentence)) => assert!(sentence.contains(part), "{text}: {sentence}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let long = "x".repeat(LINE_MAX);
        assert_eq!(parse(&long), Err(Stop::Mistake("add_arg: Too many command line arguments!".into())));
    }

    #[test]
    fn options_that_we_lack_are_named_and_boot_goes_on() {
        let line = parse("resume=/dev/ubdb dsp=/dev/dsp mode=tt seccomp=off").unwrap();
        assert!(line.remarks.iter().any(|r| r == "resume: not supported yet"));
        assert!(line.remarks.iter().any(|r| r == "dsp: not supported yet"));
        assert!(line.init_env.is_empty() && line.remarks.len() == 4);
    }
}
