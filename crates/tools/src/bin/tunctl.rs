//! `tunctl [-b] [-u OWNER] [-g GROUP] [-t DEVICE] [-f CLONE]`: makes a tap that stays and belongs to a user; `tunctl -d DEVICE` lets it go.
#![forbid(unsafe_code)]

use abi::Errno;
use host::tun::{CLONE_DEVICE, FrameHeader, Tap};
use lexopt::Arg;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tools::command_line::{Failure, run, strerror_of};

const USAGE: &str = "Create: tunctl [-b] [-u owner] [-g group] [-t device-name] [-f tun-clone-device]
Delete: tunctl -d device-name [-f tun-clone-device]

The default tun clone device is /dev/net/tun - some systems use /dev/misc/net/tun instead

-b will result in brief output (just the device name)
";

#[derive(Default)]
struct Wanted {
    brief: bool,
    owner: Option<u32>,
    group: Option<u32>,
    name: Option<String>,
    gone: Option<String>,
    clone: Option<PathBuf>,
}

fn main() -> ExitCode {
    run(|| {
        let usage = |reason| Failure::Usage { text: USAGE, reason, status: 1 };
        let mut wanted = Wanted::default();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next().map_err(|error| usage(Some(error.to_string())))? {
            match argument {
                Arg::Short('b') => wanted.brief = true,
                Arg::Short('u') => wanted.owner = Some(number(&value(&mut arguments)?, "/etc/passwd", "a username nor a numeric uid")?),
                Arg::Short('g') => wanted.group = Some(number(&value(&mut arguments)?, "/etc/group", "a groupname nor a numeric group")?),
                Arg::Short('t') => wanted.name = Some(text(value(&mut arguments)?)),
                Arg::Short('d') => wanted.gone = Some(text(value(&mut arguments)?)),
                Arg::Short('f') => wanted.clone = Some(value(&mut arguments)?.into()),
                Arg::Short('h') | Arg::Long("help") => {
                    print!("{USAGE}");
                    return Ok(());
                }
                other => return Err(usage(Some(other.unexpected().to_string()))),
            }
        }
        carry_out(&wanted)
    })
}

fn value(arguments: &mut lexopt::Parser) -> Result<OsString, Failure> {
    arguments.value().map_err(|error| Failure::Usage { text: USAGE, reason: Some(error.to_string()), status: 1 })
}

fn text(value: OsString) -> String {
    value.to_string_lossy().into_owned()
}

/// The number of a user or group: looked up in the file where these are, or the number itself.
fn number(value: &OsString, file: &str, neither: &str) -> Result<u32, Failure> {
    let value = text(value.clone());
    let known = std::fs::read_to_string(file).unwrap_or_default();
    let found = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(value.as_str())).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    let number = found.or_else(|| value.parse().ok());
    number.ok_or_else(|| Failure::Message(format!("'{value}' is neither {neither}.")))
}

fn carry_out(wanted: &Wanted) -> Result<(), Failure> {
    let clone = wanted.clone.clone().unwrap_or_else(|| CLONE_DEVICE.into());
    let failed = |what: &'static str| move |errno: Errno| Failure::Message(format!("{what}: {}", strerror_of(errno)));
    let attach = |name: &str| {
        std::fs::metadata(&clone).map_err(|error| {
            Failure::Message(format!("Failed to open '{}' : {}", clone.display(), tools::command_line::strerror(&error)))
        })?;
        Tap::attach(Path::new(&clone), name, FrameHeader::None).map_err(failed("TUNSETIFF"))
    };
    if let Some(name) = &wanted.gone {
        let tap = attach(name)?;
        tap.set_persistent(false).map_err(failed("disabling TUNSETPERSIST"))?;
        println!("Set '{}' nonpersistent", tap.name());
        return Ok(());
    }
    let tap = attach(wanted.name.as_deref().unwrap_or("tap%d"))?;
    // Without a word about who: the one who calls.
    let own = (wanted.owner.is_none() && wanted.group.is_none()).then(|| rustix::process::geteuid().as_raw());
    let owner = wanted.owner.or(own);
    if let Some(uid) = owner {
        tap.set_owner(uid).map_err(failed("TUNSETOWNER"))?;
    }
    if let Some(gid) = wanted.group {
        tap.set_group(gid).map_err(failed("TUNSETGROUP"))?;
    }
    tap.set_persistent(true).map_err(failed("enabling TUNSETPERSIST"))?;
    if wanted.brief {
        println!("{}", tap.name());
        return Ok(());
    }
    let mut line = format!("Set '{}' persistent and owned by", tap.name());
    if let Some(uid) = owner {
        line += &format!(" uid {uid}");
    }
    if let Some(gid) = wanted.group {
        line += &format!(" gid {gid}");
    }
    println!("{line}");
    Ok(())
}
