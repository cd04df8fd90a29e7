//! Numbers at fixed places of on-disk structures.
//!
//! Always true: no place is out of bounds. A read past the end of a buffer gives 0 and a write there changes nothing, so a length that
//! an image lies about can spoil an answer but not the kernel; who needs to know checks the length itself.

macro_rules! fields {
    ($($get:ident $put:ident $type:ty, $from:ident $to:ident;)*) => {$(
        pub(crate) fn $get(bytes: &[u8], at: usize) -> $type {
            const LEN: usize = size_of::<$type>();
            match at.checked_add(LEN).and_then(|end| bytes.get(at..end)) {
                Some(field) => {
                    let mut raw = [0; LEN];
                    raw.copy_from_slice(field);
                    <$type>::$from(raw)
                }
                None => 0,
            }
        }

        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $type) {
            if let Some(field) = at.checked_add(size_of::<$type>()).and_then(|end| bytes.get_mut(at..end)) {
                field.copy_from_slice(&value.$to());
            }
        }
    )*};
}

fields! {
    le16 put_le16 u16, from_le_bytes to_le_bytes;
    le32 put_le32 u32, from_le_bytes to_le_bytes;
    le64 put_le64 u64, from_le_bytes to_le_bytes;
    be16 put_be16 u16, from_be_bytes to_be_bytes;
    be32 put_be32 u32, from_be_bytes to_be_bytes;
    be64 put_be64 u64, from_be_bytes to_be_bytes;
}

/// One byte; 0 past the end.
pub(crate) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Sets one byte; nothing past the end.
pub(crate) fn put_byte(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(b) = bytes.get_mut(at) {
        *b = value;
    }
}

/// `len` bytes at `at`, or as many of them as there are.
pub(crate) fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let start = at.min(bytes.len());
    let end = at.saturating_add(len).min(bytes.len());
    bytes.get(start..end).unwrap_or(&[])
}

/// Copies `from` to `at`, cut at the end of the buffer.
pub(crate) fn put_part(bytes: &mut [u8], at: usize, from: &[u8]) {
    let start = at.min(bytes.len());
    let len = from.len().min(bytes.len() - start);
    bytes[start..start + len].copy_from_slice(&from[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_past_the_end_is_touched() {
        let mut buffer = [0xff; 6];
        assert_eq!((le32(&buffer, 4), le16(&buffer, 4), le64(&buffer, usize::MAX)), (0, 0xffff, 0));
        put_le32(&mut buffer, 4, 0);
        put_part(&mut buffer, 5, &[1, 2, 3]);
        put_part(&mut buffer, 50, &[1, 2, 3]);
        assert_eq!(buffer, [0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(part(&buffer, 4, 10), &[0xff, 1]);
        assert_eq!(part(&buffer, 40, 10), &[] as &[u8]);
    }
}
