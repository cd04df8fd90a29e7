//! The Internet checksum (RFC 1071), with pseudo headers (RFC 9293 3.1, RFC 8200 8.1) and incremental update (RFC 1624).

use core::net::IpAddr;

/// A running ones'-complement sum over big-endian 16-bit words.
///
/// Every piece but the last must have an even length.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[must_use]
    pub fn new() -> Sum {
        Sum(0)
    }

    /// The pseudo header of TCP, UDP and ICMPv6 for a segment of `len` bytes. Mixed families sum to the IPv4 form, and never match.
    #[must_use]
    pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::new().with(&src.octets()).with(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::new().with(&src.octets()).with(&dst.octets()),
            _ => Sum::new(),
        };
        sum.with(&(len as u32).to_be_bytes()).with(&u32::from(protocol).to_be_bytes())
    }

    /// Adds `bytes`, padded with a zero byte when their count is odd.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Sum {
        let mut total = self.0;
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let tail = words.remainder();
        let mut last = [0u8; 4];
        last[..tail.len()].copy_from_slice(tail);
        total += u64::from(u32::from_be_bytes(last));
        // Fold at once, so that any number of pieces can't overflow.
        total = (total & 0xffff_ffff) + (total >> 32);
        Sum(total)
    }

    /// The sum folded to 16 bits, not complemented: what a checksum field holds while a device is to finish it.
    #[must_use]
    pub fn folded(self) -> u16 {
        let mut total = self.0;
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// The checksum field's value.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// Whether data that includes its own checksum field is intact.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().with(bytes).finish()
}

/// The checksum after a covered 16-bit word went from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub fn adjust(check: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!check) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(Sum::new().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn an_odd_tail_is_padded_with_zero() {
        assert_eq!(checksum(&[1, 2, 3]), checksum(&[1, 2, 3, 0]));
        assert_eq!(checksum(&[1, 2, 3, 4, 5]), checksum(&[1, 2, 3, 4, 5, 0]));
    }

    #[test]
    fn an_incremental_update_equals_a_new_sum() {
        let mut bytes = [0x45, 0, 0, 84, 0x12, 0x34, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let before = checksum(&bytes);
        bytes[8] = 63;
        assert_eq!(adjust(before, 0x4001, 0x3f01), checksum(&bytes));
    }
}
