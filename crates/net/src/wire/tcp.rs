//! The TCP header and its options (RFC 9293 3.1, RFC 7323, RFC 2018).

use super::{Malformed, array, be16, be32, put};
use crate::tcp::seq::Seq;

/// Bytes in a header without options.
pub const HEADER_LEN: usize = 20;
/// Most bytes of header with options.
pub const MAX_HEADER_LEN: usize = 60;

/// The control bits, RFC 9293 3.1 and RFC 3168.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// Whether all of `other` are set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These but not those.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl core::fmt::Debug for Flags {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (bit, letter) in ["F", "S", "R", "P", ".", "U", "E", "W"].iter().enumerate() {
            if self.0 & 1 << bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Up to four blocks of a SACK option.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); 4],
    len: u8,
}

impl SackBlocks {
    /// Appends a block; a fifth is dropped.
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(block) = self.blocks.get_mut(usize::from(self.len)) {
            *block = (left, right);
            self.len += 1;
        }
    }

    /// Keeps the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.len = self.len.min(count as u8);
    }

    /// The blocks in order.
    #[must_use]
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.len)]
    }
}

/// The options that this stack speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale shift as sent, not clamped.
    pub window_scale: Option<u8>,
    /// SACK is permitted.
    pub sack_permitted: bool,
    /// Timestamp value and echo.
    pub timestamps: Option<(u32, u32)>,
    /// Selective acknowledgements.
    pub sack: SackBlocks,
}

impl TcpOptions {
    /// Reads options; a malformed one ends the list, as Linux has it.
    #[must_use]
    pub fn parse(mut bytes: &[u8], syn: bool) -> TcpOptions {
        let mut options = TcpOptions::default();
        while let Some(&kind) = bytes.first() {
            let len = match kind {
                0 => break,
                1 => 1,
                _ => match bytes.get(1) {
                    Some(&len) if len >= 2 => usize::from(len),
                    _ => break,
                },
            };
            let Some(option) = bytes.get(..len) else { break };
            match (kind, len) {
                (2, 4) if syn => options.mss = be16(option, 2),
                (3, 3) if syn => options.window_scale = Some(option[2]),
                (4, 2) if syn => options.sack_permitted = true,
                (5, 10..) if (len - 2) % 8 == 0 => {
                    for block in option[2..].chunks_exact(8) {
                        if let (Some(left), Some(right)) = (be32(block, 0), be32(block, 4)) {
                            options.sack.push(Seq(left), Seq(right));
                        }
                    }
                }
                (8, 10) => options.timestamps = be32(option, 2).zip(be32(option, 6)),
                _ => {}
            }
            bytes = &bytes[len..];
        }
        options
    }

