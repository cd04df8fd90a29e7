//! `uml_mconsole NAME [COMMAND...]`: controls a running machine, by one command or at a prompt.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use mconsole::client::prompt;
use mconsole::command::WORDS;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tools::console::{Console, Outcome};

const USAGE: &str = "Usage : uml_mconsole socket-name [command]";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(name) = arguments.next() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let Ok(mut console) = Console::find(&name) else {
        eprintln!("No machine has that name, and no socket that path. {}", running(&name));
        return ExitCode::FAILURE;
    };
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    if !words.is_empty() {
        return ExitCode::from(console.perform(&words.join(" ")).status());
    }
    let result = if io::stdin().is_terminal() { converse(&mut console) } else { obey(&mut console).map_err(ReadlineError::from) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uml_mconsole: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The names of machines below the home directory, as advice.
fn running(wanted: &OsStr) -> String {
    let names = umids();
    match names.is_empty() {
        true => format!("Is '{}' running, and is it yours?", wanted.to_string_lossy()),
        false => format!("There are: {}", names.join(", ")),
    }
}

fn umids() -> Vec<String> {
    let Some(directory) = std::env::home_dir().and_then(|home| std::fs::read_dir(home.join(".uml")).ok()) else { return Vec::new() };
    let machines = directory.flatten().filter(|entry| entry.path().join("mconsole").exists());
    let mut names: Vec<String> = machines.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Commands from a pipe or file, shown with their prompts as if they had been typed.
fn obey(console: &mut Console) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        println!("{}{line}", prompt(console.name()));
        if !line.trim().is_empty() && console.perform(&line) == Outcome::Quit {
            return Ok(());
        }
        io::stdout().flush()?;
    }
    println!("{}", prompt(console.name()));
    Ok(())
}

/// Commands from a person.
fn converse(console: &mut Console) -> Result<(), ReadlineError> {
    let mut editor: Editor<Completion, _> = Editor::new()?;
    editor.set_helper(Some(Completion));
    loop {
        match editor.readline(&prompt(console.name())) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                editor.add_history_entry(line.trim_end())?;
                if console.perform(&line) == Outcome::Quit {
                    return Ok(());
                }
            }
            // Ctrl-C drops the line.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Completes commands, device names, machines and files.
struct Completion;

impl Helper for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}

impl Completer for Completion {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..position).unwrap_or_default();
        let start = typed.rfind([' ', '=', ',']).map_or(0, |at| at + 1);
        let (before, word) = typed.split_at(start);
        let candidates: Vec<String> = match before.split_whitespace().next() {
            None => WORDS.iter().copied().chain(["quit", "switch", "mconsole-version", "int"]).map(String::from).collect(),
            Some("switch") => umids(),
            Some("config" | "remove") if !before.contains('=') => ["ubda", "con", "ssl", "eth", "vec", "mem"].map(String::from).to_vec(),
            Some("log") | Some("config") => files(word),
            Some("proc") => {
                ["cmdline", "cpuinfo", "interrupts", "loadavg", "meminfo", "mounts", "uptime", "version"].map(String::from).to_vec()
            }
            Some(_) => Vec::new(),
        };
        Ok((start, candidates.into_iter().filter(|candidate| candidate.starts_with(word)).collect()))
    }
}

/// The files of the host whose names begin so.
fn files(word: &str) -> Vec<String> {
    let (directory, _) = word.rsplit_once('/').map_or(("", word), |(directory, name)| (directory, name));
    let prefix = if word.contains('/') { format!("{directory}/") } else { String::new() };
    let place = if prefix.is_empty() { "./" } else { &prefix };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{prefix}{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    names
}
