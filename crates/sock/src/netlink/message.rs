//! Netlink messages as bytes: `struct nlmsghdr` and attributes, netlink(7).
//!
//! Always true: whatever a guest sends, parsing neither panics nor goes past the end.

use abi::Errno;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
pub(super) const NLMSG_NOOP: u16 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
/// The first type that is not netlink's own.
pub(super) const NLMSG_MIN_TYPE: u16 = 16;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_MULTI: u16 = 2;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_ROOT: u16 = 0x100;
pub(super) const NLM_F_MATCH: u16 = 0x200;
/// With requests that make something.
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// Bytes of one datagram of a dump, so that a reader's page holds it.
const DATAGRAM_LEN: usize = 3800;

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Header and all.
    pub whole: &'a [u8],
    /// What is behind the header.
    pub payload: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The 32-bit word at an offset; 0 if it is not there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Takes the first message off `bytes`. `None` when there is none that is whole.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Option<Request<'a>> {
    let len = u32_at(bytes, 0) as usize;
    let whole = bytes.get(..len).filter(|whole| whole.len() >= HEADER)?;
    *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some(Request { kind: u16_at(whole, 4)?, flags: u16_at(whole, 6)?, sequence: u32_at(whole, 8), whole, payload: whole.get(HEADER..)? })
}

/// The attribute `kind` behind a family's header of `skip` bytes.
pub(super) fn attribute(payload: &[u8], skip: usize, kind: u16) -> Option<&[u8]> {
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = payload.get(skip..)?;
    while let (Some(len), Some(found)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(4..usize::from(len))?;
        if found & TYPE_MASK == kind {
            return Some(value);
        }
        rest = rest.get(usize::from(len).next_multiple_of(4)..)?;
    }
    None
}

/// Answers to one request, packed into datagrams.
pub(super) struct Answers {
    pub datagrams: Vec<Vec<u8>>,
    sequence: u32,
    port: u32,
    flags: u16,
}

impl Answers {
    /// To a socket with this port; `flags` are `NLM_F_MULTI` for a dump.
    pub fn new(request: &Request<'_>, port: u32, flags: u16) -> Answers {
        Answers { datagrams: Vec::new(), sequence: request.sequence, port, flags }
    }
    /// Adds a message: the family's header and attributes.
    pub fn push(&mut self, kind: u16, payload: &[u8]) {
        let len = HEADER + payload.len();
        if self.datagrams.last().is_none_or(|last| last.len() + len > DATAGRAM_LEN) {
            self.datagrams.push(Vec::new());
        }
        let Some(datagram) = self.datagrams.last_mut() else { return };
        datagram.extend_from_slice(&(len as u32).to_ne_bytes());
        datagram.extend_from_slice(&kind.to_ne_bytes());
        datagram.extend_from_slice(&self.flags.to_ne_bytes());
        datagram.extend_from_slice(&self.sequence.to_ne_bytes());
        datagram.extend_from_slice(&self.port.to_ne_bytes());
        datagram.extend_from_slice(payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }
    /// The end of a dump.
    pub fn done(&mut self) {
        self.push(NLMSG_DONE, &0i32.to_ne_bytes());
    }
    /// `NLMSG_ERROR`: an error with the request that it is about, or success with its header alone.
    pub fn error(&mut self, request: &Request<'_>, result: Result<(), Errno>) {
        let number = -result.err().map_or(0, Errno::raw);
        let about = if number == 0 { request.whole.get(..HEADER).unwrap_or_default() } else { request.whole };
        self.push(NLMSG_ERROR, &[&number.to_ne_bytes()[..], about].concat());
    }
}

/// A message from the kernel that nobody asked for.
pub(super) fn event(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = HEADER + payload.len();
    let mut bytes = (len as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend_from_slice(payload);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

/// Attributes being put together behind a family's header.
pub(super) struct Payload(pub Vec<u8>);

impl Payload {
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = 4 + value.len();
        self.0.extend_from_slice(&(len as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
    pub fn word(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }
    /// A string with its NUL.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_that_do_not_fit_are_not_there() {
        let mut good = Vec::new();
        good.extend_from_slice(&24u32.to_ne_bytes());
        good.extend_from_slice(&[18, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        good.extend_from_slice(&[8, 0, 3, 0, 1, 2, 3, 4]);
        let mut bytes = &good[..];
        let request = next(&mut bytes).unwrap();
        assert_eq!((request.kind, request.flags, request.sequence, bytes.len()), (18, 5, 9, 0));
        assert_eq!(attribute(request.payload, 0, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(request.payload, 0, 4), None);
        for len in 0..24 {
            assert!(next(&mut &good[..len]).is_none());
        }
        for len in [0u32, 15, 25, u32::MAX] {
            good[..4].copy_from_slice(&len.to_ne_bytes());
            assert!(next(&mut &good[..]).is_none());
        }
        assert_eq!(attribute(&[0, 0, 3, 0], 0, 3), None, "a length of zero does not go round for ever");
    }

    #[test]
    fn a_dump_is_cut_into_datagrams_and_ends() {
        let bytes = [&16u32.to_ne_bytes()[..], &[18, 0, 1, 3, 7, 0, 0, 0, 0, 0, 0, 0]].concat();
        let request = next(&mut &bytes[..]).unwrap();
        let mut answers = Answers::new(&request, 5, NLM_F_MULTI);
        for _ in 0..20 {
            answers.push(16, &[0; 500]);
        }
        answers.done();
        assert!(answers.datagrams.len() >= 3 && answers.datagrams.iter().all(|d| d.len() <= DATAGRAM_LEN));
        let kinds: Vec<u16> = answers
            .datagrams
            .iter()
            .flat_map(|d| {
                let mut rest = &d[..];
                std::iter::from_fn(move || next(&mut rest)).map(|m| m.kind).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!((kinds.len(), kinds[20]), (21, NLMSG_DONE));
    }
}
