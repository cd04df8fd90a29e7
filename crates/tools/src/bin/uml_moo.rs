//! `uml_moo`: merges a COW file with its backing file, into a new file or in place.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cow::device::Access;
use cow::merge::{self, MergeError, Zeroes};
use cow::open::Mismatch;
use cow::{Device, Header, HeaderError};
use lexopt::{Arg, ValueExt};
use tools::backing::{self, lock};
use tools::command_line::{Failure, path, run};
use tools::host_file::HostFile;

const USAGE: &str = "\
uml_moo usage:
\tuml_moo [ -b <actual backing file> ] <COW file> <new backing file>
\tuml_moo [ -b <actual backing file> ] -d <COW file>
Creates a new filesystem image from the COW file and its backing file.
Specifying -d will cause a destructive, in-place merge of the COW file into
its current backing file; all other COW files on it become useless.
Specifying -b overrides the backing_file specified in the COW file.  This is
needed when dealing with a COW file that was created inside a chroot jail.
uml_moo supports version 1,2 and 3 COW files.
";

struct Request {
    actual_backing: Option<PathBuf>,
    destructive: bool,
    names: Vec<PathBuf>,
}

fn main() -> ExitCode {
    run(|| {
        let usage = |reason| Failure::Usage { text: USAGE, reason, status: 1 };
        let Some(request) = parse().map_err(|error| usage(Some(error.to_string())))? else {
            print!("{USAGE}");
            return Ok(());
        };
        match (&request.names[..], request.destructive) {
            ([cow, output], false) => merge_copy(cow, output, request.actual_backing.as_deref()),
            ([cow], true) => merge_in_place(cow, request.actual_backing.as_deref()),
            _ => Err(usage(None)),
        }
    })
}

fn parse() -> Result<Option<Request>, lexopt::Error> {
    let mut request = Request { actual_backing: None, destructive: false, names: Vec::new() };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('b') => {
                request.actual_backing = Some(arguments.value()?.parse_with(|name| Ok::<_, lexopt::Error>(PathBuf::from(name)))?)
            }
            Arg::Short('d') => request.destructive = true,
            Arg::Value(name) => request.names.push(path(name)),
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(request))
}

/// The two files of a merge, opened and found to belong together.
struct Pair {
    header: Header,
    cow: File,
    backing: File,
    backing_path: PathBuf,
}

impl Pair {
    fn open(cow_path: &Path, actual_backing: Option<&Path>, destructive: bool) -> Result<Pair, Failure> {
        let cow = File::open(cow_path).map_err(|error| Failure::io("COW file open", cow_path, &error))?;
        let header = Header::read(&HostFile(try_clone(&cow, cow_path)?)).map_err(|error| {
            let advice = match error {
                HeaderError::NotCow => "\n  Name the COW file first, then the file to make",
                _ => "",
            };
            Failure::Message(format!("Reading COW header failed\n  {}: {error}{advice}", cow_path.display()))
        })?;
        let backing_path = actual_backing.map_or_else(|| backing::path(&header.backing_path).to_owned(), Path::to_owned);
        let backing = OpenOptions::new().read(true).write(destructive).open(&backing_path).map_err(|error| match actual_backing {
            None if error.kind() == io::ErrorKind::NotFound => Failure::Message(format!(
                "Opening backing file: No such file or directory\n  {}: that is its path in the COW header. Say where it is now with -b",
                backing_path.display()
            )),
            _ => Failure::io("Opening backing file", &backing_path, &error),
        })?;
        let stat = backing::stat(&backing).map_err(|error| Failure::io("Opening backing file", &backing_path, &error))?;
        cow::open::check(&header, &stat).map_err(|mismatch| {
            let name = backing_path.display();
            let advice = match mismatch {
                Mismatch::Size { .. } => "This is not the file that the COW file was made on, or it has been changed since",
                Mismatch::Mtime { header, .. } => &format!(
                    "If its content is sure to be unchanged: touch --date=\"$(date --date='1970-01-01 UTC {header} seconds')\" {name}"
                ),
            };
            Failure::Message(format!("{mismatch} \"{name}\"\n  {advice}"))
        })?;
        Ok(Pair { header, cow, backing, backing_path })
    }

