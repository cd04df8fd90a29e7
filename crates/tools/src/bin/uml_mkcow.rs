//! `uml_mkcow [-f] COW BACKING`: makes a COW file without booting a machine.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use cow::HeaderError;
use lexopt::Arg;
use tools::backing::HostNames;
use tools::command_line::{Failure, path, run, strerror_of};
use tools::host_file::HostFile;

const USAGE: &str = "uml_mkcow usage: \n\tuml_mkcow [-f] <COW file> <backing file>\n\t-f forces overwrite of an existing COW file\n";

fn main() -> ExitCode {
    run(|| {
        let usage = |reason| Failure::Usage { text: USAGE, reason, status: 2 };
        let (mut force, mut names) = (false, Vec::new());
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next().map_err(|error| usage(Some(error.to_string())))? {
            match argument {
                Arg::Short('f') => force = true,
                Arg::Value(name) => names.push(path(name)),
                Arg::Short('h') | Arg::Long("help") => {
                    print!("{USAGE}");
                    return Ok(());
                }
                other => return Err(usage(Some(other.unexpected().to_string()))),
            }
        }
        match &names[..] {
            [cow, backing] => create(cow, backing, force),
            _ => Err(usage(None)),
        }
    })
}

fn create(cow_path: &Path, backing: &Path, force: bool) -> Result<(), Failure> {
    // First what can fail without a trace.
    let header = cow::open::new_header(backing.as_os_str().as_bytes(), &HostNames).map_err(|error| match error {
        HeaderError::Io(errno) => Failure::io("backing file", backing, &io::Error::from_raw_os_error(errno.raw())),
        other => Failure::Message(format!("backing file {}: {other}", backing.display())),
    })?;
    header.encode().map_err(|error| Failure::Message(format!("backing file {}: {error}\n  Give it a shorter path", backing.display())))?;
    if force && same_file(cow_path, backing) {
        return Err(Failure::Message(format!(
            "open COW file: {} is the backing file itself\n  Give the COW file another name",
            cow_path.display()
        )));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o644);
    let created = options.clone().create_new(true).open(cow_path);
    let (file, is_new) = match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && force => (options.open(cow_path), false),
        other => (other, true),
    };
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Message(format!(
            "open COW file: File exists\n  {}: give another name, or -f to destroy what it holds",
            cow_path.display()
        )),
        _ => Failure::io("open COW file", cow_path, &error),
    })?;
    if let Err(holder) = tools::backing::lock(&file, true) {
        return Err(Failure::Message(format!(
            "open COW file: {} is in use by process {holder}\n  Stop that machine first",
            cow_path.display()
        )));
    }
    // The old bitmap must go, or the new backing file would shine through in part.
    file.set_len(0).map_err(|error| Failure::io("empty COW file", cow_path, &error))?;
    header.create(&HostFile(file)).map_err(|error| {
        if is_new {
            let _ = std::fs::remove_file(cow_path);
        }
        match error {
            HeaderError::Io(errno) => Failure::io("write COW file", cow_path, &io::Error::from_raw_os_error(errno.raw())),
            other => Failure::Message(format!("write COW file {}: {other} {}", cow_path.display(), strerror_of(other.errno()))),
        }
    })
}

fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((one.metadata(), other.metadata()), (Ok(one), Ok(other)) if (one.dev(), one.ino()) == (other.dev(), other.ino()))
}
