//! The front end's command line.

use clap::{Args, Parser, Subcommand};
use kernel::cmdline::CommandLine;
use kernel::{Config, HostTree, ManagementConfig, Program, Root, Streams};
use std::path::PathBuf;
use std::process::ExitCode;

/// A whole Linux machine as one ordinary process: no root, no KVM, no user namespaces, no ptrace.
///
/// Without a command: a root shell in a machine whose / is this system, copy-on-write. Install, delete, break anything; the host's files don't change.
#[derive(Parser)]
#[command(name = "umlaut", version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Subcommand)]
enum Action {
    /// Run one command in a machine whose / is this system (or --root), copy-on-write; ends with the command's exit status
    Run(Box<Run>),
    /// Boot a disk image: the system on it runs its own init, on this terminal
    Boot(crate::boot::Boot),
    /// Say what this host offers for machines, and what to fix
    Doctor,
    #[command(flatten)]
    Manage(crate::manage::Manage),
}

#[derive(Args)]
struct Machine {
    /// Directory of the host that becomes /, copy-on-write
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Show this host path too, copy-on-write
    #[arg(long, value_name = "PATH")]
    share: Vec<PathBuf>,
    /// Show this host path too, written through to the host
    #[arg(long, value_name = "PATH")]
    bind: Vec<PathBuf>,
    /// Memory: a number with K, M or G [default: half of what is available, at most 4G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    mem: Option<u64>,
    /// Virtual processors [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=kernel::MAX_CPUS as i64))]
    cpus: Option<u16>,
    /// Add a device in the words of linux: eth0=daemon,,unix,/tmp/uml.ctl
    #[arg(long, value_name = "SETTING", value_parser = device)]
    device: Vec<String>,
    /// Let the machine reach what this host reaches, by sockets of this process; not the host itself (see --allow)
    #[arg(long)]
    net: bool,
    /// Let the machine reach this too, though it is the host's own: HOST:PORT, PORT being a number, A-B or *. The host's loopback is at
    /// 10.0.2.2 and fd75:6d6c:6175::2 in the machine. Implies --net
    #[arg(long, value_name = "HOST:PORT")]
    allow: Vec<String>,
    /// Let connections to PORT of this host go to GUESTPORT of the machine. ADDR is the host's loopback if not given. Implies --net
    #[arg(long, value_name = "[ADDR:]PORT[:GUESTPORT][/udp]")]
    publish: Vec<String>,
    /// Give the machine a name, by which umlaut ps, stop, config and so on find it while it runs
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Set a variable of the environment
    #[arg(long, value_name = "K=V", value_parser = assignment)]
    env: Vec<String>,
    /// Directory to start in [default: the current one]
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    machine: Machine,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bytes = kernel::cmdline::parse_size(text).ok_or("not a size; give a number with K, M or G, such as 512M")?;
    if bytes < kernel::cmdline::LEAST_MEM {
        return Err(format!("too little; a machine needs at least {}M", kernel::cmdline::LEAST_MEM >> 20));
    }
    Ok(bytes)
}

/// A network interface, so far.
fn device(text: &str) -> Result<String, String> {
    match CommandLine::parse(&[text.to_owned()]) {
        Ok(line) if line.interfaces.len() == 1 => Ok(text.to_owned()),
        _ => Err("not a device; give a network interface, such as eth0=mcast".into()),
    }
}

fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("not of the form NAME=VALUE".into()),
    }
}

/// Takes the command line and starts what it asks for.
pub fn main() -> ExitCode {
    let command = Command::parse();
    match command.action {
        Some(Action::Doctor) => crate::doctor::main(),
        Some(Action::Boot(boot)) => crate::boot::main(&boot),
        Some(Action::Manage(what)) => crate::manage::main(what),
        Some(Action::Run(run)) => start(run.machine, Some(run.command)),
        None => start(command.machine, None),
    }
}

fn start(machine: Machine, command: Option<Vec<std::ffi::OsString>>) -> ExitCode {
    let argv: Vec<Vec<u8>> = match &command {
        Some(words) => words.iter().map(|word| word.as_encoded_bytes().to_vec()).collect(),
        None => vec![b"/bin/bash".to_vec(), b"-i".to_vec()],
    };
    let workdir = match machine.workdir.map_or_else(std::env::current_dir, Ok) {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("umlaut: the current directory can't be found ({error}). Give one: --workdir DIR");
            return ExitCode::from(125);
        }
    };
    let mut environment = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "HOME=/root".to_owned(),
        "USER=root".to_owned(),
        "LOGNAME=root".to_owned(),
        "SHELL=/bin/bash".to_owned(),
    ];
    for name in ["TERM", "LANG", "LC_ALL", "COLORTERM", "TZ"] {
        if let Ok(value) = std::env::var(name) {
            environment.push(format!("{name}={value}"));
        }
    }
    let net = machine.net || !machine.allow.is_empty() || !machine.publish.is_empty();
    if net {
        // A guest behind the host's proxy needs it as much as the host does.
        for name in PROXIES {
            if let Ok(value) = std::env::var(name) {
                environment.push(format!("{name}={value}"));
            }
        }
    }
    if command.is_none() {
        environment.push("PS1=umlaut:\\w\\$ ".to_owned());
    }
    environment.extend(machine.env);
    let config = Config {
        mem_bytes: machine.mem.unwrap_or_else(default_memory),
        cpus: machine.cpus.map_or_else(host::checks::processors, usize::from),
        root: Root::HostTree(HostTree { root: machine.root, shares: machine.share, binds: machine.bind, workdir }),
        program: Program {
            candidates: Vec::new(),
            argv,
            environment: environment.into_iter().map(String::into_bytes).collect(),
            search_path: true,
        },
        streams: Streams::Standard,
        interfaces: machine.device.into_iter().chain(net.then(|| interface(&machine.allow, &machine.publish))).collect(),
        // A machine without a name is nobody's to find, and leaves nothing on the host.
        management: ManagementConfig { enabled: machine.name.is_some(), umid: machine.name, ..ManagementConfig::default() },
        ..Config::default()
    };
    kernel::start(config).as_run()
}

/// Variables that name proxies, as curl(1), wget(1) and apt-transport-http(1) read them.
const PROXIES: [&str; 8] = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// The machine's interface in the kernel's words.
fn interface(allow: &[String], publish: &[String]) -> String {
    let options = allow.iter().map(|value| format!(",allow={value}")).chain(publish.iter().map(|value| format!(",publish={value}")));
    format!("eth0=user{}", options.collect::<String>())
}

/// Half of what is available, at most 4 GiB: it costs only what is touched.
pub(crate) fn default_memory() -> u64 {
    let half = host::checks::available_memory() / 2;
    half.clamp(64 << 20, 4 << 30) & !0xffff
}
