//! What a machine is to be, and how it ended.

use crate::cmdline::CommandLine;
use crate::disks::root::Patience;
use crate::management::ManagementConfig;
use abi::WaitStatus;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct Config {
    pub mem_bytes: u64,
    /// Virtual CPUs.
    pub cpus: usize,
    pub root: Root,
    /// Whether the root is mounted read-only at first (`linux` without `rw`).
    pub root_read_only: bool,
    pub program: Program,
    pub streams: Streams,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// Directory that hostfs mounts are confined to; `None`: no directory of the host can be mounted.
    pub hostfs: Option<PathBuf>,
    /// Consoles and serial lines.
    pub lines: LineConfig,
    /// Kernel messages below this level are shown on the console; 0 shows none.
    pub console_loglevel: u8,
    /// Disks, as the command line has them: unit, flags and what follows `=`.
    pub disks: Vec<(String, String, String)>,
    /// Network interfaces, as the command line has them: `eth0=mcast`.
    pub interfaces: Vec<String>,
    /// `ubd=sync`.
    pub disks_synchronous: bool,
    /// Type and options of the root file system on a device (`rootfstype=`, `rootflags=`).
    pub root_type: Option<String>,
    pub root_flags: String,
    /// How long boot waits for the root device.
    pub root_patience: Patience,
    /// Name, directory and console on the host.
    pub management: ManagementConfig,
    /// A restart is an end.
    pub no_reboot: bool,
    /// Lines for the log before anything else.
    pub remarks: Vec<String>,
}

/// Consoles and serial lines, as the command line has them.
#[derive(Clone, Debug, Default)]
pub struct LineConfig {
    pub consoles: drivers::lines::Options,
    pub serial: drivers::lines::Options,
    pub emulator: drivers::lines::Emulator,
    /// Where kernel messages go; the last one that is there is `/dev/console`.
    pub kernel: Vec<String>,
    /// Kernel messages go to standard error until then.
    pub early_messages: bool,
    /// The machine's name, for windows' titles.
    pub name: Option<String>,
}

impl LineConfig {
    fn from_command_line(line: &CommandLine) -> LineConfig {
        let of = |family: &str| {
            let own = line.consoles.iter().filter(|(option, ..)| option == family);
            own.map(|(_, unit, channel)| (unit.clone(), channel.clone())).collect()
        };
        let options = |family, cooked| drivers::lines::Options { settings: of(family), bare: false, cooked };
        let default = || vec!["tty0".to_owned()];
        LineConfig {
            consoles: options("con", false),
            serial: options("ssl", line.serial_cooked),
            emulator: line.xterm.as_deref().map(drivers::lines::Emulator::parse).unwrap_or_default(),
            kernel: if line.kernel_consoles.is_empty() { default() } else { line.kernel_consoles.clone() },
            early_messages: line.early_messages,
            name: line.umid.clone(),
        }
    }
}

/// Where `/` comes from.
#[derive(Clone, Debug)]
pub enum Root {
    /// The host's own tree, copy-on-write.
    HostTree(HostTree),
    /// A directory of the host, written through (`rootfstype=hostfs rootflags=DIR`).
    HostDirectory(PathBuf),
    /// An archive unpacked into RAM (`initrd=`).
    Initramfs(PathBuf),
    /// A block device, as `root=` names it.
    Device(String),
}

/// What of the host's tree a machine sees.
#[derive(Clone, Debug)]
pub struct HostTree {
    pub root: PathBuf,
    /// Shown copy-on-write, beyond what is shown anyway.
    pub shares: Vec<PathBuf>,
    /// Shown and written through.
    pub binds: Vec<PathBuf>,
    /// Where the command starts; shown copy-on-write.
    pub workdir: PathBuf,
}

/// The first program.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Paths to try in order (`init=` and the usual places); with none, `argv[0]` is the program.
    pub candidates: Vec<Vec<u8>>,
    pub argv: Vec<Vec<u8>>,
    pub environment: Vec<Vec<u8>>,
    /// Look `argv[0]` up in `PATH` as a shell does, and let the first process die of signals as any other would: it is a command, not an init.
    pub search_path: bool,
}

/// Where the first program's standard streams lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Streams {
    /// All to the console.
    Console,
    /// To the three streams of this process, each a terminal only where the host's is one.
    Standard,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mem_bytes: crate::cmdline::DEFAULT_MEM,
            cpus: 1,
            root: Root::Device(String::new()),
            root_read_only: false,
            program: Program::default(),
            streams: Streams::Console,
            command_line: String::new(),
            hostfs: None,
            lines: LineConfig::default(),
            console_loglevel: 0,
            disks: Vec::new(),
            interfaces: Vec::new(),
            disks_synchronous: false,
            root_type: None,
            root_patience: Patience::default(),
            root_flags: String::new(),
            management: ManagementConfig::default(),
            no_reboot: false,
            remarks: Vec::new(),
        }
    }
}

