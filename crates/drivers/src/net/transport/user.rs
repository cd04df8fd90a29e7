//! `user[,MAC][,OPTION=VALUE]...`: the world without privileges, by sockets of the host. What the options mean is `usernet`'s.

use super::{Arguments, Parsed, Wire};

pub(super) fn parse(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    let mut mac = None;
    let mut options = Vec::new();
    let mut is_first = true;
    while arguments.rest().is_some() {
        match arguments.take() {
            None => {}
            Some(word) => match word.split_once('=') {
                Some((name, value)) => options.push((name.to_owned(), value.to_owned())),
                None if is_first => mac = Some(word.to_owned()),
                None => return Err(format!("user_setup - '{word}' is not of the form OPTION=VALUE")),
            },
        }
        is_first = false;
    }
    Ok(Parsed { mac, wire: Wire::User { options }, backend: "user backend (sockets of the host)".into() })
}