    fn device(&self, cow_path: &Path) -> Result<Device<HostFile, HostFile>, Failure> {
        let (cow, backing) = (try_clone(&self.cow, cow_path)?, try_clone(&self.backing, &self.backing_path)?);
        Device::new(HostFile(cow), &self.header, HostFile(backing), Access::ReadOnly)
            .map_err(|error| Failure::Message(format!("Reading COW header failed\n  {}: {error}", cow_path.display())))
    }
}

fn try_clone(file: &File, path: &Path) -> Result<File, Failure> {
    file.try_clone().map_err(|error| Failure::io("dup", path, &error))
}

fn merge_copy(cow_path: &Path, output: &Path, actual_backing: Option<&Path>) -> Result<(), Failure> {
    let pair = Pair::open(cow_path, actual_backing, false)?;
    if let Err(holder) = lock(&pair.cow, false) {
        eprintln!(
            "{} is in use by process {holder}: the new file will be as after a power failure, at best\n  Stop that machine first to have it whole",
            cow_path.display()
        );
    }
    if let Ok(there) = output.metadata() {
        for (file, name) in [(&pair.cow, "the COW file"), (&pair.backing, "its backing file")] {
            if file.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (there.dev(), there.ino())) {
                let advice = "Give the new file another name, or use -d to merge in place";
                return Err(Failure::Message(format!("Opening new backing file: {} is {name} itself\n  {advice}", output.display())));
            }
        }
    }
    let is_new = !output.exists();
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(output);
    let file = file.map_err(|error| Failure::io("Opening new backing file", output, &error))?;
    let is_disk = file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let zeroes = if is_disk { Zeroes::Write } else { Zeroes::LeaveHoles };
    merge::copy(&pair.device(cow_path)?, &HostFile(file), zeroes).map_err(|error| {
        // Half an image is worse than none.
        if is_new {
            let _ = std::fs::remove_file(output);
        }
        explain(error, &pair, cow_path, output)
    })
}

fn merge_in_place(cow_path: &Path, actual_backing: Option<&Path>) -> Result<(), Failure> {
    let pair = Pair::open(cow_path, actual_backing, true)?;
    for (file, name, exclusive) in [(&pair.cow, cow_path, false), (&pair.backing, pair.backing_path.as_path(), true)] {
        if let Err(holder) = lock(file, exclusive) {
            return Err(Failure::Message(format!(
                "{} is in use by process {holder}\n  Stop that machine before its disks are merged, or merge into a new file",
                name.display()
            )));
        }
    }
    let time_before = pair.backing.metadata().and_then(|metadata| metadata.modified());
    merge::in_place(&pair.device(cow_path)?, &HostFile(try_clone(&pair.backing, &pair.backing_path)?)).map_err(|error| {
        // With its old time the pair still belongs together: the same command can finish the work once the cause is gone.
        if let Ok(time) = time_before {
            let _ = pair.backing.set_modified(time);
        }
        explain(error, &pair, cow_path, &pair.backing_path)
    })
}

fn explain(error: MergeError, pair: &Pair, cow_path: &Path, output: &Path) -> Failure {
    let failed = |errno: abi::Errno| io::Error::from_raw_os_error(errno.raw());
    match error {
        MergeError::Read(at, errno) => {
            let name = format!("{} or {}, byte {at} of the disk", cow_path.display(), pair.backing_path.display());
            Failure::io("Reading data", Path::new(&name), &failed(errno))
        }
        MergeError::Write(at, errno) => Failure::io("Writing data", Path::new(&format!("{}, byte {at}", output.display())), &failed(errno)),
    }
}
