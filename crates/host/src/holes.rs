//! Holes planted in the wall, so that the house can see that its attacks find them. They exist only in a build with the feature `holes`, which builds
//! without debug assertions refuse; in all others [`open`] is a constant "no", and nothing of them is compiled.
//!
//! `UMLAUT_HOLE` names the one that is open.

#[cfg(all(feature = "holes", not(debug_assertions)))]
compile_error!("the feature `holes` is for tests of debug builds only");

/// A hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hole {
    /// The filter of guest threads lets every call through whose instruction lies in the stub's range.
    AddressRange,
    /// The filter lets every call through at the address where a newborn unblocks its signals.
    SetUpAddress,
    /// Stubs can write their command pages.
    CommandPage,
    /// A stub is given back while threads of the old guest run, and before its memory is unmapped.
    LiveThread,
}

#[cfg(feature = "holes")]
pub fn open(hole: Hole) -> bool {
    let name = match hole {
        Hole::AddressRange => "address-range",
        Hole::SetUpAddress => "set-up-address",
        Hole::CommandPage => "command-page",
        Hole::LiveThread => "live-thread",
    };
    std::env::var("UMLAUT_HOLE").is_ok_and(|wanted| wanted == name)
}

#[cfg(not(feature = "holes"))]
#[inline(always)]
pub const fn open(_: Hole) -> bool {
    false
}
