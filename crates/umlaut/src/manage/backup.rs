//! `umlaut backup NAME FILE`: a copy of a disk of a machine that runs. The machine is stopped, which leaves its file systems as after an unmount;
//! the file is copied, holes as holes; and the machine goes on, whatever happened.

use super::client::Machine;
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Copied at a time. A part of it that is all zeroes becomes a hole.
const CHUNK: usize = 1 << 20;
const BLOCK: usize = 4096;

/// What a copy was.
pub struct Copied {
    pub source: PathBuf,
    pub len_bytes: u64,
    pub data_bytes: u64,
    pub stopped_ms: u64,
}

/// Lets the machine go on when it is dropped.
struct Stopped<'a>(&'a Machine);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Err(reason) = self.0.ask("go") {
            eprintln!("umlaut: {} could not be told to go on: {reason}", self.0.entry.name);
        }
    }
}

/// Copies disk `disk` of the machine to `to`, which must not be there.
pub fn backup(machine: &Machine, disk: &str, to: &Path) -> Result<Copied, String> {
    let configured = machine.ask(&format!("config {disk}"))?;
    // Of `cow,backing` the first is what changes.
    let source = configured.split([',', ':']).next().unwrap_or_default();
    if source.is_empty() {
        return Err(format!("{} has no disk {disk}", machine.entry.name));
    }
    let source = source_path(machine, Path::new(source));
    let part = partial(to);
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if to.exists() {
        return Err(format!("{} is there already; a backup overwrites nothing", to.display()));
    }
    let mut output = File::options().write(true).create_new(true).open(&part).map_err(|error| failed(&part, error))?;
    let begun = Instant::now();
    let was_stopped = match machine.ask("stop") {
        Ok(_) => false,
        Err(text) if text == "Already stopped" => true,
        Err(text) => return Err(text),
    };
    // A machine that somebody else stopped is not ours to let go.
    let stopped = (!was_stopped).then(|| Stopped(machine));
    let result = File::open(&source).map_err(|error| failed(&source, error)).and_then(|mut input| {
        copy_sparsely(&mut input, &mut output, &mut |done, len| progress(done, len)).map_err(|error| failed(&part, error))
    });
    drop(stopped);
    let stopped_ms = begun.elapsed().as_millis() as u64;
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let finished = result.and_then(|(len_bytes, data_bytes)| {
        output.sync_all().map_err(|error| failed(&part, error))?;
        std::fs::rename(&part, to).map_err(|error| failed(to, error))?;
        Ok(Copied { source, len_bytes, data_bytes, stopped_ms })
    });
    if finished.is_err() {
        // What is not whole must not look like a backup.
        let _ = std::fs::remove_file(&part);
    }
    finished
}

/// The file as the machine's process sees it: names are relative to where that was started.
fn source_path(machine: &Machine, source: &Path) -> PathBuf {
    let there = machine.entry.pid().and_then(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok());
    there.map_or_else(|| source.to_owned(), |directory| directory.join(source))
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn progress(done: u64, len: u64) {
    if std::io::stderr().is_terminal() {
        let percent = (done * 100).checked_div(len).unwrap_or(100);
        eprint!("\r{percent:3} %  {} of {} MiB", done >> 20, len >> 20);
    }
}

/// Copies a file; holes and blocks of zeroes become holes. Its length, and the bytes that were written.
fn copy_sparsely(input: &mut File, output: &mut File, progress: &mut dyn FnMut(u64, u64)) -> std::io::Result<(u64, u64)> {
    let len = input.metadata()?.size();
    output.set_len(len)?;
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut written) = (0u64, 0u64);
    while at < len {
        // Where the next data begins, as far as the file system knows.
        match rustix::fs::seek(&*input, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {
                input.seek(SeekFrom::Start(at))?;
            }
        }
        let want = CHUNK.min(usize::try_from(len - at).unwrap_or(CHUNK));
        let n = input.read(&mut buffer[..want])?;
        if n == 0 {
            break;
        }
        for (i, block) in buffer[..n].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                output.seek(SeekFrom::Start(at + (i * BLOCK) as u64))?;
                output.write_all(block)?;
                written += block.len() as u64;
            }
        }
        at += n as u64;
        progress(at, len);
    }
    progress(len, len);
    Ok((len, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_zeroes_become_holes_and_bytes_stay() {
        let place = std::env::temp_dir().join(format!("umlaut-backup-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let (from, to) = (place.join("from"), place.join("to"));
        let mut file = File::create(&from).unwrap();
        file.set_len(20 << 20).unwrap();
        for (at, text) in [(0u64, &b"first"[..]), (5 << 20, b"middle"), ((20 << 20) - 4, b"last")] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(text).unwrap();
        }
        // Zeroes that were written.
        file.seek(SeekFrom::Start(10 << 20)).unwrap();
        file.write_all(&vec![0; 1 << 20]).unwrap();
        let mut output = File::create(&to).unwrap();
        let copied = copy_sparsely(&mut File::open(&from).unwrap(), &mut output, &mut |_, _| {}).unwrap();
        assert_eq!(copied, (20 << 20, 3 * BLOCK as u64));
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 <= 1 << 20);
        std::fs::remove_dir_all(place).unwrap();
    }
}
