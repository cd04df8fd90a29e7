//! The management console's protocol: what travels between a machine and `uml_mconsole`, and what is decided from it.
//!
//! * [`packet`]: requests, replies and notifications as datagrams, byte for byte;
//! * [`command`]: the thirteen commands and how a text becomes one of them;
//! * [`server`]: the machine's side: datagram in, datagrams out, the work done by a [`server::Machine`];
//! * [`devices`]: what `config` and `remove` work on: kinds of devices, each behind one trait;
//! * [`client`]: the other side: where a machine's socket is, what is rewritten before it is sent.
//!
//! What it is not: sockets. Who owns the descriptor sends and receives.
//!
//! There is no standard. The UML documentation describes the commands, and recorded conversations with UML the bytes.
#![forbid(unsafe_code)]

pub mod client;
pub mod command;
pub mod devices;
pub mod packet;
pub mod server;
