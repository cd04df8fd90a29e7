//! The commands, and how a text becomes one: by prefix, in a fixed order, blanks between the word and its argument skipped.

/// A request's meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Which kernel is it?
    Version,
    /// Stop at once.
    Halt,
    /// Start anew at once.
    Reboot,
    /// `config DEV=CFG`: both sides.
    Configure(&'a [u8]),
    /// `config DEV`: how is it configured?
    Query(&'a [u8]),
    /// `remove DEV`.
    Remove(&'a [u8]),
    /// `sysrq L`; without a letter its help.
    Sysrq(Option<u8>),
    /// The list of commands.
    Help,
    /// Ctrl-Alt-Del.
    Cad,
    /// Freeze.
    Stop,
    /// Thaw.
    Go,
    /// `log TEXT`.
    Log(&'a [u8]),
    /// `proc PATH`, relative to `/proc`, without slashes in front.
    Proc(&'a [u8]),
    /// `stack PID`; `None` when no number was given.
    Stack(Option<i32>),
}

/// The words, in the order in which they are tried.
pub const WORDS: [&str; 13] =
    ["version", "halt", "reboot", "config", "remove", "sysrq", "help", "cad", "stop", "go", "log", "proc", "stack"];

/// What `help` answers.
pub const HELP: &str = "Commands: 
    version - Get kernel version 
    help - Print this message 
    halt - Halt UML 
    reboot - Reboot UML 
    config <dev>=<config> - Add a new device to UML;  
\tsame syntax as command line 
    config <dev> - Query the configuration of a device 
    remove <dev> - Remove a device from UML 
    sysrq <letter> - Performs the SysRq action controlled by the letter 
    cad - invoke the Ctrl-Alt-Del handler 
    stop - pause the UML; it will do nothing until it receives a 'go' 
    go - continue the UML after a 'stop' 
    log <string> - make UML enter <string> into the kernel log
    proc <file> - returns the contents of the UML's /proc/<file>
    stack <pid> - returns the stack of the specified pid
";

/// The command in a text, `None` when no word is its prefix.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Command<'_>> {
    let (index, rest) = WORDS.iter().enumerate().find_map(|(index, word)| Some((index, text.strip_prefix(word.as_bytes())?)))?;
    let argument = skip_blanks(rest);
    Some(match WORDS[index] {
        "version" => Command::Version,
        "halt" => Command::Halt,
        "reboot" => Command::Reboot,
        "config" if argument.contains(&b'=') => Command::Configure(argument),
        "config" => Command::Query(argument),
        "remove" => Command::Remove(argument),
        "sysrq" => Command::Sysrq(argument.first().copied()),
        "help" => Command::Help,
        "cad" => Command::Cad,
        "stop" => Command::Stop,
        "go" => Command::Go,
        "log" => Command::Log(argument),
        "proc" => Command::Proc(&argument[argument.iter().take_while(|&&byte| byte == b'/').count()..]),
        _ => Command::Stack(leading_number(argument)),
    })
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count()..]
}

/// The decimal number at the start; 0, which no process has, for one that no process number can be.
fn leading_number(text: &[u8]) -> Option<i32> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = std::str::from_utf8(&text[..digits]).ok().filter(|digits| !digits.is_empty())?;
    Some(digits.parse().unwrap_or(0))
}
