//! Numbers that outsiders must not guess: a keyed hash (SipHash-2-4, Aumasson and Bernstein 2012) and a generator made of it.
//!
//! The key comes from whoever makes the stack; in tests it is fixed, and every run is the same.

use core::net::IpAddr;

/// SipHash-2-4 over `bytes`.
#[must_use]
pub fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v =
        [key[0] ^ 0x736f_6d65_7073_6575, key[1] ^ 0x646f_7261_6e64_6f6d, key[0] ^ 0x6c79_6765_6e65_7261, key[1] ^ 0x7465_6462_7974_6573];
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        absorb(&mut v, u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    }
    let mut last = [0u8; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    last[7] = bytes.len() as u8;
    absorb(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// The stack's secret and its stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u64; 2],
    counter: u64,
}

impl Random {
    /// A stream from a secret key.
    #[must_use]
    pub fn new(key: [u64; 2]) -> Random {
        Random { key, counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        siphash(self.key, &self.counter.to_le_bytes())
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// The keyed hash of two endpoints, for what must be the same for one flow and unguessable from outside.
    #[must_use]
    pub fn flow(&self, purpose: u8, a: (IpAddr, u16), b: (IpAddr, u16), extra: u64) -> u64 {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(purpose);
        for (address, port) in [a, b] {
            match address {
                IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
            }
            bytes.extend_from_slice(&port.to_be_bytes());
        }
        bytes.extend_from_slice(&extra.to_be_bytes());
        siphash(self.key, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_siphash_paper_comes_out() {
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908], &bytes), 0xa129_ca61_49be_45e5);
    }
}
