//! Arguments of system calls as handlers want them.
//!
//! A pointer is not followed until a handler asks: Linux notices a bad one when it uses it, and so do we.

use abi::{Errno, SysError, SysResult};
use std::marker::PhantomData;
use task::{Current, Outcome};
use vfs::UserMemory;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Longest path with its NUL (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Something that a register holds.
pub trait Argument: Sized {
    /// From the register, or the errno that a bad value gets.
    fn from_raw(raw: u64) -> Result<Self, Errno>;
}

macro_rules! plain {
    ($($ty:ty)*) => { $(impl Argument for $ty {
        fn from_raw(raw: u64) -> Result<Self, Errno> {
            // As C does: what does not fit the parameter's type is cut off.
            Ok(raw as $ty)
        }
    })* };
}
plain!(u64 i64 u32 i32 u16 usize);

/// A descriptor number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fd(pub i32);

impl Argument for Fd {
    fn from_raw(raw: u64) -> Result<Self, Errno> {
        Ok(Fd(raw as i32))
    }
}

impl Fd {
    /// `AT_FDCWD`.
    pub const CWD: Fd = Fd(abi::raw::general::AT_FDCWD);
}

/// An address in guest memory; 0 is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// Whether it is the null pointer.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl Argument for UserAddr {
    fn from_raw(raw: u64) -> Result<Self, Errno> {
        Ok(UserAddr(raw))
    }
}

/// A pointer to one `T` (or the first of several) in guest memory.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRef<T>(pub u64, PhantomData<fn() -> T>);

impl<T> Clone for UserRef<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserRef<T> {}

impl<T> Argument for UserRef<T> {
    fn from_raw(raw: u64) -> Result<Self, Errno> {
        Ok(UserRef::at(raw))
    }
}

impl<T> Argument for Option<UserRef<T>> {
    fn from_raw(raw: u64) -> Result<Self, Errno> {
        Ok((raw != 0).then(|| UserRef::at(raw)))
    }
}

impl<T> UserRef<T> {
    /// A pointer to this address.
    #[must_use]
    pub fn at(addr: u64) -> UserRef<T> {
        UserRef(addr, PhantomData)
    }
    /// Whether it is the null pointer.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
    /// The `index`th element after it.
    #[must_use]
    pub fn nth(self, index: usize) -> UserRef<T> {
        UserRef::at(self.0.wrapping_add((index * size_of::<T>()) as u64))
    }
}

impl<T: FromBytes + FromZeros + IntoBytes> UserRef<T> {
    /// Copies it in, once. EFAULT.
    pub fn read(self, current: &Current) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        current.memory().read_exact(self.0, value.as_mut_bytes())?;
        Ok(value)
    }
    /// Copies `count` of them in. EFAULT. The caller bounds `count`.
    pub fn read_many(self, current: &Current, count: usize) -> Result<Vec<T>, Errno> {
        let mut values: Vec<T> = Vec::with_capacity(count);
        values.resize_with(count, T::new_zeroed);
        current.memory().read_exact(self.0, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }
}

impl<T: FromBytes + FromZeros + IntoBytes> UserRef<T> {
    /// Copies it in, unless it is the null pointer.
    pub fn read_optional(self, current: &Current) -> Result<Option<T>, Errno> {
        if self.is_null() { Ok(None) } else { self.read(current).map(Some) }
    }
}

impl<T: IntoBytes + Immutable> UserRef<T> {
    /// Copies it out, unless the pointer is null.
    pub fn write_optional(self, current: &Current, value: &T) -> Result<(), Errno> {
        if self.is_null() { Ok(()) } else { self.write(current, value) }
    }
    /// Copies it out. EFAULT.
    pub fn write(self, current: &Current, value: &T) -> Result<(), Errno> {
        current.memory().write_all(self.0, value.as_bytes())
    }
    /// Copies several out. EFAULT.
    pub fn write_many(self, current: &Current, values: &[T]) -> Result<(), Errno> {
        current.memory().write_all(self.0, values.as_bytes())
    }
}

/// A pointer to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserPath(pub u64);

impl Argument for UserPath {
    fn from_raw(raw: u64) -> Result<Self, Errno> {
        Ok(UserPath(raw))
    }
}

impl UserPath {
    /// Copies it in, without its NUL. EFAULT, ENAMETOOLONG. An empty path is the caller's affair.
    pub fn read(self, current: &Current) -> Result<Vec<u8>, Errno> {
        read_string(current, self.0, PATH_MAX).and_then(|path| path.ok_or(Errno::ENAMETOOLONG))
    }
}

/// Copies a NUL-terminated string in, without the NUL; none if it does not end within `max` bytes. EFAULT.
pub fn read_string(current: &Current, addr: u64, max: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut string = Vec::new();
    let mut chunk = [0u8; 256];
    while string.len() < max {
        let at = addr.wrapping_add(string.len() as u64);
        // Up to the next page only at first: what lies behind a string's page need not be there.
        let to_page_end = abi::PAGE_SIZE - (at as usize & (abi::PAGE_SIZE - 1));
        let len = chunk.len().min(max - string.len()).min(to_page_end);
        let part = chunk.get_mut(..len).unwrap_or_default();
        let got = current.memory().read(at, part)?;
        let part = part.get(..got).unwrap_or_default();
        if let Some(end) = part.iter().position(|b| *b == 0) {
            string.extend_from_slice(part.get(..end).unwrap_or_default());
            return Ok(Some(string));
        }
        if got < len {
            return Err(Errno::EFAULT);
        }
        string.extend_from_slice(part);
    }
    Ok(None)
}

/// What a handler may return.
pub trait Answer {
    /// As the run loop takes it.
    fn outcome(self) -> Outcome;
}

impl Answer for Outcome {
    fn outcome(self) -> Outcome {
        self
    }
}

/// A value that fits the result register.
pub trait ResultValue {
    /// The register.
    fn to_register(self) -> u64;
}

macro_rules! values {
    ($($ty:ty)*) => { $(impl ResultValue for $ty {
        fn to_register(self) -> u64 {
            self as i64 as u64
        }
    })* };
}
values!(u64 i64 u32 i32 usize);

impl ResultValue for () {
    fn to_register(self) -> u64 {
        0
    }
}
impl ResultValue for Fd {
    fn to_register(self) -> u64 {
        self.0 as u64
    }
}
impl ResultValue for UserAddr {
    fn to_register(self) -> u64 {
        self.0
    }
}

impl<T: ResultValue> Answer for SysResult<T> {
    fn outcome(self) -> Outcome {
        match self {
            Ok(value) => Outcome::Value(value.to_register()),
            Err(error) => Outcome::Error(error),
        }
    }
}

impl<T: ResultValue> Answer for Result<T, Errno> {
    fn outcome(self) -> Outcome {
        self.map_err(SysError::from).outcome()
    }
}
