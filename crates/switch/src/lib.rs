//! The virtual switch: the protocol by which machines get a port, and the forwarding of their frames.
//!
//! * [`protocol`]: the control connection's messages, versions 0 to 3, both directions, for the switch and for the machine's side;
//! * [`forwarding`]: which port a frame goes to: learning, ageing, hub mode.
//!
//! What it is not: sockets, or time. Who owns them asks here.
//!
//! Protocol: "UML networking: the switch daemon" in the UML documentation, and recorded conversations with Debian's `uml_switch`.
#![forbid(unsafe_code)]

pub mod forwarding;
pub mod protocol;
