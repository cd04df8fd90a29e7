//! A user network that is up before the first program runs, where there is no init that would bring it up: its addresses, routes and name server.

use super::{ERROR, user};
use crate::config::{Config, Root};
use crate::machine::Machine;
use abi::{Errno, SysError};
use drivers::net::eth::Spec;
use drivers::net::transport::Wire;
use net::route::{Route, TABLE_MAIN};
use net::{Address, Family, Prefix, Stack};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use vfs::{Caller, OpenFlags, OpenHow, PathAt, SliceSource};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Brings it up for a command. What fails is told of in the log.
pub fn set_up(machine: &Machine, caller: &Caller<'_>, config: &Config) {
    if !config.program.search_path {
        return;
    }
    let log = |what: &str, errno: Errno| machine.vfs.log.print(ERROR, &format!("{what} ({errno})"));
    let network = syscall::sockets(machine.system).network();
    for option in &config.interfaces {
        let Some(Ok(spec)) = option.strip_prefix("eth").map(Spec::parse) else { continue };
        let Wire::User { options } = &spec.wire else { continue };
        // It was made with these options before.
        let Ok(settings) = user::configure(options) else { continue };
        if let Err(errno) = network.with(|stack| configure(stack, &spec.name(), &settings)) {
            log(&format!("{} could not be brought up", spec.name()), errno);
        }
        // What is bound is the host's own file.
        if !is_bound(config)
            && let Err(errno) = name_servers(caller, &settings)
        {
            log("/etc/resolv.conf could not be written", errno);
        }
        return;
    }
}

/// Gives an interface what DHCP and router advertisements would give it.
fn configure(stack: &mut Stack, name: &str, settings: &usernet::Config) -> Result<(), Errno> {
    let id = stack.interfaces.by_name(name).ok_or(Errno::ENODEV)?.id;
    // The hardware address follows the first address, so that comes before.
    if settings.ipv4 {
        let address = Prefix { address: settings.guest.into(), len: settings.prefix_len };
        stack.add_address_at_once(id, Address::new(address))?;
    }
    stack.set_up(id, true)?;
    let default = |gateway: IpAddr| Route::new(Prefix::all(Family::of(gateway)), Some(gateway), id);
    if settings.ipv4 {
        stack.routes.add(TABLE_MAIN, default(settings.gateway.into()))?;
    }
    if settings.ipv6 {
        stack.add_address_at_once(id, Address::new(Prefix { address: settings.guest6.into(), len: 64 }))?;
        stack.routes.add(TABLE_MAIN, default(settings.gateway6.into()))?;
    }
    Ok(())
}

/// Whether the name servers' file is one of the host's that the guest writes through to.
fn is_bound(config: &Config) -> bool {
    let Root::HostTree(tree) = &config.root else { return true };
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    tree.binds.iter().any(|bind| Path::new(RESOLV_CONF).starts_with(absolute(bind)))
}

/// Puts the network's own name server in the place of the host's, which the guest may not be able to reach. The file may be a link to
/// where there is nothing in a machine, so it is made anew.
fn name_servers(caller: &Caller<'_>, settings: &usernet::Config) -> Result<(), Errno> {
    let server: IpAddr = if settings.ipv4 { settings.dns.into() } else { settings.dns6.into() };
    let mut text = format!("nameserver {server}\n");
    if !settings.search.is_empty() {
        text += &format!("search {}\n", settings.search.join(" "));
    }
    let path = PathAt::cwd(RESOLV_CONF.as_bytes());
    match caller.unlink(path).map_err(SysError::errno) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::EXCL;
    let file = caller.open(path, OpenHow::new(flags, 0o644)).map_err(SysError::errno)?;
    file.write(&mut SliceSource::new(text.as_bytes())).map(drop).map_err(SysError::errno)
}
