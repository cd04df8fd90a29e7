//! Mount options, in Linux's words.
//!
//! Not here: generic mount flags (`nosuid`, `relatime`...), which are the caller's.
//!
//! Source: ext4(5), Linux `Documentation/admin-guide/ext4.rst`.

use std::sync::Arc;

use block::BlockDevice;

use crate::error::{Error, Result};
use crate::inode::Timestamp;

/// What follows when the image is found to be corrupt (`errors=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorPolicy {
    /// Note it and go on.
    Continue,
    /// Nothing is written any more.
    RemountReadOnly,
    /// Ask for a panic ([`crate::Event::Panic`]).
    Panic,
}

/// What a commit promises about file data (`data=`). Whoever writes data keeps the promise: inside the handle that mapped it
/// ([`crate::Handle`]) for `Ordered`, at any time for `Writeback`. [`crate::Filesystem::write`] always keeps the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DataMode {
    /// Data reaches the disk before metadata that points at it.
    #[default]
    Ordered,
    /// No order.
    Writeback,
}

/// How to mount.
#[derive(Clone)]
pub struct Options {
    /// `ro`.
    pub read_only: bool,
    /// `errors=`; None takes what the superblock says.
    pub errors: Option<ErrorPolicy>,
    /// `data=`.
    pub data: DataMode,
    /// `barrier`: flush the device's cache around commits.
    pub barrier: bool,
    /// `discard`: tell the device of freed blocks after each commit.
    pub discard: bool,
    /// `noload`: don't replay the journal; only with `ro`.
    pub no_load: bool,
    /// `commit=`: seconds between commits by [`crate::Filesystem::commit`]'s periodic caller.
    pub commit_interval_s: u32,
    /// `resuid=`, `resgid=`: who may use the reserve; None takes what the superblock says.
    pub reserved_owner: (Option<u32>, Option<u32>),
    /// `acl`.
    pub acl: bool,
    /// `user_xattr`.
    pub user_xattr: bool,
    /// The device of an external journal.
    pub journal_device: Option<Arc<dyn BlockDevice>>,
    /// Metadata blocks kept in memory when clean; of committed ones that are not home yet, twice as many and one transaction.
    pub cache_blocks: usize,
    /// When the mount happens.
    pub now: Timestamp,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            read_only: false,
            errors: None,
            data: DataMode::Ordered,
            barrier: true,
            discard: false,
            no_load: false,
            commit_interval_s: 5,
            reserved_owner: (None, None),
            acl: true,
            user_xattr: true,
            journal_device: None,
            cache_blocks: 4096,
            now: Timestamp::default(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl Options {
    /// Reads a comma-separated list over these options.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a word that ext4 does not know or a value it does not take.
    pub fn parse(mut self, list: &str) -> Result<Options> {
        for word in list.split(',').filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            self.parse_one(key, value)?;
        }
        if self.no_load && !self.read_only {
            return Err(Error::BadOption("noload without ro"));
        }
        Ok(self)
    }

    fn parse_one(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let number = || value.and_then(|v| v.parse::<u32>().ok());
        match (key, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("errors", Some("continue")) => self.errors = Some(ErrorPolicy::Continue),
            ("errors", Some("remount-ro")) => self.errors = Some(ErrorPolicy::RemountReadOnly),
            ("errors", Some("panic")) => self.errors = Some(ErrorPolicy::Panic),
            ("data", Some("ordered")) => self.data = DataMode::Ordered,
            ("data", Some("writeback")) => self.data = DataMode::Writeback,
            ("data", Some("journal")) => return Err(Error::BadOption("data=journal is not supported; use data=ordered")),
            ("barrier", Some("0")) | ("nobarrier", None) => self.barrier = false,
            ("barrier", None | Some("1")) => self.barrier = true,
            ("discard", None) => self.discard = true,
            ("nodiscard", None) => self.discard = false,
            ("noload" | "norecovery", None) => self.no_load = true,
            ("commit", _) => self.commit_interval_s = number().map(|n| if n == 0 { 5 } else { n }).ok_or(Error::BadOption("commit="))?,
            ("resuid", _) => self.reserved_owner.0 = Some(number().ok_or(Error::BadOption("resuid="))?),
            ("resgid", _) => self.reserved_owner.1 = Some(number().ok_or(Error::BadOption("resgid="))?),
            ("acl", None) => self.acl = true,
            ("noacl", None) => self.acl = false,
            ("user_xattr", None) => self.user_xattr = true,
            ("nouser_xattr", None) => self.user_xattr = false,
            // Known, without effect here: tuning, what is always so, and history.
            (
                "delalloc"
                | "nodelalloc"
                | "dioread_lock"
                | "dioread_nolock"
                | "nodioread_nolock"
                | "auto_da_alloc"
                | "noauto_da_alloc"
                | "block_validity"
                | "noblock_validity"
                | "init_itable"
                | "noinit_itable"
                | "lazytime"
                | "nolazytime"
                | "i_version"
                | "journal_checksum"
                | "nojournal_checksum"
                | "orlov"
                | "oldalloc"
                | "minixdf"
                | "bsddf"
                | "check"
                | "nocheck"
                | "nobh"
                | "bh"
                | "reservation"
                | "noreservation"
                | "grpid"
                | "nogrpid"
                | "bsdgroups"
                | "sysvgroups"
                | "mblk_io_submit"
                | "nomblk_io_submit"
                | "nouid32"
                | "warn_on_error"
                | "nowarn_on_error"
                | "noquota"
                | "max_batch_time"
                | "min_batch_time"
                | "inode_readahead_blks"
                | "stripe"
                | "journal_ioprio"
                | "max_dir_size_kb"
                | "sb"
                | "debug"
                | "prefetch_block_bitmaps"
                | "no_prefetch_block_bitmaps",
                _,
            ) => {}
            _ => return Err(Error::BadOption("a word that ext4 does not know")),
        }
        Ok(())
    }

    /// The list as `/proc/mounts` shows it, generic flags apart.
    #[must_use]
    pub fn show(&self) -> String {
        let mut words = Vec::new();
        match self.errors {
            Some(ErrorPolicy::Continue) => words.push("errors=continue".to_owned()),
            Some(ErrorPolicy::RemountReadOnly) => words.push("errors=remount-ro".to_owned()),
            Some(ErrorPolicy::Panic) => words.push("errors=panic".to_owned()),
            None => {}
        }
        let flags = [
            (!self.acl, "noacl"),
            (!self.user_xattr, "nouser_xattr"),
            (!self.barrier, "nobarrier"),
            (self.discard, "discard"),
            (self.no_load, "norecovery"),
        ];
        words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
        if self.commit_interval_s != 5 {
            words.push(format!("commit={}", self.commit_interval_s));
        }
        if self.data == DataMode::Writeback {
            words.push("data=writeback".to_owned());
        }
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_linux_are_read_and_shown() {
        let cases = [
            ("", Ok("")),
            ("rw,relatime_is_not_ours", Err(())),
            ("discard,errors=remount-ro", Ok("errors=remount-ro,discard")),
            ("nobarrier,commit=30,data=writeback,nodelalloc", Ok("nobarrier,commit=30,data=writeback")),
            ("noload", Err(())),
            ("ro,noload", Ok("norecovery")),
            ("commit=x", Err(())),
            ("data=journal", Err(())),
            ("barrier=0,barrier=1", Ok("")),
        ];
        for (list, shown) in cases {
            assert_eq!(Options::default().parse(list).map(|o| o.show()).map_err(|_| ()), shown.map(str::to_owned), "{list}");
        }
    }
}
