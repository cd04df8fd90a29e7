//! What kind of character a byte is, as the kernel's terminal code sees it: ASCII with Latin-1 above it, whatever the locale.

/// Whether the byte is a C0 control character or DEL. The C1 range is not counted.
pub(crate) fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// Whether the byte is a Latin-1 letter.
fn is_alpha(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || (byte >= 0xc0 && byte != 0xd7 && byte != 0xf7)
}

/// Whether the byte belongs to a word for WERASE: letters, digits, underscore.
pub(crate) fn is_word(byte: u8) -> bool {
    is_alpha(byte) || byte.is_ascii_digit() || byte == b'_'
}

/// OLCUC: the upper-case letter of a Latin-1 lower-case one.
pub(crate) fn to_upper(byte: u8) -> u8 {
    let lower = byte.is_ascii_lowercase() || (byte >= 0xdf && byte != 0xf7);
    if lower { byte.wrapping_sub(0x20) } else { byte }
}

/// IUCLC: the lower-case letter of a Latin-1 upper-case one.
pub(crate) fn to_lower(byte: u8) -> u8 {
    let upper = byte.is_ascii_uppercase() || ((0xc0..=0xde).contains(&byte) && byte != 0xd7);
    if upper { byte + 0x20 } else { byte }
}

/// Whether the byte continues a UTF-8 character.
pub(crate) fn is_utf8_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}
