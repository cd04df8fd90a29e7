//! execve(2) and execveat(2): copying the arguments in.

use crate::args::{UserAddr, UserRef};
use crate::data::{file, read_path, read_string};
use abi::raw::general as raw;
use abi::{Errno, SysResult};
use task::{Current, Outcome};

/// Longest argument or environment string, `MAX_ARG_STRLEN`.
const ARG_STRING_MAX: usize = 128 << 10;
/// Most strings of each kind.
const ARG_COUNT_MAX: usize = 1 << 20;

fn strings(current: &Current, array: u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut all = Vec::new();
    let mut total = 0usize;
    if array == 0 {
        return Ok(all);
    }
    let limit = current.exec_strings_max() as usize;
    loop {
        let pointer = UserRef::<u64>::at(array).nth(all.len()).read(current)?;
        if pointer == 0 {
            return Ok(all);
        }
        let string = read_string(current, pointer, ARG_STRING_MAX, Errno::E2BIG)?;
        total += string.len() + 9;
        if total > limit || all.len() >= ARG_COUNT_MAX {
            return Err(Errno::E2BIG);
        }
        all.push(string);
    }
}

/// execve(2).
pub fn execve(current: &mut Current, path: UserAddr, argv: u64, envp: u64) -> Outcome {
    outcome(run(current, None, path, argv, envp, 0))
}

fn outcome(result: SysResult<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Registers,
        Err(error) => Outcome::Error(error),
    }
}

fn run(current: &mut Current, dir: Option<i32>, path: UserAddr, argv: u64, envp: u64, flags: u32) -> SysResult<()> {
    let path = read_path(current, path)?;
    let (argv, envp) = (strings(current, argv)?, strings(current, envp)?);
    let base = match dir {
        Some(dir) if dir != raw::AT_FDCWD && path.first() != Some(&b'/') => Some(file(current, dir)?.path().clone()),
        _ => None,
    };
    current.exec(base.as_ref(), &path, argv, envp, flags)
}

/// execveat(2).
pub fn execveat(current: &mut Current, dir: i32, path: UserAddr, argv: u64, envp: u64, flags: u32) -> Outcome {
    if flags & !(raw::AT_EMPTY_PATH | raw::AT_SYMLINK_NOFOLLOW) != 0 {
        return Outcome::Error(Errno::EINVAL.into());
    }
    outcome(run(current, Some(dir), path, argv, envp, flags))
}
