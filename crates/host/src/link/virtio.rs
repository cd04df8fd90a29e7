//! The virtio network header that taps and packet sockets put in front of a frame (virtio 1.2, 5.1.6.1; little-endian).

use crate::tun::VIRTIO_HEADER_LEN;
use platform::{FrameChecksum, FrameSegments, HostFrame};

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Explicit congestion notification, beside the type.
const GSO_ECN: u8 = 0x80;

/// The header for a frame.
pub(super) fn header(frame: &HostFrame) -> [u8; VIRTIO_HEADER_LEN] {
    let mut header = [0; VIRTIO_HEADER_LEN];
    if let FrameChecksum::Partial { start, offset } = frame.checksum {
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        if let Some(segments) = frame.segments {
            header[1] = if segments.v6 { GSO_TCP6 } else { GSO_TCP4 };
            // Headers end with TCP's, whose length is in the upper half of its 13th byte.
            let tcp_len = frame.bytes().get(usize::from(start) + 12).map_or(20, |byte| u16::from(byte >> 4) * 4);
            header[2..4].copy_from_slice(&start.saturating_add(tcp_len).to_le_bytes());
            header[4..6].copy_from_slice(&segments.size.to_le_bytes());
        }
    }
    header
}

/// A frame with its header in front. `None` when it is too short, or is to be cut in a way that we never offered.
pub(super) fn parse(bytes: &[u8]) -> Option<HostFrame> {
    let (header, data) = bytes.split_first_chunk::<VIRTIO_HEADER_LEN>()?;
    let [flags, kind, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high] = *header;
    let mut frame = HostFrame::copy_of(data);
    if flags & NEEDS_CHECKSUM != 0 {
        let (start, offset) = (u16::from_le_bytes([start_low, start_high]), u16::from_le_bytes([offset_low, offset_high]));
        frame.checksum = FrameChecksum::Partial { start, offset };
    } else if flags & DATA_VALID != 0 {
        frame.checksum = FrameChecksum::Verified;
    }
    let size = u16::from_le_bytes([size_low, size_high]);
    frame.segments = match kind & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCP4 | GSO_TCP6 if size > 0 => Some(FrameSegments { v6: kind & !GSO_ECN == GSO_TCP6, size }),
        _ => return None,
    };
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_frame_survives_its_header() {
        let mut frame = HostFrame::copy_of(&[0x50; 100]);
        for (checksum, segments) in [
            (FrameChecksum::InData, None),
            (FrameChecksum::Partial { start: 34, offset: 16 }, None),
            (FrameChecksum::Partial { start: 54, offset: 16 }, Some(FrameSegments { v6: true, size: 1428 })),
        ] {
            (frame.checksum, frame.segments) = (checksum, segments);
            let bytes = [&header(&frame)[..], frame.bytes()].concat();
            let came = parse(&bytes).unwrap();
            assert_eq!((came.bytes(), came.checksum, came.segments), (frame.bytes(), checksum, segments));
        }
        assert_eq!(header(&frame)[2..4], 74u16.to_le_bytes());
    }

    #[test]
    fn headers_that_promise_the_unknown_are_refused() {
        assert_eq!(parse(&[0; 9]), None);
        assert_eq!(parse(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(parse(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]), None, "segments of no size");
        assert_eq!(parse(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap().checksum, FrameChecksum::Verified);
    }
}
