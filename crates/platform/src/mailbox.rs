//! Where the host's programs reach the machine: the management console's socket.

use abi::Errno;

/// Who sent a datagram: the address as the host gave it. Empty for a sender without one, who can't be answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailAddress(pub Vec<u8>);

/// A datagram socket of the host that belongs to the machine.
///
/// Both calls may wait in the host: they are for a thread of the console's own, never for a virtual CPU.
pub trait HostMailbox: Send + Sync {
    /// Waits for the next datagram of the machine's owner or the host's root; what others send is thrown away unread. A longer datagram than
    /// `buffer` is cut. ECANCELED when the machine ends.
    fn receive(&self, buffer: &mut [u8]) -> Result<(usize, MailAddress), Errno>;
    /// Answers. It waits for a receiver that is slow, for a second or two: EAGAIN when that did not help. ECONNREFUSED, ENOENT when nobody is there.
    fn send(&self, to: &MailAddress, datagram: &[u8]) -> Result<(), Errno>;
}
