//! Sequence numbers: 32 bits that wrap (RFC 9293 3.4).

use core::ops::{Add, AddAssign, Sub};

/// A sequence number. Comparisons are modular: they hold while the two are within 2^31 of each other.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Before `other`.
    #[must_use]
    pub fn before(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// At or before `other`.
    #[must_use]
    pub fn at_or_before(self, other: Seq) -> bool {
        !other.before(self)
    }

    /// After `other`.
    #[must_use]
    pub fn after(self, other: Seq) -> bool {
        other.before(self)
    }

    /// At or after `other`.
    #[must_use]
    pub fn at_or_after(self, other: Seq) -> bool {
        !self.before(other)
    }

    /// Bytes from `earlier` to here; 0 when `earlier` is in fact later.
    #[must_use]
    pub fn since(self, earlier: Seq) -> u32 {
        if self.before(earlier) { 0 } else { self.0.wrapping_sub(earlier.0) }
    }

    /// The later of two.
    #[must_use]
    pub fn max(self, other: Seq) -> Seq {
        if self.before(other) { other } else { self }
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Seq) -> Seq {
        if self.before(other) { self } else { other }
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, bytes: u32) {
        self.0 = self.0.wrapping_add(bytes);
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_sub(bytes))
    }
}

impl core::fmt::Debug for Seq {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}
