//! Datagrams of the management console, version 2. Integers are 32 bits in the host's byte order: both ends are on one host.
//!
//! | datagram | layout |
//! |---|---|
//! | request | magic, version, length of the text; the text, in a field of 512 bytes |
//! | reply | error, whether another follows, length of the text with its NUL; the text and a NUL, at most 512 bytes |
//! | notification | magic, version, type, length; data, at most 512 bytes |

/// The first word of requests and notifications.
pub const MAGIC: u32 = 0xcafe_babe;
/// The only version.
pub const VERSION: u32 = 2;
/// Bytes of text in any datagram.
pub const MAX_DATA: usize = 512;
/// Longest text of a request, and of one packet of a reply without its NUL.
pub const MAX_TEXT: usize = MAX_DATA - 1;
/// Bytes of a whole request.
pub const REQUEST_LEN: usize = 12 + MAX_DATA;
/// Bytes of the longest reply and notification: what a receiver's buffer must hold.
pub const MAX_DATAGRAM: usize = 16 + MAX_DATA;

fn word(datagram: &[u8], index: usize) -> Option<u32> {
    datagram.get(index * 4..).and_then(|rest| rest.first_chunk()).map(|raw| u32::from_ne_bytes(*raw))
}

fn up_to_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len())]
}

/// Why a datagram is not a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// It does not begin with the magic: plain text of a client of the first version.
    OldClient,
    /// The magic is there, the rest of the header is not.
    Truncated,
    /// A version that does not exist.
    Version(u32),
    /// A text that would not fit.
    TooLarge(u32),
}

impl RequestError {
    /// What the sender is told; nothing for half a header.
    #[must_use]
    pub fn reply(self) -> Vec<Vec<u8>> {
        match self {
            // Such a client knows no header.
            RequestError::OldClient => vec![b"ERR Version 0 mconsole clients are not supported by this driver".to_vec()],
            RequestError::Truncated => Vec::new(),
            RequestError::Version(_) => reply(1, b"This driver only supports version 2 clients"),
            RequestError::TooLarge(_) => reply(1, b"Request too large"),
        }
    }
}

/// The command text of a request: up to its length, its first NUL or the end of the datagram, whatever comes first.
pub fn parse_request(datagram: &[u8]) -> Result<&[u8], RequestError> {
    if word(datagram, 0) != Some(MAGIC) {
        return Err(RequestError::OldClient);
    }
    let (Some(version), Some(len), Some(data)) = (word(datagram, 1), word(datagram, 2), datagram.get(12..)) else {
        return Err(RequestError::Truncated);
    };
    if version != VERSION {
        return Err(RequestError::Version(version));
    }
    if len as usize >= MAX_DATA {
        return Err(RequestError::TooLarge(len));
    }
    Ok(up_to_nul(&data[..data.len().min(len as usize)]))
}

/// A request of full length. `None` when the text has more than [`MAX_TEXT`] bytes.
#[must_use]
pub fn request(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut datagram = words(&[MAGIC, VERSION, text.len() as u32]);
    datagram.extend_from_slice(text);
    datagram.resize(REQUEST_LEN, 0);
    Some(datagram)
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A whole answer: as many packets as the text needs, the error only in the first.
#[must_use]
pub fn reply(err: i32, text: &[u8]) -> Vec<Vec<u8>> {
    packets(err, text, false)
}

/// A part of an answer, after which more comes.
#[must_use]
pub fn partial_reply(text: &[u8]) -> Vec<Vec<u8>> {
    packets(0, text, true)
}

fn packets(mut err: i32, mut text: &[u8], more_follows: bool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        let (part, rest) = text.split_at(text.len().min(MAX_TEXT));
        let more = more_follows || !rest.is_empty();
        let mut datagram = words(&[err as u32, u32::from(more), part.len() as u32 + 1]);
        datagram.extend_from_slice(part);
        datagram.push(0);
        packets.push(datagram);
        if rest.is_empty() {
            return packets;
        }
        (err, text) = (0, rest);
    }
}

/// One packet of an answer, as its receiver sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyPacket<'a> {
    /// 0, or what went wrong; often a negative errno.
    pub err: i32,
    /// Another packet follows.
    pub more: bool,
    /// The text without its NUL.
    pub text: &'a [u8],
}

/// Reads one packet of an answer. `None` for what is too short to be one.
#[must_use]
pub fn parse_reply(datagram: &[u8]) -> Option<ReplyPacket<'_>> {
    let (err, more, len) = (word(datagram, 0)?, word(datagram, 1)?, word(datagram, 2)?);
    let data = datagram.get(12..)?;
    Some(ReplyPacket { err: err as i32, more: more != 0, text: up_to_nul(&data[..data.len().min(len as usize)]) })
}

/// An answer put together from its packets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// 0, or what went wrong.
    pub err: i32,
    /// All texts, one after the other.
    pub text: Vec<u8>,
}

impl Answer {
    /// Adds a packet; true when it was the last. The first error counts.
    pub fn add(&mut self, packet: &ReplyPacket<'_>) -> bool {
        if self.err == 0 {
            self.err = packet.err;
        }
        self.text.extend_from_slice(packet.text);
        !packet.more
    }
}

/// What a machine tells the host unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notification {
    /// The console is ready; the data is its socket's path and a NUL.
    Socket,
    /// The machine panics; the data is the message and a NUL.
    Panic,
    /// The watchdog was not fed.
    Hang,
    /// Something was written to `/proc/mconsole`; the data is that.
    User,
}

impl Notification {
    const ALL: [Notification; 4] = [Notification::Socket, Notification::Panic, Notification::Hang, Notification::User];

    /// The datagram; of the data the first 512 bytes.
    #[must_use]
    pub fn datagram(self, data: &[u8]) -> Vec<u8> {
        let data = &data[..data.len().min(MAX_DATA)];
        let mut datagram = words(&[MAGIC, VERSION, self as u32, data.len() as u32]);
        datagram.extend_from_slice(data);
        datagram
    }

    /// Reads a notification and its data; `None` for anything else.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(Notification, &[u8])> {
        if word(datagram, 0) != Some(MAGIC) || word(datagram, 1) != Some(VERSION) {
            return None;
        }
        let kind = *Notification::ALL.get(word(datagram, 2)? as usize)?;
        let (len, data) = (word(datagram, 3)? as usize, datagram.get(16..)?);
        Some((kind, &data[..data.len().min(len)]))
    }
}
