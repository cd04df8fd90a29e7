//! `daemon[,MAC][,unix][,CONTROL SOCKET]`: a port of `uml_switch`.

use super::{Arguments, Parsed, Wire};

/// Where a switch is unless told otherwise.
const DEFAULT_CONTROL: &str = "/tmp/uml.ctl";

pub(super) fn parse(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    let mac = arguments.take().map(str::to_owned);
    if let Some(kind) = arguments.take().filter(|kind| *kind != "unix") {
        return Err(format!("daemon_setup : Unknown socket type : {kind}"));
    }
    let control = arguments.take().unwrap_or(DEFAULT_CONTROL).to_owned();
    let backend = format!("daemon backend (uml_switch version 3) - unix:{control}");
    Ok(Parsed { mac, wire: Wire::Switch { control }, backend })
}
