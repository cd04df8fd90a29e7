//! Network interfaces' ends in the host: frames in, frames out, and a word when there is something to do.
//!
//! What it is not: the guest's interface (`net`), or what the frames mean. Whoever implements [`HostLink`] has queues and threads of its own:
//! no call here waits for anything.

use abi::Errno;
use std::sync::Arc;
use sync::Observer;

/// How far the transport checksum of a frame has come (the flags of a virtio network header).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FrameChecksum {
    /// In the bytes; nobody has looked.
    #[default]
    InData,
    /// In the bytes, and known to be good.
    Verified,
    /// To be finished: sum from `start` bytes behind the beginning of the frame to its end, into the field `offset` bytes behind `start`.
    Partial {
        /// From the frame's first byte.
        start: u16,
        /// From `start` to the field.
        offset: u16,
    },
}

/// The frame is one TCP packet that stands for several segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameSegments {
    /// Of IPv6 rather than IPv4.
    pub v6: bool,
    /// Bytes of payload in each segment but the last.
    pub size: u16,
}

/// An Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFrame {
    /// Headroom and the frame.
    pub buffer: Vec<u8>,
    /// Where in `buffer` the frame starts.
    pub start: usize,
    /// State of its transport checksum; partial only where [`LinkOffload::checksum`] was offered.
    pub checksum: FrameChecksum,
    /// Only where [`LinkOffload::segment_bytes`] was offered.
    pub segments: Option<FrameSegments>,
}

/// Bytes in front of a frame that the receiver's stack has use for.
pub const FRAME_HEADROOM: usize = 32;

impl HostFrame {
    /// A copy of these bytes, with headroom.
    #[must_use]
    pub fn copy_of(frame: &[u8]) -> HostFrame {
        let mut buffer = Vec::with_capacity(FRAME_HEADROOM + frame.len());
        buffer.resize(FRAME_HEADROOM, 0);
        buffer.extend_from_slice(frame);
        HostFrame { buffer, start: FRAME_HEADROOM, ..HostFrame::default() }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

/// What a link does for its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkOffload {
    /// It takes partial checksums.
    pub checksum: bool,
    /// Longest TCP packet that it cuts into segments, bytes; 0: none.
    pub segment_bytes: usize,
}

/// A way for Ethernet frames to leave the machine, and to come in.
///
/// It is closed at first. Its observer hears `IN` when frames have arrived, `OUT` when there is room again after [`HostLink::send`] refused a
/// frame, and `HUP` when [`HostLink::is_connected`] has changed. The observer may run the guest's whole stack: no lock that another call of this
/// trait takes may be held while it is told.
pub trait HostLink: Send + Sync {
    /// What it does for its sender. May change only while it is closed.
    fn offload(&self) -> LinkOffload {
        LinkOffload::default()
    }
    /// The interface goes up. Takes no longer than making a socket; what takes longer happens later, and [`HostLink::is_connected`] tells of it.
    fn open(&self) -> Result<(), Errno>;
    /// The interface goes down. Frames that wait may be forgotten. Nothing when it is closed already.
    fn close(&self);
    /// Whether frames can go.
    fn is_connected(&self) -> bool {
        true
    }
    /// Takes a frame to send, or gives it back when there is no room for it now. What is sent before the link is connected may wait for that;
    /// what is sent later, when it is cut, is lost.
    fn send(&self, frame: HostFrame) -> Result<(), HostFrame>;
    /// The next frame that arrived.
    fn receive(&self) -> Option<HostFrame>;
    /// Who is told. Called once, before the first [`HostLink::open`].
    fn observe(&self, observer: Arc<dyn Observer>);
    /// Counters of its own, by their names in `ethtool -S`.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