/// What the kernel tries when `init=` does not say.
const INITS: [&[u8]; 4] = [b"/sbin/init", b"/etc/init", b"/bin/init", b"/bin/sh"];

impl Config {
    /// From `linux`'s command line. A sentence when it asks for what can't be.
    pub fn from_command_line(line: &CommandLine) -> Result<Config, String> {
        let (root, candidates): (Root, Vec<Vec<u8>>) = match (&line.initrd, line.root_fstype.as_deref()) {
            (Some(archive), _) => {
                let first = line.rdinit.clone().unwrap_or_else(|| "/init".into());
                (Root::Initramfs(archive.into()), vec![first.into_bytes()])
            }
            (None, Some("hostfs")) => {
                let dir = line.root_flags.clone().unwrap_or_else(|| "/".into());
                (Root::HostDirectory(dir.into()), Vec::new())
            }
            (None, _) => (Root::Device(line.root.clone().unwrap_or_else(|| "98:0".into())), Vec::new()),
        };
        let candidates = match (&line.init, candidates.is_empty()) {
            (Some(init), true) => vec![init.clone().into_bytes()],
            (None, true) => INITS.iter().map(|path| path.to_vec()).collect(),
            (_, false) => candidates,
        };
        let mut environment = vec![b"HOME=/".to_vec(), b"TERM=linux".to_vec()];
        environment.extend(line.init_env.iter().map(|pair| pair.clone().into_bytes()));
        let argv = line.init_args.iter().map(|word| word.clone().into_bytes()).collect();
        let mut command_line = line.text.clone();
        if line.root.is_none() && matches!(root, Root::Device(_)) {
            command_line = format!("{command_line} root=98:0").trim_start().to_owned();
        }
        if line.kernel_consoles.is_empty() {
            command_line = format!("{command_line} console=tty0").trim_start().to_owned();
        }
        Ok(Config {
            mem_bytes: line.mem_bytes,
            cpus: line.ncpus.unwrap_or_else(host::checks::processors).min(crate::MAX_CPUS),
            root,
            root_read_only: line.read_only && line.initrd.is_none(),
            program: Program { candidates, argv, environment, search_path: false },
            streams: Streams::Console,
            command_line,
            hostfs: line.hostfs.as_ref().map(PathBuf::from),
            lines: LineConfig::from_command_line(line),
            console_loglevel: line.console_loglevel,
            disks: line.disks.clone(),
            interfaces: line.interfaces.clone(),
            disks_synchronous: line.disks_synchronous,
            root_type: line.root_fstype.clone(),
            root_patience: line.root_patience,
            root_flags: line.root_flags.clone().unwrap_or_default(),
            management: ManagementConfig {
                enabled: true,
                umid: line.umid.clone(),
                uml_dir: line.uml_dir.as_ref().map(PathBuf::from),
                notify: line.notify.as_ref().map(PathBuf::from),
            },
            no_reboot: line.no_reboot,
            remarks: line.remarks.clone(),
        })
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was halted or powered off.
    Halted,
    /// It asked to be started again.
    Restart,
    /// The first program ended (`umlaut run`).
    Exited(WaitStatus),
    /// The kernel panicked; the text is in the log and was shown.
    Panicked(String),
    /// It never ran: one sentence.
    NotStarted(String),
    /// The first program could not be run: the shell's status for that (126, 127) and a sentence.
    NotRun(u8, String),
    /// SIGINT or SIGTERM to this process.
    Interrupted,
}

/// Exit status of a process that ended by SIGABRT, as a shell shows it.
const PANIC_STATUS: u8 = 134;

impl End {
    /// The exit status of `linux`.
    #[must_use]
    pub fn as_linux(self) -> ExitCode {
        ExitCode::from(match self {
            End::Halted => 0,
            End::Restart => {
                let errno = host::start::restart();
                eprintln!("linux: could not be started again ({errno})");
                1
            }
            End::Interrupted => 1,
            End::Exited(_) => PANIC_STATUS,
            End::Panicked(_) => host::start::abort(),
            End::NotRun(_, sentence) | End::NotStarted(sentence) => {
                eprintln!("linux: {sentence}");
                1
            }
        })
    }

    /// The exit status of `umlaut run`: the command's; 128 + n if signal n ended it; 125 if the machine failed; 126 and 127 as a shell has them.
    #[must_use]
    pub fn as_run(self) -> ExitCode {
        ExitCode::from(match self {
            End::Halted | End::Restart => 0,
            End::Exited(WaitStatus::Exited(status)) => status,
            End::Exited(WaitStatus::Killed(signal, _)) => 128 + signal.number() as u8,
            End::Exited(_) => 125,
            End::Interrupted => 130,
            End::NotRun(status, sentence) => {
                eprintln!("umlaut: {sentence}");
                status
            }
            End::NotStarted(sentence) | End::Panicked(sentence) => {
                eprintln!("umlaut: {sentence}");
                125
            }
        })
    }
}
