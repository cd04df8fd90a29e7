//! `uml_switch`: a virtual Ethernet switch for machines, without privileges.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use switch::forwarding::Mode;
use tools::say;
use tools::signals::{Caught, SIGHUP, SIGINT, SIGTERM, die_of};
use tools::switch_daemon::{DEFAULT_CONTROL, DEFAULT_DATA, Daemon, End, Options};

/// Set for the process that stays behind with `-daemon`.
const DETACHED: &str = "UML_SWITCH_DETACHED";
/// What is in the line that says that the switch serves.
const ATTACHED: &str = " attached to unix socket";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "uml_switch".into()).to_string_lossy().into_owned();
    let arguments: Vec<OsString> = arguments.collect();
    let Some((options, detach)) = parse(&arguments) else {
        eprintln!("Usage : {program} [ -unix control-socket ] [ -hub ] [ -tap tap-device ] [ -daemon ]");
        eprintln!("or : {program} -compat-v0 [ -unix control-socket data-socket ] [ -hub ] [ -tap tap-device ]");
        return ExitCode::FAILURE;
    };
    if detach && std::env::var_os(DETACHED).is_none() {
        return go_behind(&arguments);
    }
    match serve(&program, &options) {
        Ok(End::Eof) => {
            say!("EOF on stdin, cleaning up and exiting");
            ExitCode::SUCCESS
        }
        Ok(End::Signal(signal)) => {
            say!("Caught signal {signal}, cleaning up and exiting");
            die_of(signal)
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[OsString]) -> Option<(Options, bool)> {
    let mut options = Options { control: DEFAULT_CONTROL.into(), data: None, mode: Mode::Switch, tap: None };
    let (mut compatible, mut detach, mut data) = (false, false, None);
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "-unix" => {
                options.control = PathBuf::from(arguments.next()?);
                data = arguments.next_if(|next| !next.as_encoded_bytes().starts_with(b"-")).map(PathBuf::from);
            }
            "-tap" => options.tap = Some(arguments.next()?.to_str()?.to_owned()),
            "-hub" => options.mode = Mode::Hub,
            "-daemon" => detach = true,
            "-compat-v0" => compatible = true,
            _ => return None,
        }
    }
    match (compatible, data) {
        (true, data) => options.data = Some(data.unwrap_or_else(|| DEFAULT_DATA.into())),
        (false, Some(_)) => return None,
        (false, None) => {}
    }
    Some((options, detach))
}

fn serve(program: &str, options: &Options) -> Result<End, String> {
    let mut signals = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signals.push(Caught::new(signal).map_err(|error| error.to_string())?);
    }
    if options.mode == Mode::Hub {
        say!("{program} will be a hub instead of a switch");
    }
    if options.data.is_some() {
        say!("Control protocol 0 compatibility");
    }
    let daemon = Daemon::start(options).map_err(|error| error.to_string())?;
    let tap = options.tap.as_ref().map_or_else(String::new, |name| format!(" tap device '{name}'"));
    let control = options.control.display();
    match &options.data {
        Some(data) => say!("{program}{ATTACHED}s '{control}' and '{}'{tap}", data.display()),
        None => say!("{program}{ATTACHED} '{control}'{tap}"),
    }
    if std::env::var_os(DETACHED).is_some() {
        leave_terminal().map_err(|error| format!("Going into the background: {error}"))?;
    }
    let stdin = io::stdin();
    let stdin = stdin.is_terminal().then_some(stdin);
    daemon.run(&signals, stdin).map_err(|error| error.to_string())
}

/// What is left of being a daemon once the switch serves. The directory is kept: the sockets' names may be relative to it.
fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Starts this program anew in a session of its own, and ends once that one serves: whoever waits for us can connect.
fn go_behind(arguments: &[OsString]) -> ExitCode {
    let start = || -> io::Result<bool> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env(DETACHED, "1").stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn()?;
        let lines = child.stdout.map(BufReader::new);
        Ok(lines.is_some_and(|lines| lines.lines().map_while(Result::ok).any(|line| line.contains(ATTACHED))))
    };
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Going into the background: {error}");
            ExitCode::FAILURE
        }
    }
}
