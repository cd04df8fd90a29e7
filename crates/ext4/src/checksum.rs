//! The checksums of ext4 and jbd2: CRC-32C (metadata_csum, journal v2 and v3), CRC-16 (uninit_bg), CRC-32 big-endian (journal v1).
//!
//! All three are raw remainders: the caller passes the previous value and nothing is inverted at the end, as Linux's helpers do.

const CRC32C: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut t = 1;
    while t < 8 {
        let mut i = 0;
        while i < 256 {
            let crc = tables[t - 1][i];
            tables[t][i] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            i += 1;
        }
        t += 1;
    }
    tables
};

/// CRC-32C (Castagnoli, reflected), continuing from `crc`.
pub(crate) fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let low = crc ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        let high = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        crc = CRC32C[7][(low & 0xff) as usize]
            ^ CRC32C[6][(low >> 8 & 0xff) as usize]
            ^ CRC32C[5][(low >> 16 & 0xff) as usize]
            ^ CRC32C[4][(low >> 24) as usize]
            ^ CRC32C[3][(high & 0xff) as usize]
            ^ CRC32C[2][(high >> 8 & 0xff) as usize]
            ^ CRC32C[1][(high >> 16 & 0xff) as usize]
            ^ CRC32C[0][(high >> 24) as usize];
    }
    for &byte in chunks.remainder() {
        crc = (crc >> 8) ^ CRC32C[0][((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    crc
}

/// CRC-16 (polynomial 0x8005, reflected), continuing from `crc`.
pub(crate) fn crc16(mut crc: u16, bytes: &[u8]) -> u16 {
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0xa001 } else { crc >> 1 };
        }
    }
    crc
}

const CRC32_BE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 != 0 { (crc << 1) ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// CRC-32 (polynomial 0x04c11db7, most significant bit first), continuing from `crc`.
pub(crate) fn crc32_be(mut crc: u32, bytes: &[u8]) -> u32 {
    for &byte in bytes {
        crc = (crc << 8) ^ CRC32_BE[((crc >> 24) as u8 ^ byte) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogue_come_out() {
        let digits = b"123456789";
        assert_eq!(!crc32c(!0, digits), 0xe306_9283);
        assert_eq!(crc16(0xffff, digits), 0x4b37);
        assert_eq!(!crc32_be(!0, digits), 0xfc89_1918);
    }

    #[test]
    fn a_checksum_may_be_taken_in_pieces() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in [0, 1, 7, 8, 9, 50, 100] {
            assert_eq!(crc32c(crc32c(!0, &bytes[..cut]), &bytes[cut..]), crc32c(!0, &bytes));
        }
    }
}
