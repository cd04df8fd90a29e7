//! The hashes of htree directories: half MD4, TEA and the legacy one, each over signed or unsigned characters.
//!
//! Not here: SipHash, which belongs to encrypted and case-folded directories.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst` for what is stored; the algorithms are MD4 (RFC 1320) with fewer steps and
//! TEA (Wheeler and Needham, 1994).

/// How a directory's names are hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HashKind {
    /// 0 legacy, 1 half MD4, 2 TEA.
    pub(crate) version: u8,
    pub(crate) unsigned: bool,
}

/// The hash that orders a directory, and a second one that tells equal ones apart. The first one's lowest bit is always clear.
pub(crate) fn hash(name: &[u8], kind: HashKind, seed: &[u32; 4]) -> Option<(u32, u32)> {
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if seed.iter().any(|&word| word != 0) {
        state = *seed;
    }
    let (major, minor) = match kind.version {
        0 => (legacy(name, kind.unsigned), 0),
        1 => {
            for (i, _) in name.iter().enumerate().step_by(32) {
                half_md4(&mut state, &words::<8>(&name[i..], kind.unsigned));
            }
            (state[1], state[2])
        }
        2 => {
            for (i, _) in name.iter().enumerate().step_by(16) {
                tea(&mut state, &words::<4>(&name[i..], kind.unsigned));
            }
            (state[0], state[1])
        }
        _ => return None,
    };
    let major = major & !1;
    // The largest value means the end of a directory.
    Some((if major == 0xffff_fffe { 0xffff_fffc } else { major }, minor))
}

fn character(byte: u8, unsigned: bool) -> u32 {
    if unsigned { u32::from(byte) } else { byte as i8 as u32 }
}

fn words<const N: usize>(rest: &[u8], unsigned: bool) -> [u32; N] {
    let len = rest.len() as u32;
    let pad = len | len << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; N];
    for (word, chunk) in words.iter_mut().zip(rest.chunks(4)) {
        for &byte in chunk {
            *word = character(byte, unsigned).wrapping_add(*word << 8);
        }
    }
    words
}

fn legacy(name: &[u8], unsigned: bool) -> u32 {
    let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
    for &byte in name {
        let mut next = before.wrapping_add(last ^ character(byte, unsigned).wrapping_mul(7_152_373));
        if next & 0x8000_0000 != 0 {
            next = next.wrapping_sub(0x7fff_ffff);
        }
        before = last;
        last = next;
    }
    last << 1
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    const ROUNDS: [([usize; 8], [u32; 4], u32); 3] = [
        ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19], 0),
        ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13], 0x5a82_7999),
        ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15], 0x6ed9_eba1),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (round, (order, shifts, constant)) in ROUNDS.iter().enumerate() {
        for (step, &index) in order.iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(input[index]).wrapping_add(*constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let (mut x, mut y, mut sum) = (state[0], state[1], 0u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        x = x.wrapping_add((y << 4).wrapping_add(key[0]) ^ y.wrapping_add(sum) ^ (y >> 5).wrapping_add(key[1]));
        y = y.wrapping_add((x << 4).wrapping_add(key[2]) ^ x.wrapping_add(sum) ^ (x >> 5).wrapping_add(key[3]));
    }
    state[0] = state[0].wrapping_add(x);
    state[1] = state[1].wrapping_add(y);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_debugfs_says() {
        let long = "a name that is longer than thirty-two characters, by far";
        let cases: [(u8, &str, u32, u32); 9] = [
            (0, "hello", 0x3225_2546, 0),
            (0, long, 0xda65_78e0, 0),
            (0, "grüße", 0xcc69_faba, 0),
            (1, "hello", 0x1746_da32, 0x4200_13b5),
            (1, long, 0xf275_8528, 0x6632_e55e),
            (1, "grüße", 0xd75e_0ad8, 0xfefc_474e),
            (2, "hello", 0x6f5b_b1a8, 0x2319_17c2),
            (2, long, 0x689e_2990, 0x632e_abe9),
            (2, "grüße", 0xc271_df04, 0x8fb0_97d8),
        ];
        for (version, name, major, minor) in cases {
            let kind = HashKind { version, unsigned: false };
            assert_eq!(hash(name.as_bytes(), kind, &[0; 4]), Some((major, minor)), "{version} {name}");
        }
        // The seed is stored as the little-endian words of a UUID.
        let uuid = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xefu8];
        let words: Vec<u32> = uuid.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        assert_eq!(
            hash(b"hello", HashKind { version: 1, unsigned: false }, &[words[0], words[1], words[2], words[3]]),
            Some((0xa26e_4a80, 0x97e5_b7f7))
        );
        assert_eq!(hash(b"x", HashKind { version: 6, unsigned: false }, &[0; 4]), None);
    }
}
