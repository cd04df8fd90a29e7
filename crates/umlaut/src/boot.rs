//! `umlaut boot`: a disk image as a machine, without UML's words.
//!
//! What it is not: another way to boot. It writes the command line that `linux` would have been given, and `--verbose` shows it.

use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to boot.
#[derive(Args)]
pub struct Boot {
    /// The image: a file system, or a disk with partitions
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Keep every change in this file, made if need be; the image is not written
    #[arg(long, value_name = "FILE")]
    cow: Option<PathBuf>,
    /// Device of the root file system
    #[arg(long, value_name = "DEVICE", default_value = "/dev/ubda")]
    root: String,
    /// Mount the root read-only, and write nothing to the image
    #[arg(long, conflicts_with = "cow")]
    read_only: bool,
    /// Memory: a number with K, M or G [default: half of what is available, at most 4G]
    #[arg(long, value_name = "SIZE", value_parser = crate::front::size)]
    mem: Option<u64>,
    /// Virtual processors [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=kernel::MAX_CPUS as i64))]
    cpus: Option<u16>,
    /// No network; without this, eth0 leads to what this host reaches, but not to the host itself, unless WORDS say something else of it
    #[arg(long)]
    no_net: bool,
    /// Say what `linux` would have been told
    #[arg(long)]
    verbose: bool,
    /// More words for the kernel: init=/bin/sh, eth0=mcast
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// A file's name as part of a `ubd` option, which can't hold its separators.
fn name(path: &Path) -> Result<&str, String> {
    let shown = path.display();
    match path.to_str() {
        Some(text) if !text.contains([',', ':']) && !text.is_empty() => Ok(text),
        _ => Err(format!("{shown}: a disk's name can have no comma and no colon; give it another, or a link")),
    }
}

impl Boot {
    /// The words for `linux`. A sentence when there is no such image.
    fn words(&self) -> Result<Vec<String>, String> {
        let image = name(&self.image)?;
        if let Err(error) = std::fs::metadata(&self.image) {
            return Err(format!("{image}: there is no image to boot ({error})"));
        }
        let disk = match &self.cow {
            Some(cow) => format!("ubda={},{image}", name(cow)?),
            None if self.read_only => format!("ubdar={image}"),
            None => format!("ubda={image}"),
        };
        let mem = self.mem.unwrap_or_else(crate::front::default_memory);
        let access = if self.read_only { "ro" } else { "rw" };
        let mut words = vec![format!("mem={}K", mem >> 10), disk, format!("root={}", self.root), access.into(), "con0=fd:0,fd:1".into()];
        words.extend(self.cpus.map(|count| format!("ncpus={count}")));
        if !self.no_net && !self.words.iter().any(|word| word.starts_with("eth0=")) {
            words.push("eth0=user".into());
        }
        words.extend(self.words.iter().cloned());
        Ok(words)
    }
}

/// Boots, and ends as `linux` does.
pub fn main(boot: &Boot) -> ExitCode {
    match boot.words() {
        Ok(words) => {
            if boot.verbose {
                eprintln!("linux {}", words.join(" "));
            }
            crate::linux(&words)
        }
        Err(sentence) => {
            eprintln!("umlaut: {sentence}");
            ExitCode::from(125)
        }
    }
}
