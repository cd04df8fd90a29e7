//! Readiness, as poll(2) names it.

bitflags::bitflags! {
    /// What a file is ready for. The values are those of poll(2) and epoll(7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Events: u32 {
        /// Data to read.
        const IN = 0x001;
        /// Urgent data.
        const PRI = 0x002;
        /// Room to write.
        const OUT = 0x004;
        /// An error is pending; always reported.
        const ERR = 0x008;
        /// The other side hung up; always reported.
        const HUP = 0x010;
        /// Not an open descriptor (poll(2) only).
        const NVAL = 0x020;
        /// Normal data to read.
        const RDNORM = 0x040;
        /// Priority band data to read.
        const RDBAND = 0x080;
        /// Room for normal data.
        const WRNORM = 0x100;
        /// Room for priority data.
        const WRBAND = 0x200;
        /// A STREAMS message; never set by Linux.
        const MSG = 0x400;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

/// Somebody who wants to be told of events without sleeping: epoll instances, signal-driven I/O.
///
/// Called with the queue's short lock released, on whatever thread caused the event; it must not sleep.
pub trait Observer: Send + Sync {
    /// `events` happened on the observed queue (empty means: look for yourself).
    fn notify(&self, events: Events);
}
