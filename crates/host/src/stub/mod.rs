//! Guest code in stub processes, with seccomp notifications as the hand-over, or signals where the host lacks what those need: the design's
//! section 3.
//!
//! * `layout`: what lies where. `code`: the stub's code. `filter`: what the host lets it do. `template`: where stubs come from.
//! * `space`: a stub and the pool of them. `thread`: running one guest thread. `listener`: the kernel's end of
//!   a thread. `notify`: the host's interface.
//!
//! The wall rests on four things, each attacked by tests: filters know exact instruction addresses and exact arguments; a thread that is born
//! beside running guest code touches no memory that guest code can write until its filter is on; nothing that guest code can write decides
//! anything but that guest's own fate; and a stub serves another guest only when every thread of it is proved stopped.

mod code;
mod filter;
mod layout;
mod listener;
mod notify;
mod space;
mod template;
mod thread;

pub use listener::HandOver;
pub use notify::probe as probe_notifications;
pub use space::{Counters, HAND_OVER_SIGNALS, Stubs, guest_process_limit};
pub use template::unregister_rseq;