    /// Bytes of these options, a multiple of four.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut len = 0;
        len += if self.mss.is_some() { 4 } else { 0 };
        len += if self.window_scale.is_some() { 4 } else { 0 };
        len += match (self.timestamps.is_some(), self.sack_permitted) {
            (true, _) => 12,
            (false, true) => 4,
            (false, false) => 0,
        };
        if !self.sack.as_slice().is_empty() {
            len += 4 + 8 * self.sack.as_slice().len();
        }
        len
    }

    /// Whether there is no option.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes [`TcpOptions::len`] bytes in Linux's order: MSS, SACK permitted and timestamps in three words, window scale, SACK.
    pub fn emit(&self, out: &mut [u8]) {
        let mut at = 0;
        let mut word = |bytes: &[u8]| {
            put(out, at, bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            word(&[2, 4, high, low]);
        }
        match (self.timestamps, self.sack_permitted) {
            (Some((value, echo)), sack) => {
                word(if sack { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
                word(&value.to_be_bytes());
                word(&echo.to_be_bytes());
            }
            (None, true) => word(&[1, 1, 4, 2]),
            (None, false) => {}
        }
        if let Some(shift) = self.window_scale {
            word(&[1, 3, 3, shift]);
        }
        let blocks = self.sack.as_slice();
        if !blocks.is_empty() {
            word(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (left, right) in blocks {
                word(&left.0.to_be_bytes());
                word(&right.0.to_be_bytes());
            }
        }
    }
}

/// A TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte, or of the SYN.
    pub seq: Seq,
    /// Next sequence number that the sender expects.
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Window, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: TcpOptions,
}

impl TcpHeader {
    /// Bytes of this header with its options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Reads a header; answers it and where the payload starts. The checksum is the caller's business.
    pub fn parse(bytes: &[u8]) -> Result<(TcpHeader, usize), Malformed> {
        if bytes.len() < HEADER_LEN {
            return Err(Malformed::Truncated);
        }
        let len = usize::from(bytes[12] >> 4) * 4;
        if len < HEADER_LEN {
            return Err(Malformed::Header);
        }
        let flags = Flags(bytes[13]);
        let options = TcpOptions::parse(bytes.get(HEADER_LEN..len).ok_or(Malformed::Truncated)?, flags.has(Flags::SYN));
        let fields = || {
            Some(TcpHeader {
                src_port: be16(bytes, 0)?,
                dst_port: be16(bytes, 2)?,
                seq: Seq(be32(bytes, 4)?),
                ack: Seq(be32(bytes, 8)?),
                flags,
                window: be16(bytes, 14)?,
                urgent: be16(bytes, 18)?,
                options,
            })
        };
        Ok((fields().ok_or(Malformed::Truncated)?, len))
    }

    /// Writes [`TcpHeader::header_len`] bytes with a zero checksum.
    pub fn emit(&self, out: &mut [u8]) {
        put(out, 0, &self.src_port.to_be_bytes());
        put(out, 2, &self.dst_port.to_be_bytes());
        put(out, 4, &self.seq.0.to_be_bytes());
        put(out, 8, &self.ack.0.to_be_bytes());
        put(out, 12, &[(self.header_len() / 4) as u8 * 16, self.flags.0]);
        put(out, 14, &self.window.to_be_bytes());
        put(out, 16, &[0, 0]);
        put(out, 18, &self.urgent.to_be_bytes());
        if let Some(room) = out.get_mut(HEADER_LEN..) {
            self.options.emit(room);
        }
    }
}

/// The four bytes at the start that an ICMP error always quotes: source port, destination port.
#[must_use]
pub fn quoted_ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = array(bytes, 0)?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_is_read_back() {
        let mut sack = SackBlocks::default();
        sack.push(Seq(100), Seq(200));
        sack.push(Seq(300), Seq(400));
        for options in [
            TcpOptions::default(),
            TcpOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps: Some((1, 2)), ..Default::default() },
            TcpOptions { mss: Some(536), sack_permitted: true, ..Default::default() },
            TcpOptions { timestamps: Some((1, 2)), sack, ..Default::default() },
        ] {
            let flags = if options.mss.is_some() { Flags::SYN } else { Flags::ACK };
            let header = TcpHeader { src_port: 1, dst_port: 2, seq: Seq(3), ack: Seq(4), flags, window: 5, urgent: 6, options };
            let mut bytes = vec![0; header.header_len() + 3];
            header.emit(&mut bytes);
            assert_eq!(TcpHeader::parse(&bytes), Ok((header, header.header_len())));
        }
    }

    #[test]
    fn malformed_options_end_the_list() {
        for bytes in [&[2u8, 0, 0][..], &[2, 1], &[2], &[8, 40, 1], &[5, 2], &[5, 255, 1]] {
            assert_eq!(TcpOptions::parse(bytes, true), TcpOptions::default(), "{bytes:?}");
        }
        assert_eq!(TcpOptions::parse(&[1, 1, 1, 2, 4, 5, 0xb4, 0, 3, 3, 7], true).mss, Some(1460));
        assert_eq!(TcpOptions::parse(&[2, 4, 5, 0xb4], false).mss, None, "the MSS counts in a SYN only");
    }
}
