//! What an operation on a file system may end with.
//!
//! Not here: messages for people beyond one line, and the policy that follows a [`Error::Corrupt`] (`crate::Filesystem` applies it).

use core::fmt;

use abi::Errno;

/// Why an operation did not happen. An operation that fails has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The image contradicts itself. `block` is where (0 when it is not one block), `what` names the structure.
    Corrupt {
        /// File system block that holds the contradiction.
        block: u64,
        /// The structure and field.
        what: &'static str,
    },
    /// The device failed.
    Device(Errno),
    /// No ext2, ext3 or ext4 here, or one whose basic geometry makes no sense; says why.
    NotExt(&'static str),
    /// A feature that this implementation does not have at all.
    Unsupported(&'static str),
    /// A feature that allows reading only: mount with `ro`.
    ReadOnlyFeature(&'static str),
    /// A mount option that is unknown or out of range.
    BadOption(&'static str),
    /// The journal was aborted after an earlier error.
    Aborted,
    /// Mounted read-only, or made so by an earlier error.
    ReadOnly,
    /// No such name or inode.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory is needed.
    NotDirectory,
    /// A directory cannot be used so.
    IsDirectory,
    /// The directory has entries.
    NotEmpty,
    /// More than 255 bytes in a name, or more than a block in a symlink.
    NameTooLong,
    /// No free block or inode.
    NoSpace,
    /// The link count is at its maximum.
    TooManyLinks,
    /// Past what this file's block map can address.
    FileTooBig,
    /// Arguments that make no sense together.
    Invalid,
    /// The kind of inode, or the image's features, have no such operation.
    NotSupported,
    /// No such extended attribute.
    NoAttribute,
    /// The extended attribute does not fit.
    AttributeTooBig,
    /// Immutable or append-only.
    NotPermitted,
    /// An inode that was freed since (a stale handle).
    Stale,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Corrupt { block, what } => write!(f, "corrupt file system: block {block}: {what}"),
            Error::Device(errno) => write!(f, "the device failed: {errno:?}"),
            Error::NotExt(why) => write!(f, "not an ext2, ext3 or ext4 file system: {why}"),
            Error::Unsupported(feature) => write!(f, "couldn't mount because of unsupported feature: {feature}"),
            Error::ReadOnlyFeature(feature) => write!(f, "couldn't mount read-write because of feature: {feature}; mount it with ro"),
            Error::BadOption(option) => write!(f, "unrecognized mount option or bad value: {option}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    /// What a [`block::BlockDevice`] answers.
    fn from(errno: Errno) -> Error {
        Error::Device(errno)
    }
}

impl From<Error> for Errno {
    /// The number that Linux's ext4 gives for the same condition.
    fn from(error: Error) -> Errno {
        match error {
            Error::Corrupt { .. } => Errno::EUCLEAN,
            Error::Device(errno) => errno,
            Error::NotExt(_) | Error::Unsupported(_) | Error::BadOption(_) | Error::Invalid => Errno::EINVAL,
            Error::ReadOnlyFeature(_) | Error::ReadOnly | Error::Aborted => Errno::EROFS,
            Error::NotFound => Errno::ENOENT,
            Error::Exists => Errno::EEXIST,
            Error::NotDirectory => Errno::ENOTDIR,
            Error::IsDirectory => Errno::EISDIR,
            Error::NotEmpty => Errno::ENOTEMPTY,
            Error::NameTooLong => Errno::ENAMETOOLONG,
            Error::NoSpace | Error::AttributeTooBig => Errno::ENOSPC,
            Error::TooManyLinks => Errno::EMLINK,
            Error::FileTooBig => Errno::EFBIG,
            Error::NotSupported => Errno::EOPNOTSUPP,
            Error::NoAttribute => Errno::ENODATA,
            Error::NotPermitted => Errno::EPERM,
            Error::Stale => Errno::ESTALE,
        }
    }
}

/// The result of everything here.
pub type Result<T> = core::result::Result<T, Error>;

/// Shorthand for an [`Error::Corrupt`].
pub(crate) fn corrupt<T>(block: u64, what: &'static str) -> Result<T> {
    Err(Error::Corrupt { block, what })
}
