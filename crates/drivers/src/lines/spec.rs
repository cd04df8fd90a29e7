//! What the user says of a line: `pts`, `fd:0,fd:1`, `null,port:9000`.
//!
//! Source: specification consoles.md section 2; the texts are the reference's.

/// One end in the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Opens; writes vanish, reads never give anything.
    Null,
    Descriptor(u32),
    /// A BSD pty.
    Pty,
    /// A Unix 98 pty.
    Pts,
    Terminal(String),
    Port(u16),
    Window,
}

/// A line's ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spec {
    /// The device does not exist.
    None,
    /// One object for both directions.
    One(Part),
    /// One for input, one for output; of the same kind, they are two objects all the same.
    Two(Part, Part),
}

impl Part {
    /// What it is called before it is open.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Part::Null => "null",
            Part::Descriptor(_) => "fd",
            Part::Pty => "pty",
            Part::Pts => "pts",
            Part::Terminal(_) => "tty",
            Part::Port(_) => "port",
            Part::Window => "xterm",
        }
    }

    /// `fd:0`. A sentence on what is wrong otherwise.
    fn parse(text: &str) -> Result<Option<Part>, String> {
        let (kind, data) = text.split_once(':').map_or((text, None), |(kind, data)| (kind, Some(data)));
        let data = data.filter(|data| !data.is_empty());
        Ok(Some(match (kind, data) {
            ("none", _) => return Ok(None),
            ("null", _) => Part::Null,
            ("pty", _) => Part::Pty,
            ("pts", _) => Part::Pts,
            ("xterm", _) => Part::Window,
            ("fd", Some(number)) => {
                let number = number.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok());
                Part::Descriptor(number.ok_or_else(|| format!("fd_init : couldn't parse file descriptor '{}'", data.unwrap_or_default()))?)
            }
            ("fd", None) => return Err("fd_init : channel type 'fd' must specify a file descriptor".into()),
            ("port", Some(number)) => match number.parse() {
                Ok(number) if number > 0 => Part::Port(number),
                _ => return Err(format!("port_init : couldn't parse port '{number}'")),
            },
            ("port", None) => return Err("port_init : channel type 'port' must specify a port number".into()),
            ("tty", Some(path)) => Part::Terminal(path.to_owned()),
            ("tty", None) => return Err("tty_init : channel type 'tty' must specify a device".into()),
            // As one howto writes it.
            _ if text.starts_with("/dev/") => Part::Terminal(text.to_owned()),
            _ => return Err("No match for configured backends".into()),
        }))
    }
}

impl Spec {
    /// From the text of an option.
    ///
    /// # Errors
    /// A sentence on what is wrong.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let Some((input, output)) = text.split_once(',') else {
            return Ok(Part::parse(text)?.map_or(Spec::None, Spec::One));
        };
        Ok(match (Part::parse(input)?, Part::parse(output)?) {
            (Some(input), Some(output)) => Spec::Two(input, output),
            (None, None) => Spec::None,
            // One direction that does not exist is one that leads nowhere.
            (input, output) => Spec::Two(input.unwrap_or(Part::Null), output.unwrap_or(Part::Null)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_understood() {
        for (text, want) in [
            ("null", Spec::One(Part::Null)),
            ("none", Spec::None),
            ("pts", Spec::One(Part::Pts)),
            ("pty", Spec::One(Part::Pty)),
            ("xterm", Spec::One(Part::Window)),
            ("fd:3", Spec::One(Part::Descriptor(3))),
            ("fd:0,fd:1", Spec::Two(Part::Descriptor(0), Part::Descriptor(1))),
            ("null,fd:2", Spec::Two(Part::Null, Part::Descriptor(2))),
            ("port:9000", Spec::One(Part::Port(9000))),
            ("tty:/dev/tty3", Spec::One(Part::Terminal("/dev/tty3".into()))),
            ("/dev/tty8", Spec::One(Part::Terminal("/dev/tty8".into()))),
            ("pts,xterm", Spec::Two(Part::Pts, Part::Window)),
            ("xterm,xterm", Spec::Two(Part::Window, Part::Window)),
        ] {
            assert_eq!(Spec::parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_as_the_reference_names_them() {
        for (text, want) in [
            ("fd", "fd_init : channel type 'fd' must specify a file descriptor"),
            ("fd:", "fd_init : channel type 'fd' must specify a file descriptor"),
            ("fd:x", "fd_init : couldn't parse file descriptor 'x'"),
            ("fd:-1", "fd_init : couldn't parse file descriptor '-1'"),
            ("port", "port_init : channel type 'port' must specify a port number"),
            ("port:x", "port_init : couldn't parse port 'x'"),
            ("port:0", "port_init : couldn't parse port '0'"),
            ("port:65536", "port_init : couldn't parse port '65536'"),
            ("tty", "tty_init : channel type 'tty' must specify a device"),
            ("bogus", "No match for configured backends"),
            ("", "No match for configured backends"),
            ("pts,bogus", "No match for configured backends"),
            ("ptsx", "No match for configured backends"),
        ] {
            assert_eq!(Spec::parse(text), Err(want.into()), "{text}");
        }
    }
}
